"""Every version of a file is found, once, and can be had back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import worlds
from machine import Place, assert_told, done, need, run, sh, snapshots
from oracle import freeze
from worlds import exchange, fill

KINDS = ("btrfs", "xfs", "ext4")


def told(file: Path) -> list[tuple[int, list[str], bool]]:
    """Number, snapshots and whether it is the live file, of each version."""
    versions: list[dict[str, Any]] = done("versions", file)["versions"]
    return [(v["number"], [s["name"] for s in v["snapshots"]], v["live"]) for v in versions]


def take(volume: Path, name: str) -> None:
    done("snapshot", volume, "--name", name)


@pytest.fixture(params=KINDS)
def volume(request: pytest.FixtureRequest, place: Place) -> Path:
    return place(request.param)


def test_versions_are_told_by_what_they_hold(volume: Path) -> None:
    file = volume / "dir/file"
    file.parent.mkdir()
    (volume / "dir/other").mkdir()
    take(volume, "before")
    file.write_bytes(b"one" * 1000)
    fill(volume / "dir/other/file", 0, 100, 1)
    take(volume, "a")
    fill(volume / "unrelated", 0, 100, 1)
    take(volume, "same")
    worlds.touch(file, 1_000_000_007)
    os.chmod(file, 0o600)
    take(volume, "touched")
    worlds.rewrite_quietly(file, 10, 20, 3)
    take(volume, "quiet")
    file.unlink()
    take(volume, "gone")
    file.symlink_to("one")
    take(volume, "link")
    file.unlink()
    file.write_bytes(b"one" * 1000)
    expected = [
        (1, ["a", "same", "touched"], True),
        (2, ["quiet"], False),
        (3, ["link"], False),
    ]
    assert told(file) == expected
    file.unlink()
    assert told(file) == [(number, names, False) for number, names, _ in expected]
    assert "not there now" in run("versions", file).out
    file.write_text("new")
    assert told(file)[3] == (4, [], True)


def test_a_whole_table_is_read_once_for_all_snapshots_that_share_it(place: Place, tmp_path: Path) -> None:
    """And what their patches say of the path is believed before it: also of the directories above."""
    need("strace")
    volume = place("xfs")
    file = volume / "a/a/file"
    for name in ("a/a", "b/a"):
        (volume / name).mkdir(parents=True)
        (volume / name / "file").write_text(name)
    take(volume, "first")
    exchange(volume / "a", volume / "b")
    take(volume, "exchanged")
    (volume / "a").rename(volume / "away")
    take(volume, "away")
    (volume / "a").mkdir()
    (volume / "away/a").rename(volume / "a/a")
    take(volume, "back")
    assert told(file) == [(1, ["first"], False), (2, ["exchanged", "away", "back"], True)]
    few = whole_tables_opened_for(file, tmp_path)
    for name in ("c", "d", "e", "f"):
        (volume / name).write_text(name)
        take(volume, name)
    assert told(file)[1] == (2, ["exchanged", "away", "back", "c", "d", "e", "f"], True)
    assert whole_tables_opened_for(file, tmp_path) == few > 0


def whole_tables_opened_for(file: Path, tmp_path: Path) -> int:
    trace = tmp_path / "calls"
    ran = run("versions", file, wrap=("strace", "-f", "-qq", "-e", "trace=openat2", "-o", str(trace)))
    assert ran.code == 0, ran
    opened = [line for line in trace.read_text(errors="replace").splitlines() if '/table.arrow"' in line]
    return sum("O_PATH" not in line for line in opened)


def test_a_name_of_any_bytes_has_versions(volume: Path) -> None:
    file = volume / os.fsdecode(b"\xff\xfe")
    file.write_text("a")
    take(volume, "one")
    file.write_text("b")
    assert told(file) == [(1, ["one"], False), (2, [], True)]
    assert len(told(Path(os.fsdecode(os.fsencode(volume) + b"/\xff\xfe")))) == 2


def test_a_hard_link_is_found_by_each_name(volume: Path) -> None:
    (volume / "d").mkdir()
    fill(volume / "d/a", 0, 5000, 1)
    os.link(volume / "d/a", volume / "b")
    take(volume, "one")
    for name in ("d/a", "b"):
        assert told(volume / name) == [(1, ["one"], True)]


def test_a_version_is_put_back_in_place(volume: Path) -> None:
    file = volume / "dir/file"
    file.parent.mkdir()
    file.write_text("one")
    os.chmod(file, 0o640)
    then = freeze(volume).entries[b"dir/file"]
    take(volume, "a")
    file.write_text("two")
    report = done("versions", file, "--restore", 1)
    assert freeze(volume).entries[b"dir/file"] == then
    assert report["before"]["id"] == snapshots(volume)[-1]["id"]
    assert told(file) == [(1, ["a"], True), (2, [report["before"]["name"]], False)]
    sh("rm", "-r", file.parent)
    done("versions", file, "--restore", 2)
    assert file.read_text() == "two"


def test_a_version_is_made_elsewhere(volume: Path, tmp_path: Path) -> None:
    file, to = volume / "dir/file", tmp_path / "made"
    file.parent.mkdir()
    fill(file, 0, 300_000, 1)
    then = freeze(volume).entries[b"dir/file"]
    take(volume, "a")
    file.write_text("two")
    done("versions", file, "--restore", 1, "--to", to)
    made = freeze(tmp_path).entries[b"made"]
    assert (made.content, made.mode, made.mtime_ns) == (then.content, then.mode, then.mtime_ns)
    assert os.listdir(tmp_path) == ["made"]
    assert_told(run("versions", file, "--restore", 1, "--to", to), "already", codes=(3,))
    assert file.read_text() == "two"


def test_a_version_is_named_by_its_number(place: Place) -> None:
    volume = place("xfs")
    file = volume / "file"
    file.write_text("1")
    take(volume, "a")
    file.write_text("2")
    for wrong in (("--restore", 9), ("--to", "x"), (3,)):
        assert_told(run("versions", file, *wrong), codes=(2,))
    assert_told(run("versions", file, "--restore", 2), "no snapshot", codes=(2,))


def test_what_never_was_has_no_versions(place: Place, tmp_path: Path) -> None:
    volume = place("xfs")
    take(volume, "one")
    assert_told(run("versions", volume / "nothing"), codes=(2,))
    assert_told(run("versions", tmp_path / "nothing"), "no volume", codes=(2,))
    assert_told(run("versions", volume / ".snapsync/store/volume.json"), codes=(2,))


def test_what_patterns_leave_out_is_in_no_snapshot(place: Place) -> None:
    volume, standby = place("btrfs"), place.absent("btrfs")
    file = volume / "a.log"
    file.write_text("a")
    done("sync", volume, standby, "--name", "all")
    done("sync", volume, standby, "--name", "part", "--exclude", "*.log")
    assert told(file) == [(1, ["all"], True)]


def test_a_volume_is_no_file_of_itself(volume: Path) -> None:
    take(volume, "a")
    assert_told(run("versions", volume), f"{volume} is a volume itself", "a file in it", codes=(2,))
