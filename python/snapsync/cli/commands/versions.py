"""`snapsync versions`: what one file was, and getting it back."""

from collections.abc import Iterator

from snapsync import render
from snapsync._native import Location
from snapsync.api import restores
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import restored_in_place, restored_to
from snapsync.declare import Annotated, Argument, Option, Unpack, pick
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options import SshOptions, SupplyOptions
from snapsync.reports.restores import RestorePathsReport, RestoreToReport, VersionsReport
from snapsync.reports.values import Version

_HEADINGS = (">version", ">size", "modified", "in snapshots", "")


def _number(text: str) -> int:
    """The number of a version, as it is typed."""
    try:
        return int(text)
    except ValueError:
        why = f"{text!r} is no number of a version, which `snapsync versions FILE` lists"
        raise ValueError(why) from None


_Restore = Annotated[
    int | None,
    Option(
        "--restore",
        read=_number,
        metavar="N",
        help="Put N back at its old path; a snapshot keeps what is there.",
    ),
]


@verb(
    place=160,
    examples=[
        "snapsync versions /srv/data/etc/fstab",
        "snapsync versions /srv/data/etc/fstab --diff",
        "snapsync versions /srv/data/etc/fstab --diff 1 2 | patch -d /srv/other -p1",
        "snapsync versions root@backup:/srv/standby/etc/fstab",
        "snapsync versions /srv/data/etc/fstab --restore 1 --to /tmp/fstab",
    ],
)
def versions(
    output: Output,
    file: Annotated[str, Argument(metavar="FILE", help="A file in a volume; it need not exist any more.")],
    first: Annotated[
        int | None, Argument(metavar="[A]", help="With --diff: the version to begin with; 0 is no file.")
    ] = None,
    second: Annotated[
        int | None,
        Argument(metavar="[B]", help="With --diff: the version to end with; without it, what is there now."),
    ] = None,
    diff: Annotated[
        bool,
        Option(
            "--diff", help="Write what changed from version A to B as a patch; without A, the last change."
        ),
    ] = False,
    restore: _Restore = None,
    to: Annotated[
        str | None, Option("--to", metavar="PATH", help="With --restore: make this file instead.")
    ] = None,
    part: Annotated[
        str | None,
        Option("--part", metavar="NAME", help="Look into the snapshots of this part of the volume."),
    ] = None,
    **options: Unpack[SupplyOptions],
) -> int:
    """Show every version of one file.

    FILE is followed to its other names, where it or a directory above it was renamed. Versions differ in
    content, kind or link target: a file that was only touched has no new one. The volume
    is found from FILE upwards; where no snapshot of all of it has FILE, its parts are asked. With --restore
    and --from the data of the version is a standby's.

    --diff writes a unified diff in the form of git, with paths from the volume's root: `patch -p1` and `git
    apply` there take it. What is not there is /dev/null. A file with a zero byte is binary, and only said to
    differ; one beyond 16 MiB is refused.
    """
    compared = [number for number in (first, second) if number is not None]
    _make_sense(file, compared, diff=diff, restore=restore, to=to)
    if restore is None and options.get("standby") is not None:
        message = "--from says where the data of a version is taken from"
        raise told(UsageError(message), message, "use it with --restore N")
    with output.progress() as progress:
        report = restores.versions(
            file, part=part, diff=compared if diff else None, progress=progress, **pick(SshOptions, options)
        )
        output.notes(report.notes)
        if restore is not None:
            version = _numbered(report, restore)
            done = restores.restore_version(report, version, to, progress=progress, **options)
            return _restored(output, done)
    if report.diff is not None and not output.as_json:
        output.patch(report.diff)
    else:
        output.result(report, _numbers(report) if output.quiet else _table(report))
    return ExitCode.DONE


def _make_sense(file: str, compared: list[int], *, diff: bool, restore: int | None, to: str | None) -> None:
    if diff and restore is not None:
        message, advice = "a version is either shown or restored", "use --diff or --restore, one at a time"
    elif compared and not diff:
        message, advice = "the numbers of versions are for --diff", "write --diff A B"
    elif to is not None and restore is None:
        message, advice = "--to says where a version is restored", "use it with --restore N"
    elif restore is not None and to is None and Location.known(file).host is not None:
        message = f"cannot restore {file} in place: it is on another machine"
        advice = "add --to FILE, or run the command there"
    else:
        return
    raise told(UsageError(message), message, advice)


def _restored(output: Output, done: RestorePathsReport | RestoreToReport) -> int:
    output.notes(done.notes)
    if isinstance(done, RestorePathsReport):
        output.summary(done, restored_in_place(done))
    else:
        output.summary(done, restored_to(done))
    return ExitCode.DONE


def _numbered(report: VersionsReport, number: int) -> Version:
    for version in report.versions:
        if version.number == number:
            return version
    message = f"{report.path} has no version {number}"
    advice = f"it has {render.count(len(report.versions), 'version')}; `snapsync versions FILE` shows them"
    raise told(UsageError(message), message, advice)


def _numbers(report: VersionsReport) -> Iterator[str]:
    return (str(version.number) for version in report.versions)


def _table(report: VersionsReport) -> Iterator[str]:
    path, volume = render.name(report.path), render.name(report.volume.path)
    gone = "" if report.exists else ", not there now"
    yield f"{path} of {volume}: {render.count(len(report.versions), 'version')}{gone}"
    yield from render.table(_HEADINGS, (_row(version, report.path) for version in report.versions))


def _row(version: Version, path: str) -> tuple[str, ...]:
    if version.kind == "file":
        what = render.size(version.size)
    else:
        what = version.kind if version.target is None else f"-> {version.target}"
    names = ", ".join(snapshot.name for snapshot in version.snapshots)
    other = f"as {render.name(version.path)}" if version.path != path else ""
    now = "now" if version.live else ""
    return (str(version.number), what, _modified(version), names, " ".join(filter(None, (now, other))))


def _modified(version: Version) -> str:
    from datetime import UTC, datetime

    return render.moment(datetime.fromtimestamp(version.mtime // 10**9, UTC))
