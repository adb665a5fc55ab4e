"""The options that say how much of what is at a target a round may change."""

from snapsync import units
from snapsync.declare import Annotated, Option, TypedDict


class AdoptOptions(TypedDict, total=False):
    """A first round to a target that is not empty."""

    adopt: Annotated[
        bool,
        Option(
            "--adopt",
            help="TARGET holds a copy of SOURCE, as rsync or a disk brought it: compare all files, bring what"
            " differs, and keep what that replaces as a snapshot.",
            once=True,
        ),
    ]
    trust_times: Annotated[
        bool,
        Option(
            "--trust-times",
            help="With --adopt: do not read files that have the same size and time on both sides.",
            once=True,
        ),
    ]


def _guard(name: str, what: str, usual: str) -> Option:
    help_ = f"Refuse a round that {what}; {usual} in trees of 10,000 entries or more."
    return Option(name, read=units.percent, metavar="N%|off", help=help_, once=True)


class GuardOptions(TypedDict, total=False):
    """How much of a tree a round may take away or write anew. A job has them in its table `guard`."""

    guard_deleted: Annotated[
        int | None, _guard("--guard-deleted", "deletes a larger share of the entries", "25%")
    ]
    guard_changed: Annotated[
        int | None, _guard("--guard-changed", "writes a larger share of them anew", "60%")
    ]
    guard_shrink: Annotated[int | None, _guard("--guard-shrink", "loses a larger share of the bytes", "50%")]
    accept_changes: Annotated[
        bool,
        Option("--accept-changes", help="Let this round through whatever it deletes or changes.", once=True),
    ]
