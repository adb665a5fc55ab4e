"""`snapsync restore`: a snapshot, or paths of it, elsewhere or in place."""

from collections.abc import Iterator

from snapsync import render
from snapsync._native import Location
from snapsync.api import restores
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import restored_in_place, restored_to
from snapsync.declare import Annotated, Argument, Option, Unpack, pick
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options import Name, RestoreOptions
from snapsync.options_of_paths import RestorePathsOptions, SelectOptions
from snapsync.reports.restores import RestoreReport


@verb(
    place=130,
    examples=[
        "snapsync restore /srv/data@monday",
        "snapsync restore /srv/data@monday --to /mnt/new",
        "snapsync restore /srv/data@monday etc/fstab home/ann --to /tmp/found",
        "snapsync restore /srv/data@monday etc/fstab",
        "snapsync restore /srv/data@yesterday --match 'docs/**/*.odt' --larger 1M",
        "snapsync restore root@backup:/srv/standby@monday etc/fstab --to /tmp/found",
        "snapsync restore s3://backups/data@monday etc/fstab --to /tmp/found",
        "snapsync restore /srv/data@monday etc/fstab --from root@backup:/srv/standby",
    ],
)
def restore(
    output: Output,
    address: Annotated[
        str,
        Argument(
            metavar="VOLUME@SNAP",
            help="The snapshot to restore from; with --to also LOG@SNAP or [user@]host:VOLUME@SNAP.",
        ),
    ],
    paths: Annotated[
        list[str] | None,
        Argument(metavar="[PATH]...", help="Only these, from the root of VOLUME, or absolute in it."),
    ] = None,
    to: Annotated[
        str | None,
        Option("--to", metavar="DIR", help="Restore there: DIR is absent or empty."),
    ] = None,
    name: Name = None,
    **options: Unpack[RestorePathsOptions],
) -> int:
    """Bring back a snapshot, or some paths of it.

    With --to DIR becomes an ordinary directory that holds the snapshot, or the PATHs and the directories
    above them. Where it is on the file system of VOLUME and that can share blocks, data is not copied.

    Without --to VOLUME holds again what the snapshot holds, or each PATH becomes what it was; only what
    differs is written. What VOLUME held before is kept as a snapshot first. What a whole volume holds then is
    one too, which its standbys get with their next round.

    --match, --type, --larger and --newer select paths of the snapshot, or of the PATHs: those that any
    --match matches, and that the others let through. A directory comes with all that is in it, so add
    --type f for files alone. In place each selected path becomes what it was; where nothing is selected,
    nothing is written.

    Where VOLUME has lost data of the snapshot, a standby has it: one on this machine that VOLUME knows is
    asked by itself, and --from names any. With --to and for PATHs all data is then the standby's; a whole
    volume takes from there what it needs and has lost. With --to VOLUME may be on another machine, where
    only PATHs select, or LOG@SNAP is restored, and only what PATHs need is read. DIR is always here.
    """
    selects = any(pick(SelectOptions, options).values())
    _expect_sense(address, to, name, some=bool(paths) or selects)
    with output.progress() as progress:
        if to is not None:
            made = restores.restore_to(address, to, paths or (), progress=progress, **options)
        elif paths or selects:
            in_place = restores.restore_paths(address, paths or (), progress=progress, **options)
        else:
            whole = restores.restore(address, name=name, progress=progress, **pick(RestoreOptions, options))
    if to is not None:
        output.notes(made.notes)
        output.summary(made, restored_to(made))
    elif paths or selects:
        output.notes((*in_place.recovered, *in_place.notes))
        output.summary(in_place, restored_in_place(in_place))
    else:
        output.healed(whole.recovered)
        output.notes(whole.notes)
        output.summary(whole, _restored_whole(whole))
    return ExitCode.DONE


def _expect_sense(address: str, to: str | None, name: str | None, *, some: bool) -> None:
    if to is None and Location.known(address).is_log:
        message = f"cannot restore {address} in place: a log has no tree"
        raise told(UsageError(message), message, "add --to DIR, an absent or empty directory")
    if name is not None and (to is not None or some):
        message = "--name is for the snapshot of a whole volume that was restored"
        raise told(
            UsageError(message), message, "leave it out with --to, with paths, and where some are selected"
        )


def _restored_whole(report: RestoreReport) -> Iterator[str]:
    """What was restored, in lines."""
    yield f"{render.name(report.volume.path)} holds {render.snapshot(report.source)} again"
    yield f"  {render.changes(report.changes)}"
    yield f"  wrote {render.size(report.data_bytes)}, in {render.seconds(report.seconds)}"
    yield f"  it held {render.snapshot(report.before)} before, and is {render.snapshot(report.snapshot)} now"
    yield from render.losses(report.losses)
