"""`snapsync sync`: one round."""

from snapsync import render
from snapsync.api import rounds
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import plan_summary, round_summary
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options import SyncOptions
from snapsync.types import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager


_Environment = Annotated[
    str | None,
    Option(
        "--environment",
        metavar="FILE",
        help="Credentials for a log, NAME=VALUE a line: AWS_…, SNAPSYNC_IDENTITY, SNAPSYNC_KEYS.",
    ),
]
_ProgressTo = Annotated[
    int | None, Option("--progress-to", hidden=True, help="The handle that `run` hears of its rounds by.")
]


@verb(
    place=10,
    examples=[
        "snapsync sync /srv/data /mnt/standby",
        "snapsync sync /srv/data /mnt/standby --name monday",
        "snapsync sync /srv/data /mnt/standby --keep-last 10 --keep-daily 14 --keep-monthly 12",
        "snapsync sync /srv/data /mnt/standby --dry-run --stat",
        "snapsync sync /srv/data root@backup:/mnt/standby",
        "snapsync sync /srv/data s3://backups/data",
        "snapsync sync s3://backups/data /mnt/standby",
        "snapsync sync /srv/data /mnt/standby --exclude '*.tmp' --exclude '/cache/*' --include /cache/keep",
    ],
)
def sync(
    output: Output,
    source: Annotated[
        str, Argument(metavar="SOURCE", help="The primary: a directory or a volume; or a log.")
    ],
    target: Annotated[
        str,
        Argument(metavar="TARGET", help="The standby: in the first round absent or empty; or a log."),
    ],
    environment: _Environment = None,
    dry_run: Annotated[
        bool, Option("--dry-run", "-n", help="Only tell what would change; write nothing anywhere.")
    ] = False,
    stat: Annotated[bool, Option("--stat", help="With --dry-run: show each change.")] = False,
    progress_to: _ProgressTo = None,
    **options: Unpack[SyncOptions],
) -> int:
    """Bring TARGET in step with SOURCE.

    One of them may be [user@]host:PATH: snapsync then runs on that host too, over your own ssh.
    Or it may be a log, s3://BUCKET/PREFIX or file:///DIR. As TARGET it gets the round of a primary, and
    begins with the first one. As SOURCE it brings a standby to its newest snapshot, with all that are
    between; --snap, --name, patterns and --keep are for the primary's round and not for that one. A log keeps
    all of its snapshots until `snapsync prune LOG`. Credentials come from the environment or --environment:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a store that is not Amazon's, AWS_ENDPOINT_URL.

    One round: snapshot SOURCE, apply its changes to TARGET, snapshot TARGET. The first round restores the
    whole tree. What an interrupted run left is healed first: TARGET holds the old snapshot or the new one.
    What cannot be read fails it. With --keep-going that stays on TARGET as it was, is listed and tried again
    later, and the exit code is 6; with --strict as well the round is refused.

    Patterns are SOURCE's and kept for later rounds, to whichever TARGET. Given again, they take the place of
    all that were kept; what they leave out from then on is deleted from every standby of SOURCE at its next
    round, and what they no longer leave out is created there. Subvolumes inside of SOURCE are always left
    out, and told when they are new; --strict refuses those that no pattern leaves out.

    A standby that was changed by hand is refused before anything is applied: on Btrfs whatever was changed,
    elsewhere where the round would touch it, or anywhere with --check.
    A standby that is known at TARGET and is not there is not made anew without --new-standby. --adopt makes
    one of a copy that is at TARGET already.

    A round that would delete much of a large tree, or write most of it anew, is refused before anything
    travels: a primary that was wiped does not walk through its standbys. --accept-changes lets it through.
    --dry-run tells what would change and travel, what TARGET cannot hold, how much room it takes there, and
    exits with 3 if the round would be refused; --stat shows each change, as `diff` does. SOURCE must be here.

    Each round reads again, on both sides, a share of the files that are believed unchanged. Those that differ
    are named, the round exits with 4, and the next one brings them again.

    With any --keep option, the snapshots on both sides that none of them keeps are deleted after the round,
    but for held ones and bases of standbys, as `snapsync prune` does on one volume.
    """
    _take(environment)
    if dry_run or stat:
        return _plan(output, source, target, options, dry_run=dry_run, stat=stat)
    return _sync(output, source, target, progress_to, options)


def _sync(output: Output, source: str, target: str, progress_to: int | None, options: SyncOptions) -> int:
    with _progress(output, progress_to) as progress:
        report = rounds.sync(source, target, progress=progress, **options)
    output.healed(report.recovered)
    output.notes(report.notes)
    if report.set_aside:
        what = "what was there before" if options.get("adopt") else "what was changed by hand"
        output.note(f"{what} is kept as {render.snapshot(report.set_aside)}")
    output.summary(report, round_summary(report))
    differs = report.scrub and report.scrub.difference_count
    if differs:
        return ExitCode.INTEGRITY
    return ExitCode.SKIPPED if report.skipped else ExitCode.DONE


def _progress(output: Output, to: int | None) -> "AbstractContextManager[Progress | None]":
    if to is None:
        return output.progress()
    from snapsync.jobs.shown import telling

    return telling(to)


def _plan(
    output: Output, source: str, target: str, options: SyncOptions, *, dry_run: bool, stat: bool
) -> int:
    if not dry_run:
        message = "--stat shows what a dry run finds"
        advice = "give --dry-run too; `snapsync log --stat` shows past rounds"
        raise told(UsageError(message), message, advice)
    paths = stat or output.as_json
    with output.progress() as progress:
        report = rounds.plan(source, target, paths=paths, progress=progress, **options)
    output.notes(report.notes)
    output.summary(report, plan_summary(report))
    return ExitCode.DONE if report.refused is None else ExitCode.REFUSED


def _take(environment: str | None) -> None:
    if environment is not None:
        from snapsync.jobs.environment import take

        take(environment)
