"""The option that says who owns the files of a standby."""

from snapsync.declare import Annotated, Option, TypedDict


class OwnersOptions(TypedDict, total=False):
    """How a standby on a machine with other users and groups finds the owners of files."""

    owners: Annotated[
        str | None,
        Option(
            "--owners",
            metavar="names|FILE",
            help="The standby finds users and groups by name from now on; lines of FILE, such as"
            " `user alice = bob`, come first. Without it they keep their numbers, or are found as before.",
        ),
    ]
