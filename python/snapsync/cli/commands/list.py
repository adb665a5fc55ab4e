"""`snapsync list`: the snapshots of a volume or a log."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import snapshots
from snapsync.cli.arguments import VolumeOrLog
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Unpack
from snapsync.errors import ExitCode
from snapsync.options import SshOptions
from snapsync.reports.snapshots import ListReport
from snapsync.reports.values import Clone, Part, Snapshot

_HEADINGS = (">number", "name", "taken", ">entries", ">size", "id")


@verb(
    place=110,
    examples=[
        "snapsync list /srv/data",
        "snapsync list /srv/data --quiet",
        "snapsync list s3://backups/data",
        "snapsync list root@backup:/srv/standby",
    ],
)
def list_(output: Output, volume: VolumeOrLog, **options: Unpack[SshOptions]) -> int:
    """List the snapshots of VOLUME, their clones, and the parts that have snapshots of their own.

    Oldest first; with --quiet only their names. Under "alone" is what would be free if that snapshot went,
    and no other: not known of subvolumes, which share with the tree. A snapshot is "thinned" if some of its
    bytes are neither in the pool nor in the tree any more, which is called "light" on a primary that keeps
    no history. Tables and the files of the pool tell that, without a look at the tree: what was changed by
    hand since the newest snapshot, `snapsync verify` finds.

    Of a log these are the snapshots that can be restored, and what is held by hand.
    """
    report = snapshots.list_(volume, alone=not output.quiet, **options)
    output.result(report, _names(report) if output.quiet else _table(report))
    return ExitCode.DONE


def _names(report: ListReport) -> Iterator[str]:
    return (render.name(snap.name) for snap in report.snapshots)


def _table(report: ListReport) -> Iterator[str]:
    held = render.count(len(report.snapshots), "snapshot")
    yield f"{render.name(report.volume.path)}: {held}"
    if report.snapshots:
        alone = _alone(report)
        more = {">alone": alone[0], "state": alone[1], "subset": _subsets(report), "held": _held(report)}
        more = {heading: cells for heading, cells in more.items() if any(cells)}
        rows = ((*_row(snap), *rest) for snap, *rest in zip(report.snapshots, *more.values(), strict=True))
        yield from render.table((*_HEADINGS, *more), rows)
    if report.clones:
        yield render.count(len(report.clones), "clone")
        yield from render.table(("name", "of", "made", "path"), map(_clone_row, report.clones))
    if report.parts:
        yield render.count(len(report.parts), "part")
        headings = ("name", "role", ">snapshots", "newest", "subset")
        yield from render.table(headings, map(_part_row, report.parts))


def _part_row(part: Part) -> tuple[str, ...]:
    if part.volume is None:
        return (part.name, "unreadable", "", "", part.problem or "")
    newest = "" if part.latest is None else f"{part.latest.name} of {render.moment(part.latest.created)}"
    return (part.name, part.volume.role, f"{part.snapshots:,}", newest, render.subset(part.volume.subset))


def _alone(report: ListReport) -> tuple[list[str], list[str]]:
    sizes = ["" if alone.bytes is None else render.size(alone.bytes) for alone in report.alone]
    return sizes, [alone.state or "unreadable" for alone in report.alone]


def _subsets(report: ListReport) -> list[str]:
    if not any(snap.subset for snap in report.snapshots):
        return []
    return [render.subset(snap.subset) for snap in report.snapshots]


def _held(report: ListReport) -> list[str]:
    return [
        "; ".join(render.hold(hold) for hold in report.holds if hold.snapshot == snap.id)
        for snap in report.snapshots
    ]


def _row(snap: Snapshot) -> tuple[str, ...]:
    return (
        "aside" if snap.aside else str(snap.sequence),
        snap.name,
        render.moment(snap.created),
        "" if snap.entries is None else f"{snap.entries:,}",
        "" if snap.bytes is None else render.size(snap.bytes),
        snap.id,
    )


def _clone_row(clone: Clone) -> tuple[str, ...]:
    path = clone.path if clone.exists else f"{clone.path} (gone)"
    return (clone.name, clone.of, render.moment(clone.at), path)
