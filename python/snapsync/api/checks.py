"""What is checked before the native half is called: keywords, and texts that have to be UTF-8."""

from collections.abc import Mapping, Sequence

from snapsync.declare import options, pick
from snapsync.errors import UsageError, told
from snapsync.options_of_commands import HookOptions, TakingOptions
from snapsync.reports.values import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def keywords(verb: str, group: "Any", given: "Mapping[str, Any]") -> None:
    """Raise TypeError, as Python does, for a keyword that is no option of the group."""
    for unknown in given.keys() - options(group).keys():
        raise TypeError(f"{verb}() got an unexpected keyword argument {unknown!r}")


def name(text: str | None) -> str | None:
    """Return the name, and refuse bytes that are not UTF-8."""
    if text is not None and not _is_utf8(text):
        message = f"{text!r} cannot be the name of a snapshot: it is not UTF-8"
        raise told(UsageError(message), message, "choose a name in UTF-8")
    return text


def key(snap: str | int | Snapshot) -> str:
    """Return the text that names a snapshot, and refuse bytes that are not UTF-8."""
    return snap.id if isinstance(snap, Snapshot) else str(name(str(snap)))


def reason(text: str) -> str:
    """Return the reason, and refuse bytes that are not UTF-8."""
    if not _is_utf8(text):
        message = f"cannot keep the reason {text!r}: it is not UTF-8"
        raise told(UsageError(message), message, "give a reason that is text")
    return text


def several(option: str, texts: Sequence[str]) -> Sequence[str]:
    """Return the texts, and refuse a single string, which would be taken for its letters."""
    if isinstance(texts, str):
        raise TypeError(f"{option} is a sequence of texts, and not one text")
    return texts


def commands(given: "Mapping[str, Any]") -> "dict[str, dict[str, Any]]":
    """Those around the snapshot of a round, and those that make the tree that is read."""
    return {"hooks": hooks(given), "taking": _taking(given)}


def hooks(given: "Mapping[str, Any]") -> "dict[str, Any]":
    """The commands around a snapshot, each a list of words."""
    found = pick(HookOptions, given)
    for option in ("before_snapshot", "after_snapshot"):
        found[option] = several(option, found[option])
    return found


def _taking(given: "Mapping[str, Any]") -> "dict[str, Any]":
    """The commands that make the tree that is read, and take it away."""
    found = pick(TakingOptions, given)
    for option in ("take", "release"):
        found[option] = several(option, found[option])
    return found


def patterns(option: str, texts: Sequence[str]) -> Sequence[str]:
    """Return the patterns, and refuse bytes that are not UTF-8."""
    for text in several(option, texts):
        if not _is_utf8(text):
            message = f"cannot understand the pattern {text!r}: it is not UTF-8"
            raise told(UsageError(message), message, "name such entries with `*` or `?`")
    return texts


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
