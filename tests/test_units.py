"""Units that somebody has changed by hand are kept, and a configuration that cannot be meant is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from configured import Jobs
from machine import assert_told, done, run


@pytest.fixture
def unit(jobs: Jobs, tmp_path: Path) -> Path:
    jobs.add("web", Path("/srv/web"), Path("/mnt/web"))
    done("service", "install", "--config", jobs.file, "--dir", tmp_path / "units")
    return tmp_path / "units/snapsync@web.service"


def test_a_unit_that_was_changed_by_hand_is_replaced_only_by_force(jobs: Jobs, unit: Path) -> None:
    written = unit.read_text()
    unit.write_text(written.replace("UMask=0077", "UMask=0027"))
    words = ("service", "install", "--config", jobs.file, "--dir", unit.parent)
    for more in ((), ("--dry-run",)):
        assert_told(run(*words, *more), f"{unit} was changed by hand", "systemctl edit", codes=(3,))
    assert "UMask=0027" in unit.read_text()
    done(*words, "--force")
    assert unit.read_text() == written
    done(*words)


def test_it_is_removed_only_by_force_too(jobs: Jobs, unit: Path) -> None:
    unit.write_text(f"{unit.read_text()}# mine\n")
    words = ("service", "uninstall", "--dir", unit.parent)
    assert_told(run(*words), "changed by hand", codes=(3,))
    # So is the unit of a job that is gone.
    jobs.text = ""
    jobs.add("other", Path("/srv/web"), Path("/mnt/web"))
    again = ("service", "install", "--config", jobs.file, "--dir", unit.parent)
    assert_told(run(*again), "changed by hand", codes=(3,))
    assert unit.exists()
    done(*words, "--force")
    assert not unit.exists()


def test_a_drop_in_is_nobodys_concern(jobs: Jobs, unit: Path) -> None:
    own = unit.with_suffix(".service.d") / "override.conf"
    own.parent.mkdir()
    own.write_text("[Service]\nUMask=0027\n")
    done("service", "install", "--config", jobs.file, "--dir", unit.parent)
    assert own.exists()


def test_a_unit_of_an_older_version_is_replaced(jobs: Jobs, unit: Path) -> None:
    written = unit.read_text()
    mark, _, rest = written.split("\n", 2)
    unit.write_text(f"{mark}\n{rest}")
    done("service", "install", "--config", jobs.file, "--dir", unit.parent)
    assert unit.read_text() == written


@pytest.mark.parametrize("second", ["/mnt/web", "/mnt/web/", "/mnt/./web"])
def test_two_jobs_with_one_target_are_refused(jobs: Jobs, second: str) -> None:
    jobs.add("web", Path("/srv/web"), Path("/mnt/web"))
    jobs.write(f'{jobs.text}[job.mail]\nsource = "/srv/mail"\ntarget = "{second}"\n')
    ran = run("status", "--config", jobs.file, env=jobs.env)
    assert_told(ran, "[job.mail] target", "[job.web]", "a standby of its own", codes=(2,))


@pytest.mark.parametrize("place", ["root@backup:/mnt/web", "s3://backups/web", "file:///mnt/log"])
def test_so_are_two_with_one_target_elsewhere(jobs: Jobs, place: str) -> None:
    for name in ("one", "two"):
        jobs.write(f'{jobs.text}[job.{name}]\nsource = "/srv/{name}"\ntarget = "{place}"\n')
        jobs.text = jobs.file.read_text()
    assert_told(run("run", "--config", jobs.file, env=jobs.env), "[job.two] target", codes=(2,))


def test_a_job_whose_target_a_wildcard_makes_too_is_refused(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "homes/anna").mkdir(parents=True)
    jobs.add("homes", tmp_path / "homes/*", Path("/mnt/{name}"))
    jobs.add("anna", Path("/srv/anna"), Path("/mnt/anna"))
    assert_told(run("run", "--config", jobs.file, env=jobs.env), "/mnt/anna", "homes.anna", codes=(2,))


@pytest.mark.parametrize(
    "target", ['target = "/mnt/homes"', 'targets = ["/mnt/a", "/mnt/b"]'], ids=["target", "targets"]
)
def test_a_wildcard_without_a_name_in_its_target_says_what_to_write(jobs: Jobs, target: str) -> None:
    jobs.write(f'[job.homes]\nsource = "/home/*"\n{target}\n')
    ran = run("run", "--config", jobs.file, env=jobs.env)
    assert_told(ran, "wildcard", "a standby of its own", "/mnt/standby/{name}", codes=(2,))


def test_a_directory_may_be_called_like_a_wildcard(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "[old]").mkdir()
    jobs.add("old", tmp_path / "[old]", Path("/mnt/old"))
    assert jobs.outcomes("--dry-run")["old"]["outcome"] == "due"
