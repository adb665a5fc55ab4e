"""The command of a job's round, and the snapshot that the targets of one table share.

Any of several standbys can follow any other that is promoted if the two have a snapshot in common. So where
another target of the same table was brought up to date lately, a round brings that snapshot too.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from snapsync.declare import Option, options
from snapsync.jobs.config import Job, is_remote
from snapsync.jobs.state import Run
from snapsync.options import ChannelOptions, SubsetOptions, SyncOptions
from snapsync.options_of_commands import HookOptions, TakingOptions
from snapsync.options_of_reading import ReadingOptions

# What says how a snapshot is taken.
_OF_TAKING = {
    name for kind in (SubsetOptions, HookOptions, TakingOptions, ReadingOptions) for name in options(kind)
}


def shared(job: Job, known: Mapping[str, Run], asked: datetime, due: datetime | None) -> Run | None:
    """The newest round of another target of the same table whose snapshot this one may bring, too.

    That is one which began since this was asked for. Where it is run as it is `due`, it is one which began
    since then, or a tenth of a period before.
    """
    since = min(asked, due - timedelta(seconds=(job.period or 0) / 10)) if due else asked
    others = [
        (run.good, run)
        for name in job.beside
        if (run := known.get(name))
        and run.source == job.source
        and run.good
        and run.snapshot_id
        and not run.skipped
    ]
    newest = max(others, key=lambda other: other[0], default=None)
    return newest[1] if newest and newest[0] >= since else None


def command(job: Job, *more: str, snapshot: str | None = None) -> list[str]:
    """The words of the `snapsync sync` that runs a job, with a report that is read."""
    return ["sync", "--json", "--quiet", *more, *arguments(job, snapshot)]


def arguments(job: Job, snapshot: str | None = None) -> list[str]:
    """The arguments of the `snapsync sync` that runs a job; with `snapshot` it brings that one, by its id."""
    is_local = not (is_remote(job.source) or is_remote(job.target))
    words = [f"--keep-{period}={count}" for period, count in (job.keep or {}).items()]
    words += [f"--guard-{what}={share}%" for what, share in (job.guard or {}).items()]
    for name, (_, option) in options(SyncOptions).items():
        is_idle = (is_local and name in options(ChannelOptions)) or (snapshot and name in _OF_TAKING)
        if name in job.options and not is_idle:
            words += _spelled(option, job.options[name])
    if snapshot:
        words += [f"--snap={snapshot}"]
    elif job.exclude == ():
        words += ["--everything"]
    words += [f"--environment={job.environment}"] if job.environment else []
    return [*words, "--", job.source, job.target]


def _spelled(option: Option, value: object) -> list[str]:
    """The words of a command line that give an option this value."""
    on, _, off = option.names[0].partition("/")
    if isinstance(value, bool):
        return [on] if value else [off] if off else []
    values = value if isinstance(value, tuple) else (value,)
    return [word for one in values for word in ([f"{on}={one}"] if on.startswith("--") else [on, one])]
