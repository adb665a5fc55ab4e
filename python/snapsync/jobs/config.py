"""The configuration says which primaries are kept in step with which standbys, how often, and how.

A file is TOML: a table `[job.NAME]` for each job, and `[defaults]` with keys for all of them. Every key is
checked in the file that it stands in, so that each mistake is told with its place.
"""

import os
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from snapsync import units
from snapsync._native import Location
from snapsync.declare import defaults, options
from snapsync.errors import UsageError, told
from snapsync.jobs import own
from snapsync.options import GuardOptions, KeepOptions, SyncOptions

_DEFAULTS = defaults(SyncOptions)
_OF_A_JOB = {name: declared for name, declared in options(SyncOptions).items() if not declared[1].once}


@dataclass(frozen=True, slots=True)
class Job:
    """A primary and a standby of it, or a log in place of either.

    `period` is seconds, None where it only runs when it is named.
    `environment` is a file of credentials for a log.
    `options` are those of `snapsync sync` that the configuration names; each can be read as an attribute.
    `exclude` is None where the volume's own patterns stay; empty, everything is replicated again.
    """

    name: str
    source: str
    target: str
    period: int | None = None
    keep: Mapping[str, int] | None = None
    guard: Mapping[str, int] | None = None
    environment: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_A_JOB:
            raise AttributeError(f"a job has no {name}")
        return self.options.get(name, None if name == "exclude" else _DEFAULTS[name])


@dataclass(frozen=True, slots=True)
class Config:
    """The jobs by name, in the order of the files that they come from."""

    jobs: Mapping[str, Job]
    files: tuple[Path, ...]

    def named(self, names: Iterable[str]) -> list[Job]:
        """The jobs of these names, each once."""
        return [self._job(name) for name in dict.fromkeys(names)]

    def _job(self, name: str) -> Job:
        if name not in self.jobs:
            message = f"there is no job {name!r} in {_files(self.files)}"
            raise told(UsageError(message), message, _nearest(name, self.jobs, "jobs"))
        return self.jobs[name]


def is_remote(place: str) -> bool:
    """Whether a place is `[user@]host:PATH`, or a log."""
    location = Location.known(place)
    return location.host is not None or location.is_log


def directory_of(place: str) -> str | None:
    """The directory on this machine that a round reads or writes there; None if there is none."""
    location = Location.known(place)
    if location.is_log:
        from urllib.parse import unquote_to_bytes

        directory = os.fsdecode(unquote_to_bytes(location.path.removeprefix("file://")))
        return None if directory == location.path else directory
    return None if location.host is not None else tree_of(place)


def tree_of(place: str) -> str:
    """The directory that a place on this machine lies in: of a part, that of the whole volume."""
    location = Location.known(place)
    if location.part is None or location.snapshot is not None or os.path.isdir(place):
        return place
    return location.path.removesuffix(f"@{location.part}/")


def places() -> tuple[Path, ...]:
    """The files that are read; a key in a later file overrides the same key in an earlier one."""
    home = own.config_home()
    return Path("/etc/snapsync/config.toml"), *([home / "snapsync/config.toml"] if home else [])


def load(file: Path | None = None) -> Config:
    """Read the configuration from `file`, or else from those of `places` that exist."""
    files = (file,) if file else tuple(path for path in places() if path.exists())
    if not files:
        message = f"there is no configuration: neither {' nor '.join(map(str, places()))}"
        raise told(UsageError(message), message, "write one, or name one with --config FILE")
    defaults: dict[str, Any] = {}
    jobs: dict[str, dict[str, Any]] = {}
    homes: dict[str, Path] = {}
    for path in files:
        found = _File(path)
        defaults |= found.keys("defaults", found.table("defaults"))
        for name, keys in found.table("job").items():
            where = f"job.{name}"
            jobs[name] = jobs.get(name, {}) | found.keys(where, found.is_table(where, keys))
            homes[name] = path
            found.is_name(name)
    made = {name: _job(homes[name], name, defaults | keys) for name, keys in jobs.items()}
    return Config(made, files)


def _job(file: Path, name: str, keys: dict[str, Any]) -> Job:
    for needed in ("source", "target"):
        if needed not in keys:
            _wrong(file, f"job.{name}", needed, "is missing", "say which directories the job is about")
    keys = dict(keys)
    if "part" in keys:
        try:
            keys["source"] = Location.part_of(keys["source"], keys.pop("part"))
        except UsageError as error:
            _wrong(file, f"job.{name}", "part", f"is wrong: {error}", error.advice)
    is_part = Location(keys["source"]).part is not None
    if keys.get("include") and not keys.get("exclude") and not is_part:
        why = "brings back what `exclude` leaves out, and that leaves out nothing"
        _wrong(file, f"job.{name}", "include", why, "give `exclude` too")
    if is_remote(keys["source"]) and is_remote(keys["target"]):
        if any(Location.known(keys[side]).is_log for side in ("source", "target")):
            why, advice = "is not on this machine, and neither is `source`", "only a volume here has rounds"
        else:
            why, advice = "is on another machine, and so is `source`", "let the job run on one of the two"
        _wrong(file, f"job.{name}", "target", why, advice)
    given = {key: value for key, value in keys.items() if key in _OF_A_JOB}
    return Job(name, options=given, **{key: value for key, value in keys.items() if key not in given})


class _File:
    """One configuration file. Its methods raise UsageError for what is wrong in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.content = tomllib.loads(own.read("the configuration", path).decode("utf-8"))
        except OSError as error:
            message = f"cannot read the configuration {path}: {error.strerror}"
            raise told(UsageError(message), message, "check the path") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            message = f"cannot understand the configuration {path}: {error}"
            raise told(UsageError(message), message, "it is a TOML file, in UTF-8") from None
        for name in self.content:
            if name not in ("defaults", "job"):
                message = f"there is no table [{name}] in a configuration, but in {path}"
                advice = f"{_nearest(name, ('defaults', 'job'), 'tables')}; a job is [job.NAME]"
                raise told(UsageError(message), message, advice)

    def table(self, name: str) -> dict[str, Any]:
        return self.is_table(name, self.content.get(name, {}))

    def is_table(self, where: str, value: object) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        message = f"{self.path}: [{where}] is no table"
        raise told(UsageError(message), message, "a job is a table [job.NAME] of keys")

    def is_name(self, name: str) -> None:
        """Check the name of a job, which appears in command lines and in metrics."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
            message = f"{self.path}: {name!r} cannot be the name of a job"
            raise told(UsageError(message), message, "use at most 64 letters, digits, `_`, `.` and `-`")

    def keys(self, where: str, given: dict[str, Any]) -> dict[str, Any]:
        """The values of one table by key, checked and converted."""
        understood = {}
        for key, value in given.items():
            if key not in _KEYS:
                _wrong(self.path, where, key, "is not known", _nearest(key, _KEYS, "keys"))
            try:
                understood[key] = _KEYS[key](value)
            except _Bad as bad:
                _wrong(self.path, where, key, bad.why, bad.advice)
        return understood


def _wrong(file: Path, where: str, key: str, why: str, advice: str) -> NoReturn:
    message = f"{file}: [{where}] {key} {why}"
    raise told(UsageError(message), message, advice)


def _nearest(word: str, known: Iterable[str], what: str) -> str:
    known = list(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"the {what} are {', '.join(known) or 'none'}"


def _files(files: tuple[Path, ...]) -> str:
    return " and ".join(map(str, files))


# --- what a value may be ------------------------------------------------------------------------


class _Bad(Exception):
    """A value that is not allowed for its key."""

    def __init__(self, value: object, advice: str) -> None:
        shown = "is a table" if isinstance(value, dict) else f"cannot be {_toml(value)}"
        self.why, self.advice = shown, advice


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _Bad(value, "write a text in quotes")
    return value


def _words(value: object) -> str:
    """Check a text that becomes part of a command line."""
    if any(unicodedata.category(character) == "Cc" for character in _text(value)):
        raise _Bad(value, "write it without line ends and other control characters")
    return _text(value)


def _place(value: object) -> str:
    place = _text(value)
    try:
        location = Location(place)
    except UsageError as error:
        raise _Bad(value, f"{error.advice}; options of ssh are `ssh_options` in a job") from None
    if location.host is not None or location.is_log:
        return place
    place = own.expand(place)
    if not place.startswith("/"):
        raise _Bad(value, "write a whole path from / or ~/ on, [user@]host:PATH, or the address of a log")
    return place


def _file(value: object) -> str:
    path = own.expand(_words(value))
    if not path.startswith("/"):
        raise _Bad(value, "write a whole path from / or ~/ on")
    return path


def _period(value: object) -> int:
    try:
        return units.duration(str(value))
    except ValueError:
        raise _Bad(value, 'write a duration such as "90s", "15m", "1h30m" or "1d"') from None


def _scrub(value: object) -> str:
    if value != "off":
        _period(value)
    return str(value)


def _size(value: object) -> int:
    try:
        return units.rate(value if isinstance(value, str) else str(_whole(value)))
    except ValueError:
        raise _Bad(value, 'write bytes, such as "500M" or "4G"') from None


def _rate(value: object) -> int:
    try:
        return units.rate(value if isinstance(value, str) else str(_whole(value)))
    except ValueError:
        raise _Bad(value, 'write bytes a second, such as "500K" or "10M"') from None


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _Bad(value, "write a whole number from 1 on")
    return value


def _channels(value: object) -> int:
    if _whole(value) > 64:
        raise _Bad(value, "64 channels are the most")
    return _whole(value)


def _timeout(value: object) -> int:
    seconds = _period(value)
    if not 2 <= seconds <= 86_400:
        raise _Bad(value, 'write a duration from "2s" to "1d"')
    return seconds


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Bad(value, "write true or false")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Bad(value, 'write a list of texts, as in ["*.tmp"]')
    return tuple(map(_text, value))


def _options(value: object) -> tuple[str, ...]:
    return tuple(map(_words, _texts(value)))


def _compress(value: object) -> str:
    level = re.fullmatch(r"zstd(?::(-?[0-9]{1,6}))?", _text(value))
    if value != "none" and not (level and 0 != int(level[1] or 1) <= 22):
        raise _Bad(value, 'write "none" or "zstd:LEVEL" with a level up to 22')
    return _text(value)


_PERIODS = tuple(name.removeprefix("keep_") for name in options(KeepOptions))


def _keep(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _Bad(value, "write how many, as in { last = 10, daily = 14 }")
    for name, count in value.items():
        if name not in _PERIODS:
            raise _Bad(f"{name} = {count}", _nearest(name, _PERIODS, "periods"))
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise _Bad(f"{name} = {_toml(count)}", "write a whole number from 1 on, or leave it out")
    return value


_GUARDS = tuple(name.removeprefix("guard_") for name in options(GuardOptions) if name.startswith("guard_"))


def _guard(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _Bad(value, 'write shares, as in { deleted = "25%", changed = "off" }')
    limits = {}
    for name, share in value.items():
        if name not in _GUARDS:
            raise _Bad(f"{name} = {share}", _nearest(name, _GUARDS, "guards"))
        try:
            limits[name] = units.percent(str(share))
        except ValueError:
            raise _Bad(f"{name} = {_toml(share)}", 'write a share such as "25%", or "off"') from None
    return limits


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

_MORE: dict[str, Callable[[object], object]] = {
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

_KEYS: dict[str, Callable[[object], object]] = {
    "source": _place,
    "target": _place,
    "period": _period,
    "keep": _keep,
    "guard": _guard,
    "environment": _file,
    **{name: _MORE.get(name) or _KINDS[kind] for name, (kind, _) in _OF_A_JOB.items()},
}
