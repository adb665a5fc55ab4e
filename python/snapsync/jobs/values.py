"""What the value of each key of a configuration may be."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from snapsync import units
from snapsync._native import Location
from snapsync.declare import options
from snapsync.errors import UsageError
from snapsync.jobs import calendar, hooks, own, telling
from snapsync.options import KeepOptions, SyncOptions
from snapsync.options_of_changes import GuardOptions
from snapsync.options_of_commands import HookOptions, TakingOptions

OF_A_JOB = {name: declared for name, declared in options(SyncOptions).items() if not declared[1].once}
COMMANDS = options(HookOptions) | options(TakingOptions)
"""Options that a job has in its tables `hooks` and `snapshot`."""


def nearest(word: str, known: Iterable[str], what: str) -> str:
    """Advice about a word that is none of those that are known: the one that is spelled alike, or all."""
    known = list(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"the {what} are {', '.join(known) or 'none'}"


class Bad(Exception):
    """A value that is not allowed for its key."""

    def __init__(self, value: object, advice: str) -> None:
        shown = "is a table" if isinstance(value, dict) else f"cannot be {_toml(value)}"
        self.why, self.advice = shown, advice


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Bad(value, "write a text in quotes")
    return value


def _words(value: object) -> str:
    """Check a text that becomes part of a command line."""
    if any(unicodedata.category(character) == "Cc" for character in _text(value)):
        raise Bad(value, "write it without line ends and other control characters")
    return _text(value)


def _place(value: object) -> str:
    place = _text(value)
    try:
        location = Location(place)
    except UsageError as error:
        raise Bad(value, f"{error.advice}; options of ssh are `ssh_options` in a job") from None
    if location.host is not None or location.is_log:
        return place
    place = own.expand(place)
    if not place.startswith("/"):
        raise Bad(value, "write a whole path from / or ~/ on, [user@]host:PATH, or the address of a log")
    return place


def _places(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise Bad(value, 'write a list of places, as in ["/mnt/a", "backup:/b"]')
    return tuple(map(_place, value))


def _file(value: object) -> str:
    path = own.expand(_words(value))
    if not path.startswith("/"):
        raise Bad(value, "write a whole path from / or ~/ on")
    return path


def _period(value: object) -> int:
    try:
        return units.duration(str(value))
    except ValueError:
        raise Bad(value, 'write a duration such as "90s", "15m", "1h30m" or "1d"') from None


def _when(value: object) -> calendar.Calendar:
    try:
        return calendar.parse(_text(value))
    except ValueError:
        advice = 'write "hourly", "daily 03:00", "mon..fri 22:00", "weekly sun 04:00" or "monthly 1 02:30"'
        raise Bad(value, advice) from None


def _unit(value: object) -> str:
    if not re.fullmatch(r"[A-Za-z0-9:_.\\@%-]{1,200}\.[a-z]+", _text(value)):
        raise Bad(value, 'write the name of a unit of systemd, such as "tell-me@%n.service"')
    return _text(value)


def _scrub(value: object) -> str:
    if value != "off":
        _period(value)
    return str(value)


def _size(value: object) -> int:
    try:
        return units.rate(value if isinstance(value, str) else str(_whole(value)))
    except ValueError:
        raise Bad(value, 'write bytes, such as "500M" or "4G"') from None


def _rate(value: object) -> int:
    try:
        return units.rate(value if isinstance(value, str) else str(_whole(value)))
    except ValueError:
        raise Bad(value, 'write bytes a second, such as "500K" or "10M"') from None


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Bad(value, "write a whole number from 1 on")
    return value


def _channels(value: object) -> int:
    if _whole(value) > 64:
        raise Bad(value, "64 channels are the most")
    return _whole(value)


def _timeout(value: object) -> int:
    seconds = _period(value)
    if not 2 <= seconds <= 86_400:
        raise Bad(value, 'write a duration from "2s" to "1d"')
    return seconds


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Bad(value, "write true or false")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Bad(value, 'write a list of texts, as in ["*.tmp"]')
    return tuple(map(_text, value))


def _options(value: object) -> tuple[str, ...]:
    return tuple(map(_words, _texts(value)))


def _compress(value: object) -> str:
    level = re.fullmatch(r"zstd(?::(-?[0-9]{1,6}))?", _text(value))
    if value != "none" and not (level and 0 != int(level[1] or 1) <= 22):
        raise Bad(value, 'write "none" or "zstd:LEVEL" with a level up to 22')
    return _text(value)


_PERIODS = tuple(name.removeprefix("keep_") for name in options(KeepOptions))


def _keep(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise Bad(value, "write how many, as in { last = 10, daily = 14 }")
    for name, count in value.items():
        if name not in _PERIODS:
            raise Bad(f"{name} = {count}", nearest(name, _PERIODS, "periods"))
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise Bad(f"{name} = {_toml(count)}", "write a whole number from 1 on, or leave it out")
    return value


def _program(value: object) -> tuple[str, ...]:
    return tuple(_command(value))


def _address(value: object) -> str:
    text = _words(value)
    if not text.startswith(("http://", "https://", "@/", "@~/")):
        raise Bad(value, "write an address that begins with https://, or @FILE for a file that it stands in")
    if text[:1] != "@" and text.split("/")[2].count("@"):
        raise Bad(value, "write it without a user and a password, which are not sent")
    return f"@{own.expand(text[1:])}" if text[:1] == "@" else text


def _mail(value: object) -> str:
    if not _words(value).count("@") or "," in _words(value):
        raise Bad(value, "write one address, such as root@example.org")
    return _words(value)


def _events(value: object) -> tuple[str, ...]:
    for word in _texts(value):
        if word not in telling.EVENTS:
            raise Bad(value, nearest(word, telling.EVENTS, "events"))
    return _texts(value)


def _table(
    what: str, kinds: Mapping[str, Callable[[object], object]]
) -> Callable[[object], dict[str, object]]:
    """How a table inside a job is checked, key by key."""

    def read(value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            raise Bad(value, f"write a table, as in [job.NAME.{what}]")
        for name in value:
            if name not in kinds:
                raise Bad(f"{name} = …", nearest(name, kinds, "keys"))
        return {name: kinds[name](given) for name, given in value.items()}

    return read


_HOOKS = (*hooks.NAMES, "before_snapshot", "after_snapshot")
_hooks = _table("hooks", {**dict.fromkeys(_HOOKS, _program), "timeout": _period})
_notify = _table(
    "notify",
    {
        "command": _program,
        "webhook": _address,
        "ping": _address,
        "mail": _mail,
        "again": _period,
        "about": _events,
    },
)
_GUARDS = tuple(name.removeprefix("guard_") for name in options(GuardOptions) if name.startswith("guard_"))


def _share(value: object) -> int:
    try:
        return units.percent(str(value))
    except ValueError:
        raise Bad(value, 'write a share such as "25%", or "off"') from None


_guard = _table("guard", dict.fromkeys(_GUARDS, _share))


def _snapshot(value: object) -> dict[str, object]:
    """What makes the tree that is read."""
    checked = _SNAPSHOT(value)
    if "take" not in checked:
        raise Bad(value, "give `take`, the command that makes the tree")
    return checked


def _command(value: object) -> list[str]:
    """The words of a command. Only the first of them names something that has to be there."""
    if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise Bad(value, 'write a command as a list of words, as in ["lvcreate", "--snapshot"]')
    if not value or not value[0]:
        raise Bad(value, "write a command and its arguments, or leave it out")
    return value


def _identity(value: object) -> str:
    if value not in ("inode", "path"):
        raise Bad(value, 'write "inode" or "path"')
    return str(value)


_SNAPSHOT = _table(
    "snapshot",
    {"take": _program, "release": _program, "path": _words, "identity": _identity, "timeout": _period},
)

_KINDS: dict[Any, Callable[[object], object]] = {
    bool: _flag,
    bool | None: _flag,
    int: _whole,
    int | None: _whole,
    str: _text,
    str | None: _text,
    Sequence[str]: _texts,
}
"""How a value is checked by the type of its option, unless _MORE names the option."""


def _owners(value: object) -> str:
    return "names" if value == "names" else _file(value)


_MORE: dict[str, Callable[[object], object]] = {
    "owners": _owners,
    "scrub": _scrub,
    "scrub_limit": _size,
    "compress": _compress,
    "bwlimit": _rate,
    "rsh": _words,
    "remote_path": _words,
    "channels": _channels,
    "timeout": _timeout,
    "ssh_options": _options,
}

KEYS: dict[str, Callable[[object], object]] = {
    "source": _place,
    "target": _place,
    "targets": _places,
    "period": _period,
    "when": _when,
    "jitter": _period,
    "on_failure": _unit,
    "keep": _keep,
    "guard": _guard,
    "hooks": _hooks,
    "notify": _notify,
    "environment": _file,
    "metrics": _file,
    "snapshot": _snapshot,
    **{name: _MORE.get(name) or _KINDS[kind] for name, (kind, _) in OF_A_JOB.items()},
}

OWN_KEYS = {
    "source": ("text", "", "The primary: a directory on this machine, [user@]host:PATH, or a log."),
    "target": ("text", "", "The standby, or a log; one of source and target is on this machine."),
    "targets": ("list of texts", "", "Several targets in place of one: jobs NAME.1, NAME.2 and so on."),
    "period": ("duration", "", 'Run so often, as in "15m" or "1d". Without it and `when`, only when named.'),
    "when": ("text", "", 'Run then, as in "hourly", "daily 03:00", "mon..fri 22:00" or "monthly 1 02:30".'),
    "jitter": ("duration", "none", "Run up to so much later than is due."),
    "on_failure": ("text", "", "The unit of systemd that is started when a round fails."),
    "keep": (
        "table",
        "",
        f"How many snapshots stay, by {', '.join(_PERIODS)}; history is in days. Without it all stay.",
    ),
    "guard": ("table", "", f"The largest shares a round may take, or off, by {', '.join(_GUARDS)}."),
    "hooks": ("table", "", f"Commands around a round and its snapshot, by {', '.join(_HOOKS)}; timeout."),
    "snapshot": (
        "table",
        "",
        "What makes the tree that is read, by take, path, release, identity and timeout.",
    ),
    "notify": ("table", "", "Who is told of failures, recoveries and warnings, and by which means."),
    "metrics": ("text", "", "A file of metrics for Prometheus that `snapsync run` writes after its rounds."),
    "environment": ("text", "", "A file of credentials for a log, with lines NAME=VALUE."),
}
"""What a key that is no option of `sync` takes: its type, its default and its meaning, for the man page."""
