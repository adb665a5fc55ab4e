"""File systems in user space rename what is removed while it is open: removing it ends all the same."""

from __future__ import annotations

from pathlib import Path

from machine import FileSystems, Pair, Place, done, need, sh, start, status, wait_until
from oracle import assert_same
from test_rehearsal import fuse
from test_undo import meanwhile
from worlds import bulk


def test_a_refused_round_ends_and_leaves_no_stage(file_systems: FileSystems, place: Place) -> None:
    with fuse(file_systems, "exfat") as point:
        source = place("ext4")
        bulk(source, 20)
        process = start("sync", source, point / "copy", "--strict", "-q")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 3, err
        assert not (point / "copy").exists()


def test_times_are_set_where_only_both_are(place: Place, tmp_path: Path) -> None:
    """bindfs leaves both as they are when the access time is to stay."""
    need("bindfs")
    source, real, point = place("ext4"), tmp_path / "real", tmp_path / "point"
    bulk(source, 3)
    sh("touch", "-d", "2020-02-02 02:02:02.123456789", *source.iterdir())
    real.mkdir()
    point.mkdir()
    sh("bindfs", real, point)
    try:
        assert not done("sync", source, point / "copy")["losses"]
        assert_same(source, point / "copy", ignore={"layout"})
    finally:
        sh("umount", point)


def test_rounds_of_a_primary_leave_nothing_behind(place: Place, tmp_path: Path) -> None:
    need("bindfs")
    real, point = place("ext4"), tmp_path / "point"
    point.mkdir()
    sh("bindfs", real, point)
    try:
        pair = Pair(point / "volume", place.absent("xfs"))
        pair.source.mkdir()
        for number in range(3):
            (pair.source / "file").write_text(str(number))
            done("sync", pair.source, pair.target)
            assert not list((pair.source / ".snapsync/store/reading").iterdir())
    finally:
        sh("umount", point)


def test_what_somebody_holds_open_in_the_stage_is_left_to_the_next_command(
    file_systems: FileSystems, place: Place
) -> None:
    with fuse(file_systems, "exfat") as point:
        pair = Pair(place("ext4"), point / "copy")
        bulk(pair.source, 20)
        held = []
        with meanwhile(pair, "commit.applied", 1, "cannot remove the stage", "busy"):
            (manifest,) = pair.target.glob(".snapsync/incoming/*/manifest.arrow")
            held.append(manifest.open("rb"))
        assert status(pair.target)["unfinished"]["phase"] == "applied"
        held.pop().close()
        # It goes when the file system has heard that it is closed.
        wait_until(lambda: done("recover", pair.target)["unfinished"] is None)
        assert not list(pair.target.glob(".snapsync/incoming/*"))
        done("sync", pair.source, pair.target)
