"""File systems in user space rename what is removed while it is open: removing it ends all the same."""

from __future__ import annotations

from machine import FileSystems, Pair, Place, done, start, status, wait_until
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
