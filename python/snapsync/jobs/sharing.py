"""The snapshot that the targets of one table share.

Any of several standbys can follow any other that is promoted if the two have a snapshot in common. So where
another target of the same table was brought up to date lately, a round brings that snapshot too.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from snapsync._native import Location
from snapsync.errors import ExitCode
from snapsync.jobs.config import Job
from snapsync.jobs.reports import JobRun
from snapsync.jobs.state import Run


def shared(job: Job, known: Mapping[str, Run], asked: datetime, due: datetime | None) -> Run | None:
    """The newest round of another target of the same table whose snapshot this one may bring, too.

    That is one which began since this was asked for. Where it is run as it is `due`, it is one which began
    since then, or a tenth of a period before.
    """
    if Location.known(job.source).is_log:
        return None  # whoever follows a log has its snapshots
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


def is_refused(outcome: JobRun) -> bool:
    """Whether it was the snapshot that a round did not go through with, and not its target or a guard.

    Its bytes may be gone by now, or the standby has others since.
    """
    is_about_it = outcome.exit_code == ExitCode.USAGE or "--snap" in outcome.advice
    return outcome.error is not None and is_about_it
