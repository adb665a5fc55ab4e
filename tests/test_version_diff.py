"""What `versions --diff` writes leads from one version to the other: `patch` shows it, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import Place, assert_told, command, done, environment, need, run

from snapsync.api import restores
from snapsync.volume import Volume

State = bytes | str | None
"""What is at a path: the bytes of a file, the target of a link, or nothing."""

LINES = [
    b"",
    b"a",
    b"b",
    b"}",
    b"\ta",
    b"a\r",
    b"-- a",
    b"++ b",
    b"@@ -1 +1 @@",
    b"\\ No newline at end of file",
]
LINES += [
    b"diff --git a/x b/x",
    b"--- a/x",
    b"+++ b/x",
    b"Index: x",
    b"\xff\xfe",
    "ü".encode(),
    b" ",
    b"index 0..1",
]

texts = st.builds(
    lambda lines, end: b"\n".join(lines) + end,
    st.lists(
        st.sampled_from(LINES) | st.binary(max_size=8).map(lambda b: b.translate(None, b"\0\n")), max_size=25
    ),
    st.sampled_from([b"", b"\n"]),
)
states = texts | texts | texts | st.none() | st.sampled_from(["target", "other", "with space"])
names = (
    st.binary(min_size=1, max_size=40)
    .map(lambda b: b.translate(None, b"\0/\n"))
    .filter(lambda b: b not in (b"", b".", b"..", b".snapsync"))
)


def put(file: Path, state: State) -> None:
    file.unlink(missing_ok=True)
    if isinstance(state, bytes):
        file.write_bytes(state)
    elif state is not None:
        file.symlink_to(state)


def state_of(file: Path) -> State:
    if file.is_symlink():
        return os.readlink(file)
    return file.read_bytes() if file.exists() else None


def patched(directory: Path, patch: bytes, *options: str) -> None:
    """Lets the real `patch` do it, which is to be sure of every line."""
    strict = ["patch", "-p1", "--fuzz=0", "--batch", "--no-backup-if-mismatch", *options]
    ran = subprocess.run(strict, input=patch, cwd=directory, capture_output=True)
    assert ran.returncode == 0, (ran.stdout, ran.stderr, patch)
    assert b"offset" not in ran.stdout, ran.stdout


def raw(file: Path, *numbers: int) -> bytes:
    """The patch, by the command."""
    ran = subprocess.run(
        [*command(), "versions", file, "--diff", *map(str, numbers)], capture_output=True, env=environment()
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def follow(volume: Volume, there: Path, name: bytes, history: Sequence[State]) -> None:
    """Patches `there` from each state to the next one, and back where `patch` knows a way back."""
    file, before = volume.path / os.fsdecode(name), None
    numbers: dict[State, int] = {None: 0}
    for state in history:
        numbers.setdefault(state, len(numbers))
    for state in history:
        text = restores.versions(file, diff=(numbers[before], numbers[state])).diff
        assert text is not None
        patch = text.encode(errors="surrogateescape")
        assert (patch == b"") == (state == before)
        if patch:
            patched(there, patch)
            assert state_of(there / os.fsdecode(name)) == state, patch
            if not isinstance(state, str) and not isinstance(before, str):
                patched(there, patch, "--reverse")
                assert state_of(there / os.fsdecode(name)) == before, patch
                put(there / os.fsdecode(name), state)
        before = state


def test_patch_makes_each_version_of_the_one_before(place: Place, tmp_path: Path) -> None:
    """Also of nothing, and of links, whatever the lines and the name are; and back again."""
    need("patch")
    histories = st.dictionaries(names, st.tuples(states, states, states, states), min_size=1, max_size=8)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories)
    def check(files: dict[bytes, tuple[State, ...]]) -> None:
        volume = Volume(place("xfs"))
        there = tmp_path / volume.path.name
        there.mkdir()
        for states in zip(*files.values(), strict=True):
            for name, state in zip(files, states, strict=True):
                put(volume.path / os.fsdecode(name), state)
            volume.snapshot()
        for name, history in files.items():
            if any(state is not None for state in history):
                follow(volume, there, name, history)

    check()


def test_the_last_change_is_shown_where_no_version_is_named(place: Place, tmp_path: Path) -> None:
    """Also where a file is what it was before, is gone, or is there again."""
    need("patch")
    volume = Volume(place("btrfs"))
    file, there = volume.path / "file", tmp_path / "file"
    volume.snapshot()
    before: State = None
    history: list[State] = [b"1\n", b"1\n2\n", b"1\n", None, b"1\n2\n", b"3", "link", None, b""]
    for number, state in enumerate(history):
        put(file, state)
        put(there, before)
        patched(tmp_path, raw(file))
        assert state_of(there) == state
        if number % 2:
            volume.snapshot()
        before = state if number % 2 else before
    file.unlink()
    volume.snapshot()
    done("delete", f"{volume.path}@latest")
    assert b"deleted file" in raw(file)


def test_a_diff_is_that_of_the_two_texts(place: Place) -> None:
    volume = place("xfs")
    file = volume / "dir/a file"
    file.parent.mkdir()
    file.write_text("1\n2\n3\n")
    done("snapshot", volume)
    file.write_text("1\n2\nthree\n")
    done("snapshot", volume)
    expected = (
        'diff --git "a/dir/a file" "b/dir/a file"\n'
        '--- "a/dir/a file"\tversion 1\n+++ "b/dir/a file"\tversion 2\n'
        "@@ -1,3 +1,3 @@\n 1\n 2\n-3\n+three\n"
    )
    assert run("versions", file, "--diff").out == expected
    assert run("versions", file, "--diff", "--quiet").out == expected
    assert run("versions", file, "--diff", 1).out == expected
    assert done("versions", file, "--diff", 1, 2)["diff"] == expected
    assert done("versions", file)["diff"] is None
    assert run("versions", file, "--diff", 2, 2).out == ""
    assert done("versions", file, "--diff", 1, 1)["diff"] == ""
    assert "+++ /dev/null" in run("versions", file, "--diff", 2, 0).out
    file.write_text("1\n2\n3")
    cut = ["-3", "+3", "\\ No newline at end of file"]
    assert run("versions", file, "--diff", 1).out.splitlines()[-3:] == cut


def test_what_is_no_text_is_said_to_differ(place: Place) -> None:
    volume = place("xfs")
    file = volume / "file"
    for content in (b"text\n", b"a\0", b"b\0"):
        file.write_bytes(content)
        done("snapshot", volume)
    file.unlink()
    file.mkdir()
    done("snapshot", volume)
    differ = "diff --git a/file b/file\nBinary files a/file and b/file differ\n"
    assert run("versions", file, "--diff", 1, 2).out == differ
    assert run("versions", file, "--diff", 2, 3).out == differ
    assert run("versions", file, "--diff", 0, 2).out.endswith("Binary files /dev/null and b/file differ\n")
    assert run("versions", file, "--diff", 2, 0).out.endswith("Binary files a/file and /dev/null differ\n")
    kinds = "File a/file is a regular file while file b/file is a directory\n"
    assert run("versions", file, "--diff", 1).out == kinds


def test_a_diff_keeps_whether_a_file_may_be_run(place: Place, tmp_path: Path) -> None:
    need("patch")
    volume = place("xfs")
    file = volume / "file"
    file.write_text("a\n")
    file.chmod(0o640)
    done("snapshot", volume)
    file.write_text("b\n")
    file.chmod(0o750)
    patched(tmp_path, raw(file, 0, 1))
    assert not (tmp_path / "file").stat().st_mode & 0o111
    patched(tmp_path, raw(file, 1))
    assert (tmp_path / "file").stat().st_mode & 0o111


def test_bytes_that_are_not_utf8_are_in_the_patch_as_they_are(place: Place) -> None:
    volume = place("xfs")
    file = volume / "file"
    file.write_bytes(b"\xe4\n\x1b[31m\n")
    done("snapshot", volume)
    patch = raw(file)
    assert patch.endswith(b"+\xe4\n+\x1b[31m\n")
    assert done("versions", file, "--diff")["diff"].encode(errors="surrogateescape") == patch


def test_a_large_file_is_refused_and_said_to_differ_where_it_is_no_text(place: Place) -> None:
    volume = place("xfs")
    file = volume / "file"
    with file.open("wb") as opened:
        opened.truncate(1 << 40)
    done("snapshot", volume)
    with file.open("wb") as opened:
        opened.write(b"line\n" * (1 << 20) * 7)
    done("snapshot", volume)
    assert "Binary files" in run("versions", file, "--diff").out
    done("snapshot", volume)
    with file.open("ab") as opened:
        opened.write(b"last\n")
    assert_told(run("versions", file, "--diff"), "version 2", "16.0 MiB", "--restore", codes=(3,))


MOST = 16 << 20


def distinct(seed: int) -> bytes:
    """As many short lines as fit, each once; with another seed others."""
    return b"".join(b"%x%x\n" % (seed, number) for number in range(1 << 22))[:MOST]


def alike(seed: int) -> bytes:
    """As many lines as there can be of two sorts, in any order: the shortest patch would take hours."""
    letters = random.Random(seed).randbytes(MOST // 2).translate(b"ab" * 128)
    return b"\n".join(letters[at : at + 1] for at in range(MOST // 2))


MEASURED = """
import re, sys
from snapsync.api.restores import versions
sys.stdout.write(versions(sys.argv[1], diff=()).diff)
print(re.search(r"VmHWM:\\s*([0-9]+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""
"""Tells the most memory that a diff has taken, in KiB, and nothing of what the test itself has."""


@pytest.mark.parametrize("made", [distinct, alike])
def test_the_largest_files_are_compared_in_bounded_memory(place: Place, made: Callable[[int], bytes]) -> None:
    volume = place("xfs")
    file = volume / "file"
    file.write_bytes(made(1))
    done("snapshot", volume)
    file.write_bytes(made(2))
    ran = subprocess.run([sys.executable, "-c", MEASURED, file], capture_output=True, env=environment())
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout) > MOST // 2
    assert int(ran.stderr.split()[-1]) < 384 << 10


def test_numbers_of_versions_that_make_no_sense_are_refused(place: Place) -> None:
    volume = place("xfs")
    file = volume / "file"
    file.write_text("a")
    done("snapshot", volume)
    for wrong in (("--diff", 9), ("--diff", 1, 9), ("--diff", "--", -1), ("--diff", 1, "--restore", 1), (1,)):
        assert_told(run("versions", file, *wrong), codes=(2,))
    assert_told(run("versions", file, "--diff", 9), "no version 9", "1 version", codes=(2,))
