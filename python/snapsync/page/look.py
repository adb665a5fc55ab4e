"""The figures of a volume, or of the volumes of all jobs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from snapsync.api import snapshots
from snapsync.errors import SnapsyncError, UsageError, describe, told
from snapsync.jobs import lag, state
from snapsync.jobs.config import load
from snapsync.jobs.reports import JobStatus
from snapsync.page import figures
from snapsync.page.kept import kept
from snapsync.reports.pages import PageReport, VolumeFigures
from snapsync.reports.snapshots import StatusReport

Told = Callable[[str], object]


def volume(place: str, note: Told) -> PageReport:
    """The figures of one volume or log; `note` is called with what is passed over."""
    started = time.monotonic()
    found = _figures(place, lag.volume(place, state.now()), note)
    return PageReport(None, (found,), (), state.now(), time.monotonic() - started)


def jobs(config: Path | None, note: Told) -> PageReport:
    """The figures of each job: of its source where that is on this machine, else of its target."""
    started = time.monotonic()
    found: list[VolumeFigures] = []
    problems: list[str] = []
    configured = load(config)
    for job in lag.jobs(configured, state.now()):
        try:
            found.append(_job(job, note))
        except (SnapsyncError, OSError) as error:
            why = dict.fromkeys([describe(error).message, *job.problems])
            problems += [f"{job.job}: {what}" for what in why]
            note(f"{job.job}: {describe(error).message}")
    if not configured.jobs:
        message = f"there is no job in {' and '.join(map(str, configured.files))}"
        raise told(UsageError(message), message, "write a table [job.NAME] with source, target and period")
    return PageReport(None, tuple(found), tuple(problems), state.now(), time.monotonic() - started)


def written(report: PageReport, file: str) -> PageReport:
    """The report on a page that was written."""
    values = {name: getattr(report, name) for name in PageReport.__match_args__}
    return PageReport(**values | {"output": file})


def _job(job: JobStatus, note: Told) -> VolumeFigures:
    status = job.source or job.target
    if status is None:
        message = f"neither {job.lag.source} nor {job.lag.target} can be looked at from here"
        raise told(UsageError(message), message, "run `snapsync report` where one of them is")
    return _figures(status.volume.path, _with(status, job), note, job.job, job.problems)


def _with(status: StatusReport, job: JobStatus) -> StatusReport:
    """The status of the job's volume, with what the job knows of its own standby."""
    others = tuple(lag for lag in status.lags if lag.target != job.lag.target)
    values = {name: getattr(status, name) for name in StatusReport.__match_args__}
    return StatusReport(**values | {"lags": (job.lag, *others)})


def _figures(
    place: str, status: StatusReport, note: Told, title: str | None = None, problems: Sequence[str] = ()
) -> VolumeFigures:
    listed = snapshots.list_(place, alone=True)
    with TemporaryDirectory(prefix="snapsync-") as directory:
        files, damaged = kept(place, directory)
        title = title or status.volume.path
        return figures.of_volume(title, status, listed, files, problems=problems, damaged=damaged, told=note)
