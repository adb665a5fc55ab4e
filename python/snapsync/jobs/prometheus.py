"""Metrics for Prometheus: a text file for the textfile collector of its node exporter."""

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from snapsync.jobs import state
from snapsync.jobs.reports import JobStatus
from snapsync.reports.snapshots import StatusReport
from snapsync.reports.values import Lag

_LABELS = ("name", "source", "target")


_Make = Callable[[str, str, tuple[str, ...]], Gauge]
"""Makes a metric of a name, a description and labels."""


def write(
    file: Path, lags: Iterable[Lag], jobs: Iterable[JobStatus], now: datetime, gone: Sequence[str] = ()
) -> None:
    """Replace `file` atomically; everybody may read it. A value that is not known has no sample."""
    registry = CollectorRegistry()

    def gauge(name: str, help_: str, labels: tuple[str, ...] = _LABELS) -> Gauge:
        return Gauge(f"snapsync_{name}", help_, labels, registry=registry)

    _standbys(gauge, lags)
    _jobs(gauge, jobs)
    gauge("gone_directories", "Directories of wildcards that are not there any more.", ()).set(len(gone))
    gauge("status_timestamp_seconds", "When this was written.", ()).set(now.timestamp())
    state.write(file, generate_latest(registry).decode())


def _standbys(gauge: _Make, lags: Iterable[Lag]) -> None:
    lag_seconds = gauge("lag_seconds", "Age of the snapshot that the standby holds.", _LABELS)
    lag_snapshots = gauge("lag_snapshots", "Snapshots that the primary has taken since.", _LABELS)
    problem = gauge("problem", "1 where something is wrong or cannot be looked at.", _LABELS)
    moved = gauge("last_round_bytes", "Bytes of data that the last good round moved.", _LABELS)
    lost = gauge("lost_entries", "Entries that the standby goes without something of.", _LABELS)
    read = gauge("scrubbed_bytes", "Bytes that were read again on each side so far.", _LABELS)
    differences = gauge("scrub_differences", "Files that were found to differ so far.", _LABELS)
    pending = gauge("scrub_pending_files", "Files that differ until the next round.", _LABELS)
    since = gauge("scrub_all_since_timestamp_seconds", "Everything was read again since then.", _LABELS)
    for lag in lags:
        labels = _labels(lag)
        problem.labels(*labels).set(lag.problem is not None)
        lost.labels(*labels).set(lag.lost)
        for metric, value in ((lag_seconds, lag.seconds), (lag_snapshots, lag.snapshots), (moved, lag.bytes)):
            if value is not None:
                metric.labels(*labels).set(value)
        if lag.scrub is not None:
            read.labels(*labels).set(lag.scrub.bytes)
            differences.labels(*labels).set(lag.scrub.differences)
            pending.labels(*labels).set(len(lag.scrub.pending))
            since.labels(*labels).set(lag.scrub.all_since.timestamp())


def _jobs(gauge: _Make, jobs: Iterable[JobStatus]) -> None:
    good = gauge("last_good_round_timestamp_seconds", "When the last good round began.", _LABELS)
    noted = gauge("notes", "What the last good round had to say.", _LABELS)
    last_good = gauge(
        "job_last_good_timestamp_seconds", "When the last good round began, 0 before any.", _LABELS
    )
    ended = gauge("job_last_exit_code", "The exit code of the last round.", _LABELS)
    failures = gauge("job_failures", "Rounds that have failed since the last good one.", _LABELS)
    running = gauge("job_running", "1 while a round is under way.", _LABELS)
    job_losses = gauge("job_losses", "Kinds of things that the standby goes without.", _LABELS)
    job_notes = gauge("job_notes", "What the last good round had to say.", _LABELS)
    of_side = (*_LABELS, "side")
    epoch = gauge("epoch", "Promotions in the lineage of the volume.", of_side)
    held = gauge("held_snapshots", "Snapshots that are held, by hand or for standbys.", of_side)
    unfinished = gauge("unfinished", "1 where a round was cut short.", of_side)
    for job in jobs:
        labels = _labels(job.lag, job.job)
        last_good.labels(*labels).set(job.good.timestamp() if job.good else 0)
        failures.labels(*labels).set(job.failures)
        job_losses.labels(*labels).set(len(job.losses))
        job_notes.labels(*labels).set(len(job.notes))
        running.labels(*labels).set(job.running_since is not None)
        if job.exit_code is not None:
            ended.labels(*labels).set(job.exit_code)
        if job.good is not None:
            good.labels(*labels).set(job.good.timestamp())
            noted.labels(*labels).set(len(job.notes))
        for side, report in _sides(job):
            epoch.labels(*labels, side).set(report.volume.epoch)
            held.labels(*labels, side).set(len({hold.snapshot for hold in report.holds}))
            unfinished.labels(*labels, side).set(report.unfinished is not None)


def _sides(job: JobStatus) -> list[tuple[str, StatusReport]]:
    """The sides of a job that can be looked at from here, by their names."""
    return [(side, it) for side, it in (("source", job.source), ("target", job.target)) if it is not None]


def _labels(lag: Lag, name: str | None = None) -> list[str]:
    """The labels of a metric as valid text: names and paths may contain any bytes."""
    texts = (lag.name if name is None else name, lag.source or "", lag.target or "")
    return [os.fsencode(text).decode("utf-8", "backslashreplace") for text in texts]
