"""`snapsync log`: what changed round by round, and the life of one path."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import history
from snapsync.cli.arguments import VolumeOrLog
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options_of_history import Since, Until
from snapsync.reports.history import Event, LifeReport, LoggedPath, LogReport, Round

_HEADINGS = ("taken", "snapshot", ">created", ">changed", ">renamed", ">deleted", ">data", "")
_SIGNS = {"created": "+", "deleted": "-", "renamed": ">", "changed": "~", "linked": "=", "touched": "."}


@verb(
    place=162,
    examples=[
        "snapsync log /srv/data",
        "snapsync log /srv/data --since yesterday --stat",
        "snapsync log /srv/data projects/plan.odt",
        "snapsync log s3://backups/data -n 10 --json",
    ],
)
def log(
    output: Output,
    volume: VolumeOrLog,
    path: Annotated[
        str | None,
        Argument(metavar="[PATH]", help="Only the life of this path; it need not exist any more."),
    ] = None,
    since: Since = None,
    until: Until = None,
    stat: Annotated[bool, Option("--stat", help="Show which paths changed in each round.")] = False,
    most: Annotated[
        int | None, Option("--number", "-n", metavar="N", help="Show no more than N rounds.")
    ] = None,
) -> int:
    """Show what changed, round by round, newest first.

    A line a round: when its snapshot was taken, its name, how much was created, changed, renamed and deleted,
    and the bytes of data. Snapshots that are gone have theirs too: what changed is kept for 400 days, or as
    `prune --keep-history` says. With --quiet only the names of snapshots.

    With PATH, from the root of VOLUME, it is the life of that file or directory under all its names, also
    where a directory above it was renamed. If it is not there any more, the last line says what to type to
    get it back.
    """
    if most is not None and most < 1:
        message = f"--number {most} shows nothing"
        raise told(UsageError(message), message, "write 1 or more, or leave it out")
    with output.progress() as progress:
        if path is not None:
            _expect_rounds(stat=stat)
            life = history.log_of(volume, path, since=since, until=until, progress=progress)
            output.notes(life.notes)
            events = life.events[:most]
            output.result(life, _names(life) if output.quiet else _life(life, events))
            return ExitCode.DONE
        report = history.log(volume, since=since, until=until, most=most, stat=stat, progress=progress)
    output.notes(report.notes)
    output.result(report, _rounds(report) if output.quiet else _table(report))
    return ExitCode.DONE


def _expect_rounds(*, stat: bool) -> None:
    if stat:
        message = "--stat shows the paths of rounds, and PATH is one of them"
        raise told(UsageError(message), message, "leave out one of the two")


def _rounds(report: LogReport) -> Iterator[str]:
    return (render.name(found.snapshot.name) for found in report.rounds)


def _names(report: LifeReport) -> Iterator[str]:
    return (render.name(event.snapshot.name) for event in report.events)


def _table(report: LogReport) -> Iterator[str]:
    if not report.rounds:
        yield f"{render.name(report.volume.path)} has no snapshot of that time"
        return
    lines = list(render.table(_HEADINGS, map(_row, report.rounds)))
    if not any(found.paths for found in report.rounds):
        yield from lines
        return
    yield lines[0]
    for line, found in zip(lines[1:], report.rounds, strict=True):
        yield line
        yield from map(_path, found.paths)
        if found.more:
            yield f"    and {render.count(found.more, 'more path')}"


def _row(found: Round) -> tuple[str, ...]:
    changes, state = found.changes, []
    if found.first:
        state.append("all that there was")
    if found.after_gap:
        state.append("the manifest before it is missing")
    if not found.snapshot.exists:
        state.append("gone")
    counts = (changes.created, changes.changed, changes.renamed, changes.deleted)
    return (
        render.moment(found.snapshot.created),
        render.name(found.snapshot.name),
        *(str(count) if count else "" for count in counts),
        render.size(found.data_bytes) if found.data_bytes else "",
        ", ".join(state),
    )


def _path(found: LoggedPath) -> str:
    old = f"{render.name(found.old_path)} -> " if found.old_path is not None else ""
    sizes = _sizes(found.old_size, found.size, found.kind)
    return f"    {_SIGNS.get(found.what, '?')} {old}{render.name(found.path)}{sizes}"


def _sizes(old: int | None, new: int | None, kind: str) -> str:
    if kind != "file" or old == new:
        return ""
    if old is None or new is None:
        return f"  {render.size((new if old is None else old) or 0)}"
    return f"  {render.size(old)} -> {render.size(new)}"


def _life(report: LifeReport, events: tuple[Event, ...]) -> Iterator[str]:
    gone = "" if report.exists else ", not there now"
    yield f"{render.name(report.path)} of {render.name(report.volume.path)}{gone}"
    yield from render.table(("taken", "snapshot", "", "", ""), map(_event, events))
    if report.exists:
        return
    if report.restore is None:
        yield "no snapshot that is left here has it"
        if report.volume.role == "primary" and not report.volume.is_log:
            volume = render.word(report.volume.path)
            yield f"a standby or a log may have it yet: `snapsync status {volume}` names them"
        return
    where = render.address(report.volume.path, report.restore.snapshot.name)
    to = " --to DIR" if report.volume.is_log or report.volume.role == "standby" else ""
    path = report.restore.path
    no_option = " --" if path.startswith("-") else ""
    yield f"to get it back: snapsync restore {render.word(where)}{to}{no_option} {render.word(path)}"


def _event(event: Event) -> tuple[str, ...]:
    paths, old = (", ".join(map(render.name, names)) for names in (event.paths, event.old_paths))
    has_both = event.what in ("renamed", "moved", "linked") and old
    shown = f"{old} -> {paths}" if has_both else paths or old
    details = _sizes(event.old_size, event.size, event.kind).strip()
    if event.beneath is not None:
        counts = event.beneath
        words = ("created", "changed", "renamed", "deleted")
        told = [f"{word} {count:,}" for word in words if (count := getattr(counts, word))]
        details = f"beneath: {', '.join(told)}" if told else ""
    gone = "" if event.snapshot.exists else "(gone)"
    name = f"{render.name(event.snapshot.name)} {gone}".rstrip()
    return (render.moment(event.snapshot.created), name, event.what, shown, details)
