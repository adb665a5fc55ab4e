"""The options for trees that cannot be read whole."""

from snapsync.declare import Annotated, Option, TypedDict


class ReadingOptions(TypedDict, total=False):
    """What happens where something cannot be read."""

    keep_going: Annotated[
        bool,
        Option(
            "--keep-going",
            help="Pass over what cannot be read: it stays as in the snapshot before, is listed, and the exit"
            " code is 6.",
        ),
    ]
