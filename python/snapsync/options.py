"""The options of rounds and other verbs: every group is declared here and nowhere else.

The same declaration is a keyword of the API, an option of the command line with its help, and a key of a
job. A new option of `sync` is declared here and in the options of the native half, and used.
"""

from collections.abc import Mapping, Sequence

from snapsync import units
from snapsync.declare import Annotated, Option, TypedDict
from snapsync.errors import UsageError, told
from snapsync.options_of_changes import AdoptOptions, GuardOptions
from snapsync.options_of_commands import HookOptions, TakingOptions
from snapsync.options_of_owners import OwnersOptions
from snapsync.options_of_reading import ReadingOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _command(text: str) -> list[str]:
    try:
        return units.words(text)
    except ValueError as error:
        message = f"cannot understand the command {text!r}: {str(error).lower()}"
        raise told(UsageError(message), message, "use --rsh ssh, or leave it out") from None


def _period(text: str) -> int | None:
    """The seconds of a period; None for `off`."""
    try:
        return None if text == "off" else units.duration(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration, such as 30d, nor `off`") from None


def _history(text: str) -> str:
    if text not in ("full", "light"):
        raise ValueError(f"{text!r} is neither full nor light")
    return text


def size(text: str) -> int:
    try:
        return units.rate(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number of bytes, such as 4G") from None


Name = Annotated[
    str | None, Option("--name", metavar="NAME", help="Name of the snapshot to take.", once=True)
]
DiscardDrift = Annotated[
    bool,
    Option(
        "--discard-drift",
        help="Keep what was changed by hand on the standby as a snapshot, and go back first.",
        once=True,
    ),
]
ReadOnly = Annotated[
    bool | None,
    Option(
        "--read-only/--read-write",
        help="Whether the tree of a standby on Btrfs is read-only between rounds.",
    ),
]

History = Annotated[
    str | None,
    Option(
        "--history",
        read=_history,
        metavar="full|light",
        help="What a primary without subvolumes keeps of older snapshots: all, or what its tree still has.",
    ),
]


class JobsOptions(TypedDict, total=False):
    """How much of the machine is used."""

    jobs: Annotated[
        int,
        Option(
            "--jobs",
            "-j",
            default=0,
            min=0,
            max=1024,
            metavar="N",
            help="Threads, at most 1,024; 0 means all cores.",
            once=True,
        ),
    ]


class SnapshotOptions(TypedDict, total=False):
    """Which snapshot a round brings."""

    name: Name
    snap: Annotated[
        str | None,
        Option(
            "--snap",
            metavar="SNAP",
            help="Take no snapshot: bring this one of SOURCE, or `latest`. Several standbys then have it.",
            once=True,
        ),
    ]


def _keep(period: str) -> Option:
    help_ = f"Keep the newest snapshot of each of the N latest {period} (UTC) that have any."
    return Option(min=1, metavar="N", help=help_, once=True)


class KeepOptions(TypedDict, total=False):
    """Which snapshots stay. A job has them in its table `keep`."""

    keep_last: Annotated[
        int | None, Option(min=1, metavar="N", help="Keep the N newest snapshots.", once=True)
    ]
    keep_hourly: Annotated[int | None, _keep("hours")]
    keep_daily: Annotated[int | None, _keep("days")]
    keep_weekly: Annotated[int | None, _keep("weeks")]
    keep_monthly: Annotated[int | None, _keep("months")]
    keep_yearly: Annotated[int | None, _keep("years")]
    keep_history: Annotated[
        int | None,
        Option(
            min=1,
            metavar="DAYS",
            help="Tell what changed in rounds for so many days, not for 400; alone it deletes no snapshot.",
            once=True,
        ),
    ]


class TargetOptions(TypedDict, total=False):
    """Requirements for a target."""

    strict: Annotated[bool, Option("--strict", help="Refuse if the target cannot hold everything.")]
    no_space_check: Annotated[
        bool,
        Option(
            "--no-space-check",
            help="Do not look beforehand whether there is room; a full disk ends it then.",
        ),
    ]


class SubsetOptions(TypedDict, total=False):
    """Which part of a volume is replicated."""

    exclude: Annotated[
        Sequence[str],
        Option(
            "--exclude",
            metavar="PATTERN",
            help="Leave out what PATTERN names, in gitignore syntax from SOURCE down. Repeat for more.",
        ),
    ]
    exclude_from: Annotated[
        Sequence[str],
        Option(
            "--exclude-from",
            metavar="FILE",
            help="The same for each line of FILE, before those.",
            once=True,
        ),
    ]
    include: Annotated[
        Sequence[str],
        Option(
            "--include",
            metavar="PATTERN",
            help="Bring back what PATTERN names and --exclude leaves out, whichever stands first, but not"
            " from inside a directory that is left out itself: exclude DIR/* then. Repeat for more.",
        ),
    ]
    everything: Annotated[bool, Option("--everything", help="Leave nothing out any more.", once=True)]


class DriftOptions(TypedDict, total=False):
    """How changes to a standby by hand are treated."""

    check: Annotated[
        bool,
        Option("--check", help="First compare all of the standby's tree with its newest snapshot."),
    ]
    discard_drift: DiscardDrift


class StandbyOptions(DriftOptions, total=False):
    """Options for drift, and how a standby is kept."""

    read_only: ReadOnly


class RoundOptions(ReadingOptions, total=False):
    """Other options of a round."""

    new_standby: Annotated[
        bool,
        Option(
            "--new-standby",
            help="Begin anew where a standby is known that is not there any more.",
            once=True,
        ),
    ]
    history: History


class ScrubOptions(TypedDict, total=False):
    """How much of what is believed unchanged is read again."""

    scrub: Annotated[
        int | None,
        Option(
            "--scrub",
            default="30d",
            read=_period,
            metavar="PERIOD|off",
            help="Read a share of what is believed unchanged again, on both sides: all of it in PERIOD.",
        ),
    ]
    scrub_limit: Annotated[
        int,
        Option(
            "--scrub-limit",
            default="4G",
            read=size,
            metavar="SIZE",
            help="Bytes that a round reads again at most, on each side.",
        ),
    ]


class TransferOptions(TypedDict, total=False):
    """How data is sent."""

    compress: Annotated[
        str,
        Option(
            "--compress",
            default="zstd:1",
            metavar="zstd:N|none",
            help="How data travels; what does not shrink is sent as it is.",
        ),
    ]
    bwlimit: Annotated[
        int | None,
        Option(
            "--bwlimit",
            read=units.rate,
            metavar="RATE",
            help="Bytes a second at most; K, M and G are powers of 1,024.",
        ),
    ]


class ReachOptions(TypedDict, total=False):
    """How another machine is reached, where `-o` means something else."""

    rsh: Annotated[
        Sequence[str],
        Option(
            "--rsh",
            default="ssh",
            read=_command,
            metavar="COMMAND",
            help="What runs a command on another host.",
        ),
    ]
    remote_path: Annotated[
        str,
        Option("--remote-path", default="snapsync", metavar="COMMAND", help="What snapsync is called there."),
    ]
    timeout: Annotated[
        int,
        Option(
            "--timeout",
            default=60,
            min=2,
            max=86_400,
            metavar="SECONDS",
            help="Give the other host up when nothing was heard of it for so long.",
        ),
    ]


class SshOptions(ReachOptions, total=False):
    """How another machine is reached."""

    ssh_options: Annotated[
        Sequence[str],
        Option("-o", metavar="OPTION", help="An option for ssh, as its own -o. Repeat for more."),
    ]


class ChannelOptions(SshOptions, total=False):
    """How another machine is reached, and over how many connections."""

    channels: Annotated[
        int,
        Option("--channels", default=1, min=1, max=64, metavar="N", help="Connections to the other host."),
    ]


class SourceOptions(TypedDict, total=False):
    """Which part of a source is meant."""

    part: Annotated[
        str | None,
        Option(
            "--part",
            metavar="NAME",
            help="A part of SOURCE with patterns, snapshots and standbys of its own, SOURCE@NAME/; made on"
            " first use. Without --exclude, --include /PATH takes nothing else.",
        ),
    ]


class SyncOptions(
    SourceOptions,
    SnapshotOptions,
    KeepOptions,
    TargetOptions,
    SubsetOptions,
    StandbyOptions,
    OwnersOptions,
    RoundOptions,
    AdoptOptions,
    GuardOptions,
    ScrubOptions,
    HookOptions,
    TakingOptions,
    TransferOptions,
    ChannelOptions,
    JobsOptions,
    total=False,
):
    """All options of a round."""


class DeltaOptions(TransferOptions, JobsOptions, total=False):
    """The options for sending a delta."""


class ReceiveOptions(TargetOptions, DriftOptions, OwnersOptions, JobsOptions, total=False):
    """The options for receiving a delta."""


class RoleOptions(OwnersOptions, TransferOptions, ChannelOptions, JobsOptions, total=False):
    """The options of a change of roles between two machines."""


class VerifyOptions(SshOptions, JobsOptions, total=False):
    """The options of a comparison between two machines."""


class SupplyOptions(SshOptions, total=False):
    """Where bytes of a snapshot are taken from that its volume has lost."""

    standby: Annotated[
        str | None,
        Option(
            "--from",
            metavar="STANDBY",
            help="Take the data from this standby, which has that snapshot too: DIR or [user@]host:DIR.",
        ),
    ]


class RestoreOptions(TargetOptions, SupplyOptions, JobsOptions, total=False):
    """The options of restores and clones."""


def counts(given: "Mapping[str, Any]") -> dict[str, int]:
    """What the options of KeepOptions keep, by period: last, hourly and so on."""
    prefix = "keep_"
    return {
        name.removeprefix(prefix): count
        for name, count in given.items()
        if name in KeepOptions.__annotations__ and count is not None
    }
