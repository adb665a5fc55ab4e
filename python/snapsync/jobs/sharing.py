"""The snapshot that the targets of one table share.

Any of several standbys can follow any other that is promoted if the two have a snapshot in common. So where
another target of the same table was brought up to date lately, a round brings that snapshot too.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from snapsync.jobs.config import Job
from snapsync.jobs.state import Run


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
