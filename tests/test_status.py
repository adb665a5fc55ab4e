"""Where volumes and jobs stand, for people, for monitoring and for Prometheus."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from machine import Pair, Place, assert_told, command, done, run, store
from prometheus_client.parser import text_string_to_metric_families
from remote import Server
from test_config import Jobs
from worlds import fill

from snapsync import Volume, render
from snapsync.cli import monitoring
from snapsync.reports.values import Lag


@pytest.fixture
def synced(place: Place, jobs: Jobs) -> Pair:
    """A job that has done a round of 10,000 bytes."""
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "file", 0, 10_000, 1)
    jobs.add("web", pair.source, pair.target)
    jobs.outcomes()
    return pair


def status(jobs: Jobs, *args: object, code: int = 0) -> dict[str, Any]:
    ran = run("status", "--config", jobs.file, "--json", *args, env=jobs.env)
    assert ran.code == code, ran
    return ran.json


def age(volume: Path, seconds: float) -> None:
    """Lets all snapshots of a volume have been taken so much earlier."""
    for file in (store(volume) / "snapshots").glob("*/snapshot.json"):
        content = json.loads(file.read_text())
        created = datetime.fromisoformat(content["created"]) - timedelta(seconds=seconds)
        file.write_text(json.dumps(content | {"created": created.isoformat()}))


def lag(seconds: float | None, problem: str | None = None, name: str = "web") -> Lag:
    return Lag(name, "/a", "/b", 0, seconds, problem=problem)


# --- all jobs -------------------------------------------------------------------------------------


def test_every_job_is_told_with_its_lag(jobs: Jobs, synced: Pair) -> None:
    age(synced.source, 500)
    age(synced.target, 500)
    done("snapshot", synced.source)
    done("hold", f"{synced.source}@latest", "--reason", "the audit")
    (job,) = status(jobs)["jobs"]
    assert (job["job"], job["problems"]) == ("web", [])
    assert (job["source"]["volume"]["role"], job["target"]["volume"]["role"]) == ("primary", "standby")
    assert job["source"]["volume"]["epoch"] == 1
    assert (job["lag"]["snapshots"], job["lag"]["bytes"]) == (1, 10_000)
    assert 500 <= job["lag"]["seconds"] <= 500 + 600
    assert "the audit" in [hold["reason"] for hold in job["source"]["holds"]]
    assert job["source"]["unfinished"] is None
    assert datetime.fromisoformat(job["good"]) <= datetime.now(UTC)


def test_a_job_is_told_by_its_name_where_no_directory_is_called_so(
    jobs: Jobs, synced: Pair, place: Place
) -> None:
    other = Pair.make(place, ("ext4", "xfs"))
    jobs.add("mail", other.source, other.target)
    assert [job["job"] for job in status(jobs)["jobs"]] == ["web", "mail"]
    assert [job["job"] for job in status(jobs, "web")["jobs"]] == ["web"]
    ran = run("status", "wed", "--config", jobs.file, env=jobs.env)
    assert_told(ran, "wed", "does not exist", codes=(2,))
    (here := place("ext4") / "here").mkdir()
    (here / "web").mkdir()
    done("snapshot", here / "web")
    ran = run("status", "web", "--json", "--config", jobs.file, env=jobs.env, cwd=here)
    assert ran.json["volume"]["role"] == "primary"


def test_what_cannot_be_looked_at_is_told_and_the_others_too(jobs: Jobs, synced: Pair, place: Place) -> None:
    missing = place.absent("xfs")
    jobs.add("gone", synced.source, missing)
    jobs.add("nowhere", missing, place.absent("xfs"))
    told = {job["job"]: job for job in status(jobs)["jobs"]}
    assert list(told) == ["web", "gone", "nowhere"]
    assert told["web"]["problems"] == []
    assert str(missing) in told["gone"]["problems"][0]
    assert told["gone"]["lag"]["seconds"] is None
    assert len(told["nowhere"]["problems"]) == 2
    text = run("status", "--config", jobs.file, env=jobs.env)
    assert text.code == 0
    assert all(job["problems"][0] in text.out for job in told.values() if job["problems"])


def test_the_error_of_the_last_round_is_told(jobs: Jobs, synced: Pair) -> None:
    (synced.target / "file").write_text("changed by hand")
    (synced.source / "file").write_text("and here")
    error = jobs.outcomes("web", code=3)["web"]["error"]
    (job,) = status(jobs)["jobs"]
    assert any(error in problem for problem in job["problems"])
    assert job["lag"]["seconds"] is not None, "what the standby holds is known all the same"


def test_how_many_rounds_failed_and_how_is_told(jobs: Jobs, synced: Pair) -> None:
    (synced.target / "file").write_text("changed by hand")
    (synced.source / "file").write_text("and here")
    error = jobs.outcomes("web", code=3)["web"]["error"]
    first = f"the last round failed with exit code 3: {error}"
    second = f"the last 2 rounds failed, the newest with exit code 3: {error}"
    for words in (first, second):
        assert words in run("status", "--config", jobs.file, env=jobs.env).out
        assert words in run("status", "--config", jobs.file, "--max-lag", "1h", env=jobs.env).out
        jobs.outcomes("web", code=3)


def test_a_job_whose_primary_was_replaced_is_in_trouble(jobs: Jobs, synced: Pair) -> None:
    done("switch", synced.source, synced.target)
    (job,) = status(jobs, "--max-lag", "1h", code=2)["jobs"]
    assert any("not the primary any more" in problem for problem in job["problems"])


def test_a_promoted_target_is_no_standby_however_young_its_snapshots_are(
    jobs: Jobs, synced: Pair, tmp_path: Path
) -> None:
    done("promote", synced.target)
    for _ in ("at once", "and after its own snapshots"):
        (job,) = status(jobs, "--max-lag", "1d", code=2)["jobs"]
        assert job["problems"] == [
            f"{synced.target} is no standby of {synced.source}: it is a primary of epoch 2 itself"
        ]
        assert (job["lag"]["seconds"], job["lag"]["snapshots"]) == (None, None)
        done("snapshot", synced.target)
    ran = run("status", "--config", jobs.file, "--max-lag", "1d", env=jobs.env)
    assert ran.out == f"SNAPSYNC CRITICAL - web: not replicated, {job['problems'][0]}\n"
    file = tmp_path / "snapsync.prom"
    status(jobs, "--prometheus", file)
    found = samples(file)
    assert found["snapsync_problem", "web"] == 1
    assert not {("snapsync_lag_seconds", "web"), ("snapsync_lag_snapshots", "web")} & set(found)


def test_a_target_that_follows_another_primary_is_no_standby(jobs: Jobs, synced: Pair, place: Place) -> None:
    other, stranger = place("xfs"), place.absent("ext4")
    done("sync", other, stranger)
    jobs.text = ""
    jobs.add("web", synced.source, stranger)
    (job,) = status(jobs, "--max-lag", "1d", code=2)["jobs"]
    assert job["problems"] == [
        f"{stranger} is no standby of {synced.source}: it follows a primary of another lineage"
    ]
    heir = place.absent("xfs")
    done("sync", synced.source, heir, "--snap", "latest")
    done("promote", synced.target)
    done("sync", synced.target, heir)
    jobs.text = ""
    jobs.add("web", synced.source, heir)
    (job,) = status(jobs, "--max-lag", "1d", code=2)["jobs"]
    assert "it follows a primary of epoch 2, and that is of epoch 1" in job["problems"][0]


def test_a_round_that_was_cut_is_told(jobs: Jobs, synced: Pair) -> None:
    fill(synced.source / "more", 0, 10_000, 3)
    ran = run("sync", synced.source, synced.target, env={"SNAPSYNC_FAULT": "commit.snapshot:1"})
    assert ran.code != 0
    (job,) = status(jobs)["jobs"]
    assert job["target"]["unfinished"]["phase"] == "applied"
    assert "unfinished" in run("status", "--config", jobs.file, env=jobs.env).out


@pytest.mark.parametrize("relative", [False, True], ids=["whole path", "relative"])
def test_the_lag_of_a_standby_elsewhere_is_what_its_primary_knows(
    jobs: Jobs, server: Server, place: Place, relative: bool
) -> None:
    source, folder = place("xfs"), place("ext4")
    fill(source / "file", 0, 10_000, 1)
    forced = shlex.join([*command(), "serve", "--restrict-to", str(folder)])
    options = server.client(forced=forced).options
    target = "standby-host:copy" if relative else f"standby-host:{folder}/copy"
    done("sync", source, target, *options)
    jobs.add("far", source, Path(target))
    done("snapshot", source)
    (job,) = status(jobs)["jobs"]
    assert job["target"] is None
    assert job["lag"]["snapshots"] == 1
    assert job["lag"]["seconds"] >= 0


def test_a_standby_whose_primary_is_elsewhere_is_as_old_as_what_it_holds(jobs: Jobs, synced: Pair) -> None:
    age(synced.target, 5000)
    jobs.text = ""
    jobs.add("pulled", Path(f"elsewhere:{synced.source}"), synced.target)
    (job,) = status(jobs)["jobs"]
    assert job["lag"]["seconds"] >= 5000
    assert job["lag"]["snapshots"] is None


# --- monitoring -----------------------------------------------------------------------------------


def test_a_plugin_says_one_line_and_exits_with_its_verdict(jobs: Jobs, synced: Pair) -> None:
    def plugin(*args: object) -> tuple[int, str]:
        ran = run("status", *args, "--max-lag", "1h", env=jobs.env)
        assert ran.err == ""
        assert ran.out.count("\n") == 1
        return ran.code, ran.out

    forms = (("--config", jobs.file), (synced.source,), (synced.target,))
    for form in forms:
        code, line = plugin(*form)
        assert code == 0
        assert line.startswith("SNAPSYNC OK - ")
        assert re.search(r" \| '[^']+'=\d+s;;3600$", line)
    for side in (synced.source, synced.target):
        age(side, 3700)
    for form in forms:
        code, line = plugin(*form)
        assert code == 2
        assert line.startswith("SNAPSYNC CRITICAL - ")


def test_what_is_young_enough_but_in_trouble_is_a_warning(jobs: Jobs, synced: Pair) -> None:
    (synced.target / "file").write_text("changed by hand")
    (synced.source / "file").write_text("and here")
    jobs.outcomes("web", code=3)
    assert status(jobs, "--max-lag", "1h", code=1)["verdict"] == "warning"


def test_what_cannot_be_told_is_unknown(jobs: Jobs, place: Place, tmp_path: Path) -> None:
    missing = place.absent("xfs")
    jobs.add("web", missing, place.absent("xfs"))
    assert status(jobs, "--max-lag", "1h", code=3)["verdict"] == "unknown"
    for args in ((missing,), ("--config", tmp_path / "nothing.toml")):
        ran = run("status", *args, "--max-lag", "1h")
        assert ran.code == 3
        assert ran.out.startswith("SNAPSYNC UNKNOWN - ")
        failed = run("status", *args, "--max-lag", "1h", "--json")
        assert failed.code == 3
        assert failed.json["error"]["message"]
    alone = place("xfs")
    Volume(alone).snapshot()
    assert run("status", alone, "--max-lag", "1h").code == 3, "no standby is known"


@pytest.mark.parametrize(
    ("lags", "verdict"),
    [
        ([lag(1), lag(2)], "OK"),
        ([lag(1), lag(2, "trouble")], "WARNING"),
        ([lag(1, "trouble"), lag(None, "gone")], "UNKNOWN"),
        ([lag(None, "gone"), lag(901), lag(1, "trouble")], "CRITICAL"),
        ([lag(901, "trouble")], "CRITICAL"),
        ([lag(900)], "OK"),
        ([lag(-5)], "OK"),
        ([lag(1), replace(lag(None), is_standby=False), lag(None, "gone")], "CRITICAL"),
        ([], "UNKNOWN"),
    ],
)
def test_the_verdict_is_that_of_the_worst(lags: list[Lag], verdict: str) -> None:
    assert monitoring.worst(monitoring.judge(each, 900) for each in lags).name == verdict
    assert monitoring.plugin_line(lags, 900).startswith(f"SNAPSYNC {verdict} - ")


def test_a_plugins_line_is_one_line_with_one_bar_whatever_the_names(tmp_path: Path) -> None:
    odd = [lag(1, "a | b\nc", name="x'y|=\n"), lag(2)]
    line = monitoring.plugin_line(odd, 900)
    assert "\n" not in line
    assert line.count("|") == 1
    assert line.split(" | ")[1] == "'x_y__\\n'=1s;;900 'web'=2s;;900"


def test_a_directory_of_a_wildcard_that_is_gone_is_no_ok(jobs: Jobs, place: Place, tmp_path: Path) -> None:
    homes, standbys = place("xfs"), place("ext4")
    for name in ("anna", "ben"):
        (homes / name).mkdir()
    jobs.add("homes", homes / "*", standbys / "{name}")
    jobs.outcomes("--now")
    assert status(jobs, "--max-lag", "1h")["verdict"] == "ok"
    shutil.rmtree(homes / "ben")
    metrics = tmp_path / "metrics"
    ran = run("status", "--config", jobs.file, "--max-lag", "1h", "--prometheus", metrics, env=jobs.env)
    assert (ran.code, ran.out.count("\n"), ran.err) == (1, 1, "")
    assert ran.out.startswith(f"SNAPSYNC WARNING - homes.ben: {homes}/ben is not there any more")
    assert samples(metrics)["snapsync_gone_directories", ""] == 1
    assert len(status(jobs)["gone"]) == 1
    shutil.rmtree(homes / "anna")
    ran = run("status", "--config", jobs.file, "--max-lag", "1h", env=jobs.env)
    assert ran.code == 3, "nothing is left whose age could be told"
    assert "homes.anna" in ran.out


@pytest.mark.parametrize("time", ["15", "0s", "m", "15 m", "-5m", "1.5h", ""])
def test_a_time_that_makes_no_sense_is_a_mistake(synced: Pair, time: str) -> None:
    assert_told(run("status", synced.source, "--max-lag", time), codes=(2,))


def test_status_of_a_volume_tells_the_age_of_each_standby(synced: Pair, place: Place) -> None:
    age(synced.source, 1000)
    second = place.absent("btrfs")
    done("sync", synced.source, second)
    lags = {each["target"]: each for each in done("status", synced.source)["lags"]}
    assert lags[str(synced.target)]["seconds"] >= 1000
    assert lags[str(synced.target)]["snapshots"] == 1
    assert 0 <= lags[str(second)]["seconds"] < 1000
    assert lags[str(second)]["snapshots"] == 0


# --- Prometheus -----------------------------------------------------------------------------------


def samples(file: Path) -> dict[tuple[str, str], float]:
    """The samples of a text file by metric and job, as Prometheus reads it."""
    families = text_string_to_metric_families(file.read_text())
    return {
        (sample.name, sample.labels.get("name", "") + sample.labels.get("side", "")): sample.value
        for family in families
        for sample in family.samples
    }


def test_prometheus_reads_what_is_known(jobs: Jobs, synced: Pair, place: Place, tmp_path: Path) -> None:
    jobs.add("gone", synced.source, place.absent("xfs"))
    for side in (synced.source, synced.target):
        age(side, 5000)
    done("snapshot", synced.source)
    file = tmp_path / "snapsync.prom"
    file.write_text("old")
    status(jobs, "--prometheus", file)
    found = samples(file)
    assert found["snapsync_lag_seconds", "web"] >= 5000
    assert found["snapsync_lag_snapshots", "web"] == 1
    assert found["snapsync_last_round_bytes", "web"] == 10_000
    assert found["snapsync_problem", "web"] == 0
    assert found["snapsync_problem", "gone"] == 1
    assert ("snapsync_lag_seconds", "gone") not in found
    assert found["snapsync_held_snapshots", "websource"] == 1
    assert found["snapsync_epoch", "webtarget"] == 1
    good = datetime.fromtimestamp(found["snapsync_last_good_round_timestamp_seconds", "web"], UTC)
    assert good.isoformat() == jobs.state["web"]["good"]
    assert not list(tmp_path.glob("snapsync.prom.*")), "a half-written file is left"


def test_prometheus_reads_a_single_volume_too(synced: Pair, tmp_path: Path) -> None:
    file = tmp_path / "snapsync.prom"
    done("status", synced.source, "--prometheus", file)
    assert samples(file)["snapsync_lag_snapshots", str(synced.target)] == 0


def test_metrics_are_written_quietly(jobs: Jobs, synced: Pair, tmp_path: Path) -> None:
    file = tmp_path / "snapsync.prom"
    asked = ((synced.source,), ("--config", jobs.file))
    for words in asked:
        ran = run("status", *words, "--prometheus", file, "-q", env=jobs.env)
        assert (ran.code, ran.out, ran.err) == (0, "", "")
        assert samples(file)
        file.unlink()
        assert run("status", *words, "-q", env=jobs.env).out, "the status is what was asked for"
        assert run("status", *words, "--prometheus", file, env=jobs.env).out
        judged = run("status", *words, "--prometheus", file, "-q", "--max-lag", "1h", env=jobs.env)
        assert judged.out.startswith("SNAPSYNC OK - ")


def test_a_file_of_metrics_that_cannot_be_written_is_told(jobs: Jobs, synced: Pair, tmp_path: Path) -> None:
    ran = run("status", synced.source, "--prometheus", tmp_path / "missing/snapsync.prom")
    assert ran.code in (1, 2)
    assert "cannot write" in ran.err
    assert "missing" in ran.err


def test_ages_are_told_in_words() -> None:
    assert monitoring.behind(lag(243)) == f"{render.seconds(243)} old, up to date"
    assert monitoring.behind(lag(None)) == "age unknown, up to date"
