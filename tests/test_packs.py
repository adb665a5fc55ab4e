"""Small files of a primary share a pack: few inodes, the same bytes, and room again when they go."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pool
import pytest
from machine import MIB, Pair, Place, assert_told, done, passed, run, snapshots, store, verified
from oracle import Picture, assert_same, freeze
from test_crash import assert_tidy
from test_full_disks import fill_up
from worlds import World, append, bulk, chmod, fill, punch, rewrite_quietly, truncate

KINDS = ["xfs", "ext4", "btrfs"]
KILO = 1 << 10


@pytest.fixture
def volume(place: Place, kind: str) -> Path:
    """Always with a pool: on Btrfs it is a plain directory."""
    made = place(kind)
    if kind != "btrfs":
        return made
    (made / "volume").mkdir()
    return made / "volume"


kinds = pytest.mark.parametrize("kind", KINDS)


def old(root: Path) -> None:
    """Waits until no file of it can change again without a new time."""
    newest = max(path.stat().st_ctime_ns for path in root.rglob("*") if path.is_file())
    probe = root.parent / "clock"
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_ctime_ns > newest + 110_000_000:
            probe.unlink()
            return
        probe.unlink()


def take(volume: Path) -> str:
    old(volume)
    identity: str = done("snapshot", volume)["snapshot"]["id"]
    return identity


def many(root: Path, count: int, size: int, seed: int = 0) -> list[Path]:
    """Files of one size, each with other bytes."""
    found = [root / f"dir-{number % 5}" / str(number) for number in range(count)]
    for number, path in enumerate(found):
        path.parent.mkdir(exist_ok=True)
        fill(path, 0, size, seed * count + number)
    return found


def packs(volume: Path) -> list[Path]:
    return [path for path in pool.files(volume) if path.name.startswith("pack-")]


def taken(volume: Path) -> int:
    """What its pool takes on the disk."""
    os.sync()
    return sum(path.stat().st_blocks * 512 for path in pool.files(volume))


def read_back(volume: Path, snap: str, picture: Picture, to: Path) -> None:
    done("restore", f"{volume}@{snap}", "--to", to)
    assert_same(picture, to)


@kinds
def test_a_round_of_small_files_takes_an_inode_for_a_hundred_of_them_at_most(
    volume: Path, place: Place
) -> None:
    bulk(volume, 1000, size=3000)
    before, found = freeze(volume), os.statvfs(volume)
    snap = take(volume)
    made = sum(1 for _ in (store(volume) / "pool").rglob("*"))
    assert made <= 10
    if found.f_files:
        now = os.statvfs(volume)
        # The store of a first snapshot and its pool.
        assert (now.f_files - now.f_ffree) - (found.f_files - found.f_ffree) <= 10 + 20
    for path in list(volume.glob("bulk-*/*"))[::3]:
        path.unlink()
    read_back(volume, snap, before, place.absent("xfs"))


@kinds
def test_what_is_large_or_has_holes_or_is_being_written_has_an_object_of_its_own(
    volume: Path, place: Place
) -> None:
    fill(volume / "large", 0, 32 * KILO + 1, 1)
    fill(volume / "largest in a pack", 0, 32 * KILO, 2)
    fill(volume / "hole", 0, 20_000, 3)
    punch(volume / "hole", 4096, 4096)
    (volume / "empty").touch()
    fill(volume / "open", 0, 100, 4)
    before = freeze(volume)
    with open(volume / "open", "r+b"):
        snap = take(volume)
    assert len(packs(volume)) == 1
    assert len(pool.files(volume)) == 1 + 3
    assert [len(held) for held in pool.in_pack(packs(volume)[0]).values()] == [32 * KILO]
    read_back(volume, snap, before, place.absent("xfs"))


@kinds
def test_a_round_without_changes_reads_and_packs_nothing(volume: Path) -> None:
    bulk(volume, 50)
    take(volume)
    there = pool.objects_there(volume)
    for path in list(volume.glob("bulk-*/*"))[:10]:
        chmod(path, 0o600)
    take(volume)
    old_snap, new_snap = (f"{volume}@{snap['name']}" for snap in snapshots(volume))
    assert pool.objects_there(volume) == there
    report = done("diff", old_snap, new_snap)
    assert (report["changes"]["rows"], report["data_bytes"], report["counters"]["bytes_read"]) == (10, 0, 0)


@kinds
def test_what_snapshots_leave_of_a_pack_is_in_proportion(volume: Path, place: Place) -> None:
    files = many(volume, 200, 4096)
    first = take(volume)
    full = taken(volume)
    assert full >= 200 * 4096
    for path in files[:80]:
        path.unlink()
    second = take(volume)
    held = freeze(volume)
    done("delete", f"{volume}@{first}")
    assert taken(volume) <= full * 0.7
    before = packs(volume)[0].stat()
    for path in files[80:160]:
        path.unlink()
    third, now = take(volume), freeze(volume)
    read_back(volume, second, held, place.absent("xfs"))
    done("delete", f"{volume}@{second}")
    after = packs(volume)[0].stat()
    assert taken(volume) <= full * 0.35
    # Less than half of it is left, and so it was written anew.
    assert after.st_ino != before.st_ino
    assert after.st_size < before.st_size / 2
    read_back(volume, third, now, place.absent("xfs"))
    for path in files[160:]:
        path.unlink()
    take(volume)
    done("delete", f"{volume}@{third}")
    assert not list((store(volume) / "pool").iterdir())


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_tiny_objects_leave_a_pack_that_is_written_anew(volume: Path, place: Place) -> None:
    files = many(volume, 500, 100)
    first = take(volume)
    size = packs(volume)[0].stat().st_size
    for number, path in enumerate(files):
        if number % 3:
            path.unlink()
    second, held = take(volume), freeze(volume)
    done("delete", f"{volume}@{first}")
    assert packs(volume)[0].stat().st_size < size - 500 * 100 / 2
    read_back(volume, second, held, place.absent("xfs"))


@kinds
@pytest.mark.parametrize("damage", ["bytes", "head", "cut", "gone", "another"])
def test_a_damaged_pack_is_an_integrity_error_that_names_the_file(
    volume: Path, place: Place, damage: str
) -> None:
    fill(volume / "precious", 0, 5000, 1)
    snap = take(volume)
    (pack,) = packs(volume)
    whole = bytearray(pack.read_bytes())
    at = whole.index((volume / "precious").read_bytes())
    if damage == "bytes":
        whole[at + 4321] ^= 1
    elif damage == "head":
        whole[32] ^= 1
    elif damage == "another":
        whole[16] ^= 1
    elif damage == "cut":
        del whole[at + 100 :]
    pack.unlink()
    if damage != "gone":
        pack.write_bytes(whole)
    to = place.absent("xfs")
    ran = run("restore", f"{volume}@{snap}", "--to", to)
    assert_told(ran, "precious", "pack-0", codes=(4,))
    assert not (to / "precious").exists()
    # The next snapshot does not rely on it.
    chmod(volume / "precious", 0o600)
    next_one, held = take(volume), freeze(volume)
    fill(volume / "precious", 0, 10, 2)
    read_back(volume, next_one, held, place.absent("xfs"))
    done("delete", f"{volume}@{snap}")


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_packs_give_room_back_on_a_full_disk(mount: Callable[..., Path], kind: str) -> None:
    volume = mount(kind, 300 * MIB)
    files = many(volume, 400, 8192)
    take(volume)
    for path in files[::2]:
        path.unlink()
    take(volume)
    fill_up(volume.parent)
    before = taken(volume)
    done("delete", f"{volume}@0")
    assert taken(volume) <= before * 0.6
    verified(f"{volume}@latest", volume)
    for path in files[1::2]:
        path.unlink()
    done("snapshot", volume)
    done("delete", f"{volume}@{snapshots(volume)[0]['name']}")
    assert not packs(volume)


def churn(volume: Path, seed: int) -> None:
    """Small files, above all, and anything else."""
    rng = random.Random(seed)
    files = sorted(volume.glob("bulk-*/*"))
    for path in rng.sample(files, min(len(files), 20)):
        rng.choice(
            [
                lambda path: path.unlink(),
                lambda path: fill(path, 0, rng.choice([10, 300, 4096, 9000, 40_000]), rng.randrange(99)),
                lambda path: append(path, 500, rng.randrange(99)),
                lambda path: rewrite_quietly(path, 0, 50, rng.randrange(99)),
                lambda path: chmod(path, rng.choice([0o600, 0o644])),
                lambda path: truncate(path, rng.randrange(200)),
            ]
        )(path)
    bulk(volume / f"more-{seed}", 15, seed=seed)
    World(volume, seed).churn(6)


@kinds
def test_every_snapshot_is_whole_whatever_is_deleted_or_killed(
    volume: Path, place: Place, tmp_path: Path, kind: str
) -> None:
    seed = int(os.environ.get("SNAPSYNC_PACKS_SEED", 1))
    rng, log = random.Random(seed), [f"seed {seed}"]
    bulk(volume, 120, size=2000)
    held: dict[str, Picture] = {}
    trace = tmp_path / "trace"

    def do(*words: object) -> None:
        env: dict[str, object] = {"SNAPSYNC_FAULT_TRACE": trace}
        points = list(passed(trace)) if trace.exists() else []
        if points and rng.random() < 0.6:
            env["SNAPSYNC_FAULT"] = f"{rng.choice(sorted(set(points)))}:{rng.randrange(1, 4)}"
        log.append(f"{words} {env.get('SNAPSYNC_FAULT')}")
        ran = run(*words, env=env)
        assert ran.code in (0, -signal.SIGKILL), ran
        done("recover", volume)

    try:
        done("init", volume, "--history", "full")
        for turn in range(7):
            if len(snapshots(volume)) < 3 or rng.random() < 0.5:
                churn(volume, seed * 100 + turn)
                old(volume)
                now = freeze(volume)
                do("snapshot", volume)
                for snap in snapshots(volume):
                    held.setdefault(snap["id"], now)
            else:
                do("delete", f"{volume}@{rng.choice(snapshots(volume))['id']}")
            assert_tidy(volume)
            for snap in snapshots(volume):
                read_back(volume, snap["id"], held[snap["id"]], place.absent("xfs"))
    except Exception as error:
        error.add_note("\n".join(log))
        raise


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_delete_that_is_killed_anywhere_in_a_pack_is_finished(volume: Path, place: Place) -> None:
    points = ["pack.struck", "pack.punched", "pack.written", "pack.replaced", "pack.removed"]
    for number, point in enumerate(points):
        files = many(volume, 60, 3000, number)
        first = take(volume)
        left = 0 if point == "pack.removed" else 10
        for path in files[left:]:
            fill(path, 0, 2000, 999)
        second, held = take(volume), freeze(volume)
        ran = run("delete", f"{volume}@{first}", env={"SNAPSYNC_FAULT": f"{point}:1"})
        assert ran.code == -signal.SIGKILL, (point, ran)
        done("recover", volume)
        assert_tidy(volume)
        assert not [path for path in pool.files(volume) if path.name.endswith(".new")]
        read_back(volume, second, held, place.absent("xfs"))


def test_a_primary_with_packs_becomes_a_standby_and_keeps_its_history(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    bulk(pair.source, 80, size=2500)
    held: dict[str, Picture] = {}
    for seed in range(2):
        old(pair.source)
        now = freeze(pair.source)
        pair.sync()
        held[snapshots(pair.source)[-1]["id"]] = now
        churn(pair.source, seed)
    done("switch", pair.source, pair.target)
    pair = Pair(pair.target, pair.source)
    for seed in (5, 6):
        churn(pair.source, seed)
        pair.sync()
    # What a pack has is not put into a file as well when a commit changes it.
    packed = {
        (int(path.parent.name), pool.IN_PACK | place)
        for path in packs(pair.target)
        for place in pool.in_pack(path)
    }
    own = {
        (int(path.parent.parent.name), int(path.name))
        for path in pool.files(pair.target)
        if not path.name.startswith("pack-")
    }
    assert packed
    assert not packed & own
    for snap, picture in held.items():
        read_back(pair.target, snap, picture, place.absent("xfs"))
