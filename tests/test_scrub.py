"""What is believed unchanged is read again on both sides: what changed in silence is told and mended."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from extents import address
from machine import (
    MAKE,
    MIB,
    Pair,
    Place,
    assert_told,
    command,
    done,
    missing,
    need,
    run,
    sh,
    snapshots,
    status,
    store,
    verified,
)
from oracle import assert_same, differences
from remote import Server
from worlds import bulk, fill, noise, rename

DAY = 86_400
# Longer than a time that was just given proves nothing.
TICK = 0.2
FILES = 40


@dataclass
class Disk:
    """A file system whose device can be written to behind its back."""

    kind: str
    image: Path
    point: Path

    @property
    def root(self) -> Path:
        return self.point / "volume"

    def flip(self, path: Path, offset: int) -> None:
        """Another byte in the place of one of a file, as a disk that rots has it: no time tells."""
        before = path.read_bytes()
        place = self._find(path, before, offset)
        with self.image.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 0x55]))
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                assert file.read() != before
            except OSError:
                assert self.kind == "btrfs"

    def _find(self, path: Path, content: bytes, offset: int) -> int:
        os.sync()
        if self.kind != "btrfs":
            return address(path, offset)
        # Where it keeps sums of its data, addresses are not those of the device.
        place = self.image.read_bytes().find(content[offset : offset + 64])
        assert place > 0
        return place


@pytest.fixture
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`disks(kind)` is a file system on an image of its own."""
    made: list[Disk] = []
    home = tmp_path_factory.mktemp("disks")

    def make(kind: str) -> Disk:
        if os.geteuid() != 0:
            missing("root, to mount file systems")
        need(MAKE[kind][0], "mount")
        image, point = home / f"{len(made)}.img", home / f"{len(made)}-{kind}"
        point.mkdir()
        with image.open("wb") as file:
            file.truncate(320 * MIB if kind == "xfs" else 160 * MIB)
        sh(*MAKE[kind], *(("-m", "single", "-d", "single") if kind == "btrfs" else ()), image)
        sh("mount", "-t", kind, "-o", "loop", image, point)
        made.append(Disk(kind, image, point))
        return made[-1]

    yield make
    for disk in made:
        sh("umount", disk.point)


def lay_out(root: Path) -> None:
    root.mkdir(exist_ok=True)
    # One of them is empty: there is nothing to read.
    bulk(root / "d", FILES)
    fill(root / "d/large", 0, 300_000, 7)
    os.truncate(root / "d/large", 700_000)
    time.sleep(TICK)


def age(primary: Path, seconds: int) -> None:
    """Lets time pass for what the primary knows of scrubs."""
    file = store(primary) / "volume.json"
    record = json.loads(file.read_text())
    for standby in record["standbys"].values():
        scrub = standby["scrub"]
        for key in ("until", "begun"):
            scrub[key] -= seconds
        scrub["seen"] = [moment - seconds for moment in scrub["seen"]]
    file.write_text(json.dumps(record))


def first_round(pair: Pair) -> None:
    """After which the standby's snapshot believes the times of its files, too."""
    run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": "commit.applied:1"})
    time.sleep(TICK)
    pair.sync()


def scrubbed(pair: Pair, *options: object) -> dict[str, Any]:
    """A round for which everything is due; what it read again."""
    age(pair.source, 31 * DAY)
    return dict(pair.sync(*options)["scrub"])


def found(pair: Pair, *options: object, source: object = None, target: object = None) -> dict[str, Any]:
    """A round for which everything is due, and which finds a difference."""
    age(pair.source, 31 * DAY)
    ran = run("sync", source or pair.source, target or pair.target, "--json", *options)
    assert ran.code == 4, ran
    return dict(ran.json["scrub"])


def mended(pair: Pair, *options: object, source: object = None, target: object = None) -> None:
    """The next round has brought what differed."""
    age(pair.source, 31 * DAY)
    report = done("sync", source or pair.source, target or pair.target, *options)
    assert (report["scrub"]["mended"], report["scrub"]["difference_count"]) == (1, 0)
    assert report["scrub"]["files"] >= FILES
    assert_same(pair.source, pair.target)


KINDS = [("xfs", "ext4"), ("ext4", "xfs"), ("btrfs", "btrfs"), ("ext4", "btrfs")]


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_what_rots_on_the_standby_is_found_and_mended(
    place: Place, disks: Any, kinds: tuple[str, str]
) -> None:
    disk = disks(kinds[1])
    pair = Pair(place(kinds[0]), disk.root)
    lay_out(pair.source)
    pair.sync()
    assert scrubbed(pair)["difference_count"] == 0
    disk.flip(pair.target / "d/large", 200_000)
    # What rots is not what changes meanwhile.
    fill(pair.source / "d/other", 0, 5_000, 8)
    scrub = found(pair)
    assert [unlike["path"] for unlike in scrub["differences"]] == ["d/large"]
    assert "standby" in scrub["differences"][0]["what"]
    told = status(pair.source)["standbys"][0]["scrub"]
    assert (told["differences"], told["pending"]) == (1, ["d/large"])
    mended(pair)
    told = status(pair.source)["standbys"][0]["scrub"]
    assert (told["differences"], told["pending"]) == (1, [])
    assert pair.sync()["unchanged"]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_changes_on_the_primary_in_silence_is_found_and_travels(
    place: Place, disks: Any, kind: str
) -> None:
    disk = disks(kind)
    pair = Pair(disk.root, place("ext4"))
    lay_out(pair.source)
    pair.sync()
    pair.sync()
    disk.flip(pair.source / "d/large", 250_000)
    # By all that the tree tells nothing changed.
    assert done("sync", pair.source, pair.target)["unchanged"]
    assert differences(pair.source, pair.target)
    scrub = found(pair)
    assert [unlike["path"] for unlike in scrub["differences"]] == ["d/large"]
    mended(pair)
    old, new = snapshots(pair.source)[-2:]
    assert done("diff", f"{pair.source}@{old['name']}", f"{pair.source}@{new['name']}")["changes"][
        "rows"
    ] in (0, 1)


def test_a_snapshot_that_rots_beside_its_tree_does_not_spoil_the_standby(place: Place, disks: Any) -> None:
    disk = disks("ext4")
    pair = Pair(disk.root, place("xfs"))
    lay_out(pair.source)
    pair.keep_history()
    pair.sync()
    good = (pair.source / "d/large").read_bytes()
    [copy] = [
        path
        for path in (store(pair.source) / "pool").rglob("*")
        if path.is_file() and path.read_bytes() == good
    ]
    disk.flip(copy, 100_000)
    assert [unlike["path"] for unlike in found(pair)["differences"]] == ["d/large"]
    mended(pair)
    assert (pair.target / "d/large").read_bytes() == good


def test_a_repair_keeps_what_older_snapshots_read_through_the_file(place: Place, disks: Any) -> None:
    """Of each only the bytes that were overwritten are kept, and the rest is in the file that rotted."""
    disk = disks("ext4")
    pair = Pair(place("xfs"), disk.root)
    held = {}
    fill(pair.source / "large", 0, 2_000_000, 1)
    for number in range(4):
        fill(pair.source / "large", number * 300_000, 100, number + 5)
        pair.sync("--name", f"n{number}")
        held[f"n{number}"] = (pair.source / "large").read_bytes()
    disk.flip(pair.target / "large", 1_500_000)
    done("verify", "--repair", pair.source, pair.target)
    assert_same(pair.source, pair.target)
    for name, content in held.items():
        done("restore", f"{pair.target}@{name}", "--to", to := place("xfs") / "to")
        assert (to / "large").read_bytes() == content, name


def test_a_file_that_differs_is_mended_under_its_new_name(place: Place, disks: Any) -> None:
    disk = disks("ext4")
    pair = Pair(place("xfs"), disk.root)
    lay_out(pair.source)
    pair.sync()
    disk.flip(pair.target / "d/large", 200_000)
    found(pair)
    rename(pair.source / "d/large", pair.source / "large now")
    fill(pair.source / "large now", 0, 10, 9)
    # A round that fails does not forget what it was to bring.
    ran = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": "stage.done:1"})
    assert ran.code != 0
    mended(pair)


def test_what_was_changed_by_hand_is_found_and_not_overwritten(place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    lay_out(pair.source)
    pair.sync()
    (pair.target / "d/large").write_bytes(noise(700_000, 5))
    # No round touches it, and so none has seen it.
    done("sync", pair.source, pair.target)
    assert [unlike["path"] for unlike in found(pair)["differences"]] == ["d/large"]
    assert_told(run("sync", pair.source, pair.target, "-q"), "by hand", "d/large", codes=(3,))
    assert (pair.target / "d/large").read_bytes() == noise(700_000, 5)
    report = pair.sync("--discard-drift")
    assert report["set_aside"] is not None
    assert report["scrub"]["mended"] == 1


def test_everything_comes_round_once_in_the_period(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    lay_out(pair.source)
    pair.sync()
    read, waited = [], []
    for _ in range(24):
        age(pair.source, 2 * DAY)
        scrub = pair.sync("--scrub", "32d")["scrub"]
        read.append(scrub["files"])
        waited.append((datetime.now(UTC) - datetime.fromisoformat(scrub["all_since"])).days)
    assert sum(read[:16]) in range(FILES, FILES + 2)
    assert max(read) < FILES / 2
    # What was read first waits longest, and is read again then.
    assert waited[:16] == [2 * (round + 1) for round in range(16)]
    assert max(waited) in range(32, 37)


def test_a_round_reads_no_more_than_its_limit_and_the_next_goes_on_there(place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    lay_out(pair.source)
    pair.sync()
    size = sum(
        path.stat().st_size
        for path in pair.source.rglob("*")
        if path.is_file() and ".snapsync" not in path.parts
    )
    age(pair.source, 400 * DAY)
    read, rounds = 0, 0
    scrub: dict[str, Any] = {}
    while not rounds or scrub["bytes"]:
        scrub = pair.sync("--scrub-limit", "100K")["scrub"]
        assert scrub["bytes"] <= 100 << 10
        read, rounds = read + scrub["bytes"], rounds + 1
        assert rounds < 60
    # The last of the circle is not due yet when all that was late is read.
    assert size * 0.9 < read <= size


def test_nothing_is_read_before_it_is_due_nor_where_it_is_off(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "btrfs"))
    lay_out(pair.source)
    for _ in range(3):
        assert pair.sync()["scrub"]["bytes"] == 0
    age(pair.source, 400 * DAY)
    assert pair.sync("--scrub", "off")["scrub"] == {
        "files": 0,
        "bytes": 0,
        "mended": 0,
        "difference_count": 0,
        "differences": [],
        "all_since": None,
    }
    # What was off is due when it is on again.
    assert pair.sync()["scrub"]["files"] == FILES


@pytest.mark.parametrize("how", ["push", "push --receive-only", "pull"])
def test_it_holds_over_ssh(place: Place, disks: Any, server: Server, how: str) -> None:
    disk = disks("ext4")
    pair = Pair(place("xfs"), disk.root)
    forced = shlex.join([*command(), "serve", "--receive-only"]) if "only" in how else None
    client = server.client(forced=forced)
    ends = {"source": client.at(pair.source)} if how == "pull" else {"target": client.at(pair.target)}
    lay_out(pair.source)
    done("sync", ends.get("source", pair.source), ends.get("target", pair.target), *client.options)
    disk.flip(pair.target / "d/large", 200_000)
    scrub = found(pair, *client.options, **ends)
    assert [unlike["path"] for unlike in scrub["differences"]] == ["d/large"]
    mended(pair, *client.options, **ends)


def test_a_job_is_done_and_says_that_files_differ(place: Place, disks: Any, tmp_path: Path) -> None:
    disk = disks("ext4")
    pair = Pair(place("xfs"), disk.root)
    lay_out(pair.source)
    pair.sync()
    disk.flip(pair.target / "d/large", 200_000)
    age(pair.source, 31 * DAY)
    config, metrics, env = tmp_path / "config.toml", tmp_path / "metrics", {"SNAPSYNC_STATE_DIR": tmp_path}
    config.write_text(
        f'[job.j]\nsource = "{pair.source}"\ntarget = "{pair.target}"\nscrub = "30d"\nscrub_limit = "1G"'
    )
    ran = run("run", "--config", config, "--now", "--json", env=env)
    [job] = ran.json["jobs"]
    assert (ran.code, job["outcome"], job["differences"]) == (4, "done", 1)
    assert "d/large" in job["advice"]
    kept = json.loads((tmp_path / "jobs.json").read_text())["jobs"]["j"]
    assert (kept["exit_code"], kept["failures"], kept["error"]) == (4, 0, None)
    ran = run("status", "--config", config, "--max-lag", "1h", "--prometheus", metrics, env=env)
    assert ran.code == 1
    assert "1 file differs" in ran.out
    assert "d/large" in ran.out
    assert any("d/large" in note for note in done("status", "--config", config, env=env)["jobs"][0]["notes"])
    text = metrics.read_text()
    (code,) = (line for line in text.splitlines() if line.startswith("snapsync_job_last_exit_code{"))
    assert code.endswith(" 4.0")
    for line in ("scrub_differences", "scrub_pending_files"):
        assert any(row.startswith(f"snapsync_{line}{{") and row.endswith(" 1.0") for row in text.splitlines())
    age(pair.source, 31 * DAY)
    assert run("run", "--config", config, "--now", env=env).code == 0
    assert run("status", "--config", config, "--max-lag", "1h", env=env).code == 0
    assert_same(pair.source, pair.target)


# --- verify --repair --------------------------------------------------------------------------


def repaired(pair: Pair, *options: object) -> dict[str, Any]:
    """The standby is proved to be what its primary is, whatever it was before."""
    report = done("verify", "--repair", pair.source, pair.target, *options)
    assert report["equal"]
    assert_same(pair.source, pair.target)
    return report


@pytest.mark.parametrize("kinds", [("xfs", "ext4"), ("btrfs", "btrfs")], ids="-".join)
def test_a_standby_is_mended_from_its_primary(place: Place, disks: Any, kinds: tuple[str, str]) -> None:
    disk = disks(kinds[1])
    pair = Pair(place(kinds[0]), disk.root)
    lay_out(pair.source)
    first_round(pair)
    held = [snap["id"] for snap in snapshots(pair.target)]
    report = repaired(pair)
    assert report["mended"]["difference_count"] == 0
    assert report["a"] == f"{pair.source}@{snapshots(pair.source)[-1]['name']}"
    disk.flip(pair.target / "d/large", 200_000)
    mended = repaired(pair)["mended"]
    assert [difference["path"] for difference in mended["differences"]] == ["d/large"]
    assert 0 < mended["data_bytes"] < MIB
    assert [snap["id"] for snap in snapshots(pair.target)] == held
    # The standby's newest snapshot is what its tree is, and the next round goes on from there.
    verified(f"{pair.source}@latest", f"{pair.target}@latest")
    fill(pair.source / "d/large", 100, 5_000, 3)
    assert pair.sync()["changes"]["changed"] == 1


@pytest.mark.parametrize("kinds", [("xfs", "ext4"), ("ext4", "btrfs")], ids="-".join)
def test_a_repair_does_not_lose_what_was_changed_by_hand(pair: Pair, kinds: tuple[str, str]) -> None:
    lay_out(pair.source)
    pair.sync()
    (pair.target / "d/large").write_text("by hand")
    ran = run("verify", "--repair", pair.source, pair.target, "-q")
    assert_told(ran, "by hand", "d/large", "--discard-drift", codes=(3,))
    assert (pair.target / "d/large").read_text() == "by hand"
    kept = repaired(pair, "--discard-drift")["mended"]["set_aside"]
    assert kept["id"] in [snap["id"] for snap in snapshots(pair.target)]
    assert pair.sync()["unchanged"]


@pytest.mark.parametrize("kinds", [("xfs", "ext4"), ("ext4", "xfs")], ids="-".join)
def test_a_repair_keeps_what_the_primary_has_lost(place: Place, disks: Any, kinds: tuple[str, str]) -> None:
    disk = disks(kinds[1])
    pair = Pair(place(kinds[0]), disk.root)
    lay_out(pair.source)
    fill(pair.source / "lost", 0, 500_000, 8)
    pair.keep_history()
    pair.sync()
    held = (pair.target / "lost").read_bytes()
    fill(pair.source / "lost", 0, 1_000, 9)
    done("snapshot", pair.source)
    pool = (path for path in (store(pair.source) / "pool").rglob("*") if path.is_file())
    next(path for path in pool if path.read_bytes() == held).unlink()
    disk.flip(pair.target / "d/large", 200_000)
    ran = run("verify", "--repair", pair.source, pair.target, "--json")
    assert ran.code == 4, ran
    report = json.loads(ran.out)
    assert [note for note in report["notes"] if "lost the bytes of lost" in note and "keeps" in note]
    assert [(unlike["path"], unlike["a"]) for unlike in report["differences"]] == [("lost", "cannot be read")]
    assert report["mended"]["changes"]["changed"] == 1
    assert (pair.target / "d/large").read_bytes() == (pair.source / "d/large").read_bytes()
    assert (pair.target / "lost").read_bytes() == held
    pair.sync()
    repaired(pair)


@pytest.mark.parametrize(
    "point",
    ["stage.done", "commit.data", "commit.attributes", "again.made", "again.replaced", "commit.snapshot"],
)
def test_a_repair_that_is_killed_ends_in_the_same(place: Place, disks: Any, point: str) -> None:
    disk = disks("ext4")
    pair = Pair(place("xfs"), disk.root)
    lay_out(pair.source)
    first_round(pair)
    disk.flip(pair.target / "d/large", 200_000)
    ran = run("verify", "--repair", pair.source, pair.target, env={"SNAPSYNC_FAULT": f"{point}:1"})
    assert ran.code not in range(6), ran
    repaired(pair)
    verified(f"{pair.source}@latest", f"{pair.target}@latest")
    assert pair.sync()["unchanged"]


def test_only_a_standby_is_mended_and_only_from_its_primary(pair: Pair, place: Place) -> None:
    lay_out(pair.source)
    pair.sync()
    other = place("xfs")
    done("snapshot", other)
    for a, b, word in [
        (pair.target, pair.source, "standby"),
        (other, pair.target, "not a standby of"),
        (pair.source, other, "primary"),
        (f"host:{pair.source}", pair.target, "another machine"),
        (pair.source, f"host:{pair.target}", "sync"),
    ]:
        assert_told(run("verify", "--repair", a, b, "-q"), word)
    for option in ("--quick", "--sample=5%"):
        assert_told(run("verify", "--repair", option, pair.source, pair.target), "everything", codes=(2,))
    assert_told(run("verify", "--discard-drift", pair.source, pair.target), "repair", codes=(2,))
    assert_same(pair.source, pair.target)


def test_noise_is_noise() -> None:
    """The tests find a file on a device by what it holds."""
    assert len({noise(64, seed) for seed in range(100)}) == 100
