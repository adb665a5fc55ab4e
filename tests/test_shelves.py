"""Root's snapsync in directories of ordinary users: nothing that they put there leads it anywhere else."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import Place, assert_told, done, is_stopped, missing, run, sh, start, subvolume, wait_until
from transfer import send

SOMEBODY = 4711


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        missing("root, to be led astray")


@pytest.fixture
def delta(place: Place, tmp_path: Path) -> Path:
    """A whole snapshot in a file."""
    source = place("ext4")
    (source / "file").write_text("content")
    done("snapshot", source, "--name", "monday")
    file = tmp_path / "monday.delta"
    file.write_bytes(send(f"{source}@monday").content)
    return file


def of_somebody(directory: Path) -> Path:
    os.chown(directory, SOMEBODY, SOMEBODY)
    return directory


def stopped(*words: object, at: str) -> Callable[[], int]:
    """Starts a command that stops at a place; what is returned lets it go on, and returns how it ended."""
    process = start(*words, "-q", env={"SNAPSYNC_FAULT": f"{at}:1=stop"})
    wait_until(lambda: process.poll() is not None or is_stopped(process.pid))
    assert process.poll() is None, process.communicate()

    def go_on() -> int:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        return process.returncode

    return go_on


# --- what lies in a shelf already -----------------------------------------------------------------


def link(own: Path, elsewhere: Path) -> str:
    own.symlink_to(elsewhere)
    return "a store lies in the directory it belongs to"


def anothers(own: Path, elsewhere: Path) -> str:
    (own / "receiving").mkdir(parents=True)
    (own / "receiving/link").symlink_to(elsewhere)
    sh("chown", "-hR", str(SOMEBODY), own)
    return f"belongs to user {SOMEBODY}"


def open_to_all(own: Path, elsewhere: Path) -> str:
    own.mkdir()
    own.chmod(0o777)
    return "others may write"


def link_below(own: Path, elsewhere: Path) -> str:
    own.mkdir(mode=0o700)
    (own / "receiving").symlink_to(elsewhere)
    return "receiving"


def anothers_below(own: Path, elsewhere: Path) -> str:
    own.mkdir(mode=0o700)
    of_somebody(elsewhere)
    (own / "receiving").mkdir()
    of_somebody(own / "receiving")
    return f"belongs to user {SOMEBODY}"


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
@pytest.mark.parametrize("put", [link, anothers, open_to_all, link_below, anothers_below])
def test_root_receives_into_no_work_area_of_somebody_else(
    place: Place, delta: Path, tmp_path: Path, kind: str, put: Callable[[Path, Path], str]
) -> None:
    shelf, elsewhere = of_somebody(place(kind)), tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "precious").write_text("as it was")
    why = put(shelf / ".snapsync", elsewhere)
    assert_told(run("receive", "--as-snapshot", shelf, "-i", delta, "-q"), ".snapsync", why, codes=(1, 3))
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere.stat().st_mode & 0o777, (elsewhere / "precious").read_text()) == (0o755, "as it was")
    assert not (shelf / "monday").exists()


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_root_receives_in_a_directory_of_an_ordinary_user(place: Place, delta: Path, kind: str) -> None:
    shelf = of_somebody(place(kind))
    done("receive", "--as-snapshot", shelf, "-i", delta)
    own = shelf / ".snapsync"
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in (own, own / "received")} == {
        (0, 0o700)
    }
    assert (shelf / "monday/file").read_text() == "content"


def test_who_names_no_directory_is_told_to_make_it(place: Place, delta: Path) -> None:
    absent = place("xfs") / "absent"
    ran = run("receive", "--as-snapshot", absent, "-i", delta, "-q")
    assert_told(ran, f"{absent} does not exist", "make that directory first", codes=(2,))
    assert not absent.exists()


# --- what is exchanged meanwhile ------------------------------------------------------------------


@pytest.mark.parametrize("at", ["receive.moved", "receive.recorded", "receive.tree"])
def test_what_takes_the_name_of_a_snapshot_is_not_touched(place: Place, delta: Path, at: str) -> None:
    """The last step makes the snapshot read-only, and nothing else that has its name by then."""
    shelf = of_somebody(place("btrfs"))
    go_on = stopped("receive", "--as-snapshot", shelf, "-i", delta, at=at)
    if (shelf / "monday").exists():
        (shelf / "monday").rename(shelf / "away")
    subvolume(shelf / "monday")
    code = go_on()
    assert "ro=false" in sh("btrfs", "property", "get", shelf / "monday", "ro")
    assert not list((shelf / "monday").iterdir())
    if at == "receive.moved":
        assert code == 0
        assert "ro=true" in sh("btrfs", "property", "get", shelf / "away", "ro")
    else:
        assert code == 3


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_store_that_is_exchanged_is_not_gone_on_with(
    place: Place, delta: Path, tmp_path: Path, kind: str
) -> None:
    shelf, elsewhere = of_somebody(place(kind)), tmp_path / "elsewhere"
    (elsewhere / "receiving").mkdir(parents=True)
    (elsewhere / "received").mkdir()
    go_on = stopped("receive", "--as-snapshot", shelf, "-i", delta, at="receive.made")
    (shelf / ".snapsync").rename(shelf / "hidden")
    (shelf / ".snapsync").symlink_to(elsewhere)
    assert go_on() == 0
    assert not any(path.is_file() for path in elsewhere.rglob("*"))
    assert (shelf / "monday/file").read_text() == "content"
    assert list((shelf / "hidden/received").iterdir())


# --- restore and clone ----------------------------------------------------------------------------


@pytest.fixture(params=["btrfs", "xfs"])
def volume(request: pytest.FixtureRequest, place: Place) -> Path:
    made = place(request.param)
    (made / "file").write_text("content")
    done("snapshot", made, "--name", "one")
    return made


@pytest.mark.parametrize("verb", ["restore", "clone"])
def test_root_restores_to_the_directory_that_it_looked_at(
    place: Place, volume: Path, tmp_path: Path, verb: str
) -> None:
    """Who owns the directory above it puts a link in the place of that."""
    home, elsewhere = of_somebody(place("ext4")), tmp_path / "elsewhere"
    (home / "between").mkdir()
    elsewhere.mkdir()
    words = ("restore", f"{volume}@one", "--to") if verb == "restore" else ("clone", f"{volume}@one")
    go_on = stopped(*words, home / "between/new", at="stage.begin")
    (home / "between").rename(home / "moved")
    (home / "between").symlink_to(elsewhere)
    go_on()
    assert list(elsewhere.iterdir()) == []
    assert (home / "moved/new/file").read_text() == "content"
    assert (home / "moved/new").stat().st_uid == volume.stat().st_uid


@pytest.mark.parametrize("over", ["above", "work"])
def test_a_version_goes_to_the_directory_that_was_looked_at(
    place: Place, volume: Path, tmp_path: Path, over: str
) -> None:
    """Who owns that directory puts a link in its place, or in that of what the file is made in."""
    home, elsewhere = of_somebody(place("ext4")), tmp_path / "elsewhere"
    (home / "between").mkdir()
    elsewhere.mkdir()
    (elsewhere / "file").write_text("precious")
    (elsewhere / "tree").symlink_to(".")
    go_on = stopped(
        "versions", volume / "file", "--restore", 1, "--to", home / "between/new", at="restore.done"
    )
    at = next((home / "between").iterdir()) if over == "work" else home / "between"
    at.rename(home / "moved")
    at.symlink_to(elsewhere)
    assert go_on() == (1 if over == "work" else 0)
    assert sorted(os.listdir(elsewhere)) == ["file", "tree"]
    assert (elsewhere / "file").read_text() == "precious"
    where = home / ("between" if over == "work" else "moved")
    assert (where / "new").read_text() == "content"


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
@pytest.mark.parametrize("put", [link, anothers, open_to_all])
def test_root_restores_into_no_work_area_of_somebody_else(
    place: Place, volume: Path, tmp_path: Path, kind: str, put: Callable[[Path, Path], str]
) -> None:
    target, elsewhere = of_somebody(place(kind)), tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "precious").write_text("as it was")
    why = put(target / ".snapsync", elsewhere)
    ran = run("restore", f"{volume}@one", "--to", target, "-q")
    assert_told(ran, ".snapsync", why, codes=(1, 3))
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "as it was"
    assert [path.name for path in target.iterdir()] == [".snapsync"]


def test_an_instant_clone_goes_where_it_was_asked_for(place: Place, tmp_path: Path) -> None:
    top = place("btrfs")
    volume, home, elsewhere = top / "volume", top / "home", top / "elsewhere"
    subvolume(volume)
    (volume / "file").write_text("content")
    done("snapshot", volume, "--name", "one")
    (home / "between").mkdir(parents=True)
    of_somebody(home)
    elsewhere.mkdir()
    go_on = stopped("clone", f"{volume}@one", home / "between/new", at="clone.made")
    (home / "between").rename(home / "moved")
    (home / "between").symlink_to(elsewhere)
    assert go_on() == 0
    assert list(elsewhere.iterdir()) == []
    assert (home / "moved/new/file").read_text() == "content"


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_only_the_clone_itself_is_deleted(place: Place, kind: str) -> None:
    volume, home = place("ext4"), of_somebody(place(kind))
    (volume / "file").write_text("content")
    done("snapshot", volume, "--name", "one")
    done("clone", f"{volume}@one", home / "mine", "--name", "mine")
    (home / "mine").rename(home / "away")
    (home / "mine").mkdir()
    (home / "mine/precious").write_text("as it was")
    run("delete", f"{volume}@mine", "-q")
    assert (home / "mine/precious").read_text() == "as it was"
    assert (home / "away/file").read_text() == "content"


# --- mount ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [False, True], ids=["absent", "empty"])
def test_a_snapshot_is_mounted_on_the_directory_that_was_looked_at(
    place: Place, volume: Path, tmp_path: Path, exists: bool
) -> None:
    home, elsewhere = of_somebody(place("ext4")), tmp_path / "elsewhere"
    (home / "between").mkdir()
    (elsewhere / "look").mkdir(parents=True)
    if exists:
        (home / "between/look").mkdir()
    words = ("mount", f"{volume}@one", home / "between/look", "--foreground")
    process = start(*words, "-q", env={"SNAPSYNC_FAULT": "mount.opened:1=stop"})
    at = home / "moved/look"
    try:
        wait_until(lambda: process.poll() is not None or is_stopped(process.pid))
        (home / "between").rename(home / "moved")
        (home / "between").symlink_to(elsewhere)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: (at / "file").exists() or process.poll() not in (None, 0))
        assert (at / "file").read_text() == "content"
        assert not os.path.ismount(elsewhere / "look")
        process.terminate()
        process.communicate(timeout=60)
        assert not os.path.ismount(elsewhere / "look")
    finally:
        process.kill()
        subprocess.run(["umount", at], capture_output=True)
    assert list((elsewhere / "look").iterdir()) == []
