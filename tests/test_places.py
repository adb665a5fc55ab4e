"""A place is more than its path: what is known and not there is not begun anew."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from machine import Pair, Place, assert_told, command, done, run, sh, snapshots, status
from oracle import assert_same
from remote import Server
from test_config import Jobs
from worlds import fill

KINDS = (("btrfs", "xfs"), ("xfs", "btrfs"))


@dataclass
class Disk:
    """A file system that is mounted where it is used, or is not."""

    content: Path
    point: Path

    def mount(self) -> None:
        sh("mount", "--bind", self.content, self.point)

    def umount(self) -> None:
        sh("umount", self.point)


@pytest.fixture(params=KINDS, ids=["to xfs", "to btrfs"])
def kinds(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def disks(place: Place, tmp_path: Path, kinds: tuple[str, str]) -> Iterator[tuple[Disk, Disk]]:
    """Those of a primary and of its standby."""
    made = []
    for kind, name in zip(kinds, ("a", "b"), strict=True):
        (point := tmp_path / name).mkdir()
        made.append(Disk(place(kind), point))
        made[-1].mount()
    try:
        yield made[0], made[1]
    finally:
        for disk in made:
            while os.path.ismount(disk.point):
                disk.umount()


@dataclass
class Volumes:
    source: Path
    target: Path


@pytest.fixture
def volumes(disks: tuple[Disk, Disk]) -> Volumes:
    """A primary and a standby that have done a round, in directories of their disks."""
    made = Volumes(disks[0].point / "v", disks[1].point / "s")
    made.source.mkdir()
    fill(made.source / "file", 0, 10_000, 1)
    done("sync", made.source, made.target)
    return made


def is_empty(directory: Path) -> bool:
    return list(directory.iterdir()) == []


# --- a standby ------------------------------------------------------------------------------------


def test_a_standby_whose_disk_is_not_mounted_is_not_made_anew(
    disks: tuple[Disk, Disk], volumes: Volumes
) -> None:
    disks[1].umount()
    before = len(snapshots(volumes.source))
    ran = run("sync", volumes.source, volumes.target)
    assert_told(ran, str(volumes.target), "--new-standby", codes=(3,))
    assert "another" in ran.err, "the root disk is another file system than that of the standby"
    assert is_empty(disks[1].point)
    assert len(snapshots(volumes.source)) == before
    ran = run("status", volumes.source, "--max-lag", "1h")
    assert (ran.code, "not there" in ran.out) == (1, True)
    disks[1].mount()
    assert run("status", volumes.source, "--max-lag", "1h").code == 0
    done("sync", volumes.source, volumes.target)
    assert_same(volumes.source, volumes.target)


def test_nor_is_one_that_is_the_mount_point_itself(disks: tuple[Disk, Disk]) -> None:
    source, target = disks[0].point, disks[1].point
    fill(source / "file", 0, 10_000, 1)
    done("sync", source, target)
    disks[1].umount()
    assert_told(run("sync", source, target), "not there", codes=(3,))
    assert is_empty(target)


def test_nor_one_whose_directory_is_gone_too(disks: tuple[Disk, Disk], volumes: Volumes) -> None:
    below = disks[1].point / "deep" / "er" / "s"
    below.parent.mkdir(parents=True)
    done("sync", volumes.source, below)
    disks[1].umount()
    assert_told(run("sync", volumes.source, below), "not there", codes=(3,))
    assert is_empty(disks[1].point)
    assert_told(run("sync", volumes.source, disks[1].point / "un" / "known"), "does not exist", codes=(2,))


def test_another_disk_at_that_place_begins_only_on_purpose(
    disks: tuple[Disk, Disk], volumes: Volumes, place: Place
) -> None:
    """Two disks that take turns: both stay known, and each goes on from where it is."""
    disks[1].umount()
    other = Disk(place("ext4"), disks[1].point)
    other.mount()
    assert_told(run("sync", volumes.source, volumes.target), codes=(3,))
    assert is_empty(other.content)
    done("sync", volumes.source, volumes.target, "--new-standby")
    assert_same(volumes.source, volumes.target)
    other.umount()
    disks[1].mount()
    fill(volumes.source / "more", 0, 5000, 2)
    assert done("sync", volumes.source, volumes.target)["data_bytes"] == 5000
    assert_same(volumes.source, volumes.target)
    assert len(status(volumes.source)["standbys"]) == 2


def test_one_that_was_deleted_is_told_and_forgotten_for_a_new_one(pair: Pair) -> None:
    fill(pair.source / "file", 0, 10_000, 1)
    pair.sync()
    (gone,) = status(pair.source)["standbys"]
    pair.target.rename(pair.target.with_name("moved"))
    assert_told(run("sync", pair.source, pair.target), "moved or deleted", codes=(3,))
    done("sync", pair.source, pair.target, "--new-standby")
    assert_same(pair.source, pair.target)
    (known,) = status(pair.source)["standbys"]
    assert known["volume"] != gone["volume"]


def test_the_steps_that_a_refusal_tells_work(disks: tuple[Disk, Disk], volumes: Volumes) -> None:
    disks[1].umount()
    said = run("sync", volumes.source, volumes.target).err
    (forget,) = re.findall(r"`snapsync (release .*?)`", said)
    done(*shlex.split(forget))
    assert status(volumes.source)["standbys"] == []
    done("sync", volumes.source, volumes.target)
    assert_same(volumes.source, volumes.target)


def test_a_standby_on_another_machine_is_known_as_well(
    disks: tuple[Disk, Disk], volumes: Volumes, server: Server
) -> None:
    client = server.client()
    target = disks[1].point / "far" / "s"
    target.parent.mkdir()
    kept = server.client(forced=f"{command()[0]} serve --restrict-to {disks[1].point}")
    # Who is kept to a directory is not told what is there and what is not.
    for way, told in ((client, "--new-standby"), (kept, "its disk mounted")):
        done("sync", volumes.source, way.at(target), *way.options)
        disks[1].umount()
        ran = run("sync", volumes.source, way.at(target), *way.options)
        assert_told(ran, told, codes=(3,))
        assert is_empty(disks[1].point)
        disks[1].mount()


def test_one_standby_is_shown_once_by_whatever_path_it_is_reached(
    volumes: Volumes, server: Server, tmp_path: Path
) -> None:
    client = server.client()
    (link := tmp_path / "link").symlink_to(volumes.target)
    for target in (link, client.at(volumes.target), client.at(link)):
        done("sync", volumes.source, target, *client.options)
    assert len(status(volumes.source)["standbys"]) == 1
    moved = volumes.target.rename(volumes.target.with_name("moved"))
    done("sync", volumes.source, moved)
    (known,) = status(volumes.source)["standbys"]
    assert known["path"] == str(moved)


def test_roles_do_not_change_with_a_standby_that_is_not_there(
    disks: tuple[Disk, Disk], volumes: Volumes
) -> None:
    disks[1].umount()
    assert_told(run("switch", volumes.source, volumes.target), "not there", codes=(3,))
    assert status(volumes.source)["volume"]["role"] == "primary"


# --- a source -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["below", "the mount point", "an empty directory"])
def test_a_source_whose_disk_is_not_mounted_deletes_nothing(
    disks: tuple[Disk, Disk], volumes: Volumes, where: str
) -> None:
    disks[0].umount()
    if where == "an empty directory":
        volumes.source.mkdir()
    source = disks[0].point if where == "the mount point" else volumes.source
    ran = run("sync", source, volumes.target)
    assert_told(ran, "mount the file system", codes=(3,))
    assert len(snapshots(volumes.target)) == 1
    assert (volumes.target / "file").exists()
    if where == "an empty directory":
        volumes.source.rmdir()
    disks[0].mount()
    done("sync", volumes.source, volumes.target)


# --- jobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [(0,), (1,), (0, 1)], ids=["source", "target", "both"])
def test_a_job_whose_disk_is_not_mounted_is_in_trouble(
    disks: tuple[Disk, Disk], tmp_path: Path, missing: tuple[int, ...]
) -> None:
    source, target = disks[0].point, disks[1].point
    fill(source / "file", 0, 10_000, 1)
    jobs = Jobs(tmp_path)
    jobs.add("web", source, target)
    jobs.outcomes()
    for at in missing:
        disks[at].umount()
    failed = jobs.outcomes("web", code=3)["web"]
    assert "mount its file system" in failed["advice"]
    assert all(is_empty(disks[at].point) for at in missing)
    ran = run("status", "--config", jobs.file, "--max-lag", "1h", env=jobs.env)
    assert ran.code != 0
    assert "OK" not in ran.out
    for at in missing:
        disks[at].mount()
    assert jobs.outcomes("web")["web"]["outcome"] == "done"
    assert_same(source, target)


def test_a_job_that_goes_on_failing_is_tried_less_often_and_leaves_nothing(jobs: Jobs, pair: Pair) -> None:
    fill(pair.source / "file", 0, 10_000, 1)
    jobs.add("web", pair.source, pair.target, 'period = "15m"\nstrict = true')
    jobs.outcomes()
    (pair.target / "file").write_text("changed by hand")
    fill(pair.source / "file", 0, 10_000, 2)
    jobs.age("web", 1000)
    outcomes = [jobs.run("--json").json["jobs"][0]["outcome"] for _ in range(4)]
    assert outcomes == ["failed", "failed", "waiting", "waiting"]
    assert len(snapshots(pair.source)) == 1
    assert jobs.state["web"]["failures"] == 2
    jobs.outcomes("web", code=3)
    assert jobs.state["web"]["failures"] == 3, "one that is named runs all the same"


def test_a_job_with_keep_behind_a_forced_command_is_good(jobs: Jobs, server: Server, place: Place) -> None:
    source, folder = place("xfs"), place("ext4")
    fill(source / "file", 0, 10_000, 1)
    forced = f"{command()[0]} serve --restrict-to {folder} --receive-only"
    client = server.client(forced=forced)
    rsh = json.dumps(client.rsh)
    jobs.add("web", source, Path(client.at("s")), f'period = "15m"\nrsh = {rsh}\nkeep = {{ last = 1 }}')
    for _ in range(3):
        (job,) = jobs.outcomes("web").values()
    assert any("--allow-prune" in note for note in job["notes"])
    assert len(snapshots(source)) == 1
    assert len(snapshots(folder / "s")) == 3
    assert jobs.outcomes()["web"]["outcome"] == "waiting"
