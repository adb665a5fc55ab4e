"""The Python interface: typed results, promised exceptions, progress, threads, interruption."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import pytest
import worlds
from machine import MIB, Pair, Place, environment, run
from oracle import assert_same, freeze

import snapsync
from snapsync import Volume

STAGES = ["recover", "snapshot", "compare", "stage", "commit", "standby snapshot"]


@pytest.fixture
def filled(place: Place) -> Pair:
    """A primary with enough to do that progress is shown."""
    pair = Pair.make(place, ("xfs", "xfs"))
    worlds.bulk(pair.source, 2_000)
    for number in range(4):
        (pair.source / f"{number}").write_bytes(os.urandom(40 * MIB))
    return pair


def test_a_round_trip_through_the_api(pair: Pair) -> None:
    worlds.bulk(pair.source, 50)
    volume = Volume(pair.source)
    first = volume.snapshot("first")
    assert (first.name, first.sequence, first.parent) == ("first", 0, None)
    report = snapsync.sync(pair.source, pair.target, name="second")
    assert report.base is None
    assert (report.snapshot.name, report.snapshot.parent) == ("second", first.id)
    assert_same(pair.source, pair.target)
    assert snapsync.verify(volume, pair.target).equal
    assert [snap.name for snap in volume.snapshots()] == ["first", "second"]
    assert [snap.id for snap in Volume(pair.target).snapshots()] == [report.snapshot.id]
    assert volume.delete(first) == first
    assert [snap.name for snap in volume.snapshots()] == ["second"]
    assert volume.status().standbys[0].lag == 0


def test_moments_are_aware_and_results_are_typed(pair: Pair) -> None:
    snap = Volume(pair.source).snapshot()
    assert snap.created.tzinfo is not None
    assert snap.created.utcoffset() == UTC.utcoffset(None)
    assert isinstance(snap, snapsync.Snapshot)
    assert isinstance(Volume(pair.source).status(), snapsync.StatusReport)
    assert isinstance(snapsync.verify(pair.source, pair.source), snapsync.VerifyReport)


@pytest.mark.parametrize("form", [str, os.fsencode, Path, Volume], ids=lambda form: form.__name__)
def test_paths_come_in_every_form(pair: Pair, form: Callable[[Path], object]) -> None:
    (pair.source / "file").touch()
    report = snapsync.sync(form(pair.source), form(pair.target))  # type: ignore[arg-type]
    assert report.primary.path == str(pair.source)
    assert_same(pair.source, pair.target)


def test_paths_of_any_bytes(place: Place) -> None:
    home = os.fsencode(place("xfs"))
    source, target = os.path.join(home, b"\xff\nsource"), os.path.join(home, b"\xfetarget")
    os.mkdir(source)
    worlds.fill(os.path.join(source, b"\xfd"), 0, 100, 1)
    snapsync.sync(source, target)
    assert_same(source, target)
    assert os.fsencode(Volume(source).status().volume.path) == source


def test_each_failure_has_its_exception(place: Place, pair: Pair) -> None:
    (pair.source / "file").touch()
    snapsync.sync(pair.source, pair.target)
    failures: list[tuple[type[BaseException], int, Callable[[], object]]] = [
        (snapsync.RefusedError, 3, lambda: Volume(pair.target).snapshot()),
        (snapsync.SnapsyncError, 3, lambda: snapsync.sync(place("ext4"), pair.target)),
        (snapsync.UsageError, 2, lambda: snapsync.sync(pair.source, pair.source)),
        (Exception, 2, lambda: Volume(pair.source).delete("nope")),
    ]
    for kind, code, call in failures:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.exit_code == code  # type: ignore[attr-defined]
        assert caught.value.advice  # type: ignore[attr-defined]
        assert "\n" not in str(caught.value)


def test_what_the_file_system_answers_is_an_os_error(place: Place) -> None:
    missing = place.absent("xfs")
    with pytest.raises((FileNotFoundError, snapsync.UsageError)) as caught:
        Volume(missing).snapshot()
    assert str(missing) in str(getattr(caught.value, "message", caught.value))


def test_every_exception_is_a_snapsync_error() -> None:
    for kind in ("UsageError", "RefusedError", "IntegrityError", "InterruptedRound"):
        assert issubclass(getattr(snapsync, kind), snapsync.SnapsyncError)


def test_progress_is_told_on_the_callers_thread_stage_by_stage(filled: Pair) -> None:
    calls: list[tuple[str, int, int, str]] = []
    threads = set()

    def progress(stage: str, done: int, total: int, unit: str) -> None:
        calls.append((stage, done, total, unit))
        threads.add(threading.get_ident())

    snapsync.sync(filled.source, filled.target, progress=progress)
    assert threads == {threading.get_ident()}
    stages = list(dict.fromkeys(call[0] for call in calls))
    assert stages == [stage for stage in STAGES if stage in stages]
    assert "stage" in stages
    for stage in stages:
        counts = [call[1] for call in calls if call[0] == stage]
        assert counts == sorted(counts), f"{stage} went backwards"
    for _, done, total, unit in calls:
        assert unit in ("bytes", "entries")
        assert done <= total or total == 0


@pytest.mark.parametrize("stage", ["snapshot", "stage"])
def test_ctrl_c_stops_a_round_that_the_next_call_heals(filled: Pair, stage: str) -> None:
    """The signal comes while the call is in that stage, as from a terminal."""

    def progress(now: str, *_: object) -> None:
        if now == stage:
            signal.raise_signal(signal.SIGINT)

    before = freeze(filled.source)
    with pytest.raises(KeyboardInterrupt):
        snapsync.sync(filled.source, filled.target, progress=progress)
    assert_same(before, filled.source)
    snapsync.sync(filled.source, filled.target)
    assert_same(filled.source, filled.target)


def test_an_exception_of_the_callback_stops_the_call_and_arrives(filled: Pair) -> None:
    def progress(*_: object) -> None:
        raise LookupError("from the callback")

    with pytest.raises(LookupError, match="from the callback"):
        snapsync.sync(filled.source, filled.target, progress=progress)
    snapsync.sync(filled.source, filled.target)
    assert_same(filled.source, filled.target)


BLOCKED_UNLESS_READ = """
import sys, threading, snapsync
pipe, volume = sys.argv[1:]
def drain():
    with open(pipe) as file:
        for _ in file:
            pass
threading.Thread(target=drain, daemon=True).start()
snapsync.Volume(volume).snapshot()
print("done")
"""


def test_other_threads_run_during_a_call(place: Place, tmp_path: Path) -> None:
    """The call writes its trace into a pipe that another Python thread must empty, or it waits for ever."""
    volume, pipe = place("xfs"), tmp_path / "pipe"
    worlds.bulk(volume, 1_000)
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)
    try:
        fcntl.fcntl(held, fcntl.F_SETPIPE_SZ, 4096)
        ran = subprocess.run(
            [sys.executable, "-c", BLOCKED_UNLESS_READ, pipe, volume],
            env=environment({"SNAPSYNC_FAULT_TRACE": pipe}),
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(held)
    assert ran.stdout == "done\n", ran.stderr


def test_two_threads_work_on_two_volumes(place: Place) -> None:
    pairs = [Pair.make(place, ("xfs", "ext4")), Pair.make(place, ("btrfs", "xfs"))]
    for pair in pairs:
        worlds.bulk(pair.source, 300)
    threads = [threading.Thread(target=snapsync.sync, args=(p.source, p.target)) for p in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pair in pairs:
        assert_same(pair.source, pair.target)


def test_no_file_stays_open_after_a_call(pair: Pair) -> None:
    (pair.source / "file").touch()
    snapsync.sync(pair.source, pair.target)
    before = sorted(os.listdir("/proc/self/fd"))
    snapsync.sync(pair.source, pair.target)
    snapsync.verify(pair.source, pair.target)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_api_and_the_command_see_the_same_volume(pair: Pair) -> None:
    (pair.source / "file").touch()
    snap = Volume(pair.source).snapshot("by-api")
    assert "by-api" in run("list", pair.source).out
    assert run("delete", f"{pair.source}@by-api").code == 0
    assert snap.id not in [left.id for left in Volume(pair.source).snapshots()]


def test_names_are_offered_and_typed() -> None:
    assert set(snapsync.__all__) <= set(dir(snapsync))
    assert all(getattr(snapsync, name) is not None for name in snapsync.__all__)
    assert (Path(snapsync.__file__).parent / "py.typed").exists()
