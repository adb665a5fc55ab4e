"""The options that are commands: around a snapshot, and those that make the tree that is read."""

from collections.abc import Sequence

from snapsync import units
from snapsync.declare import Annotated, Option, TypedDict


def _hook(text: str) -> list[str]:
    try:
        words = units.words(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no command: {str(error).lower()}") from None
    if not words:
        raise ValueError(f"{text!r} is no command")
    return words


def _identity(text: str) -> str:
    if text not in ("inode", "path"):
        raise ValueError(f"{text!r} is neither inode nor path")
    return text


class HookOptions(TypedDict, total=False):
    """Commands around a snapshot. A job has them in its table `hooks`."""

    before_snapshot: Annotated[
        Sequence[str],
        Option(
            "--before-snapshot",
            read=_hook,
            metavar="COMMAND",
            help="Run COMMAND, words without a shell, just before the snapshot: writers stand still then.",
            once=True,
        ),
    ]
    after_snapshot: Annotated[
        Sequence[str],
        Option(
            "--after-snapshot",
            read=_hook,
            metavar="COMMAND",
            help="Run COMMAND as soon as the snapshot is taken or has failed, whatever happened.",
            once=True,
        ),
    ]
    hook_timeout: Annotated[
        int,
        Option(
            "--hook-timeout",
            default="5m",
            read=units.duration,
            metavar="PERIOD",
            help="End a command around the snapshot that takes longer, as having failed.",
            once=True,
        ),
    ]


class TakingOptions(TypedDict, total=False):
    """Snapshots by other means. A job has them in its table `snapshot`."""

    take: Annotated[
        Sequence[str],
        Option(
            "--take",
            read=_hook,
            metavar="COMMAND",
            help="Let COMMAND make the tree that is read in place of SOURCE, such as an LVM snapshot.",
            once=True,
        ),
    ]
    taken_at: Annotated[
        str | None,
        Option(
            "--taken-at",
            metavar="PATH",
            help="Where it makes it, with {name} and {id}; by default the last line that it prints.",
            once=True,
        ),
    ]
    release: Annotated[
        Sequence[str],
        Option(
            "--release",
            read=_hook,
            metavar="COMMAND",
            help="Take that tree away with COMMAND, whatever happened; {name}, {id} and {path} name it.",
            once=True,
        ),
    ]
    identity: Annotated[
        str,
        Option(
            "--identity",
            default="inode",
            read=_identity,
            metavar="inode|path",
            help="How files are known again in the next such tree: by number, or by path alone.",
            once=True,
        ),
    ]
    take_timeout: Annotated[
        int,
        Option(
            "--take-timeout",
            default="10m",
            read=units.duration,
            metavar="PERIOD",
            help="End --take and --release as having failed when they take longer.",
            once=True,
        ),
    ]
