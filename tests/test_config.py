"""The configuration, the jobs that it names, and the service that runs them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from configured import Jobs
from machine import (
    MIB,
    Pair,
    Place,
    assert_told,
    command,
    environment,
    need,
    passed,
    run,
    sh,
    snapshots,
    start,
    wait_until,
)
from oracle import assert_same
from remote import Server
from worlds import fill

from snapsync.errors import UsageError
from snapsync.jobs import config, state
from snapsync.jobs.spelled import arguments

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERY_KEY = """
[defaults]
compress = "zstd:3"
keep = { last = 10, hourly = 24, daily = 14, weekly = 8, monthly = 12, yearly = 3 }

[job.web]
source = "/srv/web"
target = "root@backup:/standby/web"
period = "1h30m"
exclude = ["*.tmp", "/cache/*"]
include = ["/cache/keep"]
strict = true
check = true
read_only = true
bwlimit = "10M"
rsh = "ssh -p 2222"
remote_path = "/opt/snapsync"
channels = 4
ssh_options = ["BatchMode=yes"]

[job.mail]
source = "/srv/mail"
target = "/mnt/mail"
compress = "none"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


# --- reading ------------------------------------------------------------------------------------


def test_every_key_is_read_and_a_jobs_own_counts_over_the_defaults(file: Path) -> None:
    file.write_text(EVERY_KEY)
    jobs = config.load(file).jobs
    assert list(jobs) == ["web", "mail"]
    web, mail = jobs["web"], jobs["mail"]
    assert (web.period, mail.period) == (5400, None)
    assert (web.compress, mail.compress) == ("zstd:3", "none")
    assert (
        web.keep
        == mail.keep
        == {"last": 10, "hourly": 24, "daily": 14, "weekly": 8, "monthly": 12, "yearly": 3}
    )
    assert (web.exclude, web.include) == (("*.tmp", "/cache/*"), ("/cache/keep",))
    assert (web.strict, web.check, web.channels, web.bwlimit) == (True, True, 4, 10 * MIB)
    assert (web.read_only, mail.read_only) == (True, None)
    assert (web.rsh, web.remote_path, web.ssh_options) == ("ssh -p 2222", "/opt/snapsync", ("BatchMode=yes",))
    assert mail.exclude is None


def test_each_key_of_the_later_file_counts_over_the_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "machine.toml", tmp_path / "own.toml"
    files[0].write_text(EVERY_KEY)
    files[1].write_text(
        '[defaults]\nstrict = true\n[job.web]\nchannels = 2\n[job.new]\nsource="/a"\ntarget="/b"\n'
    )
    monkeypatch.setattr(config, "places", lambda: files)
    jobs = config.load().jobs
    assert list(jobs) == ["web", "mail", "new"]
    assert (jobs["web"].channels, jobs["web"].period) == (2, 5400)
    assert jobs["mail"].strict
    assert jobs["new"].compress == "zstd:3"
    assert config.load(files[0]).jobs["web"].channels == 4


def test_the_users_file_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert [str(path) for path in config.places()] == [
        "/etc/snapsync/config.toml",
        f"{tmp_path}/snapsync/config.toml",
    ]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config.places()[1] == Path("/home/somebody/.config/snapsync/config.toml")


JOB = '[job.web]\nsource = "/a"\ntarget = "/b"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (JOB + 'tagret = "/b"', ("[job.web]", "tagret", "target")),
        (JOB + 'perod = "15m"', ("[job.web]", "perod", "period")),
        ("[defaults]\nkepe = { last = 1 }", ("[defaults]", "kepe", "keep")),
        ("[jobs.web]\n", ("jobs", "job")),
        ("[job]\nweb = 3", ("job.web", "table")),
        (JOB + "period = 15", ("[job.web]", "period", "15m")),
        (JOB + 'period = "15"', ("period", "'15'")),
        (JOB + 'period = "0s"', ("period", "'0s'")),
        (JOB + "keep = 3", ("keep", "last")),
        (JOB + "keep = { last = 0 }", ("keep", "last = 0")),
        (JOB + "keep = { last = true }", ("keep", "last = true")),
        (JOB + "keep = { dayly = 3 }", ("keep", "dayly", "daily")),
        (JOB + 'exclude = "*.tmp"', ("exclude", "list")),
        (JOB + "exclude = [3]", ("exclude",)),
        (JOB + 'include = ["a"]', ("include", "exclude")),
        (JOB + 'strict = "yes"', ("strict", "true")),
        (JOB + 'compress = "gzip"', ("compress", "zstd")),
        (JOB + 'compress = "zstd:99"', ("compress", "22")),
        (JOB + 'bwlimit = "fast"', ("bwlimit", "10M")),
        (JOB + "bwlimit = -3", ("bwlimit",)),
        (JOB + "channels = 65", ("channels", "64")),
        (JOB + "channels = true", ("channels",)),
        (JOB + 'rsh = ""', ("rsh",)),
        ('[job.web]\nsource = "/a"', ("[job.web]", "target", "missing")),
        ('[job.web]\nsource = "a"\ntarget = "/b"', ("source", "'a'", "whole path")),
        ('[job.web]\nsource = "h:/a"\ntarget = "h:/b"', ("target", "another machine")),
        ('[job."a b"]\nsource = "/a"\ntarget = "/b"', ("'a b'", "letters")),
        ("[job.web\n", ("understand",)),
    ],
)
def test_a_mistake_is_told_with_its_file_its_place_and_what_is_right(
    file: Path, text: str, words: tuple[str, ...]
) -> None:
    file.write_text(text)
    assert_told(run("run", "--config", file), str(file), *words, codes=(2,))


def test_a_mistake_in_one_of_two_files_names_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "first.toml", tmp_path / "second.toml"
    files[0].write_text(JOB)
    files[1].write_text("[job.web]\nchannels = 0\n")
    monkeypatch.setattr(config, "places", lambda: files)
    with pytest.raises(UsageError, match=r"second\.toml: \[job\.web\] channels"):
        config.load()


def test_no_configuration_and_no_job_are_told(file: Path, tmp_path: Path) -> None:
    assert_told(run("run", "--config", file), str(file), codes=(2,))
    file.write_text("[defaults]\nstrict = true\n")
    assert_told(run("run", "--config", file), "no job", codes=(2,))
    file.write_text(JOB)
    assert_told(run("run", "wep", "--config", file), "wep", "did you mean web", codes=(2,))


def test_a_job_is_a_sync_that_the_command_understands(file: Path, tmp_path: Path) -> None:
    file.write_text(EVERY_KEY)
    words = arguments(config.load(file).jobs["web"])
    assert words[-3:] == ["--", "/srv/web", "root@backup:/standby/web"]
    assert {"--keep-yearly=3", "--exclude=*.tmp", "--include=/cache/keep", "--strict", "--check"} <= set(
        words
    )
    assert {"--bwlimit=10485760", "--rsh=ssh -p 2222", "--channels=4", "--remote-path=/opt/snapsync"} <= set(
        words
    )
    assert words[words.index("-o") + 1] == "BatchMode=yes"


# --- when a job is due ----------------------------------------------------------------------------


def known(job: config.Job, good: datetime | None) -> dict[str, state.Run]:
    return {job.name: state.Run(job.source, job.target, attempt=NOW, good=good)}


@pytest.mark.parametrize(
    ("ago", "due"),
    [(0, False), (800, False), (869, False), (871, True), (900, True), (9e9, True), (-60, True)],
)
def test_a_job_is_due_when_its_period_has_passed_since_the_last_good_run(ago: float, due: bool) -> None:
    """A timer that is half a minute early is in time; a run in the future is one that a clock told wrong."""
    job = config.Job("web", "/a", "/b", period=900)
    good = NOW - timedelta(seconds=min(ago, 1e9))
    assert state.is_due(job, known(job, good), NOW) == due


def test_a_job_is_due_that_never_ran_well_or_has_another_target_now() -> None:
    job = config.Job("web", "/a", "/b", period=900)
    assert state.is_due(job, {}, NOW)
    assert state.is_due(job, known(job, None), NOW)
    assert state.is_due(config.Job("web", "/a", "/c", period=900), known(job, NOW), NOW)
    assert not state.is_due(config.Job("web", "/a", "/b"), {}, NOW), "without a period only when named"


# --- running --------------------------------------------------------------------------------------


@pytest.fixture
def pairs(place: Place, jobs: Jobs) -> list[Pair]:
    made = [Pair.make(place, kinds) for kinds in (("btrfs", "xfs"), ("xfs", "ext4"), ("ext4", "btrfs"))]
    for at, pair in enumerate(made):
        fill(pair.source / "file", 0, 10_000, at)
        jobs.add(f"job{at}", pair.source, pair.target)
    return made


def test_what_is_due_runs_and_what_is_not_waits(jobs: Jobs, pairs: list[Pair]) -> None:
    first = jobs.outcomes()
    assert [job["outcome"] for job in first.values()] == ["done"] * 3
    for pair in pairs:
        assert_same(pair.source, pair.target)
    second = jobs.outcomes()
    assert [job["outcome"] for job in second.values()] == ["waiting"] * 3
    assert [len(snapshots(pair.target)) for pair in pairs] == [1, 1, 1]
    jobs.age("job1", 901)
    assert [job["outcome"] for job in jobs.outcomes().values()] == ["waiting", "done", "waiting"]
    assert [len(snapshots(pair.target)) for pair in pairs] == [1, 2, 1]


def test_named_jobs_run_now_and_all_when_told_so(jobs: Jobs, pairs: list[Pair]) -> None:
    jobs.outcomes()
    assert list(jobs.outcomes("job2")) == ["job2"]
    assert [len(snapshots(pair.target)) for pair in pairs] == [1, 1, 2]
    jobs.outcomes("--now")
    assert [len(snapshots(pair.target)) for pair in pairs] == [2, 2, 3]
    assert_told(jobs.run("job1", "--all"), codes=(2,))


def test_one_that_fails_does_not_stop_the_others(jobs: Jobs, pairs: list[Pair]) -> None:
    (pairs[0].source / "file").touch()
    pairs[0].target.mkdir()
    (pairs[0].target / "occupied").touch()
    outcomes = jobs.outcomes("--parallel", "1", code=3)
    assert [job["outcome"] for job in outcomes.values()] == ["failed", "done", "done"]
    assert outcomes["job0"]["exit_code"] == 3
    assert outcomes["job0"]["error"]
    assert outcomes["job0"]["advice"]
    ran = jobs.run()
    assert ran.code == 3
    assert "job0: failed" in ran.out
    assert outcomes["job0"]["error"] in ran.err
    for pair in pairs[1:]:
        assert_same(pair.source, pair.target)


def test_jobs_of_one_volume_wait_for_each_other(jobs: Jobs, place: Place) -> None:
    source, through = place("xfs"), place("xfs").parent / "link"
    through.symlink_to(source)
    targets = [place.absent("ext4") for _ in range(4)]
    (source / "large").write_bytes(os.urandom(20 * MIB))
    for at, target in enumerate(targets):
        jobs.add(f"job{at}", through if at % 2 else source, target)
    assert [job["outcome"] for job in jobs.outcomes("--parallel", "4").values()] == ["done"] * 4
    for target in targets:
        assert_same(source, target)


def test_a_process_that_is_killed_is_a_job_that_failed(jobs: Jobs, pairs: list[Pair]) -> None:
    jobs.env["SNAPSYNC_FAULT"] = Path("stage.begin:1")
    outcomes = jobs.outcomes(code=1)
    assert all(job["outcome"] == "failed" and job["error"] for job in outcomes.values())
    del jobs.env["SNAPSYNC_FAULT"]
    jobs.outcomes()
    for pair in pairs:
        assert_same(pair.source, pair.target)


def test_the_state_tells_the_last_good_run_and_the_last_error(jobs: Jobs, pairs: list[Pair]) -> None:
    before = datetime.now(UTC)
    done = jobs.outcomes("job1")["job1"]
    entry = jobs.state["job1"]
    assert before <= datetime.fromisoformat(entry["good"]) <= datetime.now(UTC)
    assert entry["error"] is None
    assert entry["snapshot"] == done["snapshot"] == snapshots(pairs[1].target)[0]["name"]
    assert entry["data_bytes"] == 10_000
    os.rename(pairs[1].source, moved := pairs[1].source.with_name("away"))
    failed = jobs.outcomes("job1", code=3)["job1"]
    later = jobs.state["job1"]
    assert later["error"] == failed["error"]
    assert later["attempt"] > entry["attempt"]
    assert {key: later[key] for key in ("good", "snapshot", "data_bytes")} == {
        key: entry[key] for key in ("good", "snapshot", "data_bytes")
    }
    os.rename(moved, pairs[1].source)
    jobs.outcomes("job1")
    assert jobs.state["job1"]["error"] is None


def test_runs_at_the_same_time_lose_nothing_of_each_others_state(jobs: Jobs, pairs: list[Pair]) -> None:
    threads = [threading.Thread(target=jobs.outcomes, args=(f"job{at}",)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(jobs.state) == ["job0", "job1", "job2"]
    assert all(entry["good"] for entry in jobs.state.values())


def test_a_state_that_is_torn_is_told_and_not_taken_for_an_empty_one(jobs: Jobs, pairs: list[Pair]) -> None:
    jobs.outcomes()
    (jobs.env["SNAPSYNC_STATE_DIR"] / "jobs.json").write_text('{"jobs": {"job0": 3}}')
    assert_told(jobs.run("--quiet"), "jobs.json", "remove it", codes=(4,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"good": "2026-01-01T00:00:00"},
        {"failures": "x"},
        {"attempt": "9999-12-31T23:59:59+00:00"},
        {"good": 5},
    ],
    ids=["no zone", "no number", "no such year", "no time"],
)
def test_a_state_with_values_that_make_no_sense_is_told(
    jobs: Jobs, pairs: list[Pair], wrong: dict[str, Any]
) -> None:
    jobs.outcomes("job0")
    kept = jobs.env["SNAPSYNC_STATE_DIR"] / "jobs.json"
    state = json.loads(kept.read_text())
    state["jobs"]["job0"] |= wrong
    kept.write_text(json.dumps(state))
    assert_told(jobs.run("--quiet"), "jobs.json", "remove it", codes=(4,))
    kept.write_text('{"jobs":' * 100_000)
    assert_told(jobs.run("--quiet"), "jobs.json", "remove it", codes=(4,))


def test_a_jobs_options_reach_its_round(jobs: Jobs, place: Place) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    for name in ("kept", "left.tmp"):
        fill(pair.source / name, 0, 1_000, 1)
    jobs.add("part", pair.source, pair.target, 'exclude = ["*.tmp"]\nkeep = { last = 1 }')
    jobs.outcomes("part")
    jobs.outcomes("part")
    assert sorted(os.listdir(pair.target)) == [".snapsync", "kept"]
    assert len(snapshots(pair.target)) == 1
    jobs.text = ""
    jobs.add("part", pair.source, pair.target, "exclude = []")
    jobs.outcomes("part")
    assert_same(pair.source, pair.target)


def test_patterns_that_a_job_does_not_say_any_more_are_noted_each_round(jobs: Jobs, place: Place) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    for name in ("kept", "left.tmp", "back.tmp"):
        fill(pair.source / name, 0, 1_000, 1)
    jobs.add("web", pair.source, pair.target, 'exclude = ["*.tmp"]\ninclude = ["/back.tmp"]')
    assert jobs.outcomes("web")["web"]["notes"] == []
    jobs.text = ""
    jobs.add("web", pair.source, pair.target, "")
    left = f"{pair.source} leaves out *.tmp, with /back.tmp: patterns of earlier rounds"
    note = f"{left}, which the job does not say; `exclude = []` in it leaves nothing out any more"
    for _ in range(2):
        assert note in jobs.run("web").err
        assert note in run("status", "--config", jobs.file, env=jobs.env).out
    jobs.text = ""
    jobs.add("web", pair.source, pair.target, "exclude = []")
    assert jobs.outcomes("web")["web"]["notes"] == []
    jobs.text = ""
    jobs.add("web", pair.source, pair.target, "")
    assert jobs.outcomes("web")["web"]["notes"] == []
    assert_same(pair.source, pair.target)


def test_a_job_that_a_guard_refuses_says_the_line_that_lets_it_through(jobs: Jobs, place: Place) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    pair = Pair(pair.source, pair.target.with_name("a target"))
    for number in range(8):
        fill(pair.source / f"{number}.tmp", 0, 1_000, number)
    jobs.add("web", pair.source, pair.target, 'guard = { deleted = "25%" }\nkeep = { last = 3 }')
    jobs.outcomes("web")
    jobs.text = ""
    more = 'guard = { deleted = "25%" }\nkeep = { last = 3 }\nexclude = ["*.tmp"]\nstrict = true'
    jobs.add("web", pair.source, pair.target, more)
    advice = jobs.outcomes("web", code=3)["web"]["advice"]
    words = ["snapsync", "sync", str(pair.source), str(pair.target), "--accept-changes"]
    line = advice.split("`")[-2]
    assert shlex.split(line) == [*words, "--strict", "--exclude=*.tmp"]
    assert run(*shlex.split(line)[1:]).code == 0
    assert os.listdir(pair.target) == [".snapsync"]


def test_a_job_whose_standby_was_changed_says_the_line_that_goes_back(jobs: Jobs, place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "file", 0, 1_000, 1)
    jobs.add("web", pair.source, pair.target)
    jobs.outcomes("web")
    for side in (pair.source, pair.target):
        fill(side / "file", 0, 1_000, len(str(side)))
    advice = jobs.outcomes("web", code=3)["web"]["advice"]
    assert f"`snapsync sync {pair.source} {pair.target} --discard-drift`" in advice


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_told_to_stop_it_stops_its_rounds_and_the_next_goes_on(
    jobs: Jobs, place: Place, tmp_path: Path, number: signal.Signals
) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    (pair.source / "large").write_bytes(os.urandom(50 * MIB))
    jobs.add("large", pair.source, pair.target)
    trace = tmp_path / "trace"
    process = start("run", "--config", jobs.file, env={**jobs.env, "SNAPSYNC_FAULT_TRACE": trace})
    wait_until(lambda: "stage.begin" in passed(trace) or process.poll() is not None)
    process.send_signal(number)
    process.communicate(timeout=60)
    held = [line for line in sh("ps", "-eo", "args").splitlines() if str(pair.source) in line]
    assert not held, "a round outlives the run that it belongs to"
    if process.returncode != 0:  # it may have been done already
        assert process.returncode == 5
        assert jobs.state["large"]["error"]
    jobs.outcomes("large")
    assert_same(pair.source, pair.target)


def test_a_job_reaches_another_machine_by_its_own_options(jobs: Jobs, server: Server, place: Place) -> None:
    source, folder = place("xfs"), place("ext4")
    fill(source / "file", 0, 10_000, 1)
    forced = shlex.join([*command(), "serve", "--restrict-to", str(folder)])
    rsh = shlex.join(["ssh", "-F", str(server.client(forced=forced).config)])
    jobs.add("far", source, Path("standby-host:copy"), f"rsh = {json.dumps(rsh)}\nchannels = 2")
    assert jobs.outcomes("far")["far"]["outcome"] == "done"
    assert_same(source, folder / "copy")


def test_a_directory_called_snapsync_where_it_is_started_is_not_taken_for_it(
    jobs: Jobs, pairs: list[Pair], tmp_path: Path
) -> None:
    (tmp_path / "snapsync").mkdir()
    (tmp_path / "snapsync/__init__.py").write_text("raise SystemExit(99)")
    ran = run("run", "--config", jobs.file, env=jobs.env, cwd=tmp_path)
    assert ran.code == 0, ran


def test_the_module_is_the_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "snapsync", "--version"], capture_output=True, text=True, env=environment()
    )
    assert ran.stdout == subprocess.run([*command(), "--version"], capture_output=True, text=True).stdout


# --- the service ----------------------------------------------------------------------------------


@pytest.fixture
def units(jobs: Jobs, tmp_path: Path) -> Path:
    """The directory that units are written to."""
    jobs.add("web", Path("/srv/web"), Path("/mnt/web"))
    return tmp_path / "units"


def install(jobs: Jobs, units: Path, *more: str) -> dict[str, Any]:
    ran = run("service", "install", "--config", jobs.file, "--dir", units, "--json", *more)
    assert ran.code == 0, ran
    return ran.json


def settings_of(file: Path) -> dict[str, list[str]]:
    """The settings of a unit."""
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("user", [(), ("--user",)], ids=["system", "user"])
@pytest.mark.parametrize(
    "name",
    ["config.toml", 'odd "$HOME" 100% é;.toml', r"a\b '%n' $$ ${PATH} \x41\n.toml", "-+!@:.toml \\"],
    ids=["plain", "odd", "escapes", "ends"],
)
def test_systemd_has_nothing_to_say_against_the_units(
    jobs: Jobs, units: Path, user: tuple[str, ...], name: str
) -> None:
    need("systemd-analyze")
    jobs.file = jobs.file.rename(jobs.file.with_name(name))
    install(jobs, units, *user)
    scope = ("--user",) if user else ("--system",)
    ran = subprocess.run(
        ["systemd-analyze", *scope, "verify", units / "snapsync@web.service", units / "snapsync@web.timer"],
        capture_output=True,
        text=True,
        env=environment({"XDG_RUNTIME_DIR": units}),
    )
    ours = [line for line in ran.stderr.splitlines() if "snapsync" in line]
    assert (ran.returncode, ours) == (0, []), ran.stderr


def test_the_service_is_confined_but_can_do_its_work(jobs: Jobs, units: Path) -> None:
    install(jobs, units)
    service = settings_of(units / "snapsync@web.service")
    assert service["RequiresMountsFor"] == ["/mnt/web /srv/web"]
    for name, value in {"NoNewPrivileges": "yes", "PrivateTmp": "yes", "ProtectSystem": "full"}.items():
        assert service[name] == [value]
    capabilities = set(" ".join(service["CapabilityBoundingSet"]).split())
    assert {
        "CAP_SYS_ADMIN",
        "CAP_CHOWN",
        "CAP_MKNOD",
        "CAP_SETFCAP",
        "CAP_LINUX_IMMUTABLE",
        "CAP_LEASE",
    } <= capabilities
    assert not {"ProtectHome", "PrivateDevices", "RestrictSUIDSGID"} & set(service)
    program, *words = service["ExecStart"][0].split()
    assert Path(program) == Path(command()[0])
    assert words == ["run", "--due", "--config", str(jobs.file), "--", "web"]


def test_volumes_in_closed_places_are_opened(jobs: Jobs, units: Path) -> None:
    jobs.add("etc", Path("/etc/our app"), Path("/tmp/copy"))
    install(jobs, units)
    service = settings_of(units / "snapsync@etc.service")
    assert service["RequiresMountsFor"] == ['"/etc/our app" /tmp/copy']
    assert '"-/etc/our app"' in service["ReadWritePaths"]
    assert "PrivateTmp" not in service
    assert "PrivateTmp" in settings_of(units / "snapsync@web.service")


@pytest.mark.parametrize(
    ("schedule", "seconds"), [('period = "1h"', 60), ('period = "20s"', 20), ('when = "daily 03:00"', 60)]
)
def test_a_timer_looks_as_often_as_its_job_needs(
    jobs: Jobs, tmp_path: Path, schedule: str, seconds: int
) -> None:
    jobs.add("other", Path("/a"), Path("/other"), 'period = "5s"')
    jobs.add("one", Path("/a"), Path("/b"), schedule)
    jobs.add("by-hand", Path("/a"), Path("/c"), "")
    install(jobs, tmp_path / "units")
    assert settings_of(tmp_path / "units/snapsync@one.timer")["OnUnitInactiveSec"] == [f"{seconds}s"]
    assert not list((tmp_path / "units").glob("*by-hand*"))


def test_a_round_that_fails_starts_the_unit_that_tells(jobs: Jobs, tmp_path: Path) -> None:
    jobs.add("one", Path("/a"), Path("/b"), 'period = "1h"\non_failure = "tell-me@%n.service"')
    jobs.add("two", Path("/a"), Path("/c"), 'period = "1h"')
    install(jobs, tmp_path / "units")
    assert settings_of(tmp_path / "units/snapsync@one.service")["OnFailure"] == ["tell-me@%n.service"]
    assert "OnFailure" not in settings_of(tmp_path / "units/snapsync@two.service")


def test_a_dry_run_writes_nothing_and_shows_all(jobs: Jobs, units: Path) -> None:
    told = install(jobs, units, "--dry-run")
    assert not units.exists()
    assert install(jobs, units)["units"] == told["units"]
    for unit in told["units"]:
        assert Path(unit["path"]).read_text() == unit["text"]
    shown = run("service", "install", "--config", jobs.file, "--dir", units, "--dry-run").out
    assert all(line in shown for unit in told["units"] for line in unit["text"].splitlines())


def test_installed_again_it_is_replaced_and_uninstalled_it_is_gone(jobs: Jobs, units: Path) -> None:
    install(jobs, units)
    (units / "snapsync.timer").write_text((units / "snapsync@web.timer").read_text())
    jobs.text = ""
    jobs.add("fast", Path("/a"), Path("/b"), 'period = "10s"')
    told = install(jobs, units)
    assert sorted(os.listdir(units)) == ["snapsync@fast.service", "snapsync@fast.timer"]
    gone = {"snapsync.timer", "snapsync@web.service", "snapsync@web.timer"}
    assert gone == set(told["commands"][0].removeprefix("systemctl disable --now ").split())
    ran = run("service", "uninstall", "--dir", units)
    assert ran.code == 0, ran
    assert os.listdir(units) == []
    assert_told(run("service", "uninstall", "--dir", units), codes=(2,))


@pytest.mark.parametrize(
    ("action", "name"),
    [("install", "snapsync.timer"), ("install", "snapsync@web.timer"), ("uninstall", "snapsync.timer")],
)
def test_a_unit_that_somebody_else_wrote_is_left_alone(
    jobs: Jobs, units: Path, action: str, name: str
) -> None:
    units.mkdir()
    (units / name).write_text("[Timer]\nOnCalendar=daily\n")
    ran = run("service", action, "--config", jobs.file, "--dir", units)
    assert_told(ran, name, codes=(3,))
    assert os.listdir(units) == [name]
    assert "daily" in (units / name).read_text()


def test_a_service_without_a_period_would_do_nothing(jobs: Jobs, units: Path) -> None:
    jobs.text = ""
    jobs.add("web", Path("/a"), Path("/b"), "")
    assert_told(run("service", "install", "--config", jobs.file, "--dir", units), "period", codes=(2,))
