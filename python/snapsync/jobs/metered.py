"""The metrics that `run` writes by itself, where the configuration names a file for them."""

from collections.abc import Iterator
from pathlib import Path

from snapsync.errors import SnapsyncError, describe
from snapsync.jobs import lag, state
from snapsync.jobs.config import Config


def write(found: Config) -> Iterator[str]:
    """Write the metrics of all jobs to each file that is named. Yields a sentence for each that cannot be."""
    files = sorted({job.metrics for job in found.jobs.values() if job.metrics})
    if not files:
        return
    for file in files:
        try:
            from snapsync.jobs import prometheus

            jobs, now = lag.jobs(found, state.now()), state.now()
            prometheus.write(Path(file), [job.lag for job in jobs], jobs, now, lag.gone(found))
        except (SnapsyncError, OSError, ImportError) as error:
            yield f"cannot write the metrics to {file}: {describe(error).message}"
