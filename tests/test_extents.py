"""An address says less than it seems to: each way in which a comparison by address is silently wrong.

Bytes can differ at one address and be equal at two. All files keep their size and get their times back
where they can, so that nothing but the blocks themselves gives a change away.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import worlds
from extents import ENCODED, INLINE, UNWRITTEN, address, mapped, shares_all
from keepsake import keep
from machine import GIB, KINDS, MIB, FileSystems, Pair, Place, done, need, sh, subvolume
from oracle import assert_same, freeze
from told import assert_told, changed_paths, changes, told
from worlds import World, fill, punch, reflink, reflink_range, touch, write

K = 1024

BTRFS = [("btrfs", "xfs")]
XFS = [("xfs", "btrfs")]
EXT4 = [("ext4", "xfs")]


def on(*pairs: tuple[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kinds", pairs, ids="-".join)


@contextmanager
def unnoticed(*paths: Path) -> Iterator[None]:
    """What is done to the files inside leaves their size and modification time as they were."""
    before = [path.stat() for path in paths]
    yield
    for path, status in zip(paths, before, strict=True):
        assert path.stat().st_size == status.st_size
        touch(path, status.st_mtime_ns)


def written_out(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def text(length: int, seed: int) -> bytes:
    """What compresses: every 4 KiB differ."""
    return b"".join(b"%d-%015d" % (seed % 10, number) for number in range(length // 17 + 1))[:length]


# --- one address, other bytes -----------------------------------------------------------------


@pytest.fixture
def compressed(pair: Pair) -> Path:
    """28 blocks in one compressed extent."""
    path = pair.source / "compressed"
    write(path, 0, text(28 * 4 * K, 1))
    (extent,) = mapped(path)
    assert extent.flags & ENCODED
    return path


@on(*BTRFS)
def test_two_halves_of_a_compressed_extent_look_the_same(pair: Pair, compressed: Path) -> None:
    """The rows of FIEMAP are equal: the offset into the extent is not among them."""
    file, half = pair.source / "file", 14 * 4 * K
    reflink_range(compressed, file, 0, half, 0)
    before, first = mapped(file), file.read_bytes()
    pair.sync()
    with unnoticed(file):
        reflink_range(compressed, file, half, half, 0)
    assert mapped(file) == before
    assert file.read_bytes() != first
    assert pair.sync()["changes"]["changed"] == 1


@on(*BTRFS)
def test_the_halves_of_a_compressed_extent_change_places(pair: Pair, compressed: Path) -> None:
    original, half = pair.source / "original", 14 * 4 * K
    compressed.rename(original)
    reflink(original, compressed)
    pair.sync()
    with unnoticed(compressed):
        reflink_range(original, compressed, half, half, 0)
        reflink_range(original, compressed, 0, half, half)
    pair.sync()


@on(*BTRFS)
def test_a_window_on_a_compressed_extent_moves_by_one_block(pair: Pair, compressed: Path) -> None:
    file = pair.source / "file"
    for first in (3, 4, 3, 9):
        reflink_range(compressed, file, first * 4 * K, 8 * 4 * K, 0)
        touch(file, 7)
        pair.sync()


@on(*BTRFS)
def test_a_window_on_a_plain_extent_moves_by_one_block(pair: Pair) -> None:
    noise, file = pair.source / "noise", pair.source / "file"
    fill(noise, 0, 112 * K, 1)
    assert not mapped(noise)[0].flags & ENCODED
    for first in (3, 4, 3, 9):
        reflink_range(noise, file, first * 4 * K, 8 * 4 * K, 0)
        touch(file, 7)
        pair.sync()


@on(*BTRFS)
@pytest.mark.parametrize("size", [10, 700, 2_000])
def test_an_inline_file_has_no_address(pair: Pair, size: int) -> None:
    file = pair.source / "file"
    for seed in (1, 2, 3):
        fill(file, 0, size, seed)
        touch(file, 7)
        assert mapped(file)[0].flags & INLINE
        assert pair.sync()["data_bytes"] == size


@on(*BTRFS, *XFS, *EXT4)
def test_a_file_turns_from_inline_to_regular_and_back(pair: Pair) -> None:
    file = pair.source / "file"
    for seed, size in enumerate((100, 100 * K, 100, 2_040, 2_060, 4_095, 4_096, 4_097, 1)):
        worlds.write(file, 0, b"")
        worlds.truncate(file, 0)
        fill(file, 0, size, seed)
        touch(file, 7)
        pair.sync()
    worlds.truncate(file, 40 * K)
    pair.sync()
    fill(file, 20 * K, 100, 3)
    pair.sync()
    worlds.truncate(file, 1)
    pair.sync()


@on(*XFS, *EXT4)
def test_a_block_is_written_where_it_was_preallocated(pair: Pair) -> None:
    """The address stays: nothing but the mark `unwritten` is gone."""
    file = pair.source / "file"
    worlds.preallocate(file, 0, 512 * K)
    before = mapped(file)[0]
    pair.sync()
    with unnoticed(file):
        fill(file, 256 * K, 64 * K, 1)
    row = next(row for row in mapped(file) if row.logical == 256 * K)
    assert row.physical == before.physical + 256 * K
    assert before.flags & UNWRITTEN
    assert not row.flags & UNWRITTEN
    assert pair.sync()["data_bytes"] == 64 * K


@on(*BTRFS, *XFS, *EXT4)
def test_blocks_are_written_and_unwritten_in_turn(pair: Pair) -> None:
    file = pair.source / "file"
    worlds.preallocate(file, 0, 256 * K)
    for turn in range(3):
        with unnoticed(file):
            fill(file, 64 * K, 64 * K, turn)
            write(file, 192 * K, bytes(4 * K))
        pair.sync()
        with unnoticed(file):
            worlds.zero(file, 64 * K, 192 * K)
        pair.sync()


@on(*BTRFS, *XFS, *EXT4)
def test_holes_are_filled_and_punched_unnoticed(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 200 * K, 1)
    pair.sync()
    places = [(0, 4 * K), (96 * K, 4 * K), (196 * K, 4 * K), (40 * K, 16 * K), (60 * K + 7, 100)]
    for offset, length in places:
        with unnoticed(file):
            punch(file, offset, length)
        pair.sync()
    for number, (offset, length) in enumerate(places):
        with unnoticed(file):
            write(file, offset, bytes(length)) if number % 2 else fill(file, offset, length, number)
        pair.sync()


@on(*BTRFS, *XFS, *EXT4)
def test_what_is_cut_off_and_grows_again_is_zeros(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 100 * K + 500, 1)
    pair.sync()
    for cut in (100 * K, 100 * K + 1, 60 * K + 3, 8 * K, 0):
        with unnoticed(file):
            worlds.truncate(file, cut)
            worlds.truncate(file, 100 * K + 500)
        pair.sync()
        assert set(file.read_bytes()[cut:]) == {0}


@on(*BTRFS, *XFS, *EXT4)
def test_the_same_size_written_again_with_the_time_put_back(pair: Pair) -> None:
    sizes = (1, 100, 4 * K, 5_000, 300 * K)
    files = [pair.source / f"{size}" for size in sizes]
    for seed in range(3):
        for file, size in zip(files, sizes, strict=True):
            fill(file, 0, size, 100 * seed + size)
            touch(file, 7)
        assert pair.sync()["changes"]["changed"] == (len(files) if seed else 0)


@on(*XFS, *EXT4)
def test_blocks_are_taken_out_of_the_middle(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 400 * K, 1)
    worlds.preallocate(file, 400 * K, 100 * K)
    pair.sync()
    worlds.collapse(file, 64 * K, 32 * K)
    pair.sync()
    with unnoticed(file):
        worlds.collapse(file, 0, 4 * K)
        worlds.insert(file, 200 * K, 4 * K)
    pair.sync()
    assert mapped(file)[-1].flags & UNWRITTEN


@on(*XFS, *EXT4)
def test_a_hole_comes_between_blocks(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 400 * K, 1)
    pair.sync()
    worlds.insert(file, 64 * K, 32 * K)
    pair.sync()
    with unnoticed(file):
        worlds.insert(file, 0, 4 * K)
        worlds.collapse(file, 300 * K, 4 * K)
    pair.sync()


@on(*BTRFS, *XFS)
def test_a_file_is_cloned_over_itself_at_an_offset(pair: Pair) -> None:
    """Each block has an address that the file had before, in another place."""
    file = pair.source / "file"
    fill(file, 0, 64 * 4 * K, 1)
    write(file, 64 * 4 * K, text(64 * 4 * K, 1))
    pair.sync()
    for first, count, to in ((0, 16, 16), (64, 20, 70 + 20), (64, 8, 0), (1, 1, 0), (120, 8, 30)):
        with unnoticed(file):
            reflink_range(file, file, first * 4 * K, count * 4 * K, to * 4 * K)
        pair.sync()


@on(*BTRFS, *XFS)
def test_two_files_exchange_their_blocks(pair: Pair) -> None:
    a, b, kept = (pair.source / name for name in ("a", "b", "kept"))
    fill(a, 0, 100 * K, 1)
    write(b, 0, text(100 * K, 2))
    pair.sync()
    with unnoticed(a, b):
        reflink(a, kept)
        reflink(b, a)
        reflink(kept, b)
        kept.unlink()
    pair.sync()


@on(*BTRFS, *XFS, *EXT4)
def test_a_mapped_writer_changes_blocks_and_no_time(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 200 * K, 1)
    pair.sync()
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:
        for turn in range(3):
            memory[100 * K : 100 * K + 8] = b"turn %03d" % turn
            touch(file, 7)
            pair.sync()
            memory[7:15] = b"turn %03d" % turn
            memory.flush()
            touch(file, 7)
            pair.sync()


@on(*BTRFS, *XFS, *EXT4)
def test_preallocation_beyond_the_end_comes_and_goes(pair: Pair) -> None:
    file, empty = pair.source / "file", pair.source / "empty"
    fill(file, 0, 100 * K, 1)
    empty.touch()
    pair.sync()
    for offset, length in ((100 * K, 64 * K), (400 * K, 64 * K)):
        with unnoticed(file, empty):
            worlds.preallocate_past_end(file, offset, length)
            worlds.preallocate_past_end(empty, offset, length)
        report = pair.sync()
        assert report["data_bytes"] == 0
        assert_same(pair.source, pair.target, past_end=True)
    with unnoticed(file, empty):
        for path in (file, empty):
            worlds.truncate(path, path.stat().st_size)
    pair.sync()
    assert_same(pair.source, pair.target, past_end=True)


@on(("ext4", "btrfs"), ("xfs", "btrfs"))
@pytest.mark.parametrize("how", ["preallocated", "written"])
def test_a_file_grows_past_preallocation_that_its_end_cuts(pair: Pair, how: str) -> None:
    """To move the end, Btrfs writes zeros to the rest of the old last block, unwritten or not."""
    file = pair.source / "file"
    worlds.preallocate(file, 0, 100_100)
    pair.sync()
    if how == "preallocated":
        worlds.preallocate(file, 0, 50 * 4 * K)
    else:
        fill(file, 50 * 4 * K, 8 * K, 1)
    pair.sync()


# --- other addresses, the same bytes ----------------------------------------------------------


@on(*BTRFS)
def test_defragmentation_and_compression_send_nothing(pair: Pair) -> None:
    file, other = pair.source / "file", pair.source / "other"
    for block in range(64):
        for path in (file, other):
            write(path, block * 4 * K, text(4 * K, block))
            written_out(path)
    fill(pair.source / "noise", 0, MIB, 1)
    pair.sync()
    before = mapped(file)
    for compression in (3, 0, 3):
        for path in (file, other, pair.source / "noise"):
            worlds.defragment(path, compression)
        assert pair.sync()["data_bytes"] == 0
    assert mapped(file) != before


@on(*BTRFS)
def test_a_change_under_defragmentation_is_all_that_is_sent(pair: Pair) -> None:
    file = pair.source / "file"
    for block in range(64):
        fill(file, block * 4 * K, 4 * K, block | 1)
        written_out(file)
    pair.sync()
    with unnoticed(file):
        fill(file, 40 * K, 4 * K, 99)
        worlds.defragment(file)
    assert pair.sync()["data_bytes"] == 4 * K
    with unnoticed(file):
        worlds.defragment(file, 3)
        fill(file, 80 * K, 4 * K, 97)
    assert pair.sync()["data_bytes"] == 4 * K


@on(*BTRFS, *XFS)
def test_equal_blocks_are_deduplicated_and_nothing_is_sent(pair: Pair) -> None:
    a, b = pair.source / "a", pair.source / "b"
    for path in (a, b):
        fill(path, 0, 256 * K, 1)
        written_out(path)
    fill(b, 0, 4 * K, 3)
    pair.sync()
    with unnoticed(a, b):
        worlds.dedupe(a, b, 64 * K, 64 * K, 64 * K)
        worlds.copy_range(a, b, 0, 4 * K, 0)
        worlds.dedupe(a, b, 0, 64 * K, 0)
    assert mapped(a)[0].physical == mapped(b)[0].physical
    assert pair.sync()["data_bytes"] <= 4 * K
    # From then on each goes its own way.
    with unnoticed(a, b):
        fill(a, 0, 4 * K, 7)
        fill(b, 64 * K, 4 * K, 9)
    pair.sync()


@on(*BTRFS, *XFS)
def test_a_copy_in_other_blocks_takes_the_place_of_the_original(pair: Pair) -> None:
    file, copy = pair.source / "file", pair.source / "copy"
    fill(file, 0, 256 * K, 1)
    pair.sync()
    with unnoticed(file):
        worlds.copy_range(file, file, 0, 256 * K, 0)
    assert pair.sync()["data_bytes"] == 0
    fill(copy, 0, 256 * K, 1)
    with unnoticed(file):
        reflink(copy, file)
    copy.unlink()
    assert pair.sync()["data_bytes"] == 0


@pytest.fixture
def alone(file_systems: FileSystems) -> Iterator[Path]:
    """A Btrfs of its own, to balance and to mount again."""
    point = file_systems.mount("btrfs", 2 * GIB)
    yield point
    file_systems.unmount(point)


def test_a_full_balance_changes_every_address_and_nothing_else(alone: Path, place: Place) -> None:
    pair = Pair(alone / "volume", place.absent("xfs"))
    subvolume(pair.source)
    World(pair.source, 17).grow(150)
    worlds.bulk(pair.source, 300)
    plain, fixed = pair.source / "plain", pair.source / "fixed"
    fixed.touch()
    worlds.set_flags(fixed, worlds.NOCOW)
    for path in (plain, fixed):
        fill(path, 0, MIB, 1)
    pair.sync()
    before = mapped(plain)
    sh("btrfs", "balance", "start", "--full-balance", alone)
    assert mapped(plain) != before
    report = pair.sync()
    assert report["unchanged"]
    assert report["data_bytes"] == 0
    with unnoticed(plain, fixed):
        fill(plain, 100 * K, 4 * K, 3)
        fill(fixed, 100 * K, 4 * K, 3)
    sh("btrfs", "balance", "start", "--full-balance", alone)
    report = pair.sync()
    assert report["data_bytes"] == 8 * K
    assert report["changes"]["changed"] == 2


# --- written in place -------------------------------------------------------------------------


@on(*BTRFS)
def test_a_file_without_copy_on_write_is_written_several_times_a_round(pair: Pair) -> None:
    """The first write after a snapshot finds a new place, and those after it write there again."""
    file = pair.source / "database"
    file.touch()
    worlds.set_flags(file, worlds.NOCOW)
    fill(file, 0, 256 * K, 1)
    pair.sync()
    for turn in range(3):
        with unnoticed(file):
            fill(file, 64 * K, 8 * K, 10 * turn + 1)
            written_out(file)
            before = address(file, 64 * K)
            fill(file, 68 * K, 8 * K, 10 * turn + 3)
            fill(file, 64 * K, 4 * K, 10 * turn + 5)
            written_out(file)
        assert address(file, 64 * K) == before
        assert pair.sync()["data_bytes"] == 12 * K


@on(*BTRFS)
def test_a_file_without_copy_on_write_is_preallocated_and_filled(pair: Pair) -> None:
    file = pair.source / "database"
    file.touch()
    worlds.set_flags(file, worlds.NOCOW)
    worlds.preallocate(file, 0, MIB)
    pair.sync()
    for block in (0, 100, 7, 255, 100):
        with unnoticed(file):
            fill(file, block * 4 * K, 4 * K, block + 1)
            written_out(file)
            fill(file, block * 4 * K, 4 * K, block + 2)
        assert pair.sync()["data_bytes"] <= 4 * K


def test_a_file_system_mounted_without_copy_on_write(alone: Path, place: Place) -> None:
    sh("mount", "-o", "remount,nodatacow", alone)
    pair = Pair(alone / "volume", place.absent("btrfs"))
    subvolume(pair.source)
    file, other = pair.source / "file", pair.source / "other"
    for path in (file, other):
        fill(path, 0, 256 * K, 1)
    assert freeze(pair.source).entries[b"file"].flags & worlds.NOCOW
    pair.sync()
    for seed in range(3):
        with unnoticed(file, other):
            for again in range(3):
                fill(file, 40 * K, 4 * K, 10 * seed + again)
                written_out(file)
            reflink_range(file, other, 40 * K, 4 * K, seed * 8 * K)
        pair.sync()


# --- names and numbers ------------------------------------------------------------------------


@on(*BTRFS, *XFS, *EXT4)
def test_two_directories_with_the_same_names_change_places(pair: Pair) -> None:
    for number, folder in enumerate(("a", "b")):
        (pair.source / folder).mkdir()
        for name in ("1", "2"):
            fill(pair.source / folder / name, 0, 10 * K, 2 * number + int(name))
            touch(pair.source / folder / name, 7)
        touch(pair.source / folder, 7)
    pair.sync()
    worlds.exchange(pair.source / "a", pair.source / "b")
    report = pair.sync()
    assert report["data_bytes"] == 0
    worlds.exchange(pair.source / "a/1", pair.source / "b/1")
    for folder in ("a", "b"):
        touch(pair.source / folder, 7)
    assert pair.sync()["data_bytes"] == 0


@on(*BTRFS, *XFS, *EXT4)
def test_a_hard_link_comes_and_goes(pair: Pair) -> None:
    pair.keep_history()
    file, link = pair.source / "file", pair.source / "link"
    fill(file, 0, 100 * K, 1)
    pair.sync()
    os.link(file, link)
    link.unlink()
    assert pair.sync()["changes"]["created"] == 0
    os.link(file, link)
    assert pair.sync()["data_bytes"] == 0
    with unnoticed(file):
        fill(link, 8 * K, 4 * K, 2)
    file.unlink()
    assert pair.sync()["data_bytes"] == 4 * K
    link.rename(file)
    os.link(file, link)
    assert pair.sync()["data_bytes"] == 0


@on(*XFS, *EXT4)
def test_a_number_is_used_again_at_once(pair: Pair) -> None:
    """All that was there is removed: the new files have the old numbers, sizes, names and times."""
    files = [pair.source / f"{number}" for number in range(50)]

    def write(seed: int) -> set[int]:
        for number, path in enumerate(files):
            path.unlink(missing_ok=True)
            fill(path, 0, 5_000, seed + number)
            touch(path, 7)
        return {path.stat().st_ino for path in files}

    numbers = write(0)
    pair.sync()
    # XFS frees what is removed a little later: until then new files have new numbers.
    assert any(numbers & write(1000 * attempt) for attempt in range(1, 100))
    report = pair.sync()
    assert report["data_bytes"] == 50 * 5_000


def test_snapshots_are_kept_in_the_subvolume_they_are_of(home: Path, tmp_path: Path) -> None:
    """After it has copied the tree the kernel still changes the directory that the snapshot is put in."""
    tree = home / "tree"
    for name in ("first", "second"):
        (tree / name).mkdir()
    sh("sync", "-f", tree)
    snaps = [frozen(tree, tree / name / "snap") for name in ("first", "second")]
    told(*snaps, tmp_path / "there.arrow")
    told(*reversed(snaps), tmp_path / "back.arrow")
    sh("btrfs", "property", "set", tree, "ro", "true")
    told(snaps[0], tree, tmp_path / "source.arrow")
    sh("btrfs", "property", "set", tree, "ro", "false")


@on(("btrfs", "btrfs"), ("btrfs", "xfs"))
def test_a_file_becomes_one_that_is_not_copied_on_write(pair: Pair) -> None:
    """It is made anew on the standby, in a directory that did not change."""
    file = pair.source / "folder/deep/file"
    file.parent.mkdir(parents=True)
    file.touch()
    os.link(file, pair.source / "folder/name")
    pair.sync()
    worlds.set_flags(file, worlds.NOCOW)
    fill(file, 0, 5_000, 1)
    pair.sync()


@on(("ext4", "xfs"), ("ext4", "ext4"), ("ext4", "btrfs"))
def test_a_directory_takes_the_number_of_the_one_that_a_file_was_in(pair: Pair) -> None:
    """Parent number and name are what they were, and yet the file has moved."""
    folder, aside = pair.source / "folder", pair.source / "aside"
    folder.mkdir()
    fill(folder / "file", 0, 5_000, 1)
    os.link(folder / "file", folder / "second")
    (folder / "inner").mkdir()
    fill(folder / "inner/deep", 0, 5_000, 2)
    pair.sync()
    number = folder.stat().st_ino
    aside.mkdir()
    for name in ("file", "second", "inner"):
        (folder / name).rename(aside / name)
    folder.rmdir()
    folder.mkdir()
    assert folder.stat().st_ino == number
    for name in ("file", "second", "inner"):
        (aside / name).rename(folder / name)
    report = pair.sync()
    assert report["data_bytes"] == 0


def test_btrfs_uses_its_highest_number_again_after_a_mount(alone: Path, tmp_path: Path) -> None:
    need("findmnt")
    tree = alone / "tree"
    subvolume(tree)
    fill(tree / "other", 0, 100, 1)
    file = tree / "file"
    fill(file, 0, 100 * K, 1)
    touch(file, 7)
    touch(tree, 7)
    number = file.stat().st_ino
    old = frozen(tree, alone / "old")
    file.unlink()
    mount_again(alone)
    fill(file, 0, 100 * K, 3)
    touch(file, 7)
    touch(tree, 7)
    assert file.stat().st_ino == number, "the number was not given again: this tests nothing"
    rows = told(old, frozen(tree, alone / "new"), tmp_path / "out.arrow")
    assert [row["data_bytes"] for row in rows if row["change"]["created"]] == [100 * K]
    assert [row["old_path"] for row in rows if row["change"]["deleted"]] == ["file"]


def mount_again(point: Path) -> None:
    """Unmounts and mounts; the loop device outlives it, for it is open."""
    device = sh("findmnt", "-n", "-o", "SOURCE", point).split("[")[0].strip()
    held = os.open(device, os.O_RDONLY)
    try:
        sh("sync", "-f", point)
        sh("umount", point)
        sh("mount", "-o", "compress=zstd:1", device, point)
    finally:
        os.close(held)


@on(*BTRFS, *XFS, *EXT4)
def test_a_removed_file_that_is_open_is_not_there(pair: Pair) -> None:
    """A Btrfs snapshot holds its inode, with no name; one day the number is free again."""
    kept, gone = pair.source / "kept", pair.source / "gone"
    for path in (kept, gone):
        fill(path, 0, 100 * K, 1)
    with gone.open("r+b") as orphan:
        gone.unlink()
        assert pair.sync()["tree_entries"] == 2
        orphan.write(b"changed in the dark")
        orphan.flush()
        assert pair.sync()["unchanged"]
        fill(gone, 0, 100 * K, 2)
        pair.sync()
    fill(kept, 0, 10, 3)
    report = pair.sync()
    assert (report["changes"]["created"], report["changes"]["deleted"]) == (0, 0)


@on(*BTRFS, *XFS, *EXT4)
def test_a_nameless_file_gets_a_name(pair: Pair) -> None:
    root = os.open(pair.source, os.O_RDONLY)
    fd = os.open(pair.source, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.write(fd, text(100 * K, 1))
        pair.sync()
        # Only with a directory does Python let the kernel follow the link.
        os.link(f"/proc/self/fd/{fd}", pair.source / "named", src_dir_fd=root, follow_symlinks=True)
        assert pair.sync()["changes"]["created"] == 1
    finally:
        os.close(fd)
        os.close(root)


@on(*BTRFS)
def test_nested_subvolumes_come_and_go(pair: Pair) -> None:
    """A snapshot shows each as an empty directory, and all of these have one inode number."""
    for name in ("one", "two", "dir/three"):
        (pair.source / name).parent.mkdir(exist_ok=True)
        subvolume(pair.source / name)
        (pair.source / name / "inside").touch()
    pair.sync()
    subvolume_delete(pair.source / "one")
    subvolume(pair.source / "four")
    pair.sync()
    (pair.source / "one").mkdir()
    (pair.source / "one/inside").touch()
    subvolume_delete(pair.source / "dir/three")
    (pair.source / "two").rename(pair.source / "dir/three")
    pair.sync()
    worlds.remove(pair.source / "one")
    subvolume(pair.source / "one")
    (pair.source / "dir").rename(pair.source / "moved")
    pair.sync()
    assert not (pair.target / "one").exists()


# --- snapshots that others made ---------------------------------------------------------------


def snap(source: Path, target: Path, *options: str) -> Path:
    sh("btrfs", "-q", "subvolume", "snapshot", *options, source, target)
    return target


def frozen(source: Path, target: Path) -> Path:
    return snap(source, target, "-r")


def subvolume_delete(path: Path) -> None:
    sh("btrfs", "-q", "subvolume", "delete", path)


@pytest.fixture
def home(place: Place) -> Path:
    """A directory on Btrfs to have subvolumes in, one of them `tree` with something in it."""
    home = place.absent("btrfs")
    home.mkdir()
    subvolume(home / "tree")
    World(home / "tree", 23).grow(80)
    fill(home / "tree/file", 0, 200 * K, 1)
    write(home / "tree/text", 0, text(112 * K, 1))
    return home


def change(root: Path, turn: int = 0) -> None:
    """Some bytes unnoticed, a clone, a new file, a move."""
    with unnoticed(root / "file", root / "text"):
        fill(root / "file", 40 * K, 4 * K, 50 + turn)
        reflink_range(root / "text", root / "text", 0, 16 * K, 64 * K)
    fill(root / f"new-{turn}", 0, 10 * K, turn)
    (root / f"new-{turn}").rename(root / f"moved-{turn}")


def test_snapshots_are_compared_in_both_directions(home: Path, tmp_path: Path) -> None:
    old = frozen(home / "tree", home / "old")
    change(home / "tree")
    new = frozen(home / "tree", home / "new")
    there = told(old, new, tmp_path / "there.arrow")
    assert {"file", "text", "moved-0"} <= changed_paths(there)
    back = told(new, old, tmp_path / "back.arrow")
    assert changed_paths(back) == changed_paths(there)
    assert told(old, old, tmp_path / "none.arrow") == []


def test_a_rolled_back_tree_is_compared_with_what_it_left(home: Path, tmp_path: Path) -> None:
    """The newer state is the base of nothing: both come from one snapshot that is older than both."""
    old = frozen(home / "tree", home / "old")
    change(home / "tree", 1)
    left = frozen(home / "tree", home / "left")
    tree = snap(old, home / "rolled-back")
    same = frozen(tree, home / "same")
    assert told(old, same, tmp_path / "same.arrow") == []
    change(tree, 2)
    again = frozen(tree, home / "again")
    for base, target in ((old, again), (left, same), (left, again), (again, left), (same, left)):
        told(base, target, tmp_path / "out.arrow")
    # Both trees gave the same number to a file of their own.
    rows = changes(left, again, tmp_path / "out.arrow")
    assert {"moved-1", "moved-2"} <= changed_paths(rows)


def test_a_tree_is_rolled_back_to_a_snapshot_and_synced(home: Path, tmp_path: Path) -> None:
    """The directory of that name is another subvolume now, with the numbers of the old one."""
    first = frozen(home / "tree", home / "first")
    change(home / "tree", 1)
    second = frozen(home / "tree", home / "second")
    (home / "tree").rename(home / "left")
    snap(first, home / "tree")
    fill(home / "tree/file", 8 * K, 4 * K, 77)
    third = frozen(home / "tree", home / "third")
    told(second, third, tmp_path / "out.arrow")
    rows = told(first, third, tmp_path / "out.arrow")
    assert changed_paths(rows) == {"file"}


def test_unrelated_subvolumes_have_the_same_numbers_and_other_files(home: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        subvolume(home / name)
        for number in range(20):
            fill(home / name / f"{number % 15}", 0, 5_000, number * seed)
            touch(home / name / f"{number % 15}", 7)
        frozen(home / name, home / f"{name}-snap")
    assert (home / "one/3").stat().st_ino == (home / "two/3").stat().st_ino
    told(home / "one-snap", home / "two-snap", tmp_path / "out.arrow")
    told(home / "two", home / "one", tmp_path / "out.arrow")


def test_a_base_was_made_writable_and_read_only_again(home: Path, tmp_path: Path) -> None:
    """What was changed in it is newer than the snapshot that it is compared with."""
    old = frozen(home / "tree", home / "old")
    new = frozen(home / "tree", home / "new")
    assert told(old, new, tmp_path / "none.arrow") == []
    sh("btrfs", "property", "set", old, "ro", "false")
    change(old)
    sh("btrfs", "property", "set", old, "ro", "true")
    rows = told(old, new, tmp_path / "out.arrow")
    assert {"file", "text", "moved-0"} <= changed_paths(rows)
    assert {"file", "text", "moved-0"} <= changed_paths(told(new, old, tmp_path / "out.arrow"))


def test_a_target_was_made_writable_and_stays_so(home: Path, tmp_path: Path) -> None:
    old = frozen(home / "tree", home / "old")
    new = snap(home / "tree", home / "new")
    change(new)
    assert {"file", "text", "moved-0"} <= changed_paths(told(old, new, tmp_path / "out.arrow"))
    change(home / "tree", 1)
    told(new, home / "tree", tmp_path / "out.arrow")


def receive(home: Path, snapshot: Path, *options: str) -> Path:
    """What `btrfs send | btrfs receive` makes of a snapshot in the directory `received`."""
    (home / "received").mkdir(exist_ok=True)
    stream = home / "stream"
    sh("btrfs", "-q", "send", "-f", stream, *options, snapshot)
    sh("btrfs", "-q", "receive", "-f", stream, home / "received")
    stream.unlink()
    return home / "received" / snapshot.name


def test_a_received_snapshot_is_compared_with_its_original(home: Path, tmp_path: Path) -> None:
    """Other numbers, other addresses, the same tree."""
    old = frozen(home / "tree", home / "old")
    change(home / "tree")
    new = frozen(home / "tree", home / "new")
    received_old = receive(home, old)
    received_new = receive(home, new, "-p", str(old))
    for original, received in ((old, received_old), (new, received_new)):
        rows = told(original, received, tmp_path / "out.arrow")
        assert [row for row in rows if row["change"]["data"] or row["change"]["created"]] == []
    rows = told(received_old, received_new, tmp_path / "out.arrow")
    assert {"file", "text", "moved-0"} <= changed_paths(rows)
    rows = told(old, received_new, tmp_path / "out.arrow")
    assert {"file", "text", "moved-0"} <= changed_paths(rows)


def test_snapshots_with_orphans_and_stubs(home: Path, tmp_path: Path) -> None:
    """Neither is an entry of the tree, but both are items of the subvolume."""
    tree = home / "tree"
    subvolume(tree / "nested")
    fill(tree / "gone", 0, 100 * K, 1)
    with (tree / "gone").open("r+b") as orphan:
        (tree / "gone").unlink()
        one = frozen(tree, home / "one")
        orphan.write(b"changed in the dark")
        orphan.flush()
        subvolume(tree / "other")
        two = frozen(tree, home / "two")
    subvolume_delete(tree / "nested")
    (tree / "nested").mkdir()
    three = frozen(tree, home / "three")
    for base, target in ((one, two), (two, one), (two, three), (three, one), (one, three)):
        rows = told(base, target, tmp_path / "out.arrow")
        assert "gone" not in changed_paths(rows)


@pytest.mark.parametrize("seed", range(2))
def test_any_changes_are_told_between_any_two_snapshots(home: Path, tmp_path: Path, seed: int) -> None:
    world = World(home / "tree", seed, worlds.OF_BTRFS)
    world.log.append(f"seed {seed}")
    made = [frozen(home / "tree", home / "0")]
    try:
        for number in range(1, 4):
            world.churn(80)
            made.append(frozen(home / "tree", home / f"{number}"))
        for base in made:
            for target in made:
                told(base, target, tmp_path / "out.arrow")
    except Exception as error:
        error.add_note("\n".join(world.log))
        raise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_any_changes_are_told_between_the_snapshots_of_a_volume(
    place: Place, tmp_path: Path, kind: str, seed: int
) -> None:
    """Without copies of the trees in the comparison: the base is a keepsake, in other blocks."""
    volume, kept = place(kind), place(kind)
    world = World(volume, 40 + seed)
    world.grow(80)
    done("snapshot", volume, "--name", "old")
    keep(volume, kept)
    world.churn(100)
    done("snapshot", volume, "--name", "new")
    try:
        assert_told(kept, volume, changes(f"{volume}@old", f"{volume}@new", tmp_path / "out.arrow"))
    except Exception as error:
        error.add_note("\n".join(world.log))
        raise


# --- what else must not be lost ---------------------------------------------------------------


@on(("btrfs", "btrfs"), ("btrfs", "xfs"), ("xfs", "xfs"), ("xfs", "btrfs"), ("xfs", "ext4"))
def test_a_clone_goes_its_own_way_on_the_standby_too(pair: Pair) -> None:
    """Blocks that are shared there must not be written through."""
    original, clone = pair.source / "original", pair.source / "clone"
    fill(original, 0, MIB, 1)
    pair.sync()
    reflink(original, clone)
    pair.sync()
    for path, seed in ((clone, 2), (original, 3), (clone, 4)):
        fill(path, 512 * K, 4 * K, seed)
        pair.sync()
    original.unlink()
    pair.sync()
    clone.rename(original)
    pair.sync()


@on(*BTRFS, *XFS)
def test_a_clone_of_what_changes_in_the_same_round(pair: Pair) -> None:
    """The bytes are those of the original before its change, after it, or of neither."""
    original = pair.source / "original"
    fill(original, 0, 512 * K, 1)
    pair.sync()
    before, between, after = (pair.source / name for name in ("a-before", "between", "z-after"))
    reflink(original, before)
    fill(original, 0, 8 * K, 2)
    reflink(original, between)
    fill(original, 4 * K, 8 * K, 3)
    reflink(original, after)
    pair.sync()
    with unnoticed(original, before):
        reflink(original, between)
        reflink(before, original)
        reflink(between, before)
    pair.sync()


@on(*BTRFS, *XFS)
def test_a_clone_of_what_is_gone_in_the_same_round(pair: Pair) -> None:
    original, clone = pair.source / "original", pair.source / "clone"
    fill(original, 0, 512 * K, 1)
    pair.sync()
    reflink(original, clone)
    original.unlink()
    pair.sync()
    fill(original, 0, 512 * K, 2)
    pair.sync()


@on(*BTRFS, *XFS)
def test_clones_with_an_end_that_cuts_a_block(pair: Pair) -> None:
    original = pair.source / "original"
    fill(original, 0, 100_001, 1)
    pair.sync()
    reflink(original, pair.source / "whole")
    reflink_range(original, pair.source / "tail", 80 * K, 0, 0)
    reflink_range(original, pair.source / "later", 80 * K, 0, 40 * K)
    pair.sync()
    for name in ("whole", "tail", "later"):
        worlds.append(pair.source / name, 9_000, 3)
    pair.sync()
    for name in ("whole", "later"):
        reflink_range(original, pair.source / name, 0, 8 * K, 4 * K)
        worlds.truncate(pair.source / name, 50_001)
    pair.sync()


Trap = Callable[[Path], object]

LAID_OUT: dict[str, Trap] = {
    "hole": lambda path: punch(path, 64 * K, 64 * K),
    "unwritten": lambda path: worlds.zero(path, 64 * K, 64 * K),
    "zeros": lambda path: write(path, 64 * K, bytes(64 * K)),
}


@on(*BTRFS, *XFS)
@pytest.mark.parametrize("first", LAID_OUT)
@pytest.mark.parametrize("second", LAID_OUT)
def test_zeros_of_one_sort_become_zeros_of_another(pair: Pair, first: str, second: str) -> None:
    """The bytes are the same all the while."""
    file = pair.source / "file"
    fill(file, 0, 256 * K, 1)
    LAID_OUT[first](file)
    pair.sync()
    with unnoticed(file):
        LAID_OUT[second](file)
    pair.sync()


def test_these_tests_can_tell_a_clone_from_a_copy(home: Path) -> None:
    tree = home / "tree"
    reflink(tree / "file", tree / "clone")
    shutil.copyfile(tree / "file", tree / "copy")
    worlds.copy_range(tree / "file", tree / "copy", 0, 200 * K, 0)
    assert shares_all(tree / "file", tree / "clone")
    assert not shares_all(tree / "file", tree / "copy")


def test_the_proof_of_a_manifest_misses_no_row_and_no_extent(home: Path, tmp_path: Path) -> None:
    """Without this, the tests above would pass for a proof that always agrees."""
    old = frozen(home / "tree", home / "old")
    change(home / "tree")
    worlds.remove(home / "tree/text")
    new = frozen(home / "tree", home / "new")
    rows = told(old, new, tmp_path / "out.arrow")
    for index, row in enumerate(rows):
        lies = [rows[:index] + rows[index + 1 :]]
        if extents := row["extents"]:
            first = extents[0]
            wrong = [extents[1:], [first | {"op": "hole"}, *extents[1:]], [first | {"offset": 8 * K}]]
            wrong.append([first | {"op": "clone", "source_inode": row["inode"], "source_offset": 99 * K}])
            lies += [[*rows[:index], row | {"extents": lie}, *rows[index + 1 :]] for lie in wrong]
        for lie in lies:
            with pytest.raises(AssertionError):
                assert_told(old, new, lie)
