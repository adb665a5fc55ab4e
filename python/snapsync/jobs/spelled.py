"""The `snapsync sync` that runs a job, in the words of its command line."""

import shlex

from snapsync.declare import Option, options
from snapsync.jobs.config import Job, is_remote
from snapsync.options import ChannelOptions, SubsetOptions, SyncOptions
from snapsync.options_of_commands import HookOptions, TakingOptions
from snapsync.options_of_reading import ReadingOptions

# What says how a snapshot is taken.
_OF_TAKING = {
    name for kind in (SubsetOptions, HookOptions, TakingOptions, ReadingOptions) for name in options(kind)
}


def command(job: Job, *more: str, snapshot: str | None = None) -> list[str]:
    """The words of the `snapsync sync` that runs a job, with a report that is read."""
    return ["sync", "--json", "--quiet", *more, *arguments(job, snapshot)]


def arguments(job: Job, snapshot: str | None = None) -> list[str]:
    """The arguments of the `snapsync sync` that runs a job; with `snapshot` it brings that one, by its id."""
    words = [f"--keep-{period}={count}" for period, count in (job.keep or {}).items()]
    words += [f"--guard-{what}={share}%" for what, share in (job.guard or {}).items()]
    return [*words, *_how(job, snapshot), "--", job.source, job.target]


def by_hand(job: Job, option: str) -> str:
    """The line for a shell that does the round of a job once with one option more.

    Without what the job keeps and what guards it: the next round of its own has that again.
    """
    return shlex.join(["snapsync", "sync", job.source, job.target, option, *_how(job)])


def _how(job: Job, snapshot: str | None = None) -> list[str]:
    """The options that say what is brought and by which way."""
    is_local = not (is_remote(job.source) or is_remote(job.target))
    words: list[str] = []
    for name, (_, option) in options(SyncOptions).items():
        is_idle = (is_local and name in options(ChannelOptions)) or (snapshot and name in _OF_TAKING)
        if name in job.options and not is_idle:
            words += _spelled(option, job.options[name])
    if snapshot:
        words += [f"--snap={snapshot}"]
    elif job.exclude == ():
        words += ["--everything"]
    words += [f"--environment={job.environment}"] if job.environment else []
    return words


def _spelled(option: Option, value: object) -> list[str]:
    """The words of a command line that give an option this value."""
    on, _, off = option.names[0].partition("/")
    if isinstance(value, bool):
        return [on] if value else [off] if off else []
    values = value if isinstance(value, tuple) else (value,)
    return [word for one in values for word in ([f"{on}={one}"] if on.startswith("--") else [on, one])]
