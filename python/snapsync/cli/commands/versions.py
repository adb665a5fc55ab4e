"""`snapsync versions`: what one file was, and getting it back."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import restores
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import restored_in_place, restored_to
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options import SupplyOptions
from snapsync.reports.restores import RestorePathsReport, RestoreToReport, VersionsReport
from snapsync.reports.values import Version

_HEADINGS = (">version", ">size", "modified", "in snapshots", "")


@verb(
    place=160,
    examples=[
        "snapsync versions /srv/data/etc/fstab",
        "snapsync versions /srv/data/etc/fstab --diff 2",
        "snapsync versions /srv/data/etc/fstab --diff 1 2",
        "snapsync versions /srv/data/etc/fstab --restore 1 --to /tmp/fstab",
    ],
)
def versions(
    output: Output,
    file: Annotated[str, Argument(metavar="FILE", help="A file in a volume; it need not exist any more.")],
    other: Annotated[
        int | None, Argument(metavar="[M]", help="With --diff: the version to compare with.")
    ] = None,
    diff: Annotated[
        int | None,
        Option("--diff", metavar="N", help="Show what changed from version N to M, or to the file now."),
    ] = None,
    restore: Annotated[
        int | None,
        Option("--restore", metavar="N", help="Put version N back; what is there is kept in a snapshot."),
    ] = None,
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

    Versions differ in content, kind or link target: a file that was only touched has no new one. The volume
    is found from FILE upwards; where no snapshot of all of it has FILE, its parts are asked. With --restore
    and --from the data of the version is a standby's.
    """
    _make_sense(other, diff=diff, restore=restore, to=to)
    if restore is None and options.get("standby") is not None:
        message = "--from says where the data of a version is taken from"
        raise told(UsageError(message), message, "use it with --restore N")
    with output.progress() as progress:
        report = restores.versions(file, part=part, progress=progress)
        output.notes(report.notes)
        if restore is not None:
            version = _numbered(report, restore)
            done = restores.restore_version(report, version, to, progress=progress, **options)
            return _restored(output, done)
    if diff is not None:
        from dataclasses import replace

        report = replace(report, diff="\n".join(_diff(report, diff, other)))
        output.result(report, report.diff.split("\n") if report.diff else [])
    else:
        output.result(report, _numbers(report) if output.quiet else _table(report))
    return ExitCode.DONE


def _make_sense(other: int | None, *, diff: int | None, restore: int | None, to: str | None) -> None:
    if diff is not None and restore is not None:
        message, advice = "a version is either shown or restored", "use --diff or --restore, one at a time"
    elif other is not None and diff is None:
        message, advice = "a second version is for --diff", "write --diff N M"
    elif to is not None and restore is None:
        message, advice = "--to says where a version is restored", "use it with --restore N"
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
    yield from render.table(_HEADINGS, map(_row, report.versions))


def _row(version: Version) -> tuple[str, ...]:
    if version.kind == "file":
        what = render.size(version.size)
    else:
        what = version.kind if version.target is None else f"-> {version.target}"
    names = ", ".join(snapshot.name for snapshot in version.snapshots)
    return (str(version.number), what, _modified(version), names, "now" if version.live else "")


def _modified(version: Version) -> str:
    from datetime import UTC, datetime

    return render.moment(datetime.fromtimestamp(version.mtime // 10**9, UTC))


def _diff(report: VersionsReport, number: int, other: int | None) -> Iterator[str]:
    """A unified diff, if both versions are text."""
    old = _numbered(report, number)
    if other is not None:
        new: Version | None = _numbered(report, other)
    else:
        new = next((version for version in report.versions if version.live), None)
    named = f"version {other}" if other is not None else "now"
    texts = [_lines(version) for version in (old, new)]
    if texts[0] is None or texts[1] is None:
        if old is not new:
            yield "binary files differ"
        return
    path = render.name(report.path)
    labels = f"{path} (version {number})", f"{path} ({named})"
    from difflib import unified_diff

    for line in unified_diff(texts[0], texts[1], *labels):
        yield render.name(line.removesuffix("\n"))
        if not line.endswith("\n"):
            yield "\\ No newline at end of file"


def _lines(version: Version | None) -> list[str] | None:
    """The lines of a version, each with its end; None if it is not text, and none if there is no version."""
    if version is None:
        return []
    if version.kind != "file":
        return [f"{version.kind} {version.target or ''}".rstrip() + "\n"]
    with open(version.content, "rb") as file:
        file.seek(version.content_offset)
        content = file.read(version.size)
    if b"\0" in content:
        return None
    try:
        *lines, last = content.decode().split("\n")
    except UnicodeDecodeError:
        return None
    return [f"{line}\n" for line in lines] + ([last] if last else [])
