"""The versions of a file are those that it had under all its names."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine import Place, done


def told(file: Path) -> list[tuple[str, list[str], bool]]:
    found = done("versions", file)["versions"]
    return [(v["path"], [snap["name"] for snap in v["snapshots"]], v["live"]) for v in found]


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_file_is_followed_through_renames_of_it_and_of_directories_above(place: Place, kind: str) -> None:
    volume = place(kind)
    (volume / "a/b").mkdir(parents=True)
    (volume / "a/b/plan").write_text("one")
    done("snapshot", volume, "--name", "s0")
    (volume / "a/b/plan").write_text("two, longer")
    (volume / "a").rename(volume / "c")
    done("snapshot", volume, "--name", "s1")
    (volume / "c/b/plan").rename(volume / "c/final")
    done("snapshot", volume, "--name", "s2")
    # As many programs change a file: by another that takes its place.
    (volume / "c/new").write_text("three")
    (volume / "c/new").rename(volume / "c/final")
    done("snapshot", volume, "--name", "s3")
    wanted = [("a/b/plan", ["s0"], False), ("c/final", ["s1", "s2"], False), ("c/final", ["s3"], True)]
    assert told(volume / "c/final") == wanted
    assert told(volume / "a/b/plan") == wanted
    assert told(volume / "c/b/plan") == wanted
    (volume / "c/final").unlink()
    done("snapshot", volume, "--name", "s4")
    assert told(volume / "a/b/plan") == [(path, names, False) for path, names, _ in wanted]
    there = volume.parent / "back"
    done("versions", volume / "c/final", "--restore", "1", "--to", there)
    assert there.read_text() == "one"
