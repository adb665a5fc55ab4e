"""What the commands say of a log, what a job may do with one, and that the examples of docs/log.md run."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from machine import Place, assert_told, done, environment, run
from object_store import Logs
from oracle import assert_same

import snapsync
from snapsync.jobs import config

ROOT = Path(__file__).parents[1]


class Published:
    """A volume that has published two snapshots, `one` and `two`, to a log."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.folder = folder
        self.source, self.log = place("xfs"), f"file://{folder}/log"
        (self.source / "etc").mkdir()
        for name in ("one", "two"):
            (self.source / "etc/motd").write_text(name)
            done("sync", self.source, self.log, "--name", name)


@pytest.fixture
def published(place: Place, tmp_path: Path) -> Published:
    return Published(place, tmp_path)


def said(*args: object) -> list[str]:
    ran = run(*args, "--quiet") if args[0] == "list" else run(*args)
    assert ran.code == 0, ran
    return ran.out.splitlines()


# --- what is said -----------------------------------------------------------------------------------


def test_a_log_is_called_a_log_and_shows_its_standbys(published: Published, place: Place) -> None:
    log, standby = published.log, place.absent("ext4")
    empty = f"file://{published.folder}/empty"
    assert said("init", empty) == [f"{empty}: log"]
    assert "  snapshots  0" in said("status", empty)
    done("sync", log, standby)
    (published.source / "new").touch()
    done("sync", published.source, log, "--name", "three")
    done("hold", f"{log}@one", "--reason", "the audit")
    first, *lines = said("status", log)
    assert first == f"{log}: log"
    assert f"  standby    {standby}: 1 snapshot behind, at two" in lines
    assert "  held       one, by hand: the audit" in lines
    assert not [line for line in lines if line.split()[0] in ("provider", "unfinished", "volume")]
    assert said("list", log) == ["one", "two", "three"]
    assert "  nothing changed: no data was sent" in said("sync", published.source, log)


def test_a_snapshot_of_a_log_is_held_released_and_deleted(published: Published) -> None:
    log = published.log
    done("hold", f"{log}@one", "--reason", "the audit")
    assert done("hold", f"{log}@one")["reason"] == "the audit"
    assert_told(run("delete", f"{log}@one"), "held", codes=(3,))
    done("release", f"{log}@one")
    assert said("delete", f"{log}@one") == [f"deleted snapshot 0 (one) of {log}"]
    assert_told(run("delete", f"{log}@two"), "newest", codes=(3,))
    assert said("list", log) == ["two"]


@pytest.mark.parametrize("snapshot", ["", "@one"])
@pytest.mark.parametrize("paths", [(), ("etc/motd",)], ids=["whole", "path"])
def test_a_log_is_not_restored_in_place(published: Published, snapshot: str, paths: tuple[str, ...]) -> None:
    ran = run("restore", published.log + snapshot, *paths)
    assert_told(ran, f"cannot restore {published.log}{snapshot} in place", "add --to DIR", codes=(2,))


def test_what_needs_a_volume_says_that_this_is_a_log(published: Published) -> None:
    for words in (("snapshot", published.log), ("promote", published.log)):
        assert_told(run(*words), "log", codes=(2,))


def test_a_round_of_a_log_is_inspected_as_a_delta_is(published: Published, tmp_path: Path) -> None:
    delta = tmp_path / "two.delta"
    done("send", f"{published.source}@two", "--base", f"{published.source}@one", "-o", delta)
    there, here = done("inspect", f"{published.log}@two"), done("inspect", delta)
    for key in ("totals", "largest", "directories", "metadata"):
        assert there[key] == here[key], key
    for key in ("snapshot", "lineage", "epoch", "frames", "raw_bytes", "complete"):
        assert there["delta"][key] == here["delta"][key], key
    assert done("inspect", published.log)["delta"]["snapshot"]["name"] == "two"
    assert_told(run("inspect", f"{published.log}@none"), "none", codes=(2,))


def test_an_old_primary_is_told_to_follow_the_log(published: Published, place: Place) -> None:
    log, standby = published.log, place.absent("xfs")
    done("sync", log, standby)
    done("promote", standby)
    assert_told(run("sync", published.source, log), "rejoin", codes=(3,))
    done("sync", standby, log)
    assert said("rejoin", published.source, log)[0] == f"{published.source} follows {log}"


@pytest.mark.parametrize(
    "verb",
    [
        "init",
        "sync",
        "list",
        "status",
        "prune",
        "delete",
        "hold",
        "release",
        "restore",
        "rejoin",
        "verify",
        "diff",
        "mount",
    ],
)
def test_the_help_says_that_a_log_can_stand_there(verb: str) -> None:
    told = run(verb, "--help").out
    assert re.search(r"\b(a log|its log|LOG@SNAP)\b", told), told


def test_the_api_takes_a_log_for_a_volume(published: Published) -> None:
    volume = snapsync.Volume(published.log)
    assert [snap.name for snap in volume.snapshots()] == ["one", "two"]
    assert volume.status().volume.is_log
    assert volume.prune({"last": 1}).pruned[0].name == "one"


# --- jobs -------------------------------------------------------------------------------------------


def job(source: object, target: object, more: str = "") -> str:
    return f'source = "{source}"\ntarget = "{target}"\nperiod = "15m"\n{more}'


def test_jobs_publish_to_a_log_and_follow_it_and_are_told_with_their_lag(
    published: Published, place: Place
) -> None:
    standby, file, metrics = place.absent("btrfs"), published.folder / "jobs.toml", published.folder / "prom"
    file.write_text(
        f"[job.publish]\n{job(published.source, published.log)}[job.follow]\n{job(published.log, standby)}"
    )
    env = {"SNAPSYNC_STATE_DIR": published.folder / "state"}
    for name in ("publish", "follow"):
        ran = run("run", name, "--config", file, env=env)
        assert ran.code == 0, ran
    told = done("status", "--config", file, env=env)["jobs"]
    assert [job["problems"] for job in told] == [[], []]
    assert told[0]["lag"]["snapshots"] == 0
    assert all(0 <= job["lag"]["seconds"] < 600 for job in told)
    ran = run("status", "--config", file, "--max-lag", "1h", "--prometheus", metrics, env=env)
    assert ran.code == 0, ran
    assert metrics.read_text().count("snapsync_lag_seconds{") == 2
    assert done("status", published.log, "--max-lag", "1h")["verdict"] == "ok"


def test_of_a_job_one_side_is_here(tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"
    for other in ("s3://bucket/data", "root@host:/srv"):
        file.write_text(f"[job.web]\n{job('file:///srv/log', other)}")
        assert_told(
            run("run", "--config", file), "is not on this machine, and neither is `source`", codes=(2,)
        )


@pytest.mark.parametrize(
    ("place_", "directory"),
    [
        ("file:///etc/log", "/etc/log"),
        ("file:///srv/our%20log", "/srv/our log"),
        ("s3://bucket/etc", None),
        ("root@host:/etc/standby", None),
        ("/etc/standby", "/etc/standby"),
    ],
)
def test_only_what_is_here_has_a_directory(place_: str, directory: str | None) -> None:
    assert config.directory_of(place_) == directory


def test_the_service_may_write_to_the_directory_of_a_log(tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"

    def unit(*targets: str) -> list[str]:
        jobs = (f"[job.j{number}]\n{job('/srv/web', target)}" for number, target in enumerate(targets))
        file.write_text("".join(jobs))
        done("service", "install", "--config", file, "--dir", tmp_path)
        text = "\n".join(unit.read_text() for unit in sorted(tmp_path.glob("snapsync@*.service")))
        return [line for line in text.splitlines() if not line.startswith("Description=")]

    opened = [line for line in unit("file:///usr/local/log", "s3://bucket/usr") if "ReadWritePaths" in line]
    assert opened == ["ReadWritePaths=-/usr/local/log", "ReadWritePaths=-/usr/local"]
    assert "PrivateTmp=yes" in unit("file:///srv/log", "s3://bucket/tmp/log")
    assert "PrivateTmp=yes" not in unit("file:///tmp/log")
    assert not [line for line in unit("s3://bucket/etc/log") if "s3:" in line or "ReadWritePaths" in line]


# --- docs/log.md ------------------------------------------------------------------------------------


def test_the_manifests_of_a_log_are_read_in_place_as_its_page_shows(published: Published) -> None:
    page = (ROOT / "docs/log.md").read_text()
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(program) == 1
    where = "/mnt/usb/log"
    assert where in program[0]
    words = [sys.executable, "-c", program[0].replace(where, f"{published.folder}/log")]
    ran = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert ran.returncode == 0, ran.stderr
    for word in ("one", "two", "etc/motd"):
        assert word in ran.stdout
    # Both rounds wrote that file.
    assert re.search(r"etc/motd\s*│\s*1\b", ran.stdout), ran.stdout


def test_the_page_names_what_lies_below_the_prefix_and_what_a_commit_has(published: Published) -> None:
    page, log = (ROOT / "docs/log.md").read_text(), published.folder / "log"
    done("hold", f"{published.log}@one")
    done("promote", _followed(published))
    for folder in log.iterdir():
        assert folder.name in page, folder
    for file in (log / "commits").iterdir():
        commit = snapsync_json(file)
        assert all(f"`{key}`" in page for key in commit)
        assert datetime.fromisoformat(commit["written"])
        deed = commit["deed"]
        for word in [deed] if isinstance(deed, str) else deed:
            assert f'"{word}"' in page


def _followed(published: Published) -> Path:
    standby = published.folder / "standby"
    done("sync", published.log, standby)
    return standby


def snapsync_json(file: Path) -> dict[str, object]:
    import json

    found: dict[str, object] = json.loads(file.read_text())
    return found


def test_manifests_are_read_in_a_bucket_too(logs: Logs, place: Place) -> None:
    polars, fs = pytest.importorskip("polars"), pytest.importorskip("pyarrow.fs")
    import pyarrow.dataset as ds

    log, source = logs("moto"), place("xfs")
    (source / "file").write_text("content")
    log.sync(source, log.address)
    (name,) = log.names("manifests/")
    url, key, secret = (
        log.env[f"AWS_{word}"] for word in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
    )
    where = f"{log.address.removeprefix('s3://')}/{name}"
    there = fs.S3FileSystem(access_key=key, secret_key=secret, endpoint_override=url, region="us-east-1")
    table = ds.dataset([where], format="ipc", filesystem=there).to_table(columns=["path"])
    options = {
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "aws_endpoint_url": url,
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    paths = polars.scan_ipc(f"s3://{where}", storage_options=options).select("path").collect()
    assert sorted(table["path"].to_pylist()) == sorted(paths["path"].to_list()) == [".", "file"]


# --- credentials in a file ----------------------------------------------------------------------


def credentials(file: Path, env: dict[str, str]) -> Path:
    file.write_text("# of the store\n\n" + "".join(f'{name} = "{value}"\n' for name, value in env.items()))
    file.chmod(0o600)
    return file


def test_a_job_has_its_credentials_in_a_file(logs: Logs, place: Place, tmp_path: Path) -> None:
    log, source, target = logs("moto"), place("xfs"), place.absent("btrfs")
    (source / "file").write_text("of the job")
    keys = {name: value for name, value in log.env.items() if name.startswith("AWS_")}
    file = credentials(tmp_path / "keys", keys)
    configured = tmp_path / "config.toml"
    configured.write_text(
        f'[defaults]\nenvironment = "{file}"\n'
        f'[job.out]\nsource = "{source}"\ntarget = "{log.address}"\n'
        f'[job.in]\nsource = "{log.address}"\ntarget = "{target}"\n'
    )
    others = {name: value for name, value in log.env.items() if name not in keys}
    state = {"SNAPSYNC_STATE_DIR": str(tmp_path / "state")}
    for job in ("out", "in"):
        ran = run("run", job, "--config", configured, env=others | state)
        assert ran.code == 0, ran
    assert_same(source, target)
    assert run("sync", source, log.address, "--quiet", env=others).code == 2


@pytest.mark.parametrize(
    "line", ["AWS_ACCESS_KEY_ID", "export AWS_ACCESS_KEY_ID=x", "PATH=/tmp", "secret/of+x="]
)
def test_what_is_no_file_of_credentials_is_told_and_not_shown(
    published: Published, tmp_path: Path, line: str
) -> None:
    file = credentials(tmp_path / "keys", {"AWS_REGION": "x"})
    with file.open("a") as more:
        more.write(line + "\n")
    ran = run("sync", published.source, published.log, "--environment", file, "--quiet")
    assert_told(ran, f"line 4 of {file} sets no variable", codes=(2,))
    assert line not in ran.err.replace("AWS_ACCESS_KEY_ID=…", "")


def test_credentials_that_others_can_read_are_refused(published: Published, tmp_path: Path) -> None:
    file = credentials(tmp_path / "keys", {"AWS_REGION": "x"})
    file.chmod(0o640)
    sync = ("sync", published.source, published.log, "--quiet", "--environment")
    assert_told(run(*sync, file), "others can read", f"chmod 600 {file}", codes=(2,))
    assert_told(run(*sync, tmp_path / "none"), "cannot read the credentials", codes=(2,))
