"""`snapsync delete`: remove one snapshot or clone."""

from snapsync import render
from snapsync.api import restores, snapshots
from snapsync.cli.arguments import split
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument
from snapsync.errors import ExitCode
from snapsync.reports.restores import DeleteCloneReport


@verb(place=120, examples=["snapsync delete /srv/data@monday", "snapsync delete s3://backups/data@3"])
def delete(
    output: Output,
    address: Annotated[
        str, Argument(metavar="VOLUME@SNAP", help="The snapshot or clone to delete; or LOG@SNAP.")
    ],
) -> int:
    """Delete one snapshot or clone.

    Any order will do; the others stay whole. One that is held, or the base of a standby, is not deleted. A
    clone's directory is deleted if it still is that clone.

    Of a log the newest snapshot stays too, and the objects go that nothing needs any more, as with `prune`.
    """
    volume, snap = split(address, "delete")
    unlisted = restores.delete_clone(volume, snap)
    if unlisted is not None:
        output.summary(unlisted, [_unlisted(unlisted)])
        return ExitCode.DONE
    report = snapshots.delete(volume, snap)
    path = render.name(report.volume.path)
    output.summary(report, [f"deleted {render.snapshot(report.deleted)} of {path}"])
    return ExitCode.DONE


def _unlisted(report: DeleteCloneReport) -> str:
    name, path = render.name(report.clone.name), render.name(report.clone.path)
    if report.clone.exists:
        return f"deleted clone {name}: {path}"
    return f"forgot clone {name}: {path} is not there any more, or is something else"
