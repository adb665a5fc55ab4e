"""The options of verbs that look into the past."""

from snapsync.declare import Annotated, Option
from snapsync.options import JobsOptions, SshOptions
from snapsync.options_of_paths import Larger, Newer, Type

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


class FindOptions(JobsOptions, SshOptions, total=False):
    """What paths are looked for, and in which snapshots."""

    type: Type
    larger: Larger
    newer: Newer
    since: Since
    until: Until
