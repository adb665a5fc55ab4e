"""Reads a map of users and groups."""

import re
from contextlib import suppress

from snapsync.errors import UsageError, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LINE = re.compile(r"(user|group)\s+([^\s=]+)\s*=\s*([^\s=]+)")
_MOST = 2**32 - 2  # the number above it stands for none


def naming(owners: "str | None") -> "dict[str, Any] | None":
    """The rules that "names" or the file of that path stands for; None where numbers stay as they are."""
    if owners is None:
        return None
    return {"rules": [] if owners == "names" else _rules(owners)}


def _rules(file: str) -> "list[dict[str, Any]]":
    try:
        with open(file, encoding="utf-8-sig") as opened:
            lines = opened.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        message = f"cannot read the map of owners in {file}: {why}"
        raise told(UsageError(message), message, "check the path; `names` alone needs no file") from None
    rules, seen = [], set()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            message = f"line {number} of {file} is no pair of users or groups: {text!r}"
            raise told(UsageError(message), message, "write `user alice = bob`, or numbers in place of names")
        account, there, here = match[1], _who(match[2], file, number), _who(match[3], file, number)
        for side in (("there", there), ("here", here)):
            if (account, side) in seen:
                message = f"line {number} of {file} names {account} {side[1]} once more: {text!r}"
                raise told(UsageError(message), message, "a map is one to one: leave one of them out")
            seen.add((account, side))
        rules.append({"account": account, "there": there, "here": here})
    return rules


def _who(text: str, file: str, line: int) -> "int | str":
    with suppress(ValueError):
        number = int(text)
        if not (text.isascii() and text.isdecimal()) or number > _MOST:
            message = f"{text} in line {line} of {file} is no number of a user or group"
            raise told(UsageError(message), message, f"numbers go from 0 to {_MOST}")
        return number
    return text
