"""The configuration says which primaries are kept in step with which standbys, how often, and how.

A file is TOML: a table `[job.NAME]` for each job, and `[defaults]` with keys for all of them. Every key is
checked in the file that it stands in, so that each mistake is told with its place.
"""

import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from snapsync._native import Location
from snapsync.declare import defaults
from snapsync.errors import UsageError, told
from snapsync.jobs import own, several
from snapsync.jobs.calendar import Calendar
from snapsync.jobs.hooks import Hooks
from snapsync.jobs.telling import Notify
from snapsync.jobs.values import COMMANDS, KEYS, OF_A_JOB, Bad, nearest
from snapsync.options import SyncOptions

_DEFAULTS = defaults(SyncOptions)


@dataclass(frozen=True, slots=True)
class Job:
    """A primary and a standby of it, or a log in place of either.

    It runs each `period` of seconds, or `when` the calendar says; only when it is named without either, and
    up to `jitter` seconds later.
    `hooks` are commands around its rounds, and `notify` says who is told of them. `on_failure` is a unit of
    systemd that is started when a round fails, `environment` a file of credentials for a log, and
    `metrics` one that metrics of all jobs are written to.
    `options` are those of `snapsync sync` that the configuration names; each can be read as an attribute.
    `exclude` is None where the volume's own patterns stay; empty, everything is replicated again.
    `beside` are the jobs of the other `targets` of its table.
    """

    name: str
    source: str
    target: str
    period: int | None = None
    when: Calendar | None = None
    jitter: int = 0
    keep: Mapping[str, int] | None = None
    guard: Mapping[str, int] | None = None
    on_failure: str | None = None
    environment: str | None = None
    metrics: str | None = None
    hooks: Hooks = field(default_factory=Hooks)
    notify: Notify = field(default_factory=Notify)
    options: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @property
    def is_scheduled(self) -> bool:
        """Whether it runs without being named."""
        return self.period is not None or self.when is not None

    def __getattr__(self, name: str) -> Any:
        if name not in OF_A_JOB:
            raise AttributeError(f"a job has no {name}")
        return self.options.get(name, None if name == "exclude" else _DEFAULTS[name])


@dataclass(frozen=True, slots=True)
class Config:
    """The jobs by name, in the order of the files that they come from.

    `groups` are the jobs of each table that stands for several, `wild` the keys of those with a wildcard.
    """

    jobs: Mapping[str, Job]
    files: tuple[Path, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wild: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def named(self, names: Iterable[str]) -> list[Job]:
        """The jobs of these names, each once."""
        single = [one for name in names for one in self.groups.get(name, (name,))]
        return [self._job(name) for name in dict.fromkeys(single)]

    def lasting(self) -> list[Job]:
        """The jobs, with one in place of all of a wildcard: that one is about their directories."""
        passing = {name for group in self.wild for name in self.groups[group]}
        whole = [_made(name, several.fixed(keys)) for name, keys in self.wild.items()]
        return [*(job for name, job in self.jobs.items() if name not in passing), *whole]

    def gone(self, known: Mapping[str, str]) -> dict[str, str]:
        """Of jobs that have run, with their sources, those whose directory a wildcard finds no more."""
        return {
            name: source
            for name, source in known.items()
            for group, keys in self.wild.items()
            if name not in self.jobs and name.startswith(f"{group}.") and several.matches(keys, source)
        }

    def _job(self, name: str) -> Job:
        if name not in self.jobs:
            message = f"there is no job {name!r} in {_files(self.files)}"
            raise told(UsageError(message), message, self._meant(name))
        return self.jobs[name]

    def _meant(self, name: str) -> str:
        """Which job may be meant by a name that none has: of a table's jobs only what is nearly the same,
        because the home of somebody else is no suggestion."""
        table, dot, one = name.partition(".")
        if not dot or table not in self.groups:
            single = set(self.jobs).difference(*self.groups.values())
            return nearest(name, [*self.groups, *(job for job in self.jobs if job in single)], "jobs")
        of_table = {member.removeprefix(f"{table}."): member for member in self.groups[table]}
        for member in of_table.values():
            if os.path.basename(self.jobs[member].source) == one:
                return f"the job of {self.jobs[member].source} is {member}"
        near = get_close_matches(one, of_table, n=1, cutoff=0.8)
        return (
            f"did you mean {of_table[near[0]]}?"
            if near
            else f"`snapsync run {table} --dry-run` lists its jobs"
        )


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
    made: dict[str, Job] = {}
    groups: dict[str, tuple[str, ...]] = {}
    wild: dict[str, dict[str, Any]] = {}
    for name, keys in jobs.items():
        whole = _with_usual(defaults, keys)
        members = _members(homes[name], name, whole)
        for one, its in members.items():
            if one in made or (one != name and one in jobs):
                _wrong(homes[name], f"job.{name}", "name", f"makes a second job {one}", "rename one of them")
            beside = tuple(other for other in members if other != one and "targets" in whole)
            made[one] = replace(_job(homes[name], one, its), beside=beside)
        if tuple(members) != (name,):
            groups[name] = tuple(members)
        if several.is_wild(whole):
            wild[name] = whole
    _are_apart(made, lambda name: _home_of(name, groups, homes))
    return Config(made, files, groups, wild)


def _home_of(name: str, groups: Mapping[str, tuple[str, ...]], homes: Mapping[str, Path]) -> Path:
    """The file that a job, or the table that makes it, stands in."""
    table = next((group for group, members in groups.items() if name in members), name)
    return homes[table]


def _are_apart(jobs: Mapping[str, Job], home: Callable[[str], Path]) -> None:
    """Refuse two jobs with one target: each would undo what the other has brought."""
    owners: dict[str, str] = {}
    for name, job in jobs.items():
        place = job.target if is_remote(job.target) else os.path.normpath(job.target)
        other = owners.setdefault(place.rstrip("/"), name)
        if other != name:
            why = f"{job.target} is that of [job.{other}] too"
            _wrong(home(name), f"job.{name}", "target", why, "let each job have a standby of its own")


def _members(file: Path, name: str, keys: dict[str, Any]) -> dict[str, dict[str, Any]]:
    try:
        return several.expanded(name, keys)
    except several.Mistake as bad:
        _wrong(file, f"job.{name}", bad.key, bad.why, bad.advice)


# Tables of which a job's own keys count beside the usual ones.
_TOGETHER = ("hooks", "notify")


def _with_usual(defaults: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """The keys of a job with the defaults. Its own schedule takes the place of the usual one."""
    is_scheduled = "period" in keys or "when" in keys
    usual = {
        key: value for key, value in defaults.items() if not (is_scheduled and key in ("period", "when"))
    }
    together = {
        key: usual.get(key, {}) | keys.get(key, {}) for key in _TOGETHER if key in usual or key in keys
    }
    return usual | keys | together


def _job(file: Path, name: str, keys: dict[str, Any]) -> Job:
    for needed in ("source", "target"):
        if needed not in keys:
            _wrong(file, f"job.{name}", needed, "is missing", "say which directories the job is about")
    if "period" in keys and "when" in keys:
        why = "stands beside `period`, and both say when it runs"
        _wrong(file, f"job.{name}", "when", why, "leave one of the two out")
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
    return _made(name, keys)


def _made(name: str, keys: Mapping[str, Any]) -> Job:
    around, inside = _hooks(keys.get("hooks", {}))
    keys = {**keys, "hooks": Hooks(**around), "notify": Notify(**keys.get("notify", {}))}
    keys |= _commands(inside, _OF_HOOKS) | _commands(keys.pop("snapshot", {}), _OF_SNAPSHOT)
    given = {key: value for key, value in keys.items() if key in OF_A_JOB or key in COMMANDS}
    return Job(name, options=given, **{key: value for key, value in keys.items() if key not in given})


# What keys of these tables are called as options of `snapsync sync`, where that is another name.
_OF_HOOKS = {"timeout": "hook_timeout"}
_OF_SNAPSHOT = {"timeout": "take_timeout", "path": "taken_at"}


def _hooks(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hooks that are run around a round, and those that its `sync` runs, each with the time limit."""
    inside = {name for name in table if name.endswith("_snapshot")}
    around = {name: value for name, value in table.items() if name not in inside}
    limit = {"timeout": table["timeout"]} if inside and "timeout" in table else {}
    return around, {name: table[name] for name in inside} | limit


def _commands(table: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """A table as options of `snapsync sync`, each as it is typed there."""
    return {names.get(key, key): _typed(value) for key, value in table.items()}


def _typed(value: Any) -> str:
    if isinstance(value, tuple):
        return shlex.join(value)
    return f"{value}s" if isinstance(value, int) else str(value)


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
                advice = f"{nearest(name, ('defaults', 'job'), 'tables')}; a job is [job.NAME]"
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
            if key not in KEYS:
                _wrong(self.path, where, key, "is not known", nearest(key, KEYS, "keys"))
            try:
                understood[key] = KEYS[key](value)
            except Bad as bad:
                _wrong(self.path, where, key, bad.why, bad.advice)
        return understood


def _wrong(file: Path, where: str, key: str, why: str, advice: str) -> NoReturn:
    message = f"{file}: [{where}] {key} {why}"
    raise told(UsageError(message), message, advice)


def _files(files: tuple[Path, ...]) -> str:
    return " and ".join(map(str, files))
