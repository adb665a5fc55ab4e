"""Metrics of jobs tell what became of them, also of one that never ran, and `run` writes them by itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from configured import Jobs
from machine import Pair, Place, start, wait_until
from prometheus_client.parser import text_string_to_metric_families as families
from worlds import fill

from snapsync.jobs import state


@pytest.fixture
def pair(place: Place) -> Pair:
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "file", 0, 10_000, 1)
    return pair


def read(file: Path) -> dict[tuple[str, str], float]:
    """The values of jobs, by metric and job."""
    samples = [sample for family in families(file.read_text()) for sample in family.samples]
    return {(sample.name, sample.labels.get("name", "")): sample.value for sample in samples}


def metered(jobs: Jobs, pair: Pair, schedule: str = 'period = "15m"') -> Path:
    file = jobs.file.parent / "jobs.prom"
    jobs.add("one", pair.source, pair.target, schedule)
    jobs.add("never", Path("/not/there"), Path("/nor/there"), "")
    jobs.write(f'[defaults]\nmetrics = "{file}"\n{jobs.text}')
    return file


def test_run_writes_the_metrics_of_all_jobs(jobs: Jobs, pair: Pair) -> None:
    file = metered(jobs, pair)
    jobs.outcomes("one", "--dry-run")
    assert not file.exists()
    jobs.outcomes("one")
    told = read(file)
    assert told["snapsync_job_last_good_timestamp_seconds", "one"] > 1e9
    assert told["snapsync_job_last_good_timestamp_seconds", "never"] == 0
    assert told["snapsync_job_failures", "one"] == told["snapsync_job_last_exit_code", "one"] == 0
    assert told["snapsync_job_running", "one"] == 0
    assert told["snapsync_job_losses", "one"] == told["snapsync_job_losses", "never"] == 0
    good = told["snapsync_job_last_good_timestamp_seconds", "one"]
    pair.source.rename(f"{pair.source}-away")
    jobs.outcomes("one", code=3)
    jobs.outcomes("one", code=3)
    told = read(file)
    assert told["snapsync_job_failures", "one"] == 2
    assert told["snapsync_job_last_exit_code", "one"] == 3
    assert told["snapsync_job_last_good_timestamp_seconds", "one"] == good


def test_a_watch_writes_them_after_each_round(jobs: Jobs, pair: Pair) -> None:
    file = metered(jobs, pair, 'period = "1s"')
    process = start("run", "--watch", "--config", jobs.file, env=jobs.env)
    try:
        wait_until(file.exists)
        wait_until(lambda: read(file)["snapsync_job_last_good_timestamp_seconds", "one"] > 1e9)
        first = read(file)["snapsync_job_last_good_timestamp_seconds", "one"]
        wait_until(lambda: read(file)["snapsync_job_last_good_timestamp_seconds", "one"] > first)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_an_interrupt_is_not_hidden_where_a_file_has_just_been_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(*args: Any, **more: Any) -> None:
        replace(*args, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        state.write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_metrics_that_cannot_be_written_are_told_and_fail_no_job(jobs: Jobs, pair: Pair) -> None:
    file = metered(jobs, pair)
    jobs.write(jobs.file.read_text().replace(str(file), "/not/there/jobs.prom"))
    ran = jobs.run("one")
    assert ran.code == 0
    assert "cannot write the metrics to /not/there/jobs.prom" in ran.err


def test_a_configuration_that_is_spoiled_during_a_round_does_not_fail_it(jobs: Jobs, pair: Pair) -> None:
    spoil = json.dumps([sys.executable, "-c", f"open({str(jobs.file)!r}, 'w').write('[')"])
    jobs.add("one", pair.source, pair.target, f'period = "15m"\n[job.one.hooks]\nafter = {spoil}')
    ran = jobs.run("one")
    assert ran.code == 0, ran
    assert "no metrics are written" in ran.err
