"""The options by which paths of a snapshot are selected."""

from collections.abc import Sequence

from snapsync.declare import Annotated, Option, TypedDict
from snapsync.options import RestoreOptions, size

Type = Annotated[
    str | None,
    Option(
        "--type",
        metavar="f|d|l|p|s|b|c",
        help="Only files, directories, symlinks, fifos, sockets, block or character devices.",
        once=True,
    ),
]
Larger = Annotated[
    int | None,
    Option("--larger", read=size, metavar="BYTES", help="Only files larger than so many bytes.", once=True),
]
Newer = Annotated[
    str | None,
    Option(
        "--newer",
        metavar="DATE",
        help="Only what was modified then or later: a date, from its beginning on, or a time.",
        once=True,
    ),
]


class SelectOptions(TypedDict, total=False):
    """What paths are selected by."""

    match: Annotated[
        Sequence[str],
        Option(
            "--match",
            metavar="PATTERN",
            help="Only what PATTERN matches: *.odt anywhere, docs/**/*.odt from the root of VOLUME. Repeat"
            " for more.",
            once=True,
        ),
    ]
    type: Type
    larger: Larger
    newer: Newer


class RestorePathsOptions(RestoreOptions, SelectOptions, total=False):
    """The options of restores of paths."""
