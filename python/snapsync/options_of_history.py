"""The options of verbs that look into the past."""

from snapsync import units
from snapsync.declare import Annotated, Option
from snapsync.options import JobsOptions


def _size(text: str) -> int:
    try:
        return units.rate(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number of bytes, such as 4G") from None


Since = Annotated[
    str | None,
    Option(
        "--since",
        metavar="DATE",
        help="Only snapshots taken then or later: a date or time, as for SNAP.",
        once=True,
    ),
]
Until = Annotated[
    str | None, Option("--until", metavar="DATE", help="Only snapshots taken then or before.", once=True)
]


class FindOptions(JobsOptions, total=False):
    """What paths are looked for, and in which snapshots."""

    type: Annotated[
        str | None,
        Option(
            "--type",
            metavar="f|d|l|p|s|b|c",
            help="Only files, directories, symlinks, fifos, sockets, block or character devices.",
            once=True,
        ),
    ]
    larger: Annotated[
        int | None,
        Option(
            "--larger", read=_size, metavar="BYTES", help="Only files larger than so many bytes.", once=True
        ),
    ]
    newer: Annotated[
        str | None,
        Option(
            "--newer",
            metavar="DATE",
            help="Only what was modified then or later: a date or a time, as for SNAP.",
            once=True,
        ),
    ]
    since: Since
    until: Until
