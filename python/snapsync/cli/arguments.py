"""Arguments and options that several verbs share and that belong to no group."""

from snapsync._native import Location
from snapsync.declare import Annotated, Argument, Option
from snapsync.errors import UsageError, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


def path(text: str) -> "Path":
    """The path of a file that was given."""
    from pathlib import Path

    return Path(text)


VolumeArgument = Annotated[
    str, Argument(metavar="VOLUME", help="The root directory of a volume, or VOLUME@PART/.")
]
VolumeOrLog = Annotated[
    str,
    Argument(
        metavar="VOLUME",
        help="The root directory of a volume, VOLUME@PART/, or a log: s3://BUCKET/PREFIX or file:///DIR.",
    ),
]
ConfigFile = Annotated[
    "Path | None",
    Option("--config", read=path, metavar="FILE", help="Read only this configuration."),
]


def split(address: str, verb: str) -> tuple[str, str]:
    """VOLUME and SNAP of a volume on this machine, or of a log."""
    location = Location(address)
    if location.host is not None:
        message = f"cannot {verb} {address}: it is on another machine"
        raise told(UsageError(message), message, f"run `snapsync {verb}` there")
    snap = location.snapshot
    if snap is None:
        message = f"cannot {verb} {address}: it does not name a snapshot"
        raise told(
            UsageError(message),
            message,
            "write VOLUME@SNAP; `snapsync list VOLUME` shows the snapshots",
        )
    if snap.encode(errors="ignore").decode() != snap:
        message = f"cannot {verb} {address}: a name that is not UTF-8 is no snapshot's"
        raise told(UsageError(message), message, "`snapsync list VOLUME` shows the snapshots")
    return location.path, snap
