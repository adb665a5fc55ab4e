"""Names that move while a pool snapshot is taken are in it once, under one of the names that they had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import Place, done, run, stopped_at

# Moves files and directories to and fro until its input ends, and then says so.
MOVER = """
import os, select, sys
root, k = sys.argv[1], 0
print("moving", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    one, other = ("new", "cur") if k % 2 == 0 else ("cur", "new")
    for name in sorted(os.listdir(f"{root}/{one}")):
        os.rename(f"{root}/{one}/{name}", f"{root}/{other}/{name}")
    os.rename(f"{root}/a/d", f"{root}/b/d") if k % 2 == 0 else os.rename(f"{root}/b/d", f"{root}/a/d")
    os.rename(f"{root}/plain", f"{root}/spare")
    os.rename(f"{root}/thing", f"{root}/plain")
    os.rename(f"{root}/spare", f"{root}/thing")
    k += 1
"""


@contextmanager
def moving(root: Path) -> Iterator[None]:
    mover = subprocess.Popen(
        [sys.executable, "-c", MOVER, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert mover.stdout is not None
    assert mover.stdout.readline() == b"moving\n"
    try:
        yield
    finally:
        mover.communicate()
        assert mover.returncode == 0


def names(*directories: Path) -> list[str]:
    found = [entry.name for directory in directories if directory.is_dir() for entry in directory.iterdir()]
    return sorted(found)


@pytest.fixture(params=["ext4", "xfs"])
def source(request: pytest.FixtureRequest, place: Place) -> Path:
    root = place(request.param)
    for directory in ("new", "mid", "cur", "a", "b", "a/d", "a/d/e", "plain"):
        (root / directory).mkdir()
    for number in range(400):
        (root / f"mid/{number}").touch()
    for number in range(60):
        (root / f"new/k{number}").write_text(f"{number}")
        (root / f"a/d/e/{number}").write_text(f"e{number}")
    # What is a directory now is a file a moment later.
    (root / "thing").write_text("thing")
    return root


def test_nothing_is_lost_or_doubled_that_moves_while_snapshots_are_taken(source: Path, place: Place) -> None:
    target = place.absent("ext4")
    done("sync", source, target)
    with moving(source):
        for _ in range(6):
            ran = run("sync", source, target)
            assert ran.code == 0, ran
            kept = names(target / "new", target / "cur")
            assert kept == sorted(f"k{number}" for number in range(60)), ran.err
            for directory in ("new", "cur"):
                for path in (target / directory).iterdir():
                    assert path.read_text() == path.name[1:]
                    assert os.stat(path).st_nlink == 1
            deep = [path for path in (target / "a/d", target / "b/d") if path.exists()]
            assert len(deep) == 1
            assert names(deep[0] / "e") == sorted(str(number) for number in range(60)), ran
    # When all is quiet, the standby is what the primary is.
    done("sync", source, target)
    assert done("verify", source, target)["equal"]


def test_what_moves_while_a_first_round_reads_its_tree_is_not_missing(source: Path, place: Place) -> None:
    """No base has it, and where its name says it is not there any more."""
    target = place.absent("xfs")
    done("init", source, "--history", "light")
    with moving(source):
        ran = run("sync", source, target)
        assert ran.code == 0, ran
        assert names(target / "new", target / "cur") == sorted(f"k{number}" for number in range(60)), ran.err
    done("sync", source, target)
    assert done("verify", source, target)["equal"]


def test_a_file_that_moves_into_a_directory_that_was_read_is_found(place: Place, tmp_path: Path) -> None:
    """Once, after the walk: where it is now is looked up, and nothing is said."""
    source, target = place("ext4"), place.absent("ext4")
    (source / "from").mkdir()
    (source / "to").mkdir()
    for number in range(50):
        (source / f"from/{number}").write_text(f"{number}" * 1000)
    done("init", source, "--history", "full")
    with stopped_at("snapshot.object", "sync", source, target) as process:
        for number in range(50):
            (source / f"from/{number}").rename(source / f"to/{number}")
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "vanished" not in out + err
    found = names(target / "from", target / "to")
    assert found == sorted(str(number) for number in range(50))
