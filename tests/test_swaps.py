"""What is changed is what was checked, whoever exchanges names between any two system calls.

An ordinary user who owns a directory of a volume exchanges its names while root's snapsync works there: at
every call, or at some of them from a seed (tests/scene.py). Nothing of his comes to be root's, nothing
outside is touched or copied to where he reads it, his files are kept, and the volume is at the old snapshot
or the new one.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from cue import Cues
from machine import Pair, Place, assert_told, done, run, snapshots, status, store
from oracle import assert_same, freeze
from scene import EXCHANGES, NAMES, PRIVILEGED, USER, Scene, chance, settle, tried

KINDS = [("xfs", "btrfs"), ("btrfs", "xfs"), ("xfs", "ext4")]

KILLED = ["commit.marked:1", "commit.detach:2", "commit.detached:1", "commit.attach:2", "commit.data:1"]
"""Where a commit waits to be finished or taken back."""


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_names_that_are_exchanged_during_a_round(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str], exchange: str
) -> None:
    scene = Scene.make(place, kinds)
    pair = scene.pair

    def words() -> list[object]:
        scene.change()
        return ["sync", pair.source, pair.target, "-q"]

    rng = chance(kinds, exchange)
    tried(scene, subtests, rng, words, lambda ran: settle(scene, ran), exchanges=[exchange])


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_names_that_are_exchanged_while_drift_is_discarded(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    scene = Scene.make(place, kinds)

    def words() -> list[object]:
        scene.change()
        by_hand(scene.home)
        return ["sync", scene.pair.source, scene.pair.target, "--discard-drift", "-q"]

    tried(
        scene,
        subtests,
        chance(kinds, "drift"),
        words,
        lambda ran: settle(scene, ran),
        names=[*NAMES, "by-hand"],
    )


def by_hand(home: Path) -> None:
    """What an administrator does to a standby, and should not."""
    (home / "tool").write_text("by hand")
    (home / "shadow").unlink()
    (home / "dir/by-hand").mkdir(exist_ok=True)
    (home / "deep").chmod(0o700)
    (home / "given").rename(home / "by-hand")


@pytest.mark.parametrize("kinds", KINDS[:2], ids="-".join)
def test_names_that_are_exchanged_while_an_old_primary_rejoins(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    scene = Scene.make(place, kinds)

    def words() -> list[object]:
        """After both went on, each as a primary; each of them is the old one in its turn."""
        pair = scene.pair
        done("promote", pair.target, "--discard-drift")
        scene.pair = Pair(pair.target, pair.source)
        scene.moves_to(pair.source)
        by_hand(scene.home)
        scene.change()
        return ["rejoin", pair.source, pair.target, "-q"]

    def settled(ran: Cues) -> None:
        pair = scene.pair
        assert status(pair.target)["unfinished"] is None, ran.ran
        if status(pair.target)["volume"]["role"] == "primary":
            assert ran.ran.code == 3, ran.ran
            done("rejoin", pair.target, pair.source)
        settle(scene, ran)

    tried(scene, subtests, chance(kinds, "rejoin"), words, settled, names=[*NAMES, "by-hand"])


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("ext4", "xfs")], ids="-".join)
def test_names_that_are_exchanged_while_a_standby_is_repaired(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    scene = Scene.make(place, kinds, keeps_history=True)
    pair = scene.pair
    rotten: dict[Path, bytes] = {}

    def words() -> list[object]:
        """After bytes of the primary's snapshot were changed behind its back: the standby has others then."""
        scene.change()
        pair.sync()
        files = (
            path for path in (pair.source / "home").rglob("*") if path.is_file() and not path.is_symlink()
        )
        contents = {path.read_bytes() for path in files}
        for held in store(pair.source).glob("pool/*/*/*"):
            content = held.read_bytes()
            if content in contents and content not in PRIVILEGED:
                rotten[held] = content
                held.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        return ["verify", "--repair", pair.source, pair.target, "-q"]

    def settled(ran: Cues) -> None:
        assert ran.ran.code in (0, 3, 4), ran.ran
        assert status(pair.target)["unfinished"] is None, ran.ran
        for held, content in rotten.items():
            held.write_bytes(content)
        rotten.clear()
        done("verify", "--repair", pair.source, pair.target, "--discard-drift")
        assert_same(pair.source, pair.target)

    tried(scene, subtests, chance(kinds, "repair"), words, settled)


@pytest.mark.parametrize("kinds", KINDS[1:], ids="-".join)
def test_names_that_are_exchanged_while_a_delta_is_received(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str], tmp_path: Path
) -> None:
    scene = Scene.make(place, kinds)
    pair = scene.pair

    def words() -> list[object]:
        scene.change()
        done("snapshot", pair.source)
        base = snapshots(pair.target)[-1]["id"]
        done(
            "send",
            "--base",
            f"{pair.source}@{base}",
            f"{pair.source}@latest",
            "-o",
            tmp_path / f"{scene.turn}",
        )
        return ["receive", pair.target, "-i", tmp_path / f"{scene.turn}", "-q"]

    tried(scene, subtests, chance(kinds, "receive"), words, lambda ran: settle(scene, ran))


@pytest.mark.parametrize("kinds", KINDS[:2], ids="-".join)
def test_names_that_are_exchanged_during_a_promotion(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    scene, rng = Scene.make(place, kinds), chance(kinds, "promote")

    def words() -> list[object]:
        """After a round that was killed, which a promotion finishes."""
        scene.begin_again()
        scene.change()
        kill_a_round(scene.pair, rng.choice(KILLED))
        return ["promote", scene.pair.target, "-q"]

    def settled(ran: Cues) -> None:
        pair = scene.pair
        assert ran.ran.code in (0, 3), ran.ran
        assert status(pair.target)["unfinished"] is None, ran.ran
        if status(pair.target)["volume"]["role"] == "standby":
            promoted = run("promote", pair.target, "--discard-drift")
            # What was exchanged may have been the only place of its bytes.
            if promoted.code != 0:
                assert_told(promoted, "lost the bytes", codes=(3,))
                done("promote", pair.target, "--accept-drift")
        rejoined = run("rejoin", pair.source, pair.target)
        if rejoined.code != 0:
            # The snapshot of the new primary has what came while it was taken.
            assert_told(rejoined, "verify --repair", codes=(3,))
            repaired = run("verify", "--repair", pair.target, pair.source, "--discard-drift", "-q")
            # What it has lost of that snapshot, its standby keeps.
            assert repaired.code == 0 or "keeps what it has" in repaired.err, repaired
        scene.pair = Pair(pair.target, pair.source)
        scene.moves_to(pair.source)
        settle(scene, ran)

    tried(scene, subtests, rng, words, settled)


def kill_a_round(pair: Pair, point: str) -> None:
    killed = run("sync", pair.source, pair.target, "-q", env={"SNAPSYNC_FAULT": point})
    assert killed.code == -signal.SIGKILL, killed


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("verb", [["recover"], ["recover", "--back"]], ids="".join)
def test_names_that_are_exchanged_during_a_recovery(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str], verb: list[str]
) -> None:
    scene, rng = Scene.make(place, kinds), chance(kinds, verb)

    def words() -> list[object]:
        scene.change()
        kill_a_round(scene.pair, rng.choice(KILLED))
        return [*verb, scene.pair.target, "-q"]

    tried(scene, subtests, rng, words, lambda ran: settle(scene, ran))


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("exchange", ["file", "link", "appears"])
def test_names_that_are_exchanged_while_a_killed_commit_waits(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str], exchange: str
) -> None:
    scene = Scene.make(place, kinds)
    pair, outside = scene.pair, freeze(scene.outside)
    for point in KILLED:
        for verb in ("recover", "recover --back"):
            with subtests.test(point=point, verb=verb):
                scene.change()
                kill_a_round(pair, point)
                scene.exchange(exchange, *NAMES)
                ran = run(*verb.split()[:1], pair.target, *verb.split()[1:], "-q")
                scene.assert_safe(outside)
                settle(scene, Cues(ran))


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
@pytest.mark.parametrize("exchange", ["file", "directory", "link to a directory", "appears"])
def test_names_that_are_exchanged_while_paths_are_restored(
    place: Place, subtests: pytest.Subtests, kind: str, exchange: str
) -> None:
    scene = Scene.make(place, ("xfs", kind))
    pair = scene.pair
    done("promote", pair.target)
    # Keeps what the snapshots have in the tree, before that changes.
    done("snapshot", pair.target)
    paths = [pair.target / "home" / path for path in ("tool", "dir", "deep/inner", "note")]

    def words() -> list[object]:
        """After changes of root's own."""
        scene.turn, scene.his = scene.turn + 1, 0
        (scene.home / "tool").chmod(0o755)
        (scene.home / "dir" / f"{scene.turn}").write_text("new")
        with (scene.home / "note").open("r+b") as file:
            file.write(b"%d" % scene.turn * 1000)
        (scene.home / "deep/inner").write_text(f"{scene.turn}")
        return ["restore", f"{pair.target}@0", *paths, "-q"]

    def settled(ran: Cues) -> None:
        assert ran.ran.code in (0, 1, 2, 3), ran.ran
        done("restore", f"{pair.target}@0", pair.target / "home")
        assert_same(pair.source / "home", pair.target / "home")

    rng, names = chance(kind, exchange), ["tool", "dir", "deep", "note"]
    tried(scene, subtests, rng, words, settled, names, [exchange])


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "btrfs"), ("ext4", "xfs")], ids="-".join)
def test_names_that_are_exchanged_while_a_volume_is_restored(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    scene = Scene.make(place, kinds)
    pair, was = scene.pair, freeze(scene.pair.source)
    scene.moves_to(pair.source)

    def words() -> list[object]:
        scene.change()
        return ["restore", f"{pair.source}@0", "-q"]

    def settled(ran: Cues) -> None:
        assert ran.ran.code in (0, 3), ran.ran
        assert status(pair.source)["unfinished"] is None, ran.ran
        scene.begin_again()
        assert_same(was, pair.source)
        pair.sync()

    tried(scene, subtests, chance(kinds, "restore"), words, settled)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_names_that_are_exchanged_while_a_snapshot_is_taken(
    place: Place, subtests: pytest.Subtests, kind: str
) -> None:
    """It has nothing but what was in the tree, each with what was its own."""
    scene = Scene.make(place, (kind, "xfs"), keeps_history=True)
    pair = scene.pair
    scene.moves_to(pair.source)

    def words() -> list[object]:
        scene.change()
        return ["snapshot", pair.source, "-q"]

    def settled(ran: Cues) -> None:
        assert ran.ran.code == 0, ran.ran
        there = place.absent("xfs")
        done("restore", f"{pair.source}@latest", "--to", there)
        scene.tree = there
        scene.assert_private()
        for path, found in scene.all_of_his():
            assert (found.st_uid, found.st_mode & 0o7777) == (USER, 0o600), path
        scene.tree = pair.source
        pair.sync()
        scene.begin_again()

    tried(scene, subtests, chance(kind, "snapshot"), words, settled)


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_names_that_are_exchanged_while_snapshots_are_deleted(
    place: Place, subtests: pytest.Subtests, kind: str
) -> None:
    """By a user who owns the volume's root, and so can exchange its store."""
    scene, rng = Scene.make(place, (kind, kind)), chance(kind, "delete")
    volume = scene.tree = scene.yard = place(kind)
    os.chown(volume, USER, USER)
    done("snapshot", volume)
    # What he may put there as a link looks like it.
    shutil.rmtree(scene.outside / "d")
    shutil.copytree(volume / ".snapsync", scene.outside / "d", symlinks=True)

    def words() -> list[object]:
        scene.turn, scene.his = scene.turn + 1, 0
        for half in ("a", "b"):
            (volume / "file").write_text(f"{scene.turn}{half}")
            done("snapshot", volume, "--name", f"{scene.turn}{half}")
        prune = ["prune", volume, "--keep-last", "1", "-q"]
        return rng.choice([prune, ["delete", f"{volume}@{scene.turn}a", "-q"]])

    def settled(ran: Cues) -> None:
        assert ran.ran.code in (0, 2, 3), ran.ran
        own, aside = volume / ".snapsync", volume / f".was-.snapsync-{scene.turn}"
        if aside.exists():
            if own.is_dir() and not own.is_symlink():
                shutil.rmtree(own)
            own.unlink(missing_ok=True)
            aside.rename(own)
        there = place.absent(kind)
        done("restore", f"{volume}@latest", "--to", there)
        assert (there / "file").read_text() == f"{scene.turn}b"

    tried(scene, subtests, rng, words, settled, [".snapsync"])


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
@pytest.mark.parametrize("verb", ["restore", "restore into", "clone", "receive", "receive base"])
def test_names_that_are_exchanged_where_a_tree_comes_to(
    place: Place, subtests: pytest.Subtests, kind: str, verb: str, tmp_path: Path
) -> None:
    """In a directory of an ordinary user."""
    scene = Scene.make(place, (kind, "xfs"), keeps_history=True)
    source = scene.pair.source
    names = ["new", "note", "base", "home", ".snapsync"]

    def words() -> list[object]:
        scene.change()
        done("snapshot", source)
        scene.tree = scene.yard = place(kind)
        (scene.tree / "note").touch()
        for his in (scene.tree, scene.tree / "note"):
            os.chown(his, USER, USER)
        new, latest = scene.tree / "new", f"{source}@latest"
        if verb.startswith("receive"):
            base = f"{source}@{snapshots(source)[-2]['id']}"
            done("send", base, "-o", tmp_path / "base")
            done("send", "--base", base, latest, "-o", tmp_path / "new")
            done("receive", "--as-snapshot", scene.tree, "-i", tmp_path / "base", "--name", "base")
            scene.yard = scene.tree / ("base/home" if verb.endswith("base") else "")
            return ["receive", "--as-snapshot", scene.tree, "-i", tmp_path / "new", "--name", "new", "-q"]
        if verb == "clone":
            return ["clone", latest, new, "--name", f"c{scene.turn}", "-q"]
        if verb.endswith("into"):
            new.mkdir()
            os.chown(new, USER, USER)
            scene.yard = new
        return ["restore", latest, "--to", new, "-q"]

    def settled(ran: Cues) -> None:
        # He may have taken away what it was to be made of, or put a file there.
        assert ran.ran.code in (0, 1, 2, 3), ran.ran
        if scene.turn == 1:
            assert_same(source, scene.tree / "new")

    tried(scene, subtests, chance(kind, verb), words, settled, names if verb != "receive base" else NAMES)
