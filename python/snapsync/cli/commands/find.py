"""`snapsync find`: paths in all snapshots."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime

from snapsync import render
from snapsync._native import Location
from snapsync.api import history
from snapsync.cli.arguments import VolumeOrLog
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode
from snapsync.options_of_history import FindOptions
from snapsync.reports.history import FindReport, FoundPath

_HEADINGS = ("path", ">size", "modified", "first", "last", "")


@verb(
    place=164,
    examples=[
        "snapsync find /srv/data '*.odt'",
        "snapsync find root@backup:/srv/standby '*.odt'",
        "snapsync find /srv/data 'projects/**/plan*' --deleted",
        "snapsync find /srv/data '*' --type f --larger 1G --since 2026-11-01",
    ],
)
def find(
    output: Output,
    volume: VolumeOrLog,
    patterns: Annotated[
        list[str],
        Argument(metavar="PATTERN...", help="*.odt anywhere, docs/**/*.odt from the root of VOLUME."),
    ],
    deleted: Annotated[bool, Option("--deleted", help="Only what is not in the tree any more.")] = False,
    **options: Unpack[FindOptions],
) -> int:
    """Find paths in all snapshots of VOLUME, also in those that are gone.

    Each path is shown once, with the first and the last snapshot that has it, and with its size and its time
    in the last. What is not in the tree any more is marked as deleted; so are the old paths of what is in a
    directory that was renamed. Where the last snapshot that had a path is gone, the newest that has it yet is
    named. With --quiet only the paths. Quote PATTERN, so that the shell does not read it.

    A path that only came and went between two snapshots is in none of them.
    """
    with output.progress() as progress:
        report = history.find(volume, *patterns, deleted=deleted, progress=progress, **options)
    output.notes(report.notes)
    output.result(report, _paths(report) if output.quiet else _table(report))
    output.note(_searched(report))
    if any(found.deleted for found in report.found) and Location.known(volume).host is None:
        volume = shlex.quote(report.volume.path)
        output.note(f"`snapsync log {volume} PATH` tells when one was deleted, and how to get it back")
    return ExitCode.DONE


def _searched(report: FindReport) -> str:
    took = f"in {render.seconds(report.seconds)}"
    found = render.count(len(report.found), "path")
    return f"{found} in {render.count(report.searched, 'snapshot')}, {took}"


def _paths(report: FindReport) -> Iterator[str]:
    return (render.name(found.path) for found in report.found)


def _table(report: FindReport) -> Iterator[str]:
    if report.found:
        yield from render.table(_HEADINGS, map(_row, report.found))


def _row(found: FoundPath) -> tuple[str, ...]:
    size = render.size(found.size) if found.kind == "file" else found.kind
    modified = render.moment(datetime.fromtimestamp(found.mtime // 10**9, UTC))
    state = ""
    first, last = render.name(found.first.name), render.name(found.last.name)
    if found.deleted:
        state = "deleted"
        if found.restorable is None:
            state += ", and its snapshots are gone"
        elif found.restorable != found.last.name:
            state += f"; {render.name(found.restorable)} has it"
    return (render.name(found.path), size, modified, first, last, state)
