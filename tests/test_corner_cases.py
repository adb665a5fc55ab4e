"""The ways in which a change is easily missed or spoiled, each on real file systems.

Three pairs have each file system once on each side. SNAPSYNC_ALL_PAIRS=1 takes all nine.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest
import worlds
from machine import KINDS, MIB, Pair, Place, done, need, run, sh, subvolume
from oracle import assert_same, freeze
from worlds import append, exchange, fill, punch, rewrite_quietly, set_flags, set_xattr, touch, write

ALL = os.environ.get("SNAPSYNC_ALL_PAIRS") == "1"
PAIRS = list(product(KINDS, KINDS)) if ALL else [("btrfs", "xfs"), ("xfs", "ext4"), ("ext4", "btrfs")]
K = 1024


@pytest.fixture(params=PAIRS, ids="-".join)
def kinds(request: pytest.FixtureRequest) -> tuple[str, str]:
    pair: tuple[str, str] = request.param
    return pair


def some_files(root: Path, *names: str) -> list[Path]:
    """Files with different contents."""
    paths = [root / name for name in names]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(path, 0, 5_000, number)
    return paths


# --- names ------------------------------------------------------------------------------------


def test_two_files_swap_names(pair: Pair) -> None:
    a, b = some_files(pair.source, "a", "b")
    pair.sync()
    exchange(a, b)
    assert pair.sync()["data_bytes"] == 0


def test_two_directories_swap_names(pair: Pair) -> None:
    some_files(pair.source, "a/1", "a/2", "b/1", "b/x/y")
    pair.sync()
    exchange(pair.source / "a", pair.source / "b")
    assert pair.sync()["data_bytes"] == 0


def test_a_directory_swaps_names_with_a_file_inside_another(pair: Pair) -> None:
    some_files(pair.source, "a/1", "b/file")
    pair.sync()
    exchange(pair.source / "a", pair.source / "b" / "file")
    pair.sync()


def test_a_rename_cycle_of_three(pair: Pair) -> None:
    a, b, c = some_files(pair.source, "a", "b", "dir/c")
    pair.sync()
    exchange(a, b)
    exchange(a, c)
    assert pair.sync()["data_bytes"] == 0


def test_a_directory_moves_below_its_former_child(pair: Pair) -> None:
    some_files(pair.source, "parent/child/deep/file", "parent/file")
    pair.sync()
    (pair.source / "parent/child").rename(pair.source / "child")
    (pair.source / "parent").rename(pair.source / "child/deep/parent")
    pair.sync()


def test_a_chain_of_directories_turns_upside_down(pair: Pair) -> None:
    some_files(pair.source, "a/b/c/d/file")
    pair.sync()
    a = pair.source / "a"
    (a / "b/c/d").rename(pair.source / "d")
    (a / "b/c").rename(pair.source / "d/c")
    (a / "b").rename(pair.source / "d/c/b")
    a.rename(pair.source / "d/c/b/a")
    pair.sync()


def test_a_name_is_taken_over_by_another_inode(pair: Pair) -> None:
    a, b = some_files(pair.source, "a", "b")
    pair.sync()
    a.unlink()
    b.rename(a)
    fill(b, 0, 5_000, 77)
    pair.sync()


def test_a_file_becomes_a_directory_and_a_directory_a_file(pair: Pair) -> None:
    a, inside = some_files(pair.source, "a", "b/inside")
    pair.sync()
    a.unlink()
    a.mkdir()
    inside.rename(a / "inside")
    (pair.source / "b").rmdir()
    fill(pair.source / "b", 0, 100, 5)
    pair.sync()


def test_a_symlink_takes_the_place_of_a_directory(pair: Pair) -> None:
    """What moved into the directory's new place must not be written through the link."""
    some_files(pair.source, "dir/file", "other/file")
    pair.sync()
    (pair.source / "dir").rename(pair.source / "moved")
    (pair.source / "dir").symlink_to("other")
    fill(pair.source / "moved/file", 0, 10, 6)
    pair.sync()


def test_a_deleted_directory_gives_its_content_away(pair: Pair) -> None:
    some_files(pair.source, "dir/sub/file", "dir/gone")
    pair.sync()
    (pair.source / "dir/sub").rename(pair.source / "sub")
    worlds.remove(pair.source / "dir")
    pair.sync()


def test_an_inode_number_is_used_again(pair: Pair) -> None:
    """Same number, same size, same time: only the generation tells them apart."""
    old, *_ = some_files(pair.source, "old")
    before = old.stat()
    pair.sync()
    old.unlink()
    for number in range(64):
        new = pair.source / f"new-{number}"
        fill(new, 0, before.st_size, 1000 + number)
        touch(new, before.st_mtime_ns)
        if new.stat().st_ino == before.st_ino:
            break
    pair.sync()


def test_a_name_that_is_not_utf8(pair: Pair) -> None:
    root = os.fsencode(pair.source)
    names = [b"\xff", b"a\nb", b"-n", b"\xe9t\xe9", bytes(range(1, 47)) + bytes(range(48, 256))]
    for number, name in enumerate(names):
        fill(os.path.join(root, name), 0, 100, number)
    os.mkdir(os.path.join(root, b"\xfedir"))
    pair.sync()
    os.rename(os.path.join(root, b"\xff"), os.path.join(root, b"\xfedir", b"\xfd"))
    os.unlink(os.path.join(root, b"-n"))
    append(os.path.join(root, b"a\nb"), 10, 9)
    pair.sync()


def test_names_of_255_bytes(pair: Pair) -> None:
    root = os.fsencode(pair.source)
    names = [b"x" * 255, b"\xcc" * 255, "é".encode() * 127]
    for number, name in enumerate(names):
        fill(os.path.join(root, name), 0, 100, number)
    pair.sync()
    exchange(os.path.join(root, names[0]), os.path.join(root, names[1]))
    os.rename(os.path.join(root, names[2]), os.path.join(root, b"y" * 255))
    pair.sync()


def test_paths_longer_than_path_max(pair: Pair) -> None:
    with deep_directory(pair.source, "d" * 200, depth=25) as bottom:
        os.mkdir("dir", dir_fd=bottom)
        for name in ("file", "other"):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=bottom))
    pair.sync()
    with deep_directory(pair.source, "d" * 200, depth=25) as bottom:
        os.rename("file", "dir/moved", src_dir_fd=bottom, dst_dir_fd=bottom)
        os.unlink("other", dir_fd=bottom)
        os.mkfifo("fifo", dir_fd=bottom)
    pair.sync()
    (pair.source / ("d" * 200)).rename(pair.source / "short")
    pair.sync()


@contextmanager
def deep_directory(root: Path, name: str, depth: int) -> Iterator[int]:
    """The innermost of nested directories, made if need be."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_directory_of_many_entries(pair: Pair) -> None:
    worlds.bulk(pair.source, 3_000, per_directory=3_000)
    pair.sync()
    folder = pair.source / "bulk-0000"
    for number in range(0, 3_000, 3):
        (folder / f"{number:06}").unlink()
    for number in range(0, 3_000, 7):
        if (old := folder / f"{number:06}").exists():
            old.rename(folder / f"renamed-{number}")
    pair.sync()


# --- data -------------------------------------------------------------------------------------


def test_a_same_size_rewrite_with_the_time_put_back(pair: Pair) -> None:
    a, b = some_files(pair.source, "a", "b")
    fill(b, 0, 300 * K, 2)
    pair.sync()
    rewrite_quietly(a, 10, 10, 8)
    rewrite_quietly(b, 200 * K + 1, 5, 8)
    pair.sync()


def test_a_filled_hole(pair: Pair) -> None:
    file = pair.source / "file"
    write(file, 0, b"a")
    worlds.truncate(file, 400 * K)
    pair.sync()
    before = file.stat()
    fill(file, 128 * K, 8 * K, 1)
    touch(file, before.st_mtime_ns)
    pair.sync()


def test_a_punched_hole(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 400 * K, 1)
    pair.sync()
    before = file.stat()
    punch(file, 64 * K, 64 * K)
    punch(file, 200 * K + 5, 100)
    touch(file, before.st_mtime_ns)
    pair.sync()


def test_a_pure_truncate(pair: Pair) -> None:
    a, b, c = (pair.source / name for name in "abc")
    for path in (a, b, c):
        fill(path, 0, 100 * K, 1)
    pair.sync()
    worlds.truncate(a, 50 * K + 7)
    worlds.truncate(b, 0)
    worlds.truncate(c, 64 * K)
    pair.sync()


def test_a_truncate_then_regrow(pair: Pair) -> None:
    """The size is as before, and what was cut off reads as zeros."""
    file = pair.source / "file"
    fill(file, 0, 100 * K, 1)
    pair.sync()
    before = file.stat()
    worlds.truncate(file, 10 * K + 3)
    worlds.truncate(file, 100 * K)
    touch(file, before.st_mtime_ns)
    pair.sync()


def test_a_file_grows_by_a_hole_alone(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 5 * K, 1)
    pair.sync()
    worlds.truncate(file, 3 * MIB + 1)
    pair.sync()


def test_a_file_grows_past_a_hole_that_its_end_cuts(pair: Pair) -> None:
    """To move the end, Btrfs writes zeros to the rest of the old last block: that is no hole any more."""
    file = pair.source / "file"
    file.touch()
    worlds.truncate(file, 5_000)
    pair.sync()
    fill(file, 100 * K, 100, 1)
    pair.sync()


def test_unwritten_blocks_that_the_end_cuts_become_a_hole(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 8 * K, 1)
    worlds.preallocate(file, 8 * K, 100 * K + 100)
    pair.sync()
    punch(file, 64 * K, 100 * K)
    pair.sync()
    worlds.preallocate(file, 8 * K, 100 * K + 100)
    pair.sync()


def test_unwritten_blocks_are_written(pair: Pair) -> None:
    """The same address, written and unwritten, holds different bytes."""
    file = pair.source / "file"
    worlds.preallocate(file, 0, 512 * K)
    pair.sync()
    before = file.stat()
    fill(file, 256 * K, 4 * K, 1)
    touch(file, before.st_mtime_ns)
    pair.sync()
    fill(file, 0, 512 * K, 2)
    pair.sync()


def test_written_blocks_become_unwritten(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 512 * K, 1)
    pair.sync()
    worlds.zero(file, 128 * K, 128 * K)
    pair.sync()


def test_preallocation_past_the_end_is_kept(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 5_000, 1)
    worlds.preallocate_past_end(file, 0, 256 * K)
    empty = pair.source / "empty"
    worlds.preallocate_past_end(empty, 0, 64 * K)
    pair.sync()
    assert_same(pair.source, pair.target, past_end=True)
    worlds.preallocate_past_end(file, 0, 512 * K)
    pair.sync()
    assert_same(pair.source, pair.target, past_end=True)


def test_a_sparse_file_stays_sparse(pair: Pair) -> None:
    file = pair.source / "file"
    for offset in range(0, 64 * MIB, 8 * MIB):
        fill(file, offset, 4 * K, offset)
    worlds.truncate(file, 96 * MIB)
    assert pair.sync()["data_bytes"] <= MIB
    fill(file, 80 * MIB, 100, 3)
    assert pair.sync()["data_bytes"] <= MIB


def test_zeros_that_were_written_stay_written(pair: Pair) -> None:
    file = pair.source / "file"
    write(file, 0, bytes(128 * K))
    pair.sync()
    worlds.punch(file, 0, 64 * K)
    pair.sync()
    write(file, 0, bytes(64 * K))
    pair.sync()


def test_a_file_grows_from_inline_and_shrinks_back(pair: Pair) -> None:
    """Btrfs keeps a small file in the tree itself: such an extent has no address."""
    file = pair.source / "file"
    for seed, size in enumerate((10, 10, 100 * K, 10, 0, 2_000)):
        worlds.truncate(file, 0) if file.exists() else file.touch()
        fill(file, 0, size, seed)
        touch(file, 1)
        pair.sync()


def test_data_just_written_has_no_address_yet(pair: Pair) -> None:
    """Nothing was flushed: the blocks are in memory only when the snapshot is taken."""
    for number in range(20):
        fill(pair.source / f"{number}", 0, 200 * K, number)
    pair.sync()
    for number in range(20):
        fill(pair.source / f"{number}", 100 * K, 50 * K, number + 100)
    pair.sync()


def test_a_mapped_writer_that_never_closes(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 64 * K, 1)
    with file.open("r+b") as open_file, mmap.mmap(open_file.fileno(), 0) as memory:
        memory[0:4] = b"1111"
        pair.sync()
        for text in (b"2222", b"3333"):
            memory[0:4] = text
            memory[40 * K : 40 * K + 4] = text
            pair.sync()


def test_a_file_that_changes_around_the_snapshot(pair: Pair) -> None:
    """A change in the very tick of the snapshot is in this round or in the next one."""
    files = some_files(pair.source, *(f"{number}" for number in range(20)))
    stamp = files[0].stat().st_mtime_ns

    def rewrite(turn: int) -> None:
        for path in files:
            write(path, 0, b"%08d" % turn)
            touch(path, stamp)

    for _ in range(3):
        with repeated(rewrite):
            done("sync", pair.source, pair.target)
        pair.sync()


def test_a_busy_primary_never_breaks_a_round(pair: Pair) -> None:
    """Files vanish, appear and move while they are read; the round after that has it all."""
    folder = pair.source / "busy"
    folder.mkdir()
    worlds.bulk(pair.source, 500)

    def disturb(turn: int) -> None:
        path = folder / f"{turn % 50}"
        fill(path, 0, 20_000, turn)
        path.rename(folder / f"moved-{turn % 20}")
        (pair.source / f"dir-{turn % 10}").mkdir(exist_ok=True)
        if turn % 10 == 9:
            (pair.source / f"dir-{turn % 10}").rmdir()

    with repeated(disturb):
        for _ in range(3):
            ran = run("sync", pair.source, pair.target)
            assert ran.code == 0 or "busy" in ran.err, ran
    pair.sync()


def test_files_that_are_cut_while_they_are_copied_break_no_round(place: Place) -> None:
    source, target = place("ext4"), place.absent("ext4")  # data is copied there, and not cloned
    data = bytes(range(256)) * (16 * K)

    def cut(turn: int) -> None:
        path = source / f"{turn % 4}"
        path.write_bytes(data)
        os.truncate(path, turn % 3 * 1000)

    cut(0)
    with repeated(cut):
        for _ in range(8):
            done("sync", source, target)
    done("sync", source, target)
    assert_same(freeze(source), freeze(target))


@contextmanager
def repeated(change: Callable[[int], None]) -> Iterator[None]:
    """Something else changes the tree again and again meanwhile."""
    over = threading.Event()

    def work() -> None:
        turn = 0
        while not over.is_set():
            change(turn)
            turn += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_file_that_is_unlinked_but_open(pair: Pair) -> None:
    keep, gone = some_files(pair.source, "keep", "gone")
    with gone.open("r+b") as file:
        gone.unlink()
        file.write(b"still here")
        file.flush()
        pair.sync()
        with keep.open("ab") as other:
            keep.unlink()
            other.write(b"more")
            other.flush()
            pair.sync()
    pair.sync()


def test_an_empty_tree(pair: Pair) -> None:
    pair.sync()
    some_files(pair.source, "a", "b/c")
    pair.sync()
    for name in ("a", "b"):
        worlds.remove(pair.source / name)
    pair.sync()


# --- hard links -------------------------------------------------------------------------------


def test_a_hard_link_moves_between_directories(pair: Pair) -> None:
    first, *_ = some_files(pair.source, "a/first", "b/other")
    second = pair.source / "b/second"
    os.link(first, second)
    pair.sync()
    second.rename(pair.source / "a/third")
    assert pair.sync()["data_bytes"] == 0


def test_a_hard_link_group_loses_its_first_name(pair: Pair) -> None:
    first, *_ = some_files(pair.source, "first")
    for name in ("second", "third"):
        os.link(first, pair.source / name)
    pair.sync()
    first.unlink()
    assert pair.sync()["data_bytes"] == 0
    (pair.source / "second").unlink()
    append(pair.source / "third", 10, 1)
    pair.sync()


def test_hard_link_groups_exchange_members(pair: Pair) -> None:
    a, b = some_files(pair.source, "a", "b")
    os.link(a, pair.source / "a2")
    os.link(b, pair.source / "b2")
    pair.sync()
    exchange(pair.source / "a2", pair.source / "b2")
    pair.sync()


def test_hard_links_of_what_is_not_a_file(pair: Pair) -> None:
    os.symlink("x", pair.source / "link")
    worlds.node(pair.source / "fifo", worlds.FIFO)
    for name in ("link", "fifo"):
        os.link(pair.source / name, pair.source / f"{name}2", follow_symlinks=False)
    pair.sync()
    (pair.source / "link").unlink()
    (pair.source / "fifo2").rename(pair.source / "fifo3")
    pair.sync()


# --- attributes -------------------------------------------------------------------------------

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def test_capabilities_survive_a_change_of_owner(pair: Pair) -> None:
    (program,) = some_files(pair.source, "program")
    os.chown(program, 1000, 1000)
    set_xattr(program, b"security.capability", CAPABILITY)
    pair.sync()
    os.chown(program, 2000, 2000)  # the kernel drops the capability here
    set_xattr(program, b"security.capability", CAPABILITY)
    pair.sync()
    assert os.getxattr(pair.target / "program", "security.capability") == CAPABILITY


def test_setuid_bits_survive_a_change_of_owner_and_content(pair: Pair) -> None:
    (program,) = some_files(pair.source, "program")
    os.chown(program, 1000, 1000)
    os.chmod(program, 0o6755)
    pair.sync()
    os.chown(program, 2000, 2000)
    append(program, 10, 1)
    os.chmod(program, 0o6711)
    pair.sync()
    assert (pair.target / "program").stat().st_mode & 0o7777 == 0o6711


@pytest.mark.parametrize("flag", [worlds.IMMUTABLE, worlds.APPEND_ONLY], ids=["immutable", "append"])
def test_protected_files_change_move_and_go(pair: Pair, flag: int) -> None:
    """The flag comes last on the standby, and out of the way first."""
    changed, moved, gone, freed = some_files(pair.source, "changed", "moved", "gone", "freed")
    folder = pair.source / "folder"
    some_files(folder, "inside")
    everything = (changed, moved, gone, freed, folder / "inside", folder)
    for path in everything:
        set_flags(path, flag)
    pair.sync()
    for path in everything:
        set_flags(path, 0, flag)
    fill(changed, 0, 9_000, 8)
    moved.rename(folder / "moved")
    gone.unlink()
    some_files(folder, "new")
    for path in (changed, folder / "moved", folder / "new", folder):
        set_flags(path, flag)
    pair.sync()
    set_flags(folder, 0, flag)
    set_flags(folder / "moved", 0, flag)
    set_flags(folder / "new", 0, flag)
    worlds.remove(folder)
    pair.sync()


@pytest.mark.parametrize("flag", [worlds.IMMUTABLE, worlds.APPEND_ONLY], ids=["immutable", "append"])
def test_a_protected_file_gains_and_loses_names(pair: Pair, flag: int) -> None:
    """Its flags are the same before and after, but were out of the way in between."""
    (file,) = some_files(pair.source, "dir/file")
    set_flags(file, flag)
    pair.sync()
    set_flags(file, 0, flag)
    os.link(file, pair.source / "second")
    set_flags(file, flag)
    pair.sync()
    set_flags(file, 0, flag)
    worlds.remove(file.parent)
    set_flags(pair.source / "second", flag)
    pair.sync()


def test_inode_flags_of_each_kind(pair: Pair) -> None:
    file, folder = pair.source / "file", pair.source / "folder"
    fill(file, 0, 100, 1)
    folder.mkdir()
    for flag in (worlds.NODUMP, worlds.NOATIME, 0x8):
        set_flags(file, flag)
        set_flags(folder, flag)
        pair.sync()
    set_flags(file, 0, worlds.NODUMP | worlds.NOATIME | 0x8)
    pair.sync()


def test_a_new_file_does_not_inherit(pair: Pair) -> None:
    """Default ACL, group and flags of a directory must not rub off on what is moved into it."""
    folder = pair.source / "folder"
    folder.mkdir()
    worlds.set_acl(folder, "default", 1001, 7)
    os.chown(folder, 0, 50)
    os.chmod(folder, 0o2770)
    set_flags(folder, worlds.NODUMP)
    pair.sync()
    (outside,) = some_files(pair.source, "outside")
    (pair.source / "subdir").mkdir()
    outside.rename(folder / "file")
    (pair.source / "subdir").rename(folder / "subdir")
    pair.sync()


def test_access_lists_come_and_go(pair: Pair) -> None:
    (file,) = some_files(pair.source, "dir/file")
    worlds.set_acl(file, "access", 1001, 5)
    worlds.set_acl(file.parent, "default", 1001, 5)
    pair.sync()
    worlds.set_acl(file, "access", 1002, 2)
    worlds.remove_xattr(file.parent, b"system.posix_acl_default")
    pair.sync()
    worlds.remove_xattr(file, b"system.posix_acl_access")
    pair.sync()


def test_xattrs_of_each_namespace_on_each_kind(pair: Pair) -> None:
    (file,) = some_files(pair.source, "file")
    folder, link, fifo = (pair.source / name for name in ("folder", "link", "fifo"))
    folder.mkdir()
    link.symlink_to("x")
    worlds.node(fifo, worlds.FIFO)
    for path in (file, folder, link, fifo):
        for space in (b"trusted", b"security"):
            set_xattr(path, space + b".bytes", b"\x00\xff\n")
    for path in (file, folder):
        set_xattr(path, b"user." + b"n" * 250, b"")
        set_xattr(path, b"user.\xff\xfe", b"name is not utf-8")
        set_xattr(path, b"user.large", b"v" * 2_000)
    pair.sync()
    for path in (file, folder, link, fifo):
        set_xattr(path, b"trusted.bytes", b"changed")
        worlds.remove_xattr(path, b"security.bytes")
    pair.sync()


def test_times_before_1970_and_to_the_nanosecond(pair: Pair) -> None:
    times = [-1, -1_000_000_001, -(10**18) - 1, 0, 1, 999_999_999, 2**31 * 10**9 + 7, 2**32 * 10**9]
    for number, time in enumerate(times):
        (path,) = some_files(pair.source, f"{number}")
        (pair.source / f"dir-{number}").mkdir()
        os.symlink("x", pair.source / f"link-{number}")
        touch(pair.source / f"dir-{number}", time)
        touch(pair.source / f"link-{number}", time)
        touch(path, time)
    pair.sync()
    for number, time in enumerate(times):
        touch(pair.source / f"{number}", time - 1)
        touch(pair.source / f"link-{number}", time - 1)
    pair.sync()


def test_directory_times_are_kept_whatever_happens_inside(pair: Pair) -> None:
    some_files(pair.source, "a/b/file", "a/gone")
    for path in ("a/b", "a"):
        touch(pair.source / path, 1_000_000_007)
    pair.sync()
    (pair.source / "a/gone").unlink()
    some_files(pair.source, "a/b/new")
    (pair.source / "a/b/file").rename(pair.source / "a/file")
    for path in ("a/b", "a"):
        touch(pair.source / path, 1_000_000_007)
    pair.sync()


def test_the_root_directory_has_attributes_too(pair: Pair) -> None:
    os.chown(pair.source, 12, 34)
    os.chmod(pair.source, 0o1750)
    set_xattr(pair.source, b"user.root", b"1")
    worlds.set_acl(pair.source, "default", 1001, 5)
    touch(pair.source, 1_000_000_007)
    pair.sync()
    assert pair.target.stat().st_mtime_ns == 1_000_000_007
    set_xattr(pair.source, b"user.root", b"2")
    os.chmod(pair.source, 0o755)
    touch(pair.source, -5)
    pair.sync()
    touch(pair.source, 7)
    pair.sync()


def test_taking_a_snapshot_leaves_the_primary_as_it_is(pair: Pair) -> None:
    """Times included, those of the root directory too."""
    some_files(pair.source, "a", "dir/b")
    touch(pair.source, 1_000_000_007)
    before = freeze(pair.source)
    pair.sync()
    assert_same(before, pair.source)


def test_special_files(pair: Pair) -> None:
    worlds.node(pair.source / "fifo", worlds.FIFO)
    worlds.node(pair.source / "null", worlds.CHAR, os.makedev(1, 3))
    worlds.node(pair.source / "block", 0o060000, os.makedev(300, 70_000))
    bind(pair.source / "socket")
    pair.sync()
    (pair.source / "null").unlink()
    worlds.node(pair.source / "null", worlds.CHAR, os.makedev(1, 5))
    os.chmod(pair.source / "fifo", 0o600)
    (pair.source / "socket").rename(pair.source / "socket2")
    worlds.remove(pair.source / "block")
    pair.sync()


def bind(path: Path) -> None:
    """A socket that a server made and left."""
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def test_symlinks_of_every_target(pair: Pair) -> None:
    targets = [b"x", b"/", b"..", b"a" * 1023, b"\xff\n", b"/proc/self/fd/0", b"./" * 300]
    root = os.fsencode(pair.source)
    for number, target in enumerate(targets):
        os.symlink(target, os.path.join(root, b"%d" % number))
    pair.sync()
    worlds.retarget(os.path.join(root, b"0"), b"y")
    # Same length, same time: only the target itself differs.
    stamp = os.lstat(os.path.join(root, b"1")).st_mtime_ns
    worlds.retarget(os.path.join(root, b"1"), b"~")
    touch(os.path.join(root, b"1"), stamp)
    pair.sync()


# --- on some pairs only -----------------------------------------------------------------------


@pytest.mark.parametrize("source", ["xfs", "ext4"])
def test_another_mount_is_not_replicated_and_said_once(place: Place, source: str) -> None:
    """What lies underneath is."""
    pair = Pair.make(place, (source, "btrfs"))
    some_files(pair.source, "file", "below/hidden")
    points = [pair.source / "below", pair.source / "other-mount"]
    points[1].mkdir()
    for point in points:
        sh("mount", "-t", "tmpfs", "none", point)
        (point / "foreign").touch()
    try:
        report = done("sync", pair.source, pair.target)
        assert said_about(report, "below", "other-mount") == 1
    finally:
        sh("umount", *points)
    assert (pair.target / "below/hidden").exists()
    assert_same(pair.source, pair.target)


def said_about(report: dict[str, object], *names: str) -> int:
    """How many notes and losses name one of the paths."""
    said = [*report["notes"], *report["losses"]]  # type: ignore[misc]
    return sum(any(name in str(line) for name in names) for line in said)


def test_a_nested_subvolume_is_not_replicated_and_said_once(place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "btrfs"))
    (pair.source / "dir").mkdir()
    some_files(pair.source, "file")
    for name in ("nested", "dir/nested"):
        subvolume(pair.source / name)
        (pair.source / name / "inside").touch()
    report = pair.sync()
    assert said_about(report, "nested") == 1
    assert not (pair.target / "nested" / "inside").exists()
    some_files(pair.source, "other")
    pair.sync()
    assert (pair.source / "nested" / "inside").exists()


def test_a_plain_directory_on_btrfs_is_a_pool_volume(place: Place) -> None:
    pair = Pair(place.absent("btrfs"), place.absent("btrfs"))
    pair.source.mkdir()
    some_files(pair.source, "a", "b/c")
    report = pair.sync()
    assert report["primary"]["provider"] == "pool"
    assert report["standby"]["provider"] == "btrfs"
    some_files(pair.source, "b/d")
    pair.sync()


def test_an_empty_directory_can_be_the_target(place: Place) -> None:
    for kind in KINDS:
        pair = Pair(place("xfs"), place(kind))
        some_files(pair.source, "a")
        pair.sync()


@pytest.mark.parametrize("source", ["btrfs", "ext4"])
def test_a_symlink_too_long_for_xfs_is_named_and_never_cut(place: Place, source: str) -> None:
    pair = Pair.make(place, (source, "xfs"))
    some_files(pair.source, "file")
    target = b"d/" * 1_500
    os.symlink(target, os.fsencode(pair.source) + b"/long-link")
    strict = run("sync", pair.source, pair.target, "--strict")
    assert strict.code == 3
    assert "long-link" in strict.err
    assert not (pair.target / "file").exists()
    ran = run("sync", pair.source, pair.target, "--json")
    assert ran.code in (0, 3)
    assert "long-link" in (ran.out if ran.code == 0 else ran.err)
    assert not os.path.lexists(pair.target / "long-link")
    if ran.code == 0:
        assert_same(pair.source, pair.target, without=[b"long-link"])


def test_a_symlink_of_any_length_goes_where_it_fits(place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "ext4"))
    os.symlink("d/" * 1_500, pair.source / "long-link")
    pair.sync()


def test_clones_of_two_halves_of_a_compressed_extent_differ(place: Place) -> None:
    """Both halves show the same address: only the offset into the extent tells them apart."""
    need("xfs_io")
    pair = Pair.make(place, ("btrfs", "xfs"))
    sh("btrfs", "property", "set", pair.source, "compression", "zstd")
    whole, half = pair.source / "whole", pair.source / "half"
    write(whole, 0, b"first half" * 6_000 + b"second hal" * 6_000)
    sh("sync", whole)
    worlds.truncate(whole, 114_688)
    sh("xfs_io", "-f", "-c", f"reflink {whole} 0 0 57344", half)
    stamp = half.stat().st_mtime_ns
    pair.sync()
    sh("xfs_io", "-c", f"reflink {whole} 57344 0 57344", half)
    touch(half, stamp)
    assert half.read_bytes()[:10] != whole.read_bytes()[:10]
    pair.sync()


def test_files_without_copy_on_write(place: Place) -> None:
    """They reuse addresses, until a snapshot pins their blocks."""
    pair = Pair.make(place, ("btrfs", "btrfs"))
    file = pair.source / "database"
    file.touch()
    set_flags(file, worlds.NOCOW)
    fill(file, 0, 256 * K, 1)
    pair.sync()
    stamp = file.stat().st_mtime_ns
    for seed in (2, 3):
        fill(file, 64 * K, 4 * K, seed)
        touch(file, stamp)
        pair.sync()
    assert freeze(pair.target).entries[b"database"].flags & worlds.NOCOW


def test_defragmentation_moves_nothing(place: Place) -> None:
    """The address differs, the bytes do not: a ghost, which is not sent."""
    pair = Pair.make(place, ("btrfs", "xfs"))
    file = pair.source / "file"
    for block in range(64):
        fill(file, block * 4 * K, 4 * K, block)
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    pair.sync()
    subprocess.run(["btrfs", "filesystem", "defragment", "-f", "-t", "1G", file], check=True)
    assert pair.sync()["data_bytes"] == 0


def test_a_file_that_never_holds_still_is_named(place: Place) -> None:
    """Where a snapshot copies, a file that changes all the while cannot be caught in one state."""
    pair = Pair.make(place, ("ext4", "xfs"))
    some_files(pair.source, "quiet")
    restless = pair.source / "restless"
    fill(restless, 0, 64 * MIB, 1)
    with repeated(lambda turn: write(restless, turn % 64 * MIB, b"%08d" % turn)):
        ran = run("sync", pair.source, pair.target)
    assert ran.code in (0, 1, 3)
    assert "restless" in ran.err
    pair.sync()
