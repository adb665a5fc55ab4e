"""What lay in a standby's tree alone and was changed there by hand is lost to its snapshots: they say so and
never give other bytes, and the round that discards the change brings it from the primary.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import Pair, Place, assert_told, done, passed, run, snapshots, status
from oracle import Entry, Picture, assert_same, freeze
from remote import Server
from test_crash import assert_tidy
from test_roles import restored
from worlds import append, bulk, chmod, fill, link, rename, rewrite_quietly, truncate

KINDS = [("xfs", "xfs"), ("btrfs", "ext4")]
both = pytest.mark.parametrize("kinds", KINDS, ids="-".join)
one = pytest.mark.parametrize("kinds", [("ext4", "ext4")], ids="-".join)

# Each file that `drift` changes by hand.
BY_HAND = {"edited", "cut", "gone", "replaced", "mode", "moved", "linked", "linked2", "dir/a", "dir/deep/b"}
# What stays as it is, and what only the primary changes.
QUIET = {"quiet", "renamed/in", "news", "grown"}


def lay_out(root: Path) -> None:
    for name in ("dir/deep", "renamed"):
        (root / name).mkdir(parents=True)
    for number, name in enumerate(sorted((BY_HAND | QUIET) - {"linked2"})):
        fill(root / name, 0, 9_000 + number, number)
    link(root / "linked", root / "linked2")
    bulk(root / "more", 30)


def go_on(root: Path) -> None:
    """The primary's own changes: what they take from the standby's tree goes to its pool."""
    fill(root / "news", 0, 4_000, 77)
    append(root / "grown", 5_000, 78)


def drift(root: Path) -> None:
    rewrite_quietly(root / "edited", 100, 50, 4)
    truncate(root / "cut", 100)
    (root / "gone").unlink()
    (root / "replaced").unlink()
    (root / "replaced").mkdir()
    fill(root / "replaced/in", 0, 10, 1)
    chmod(root / "mode", 0o640)
    rename(root / "moved", root / "elsewhere")
    append(root / "linked2", 10, 3)
    shutil.rmtree(root / "dir")
    rename(root / "renamed", root / "renamed2")
    fill(root / "new", 0, 5_000, 3)


def files(picture: Picture) -> dict[str, Entry]:
    return {path.decode(): entry for path, entry in picture.entries.items() if entry.content}


def assert_never_other(volume: Path, snap: str, picture: Picture, place: Place, lost: set[str]) -> None:
    """Each file of a snapshot is what it was, but those that are lost, of which each read fails."""
    to = place("xfs")
    for number, path in enumerate(sorted(files(picture))):
        if path.startswith("more/") and number % 10:
            continue
        ran = run("restore", f"{volume}@{snap}", path, "--to", to / str(number), "--json")
        if path in lost:
            assert ran.code == 4, (path, ran)
            assert path in ran.err
            assert not (to / str(number) / path).exists()
        else:
            assert ran.code == 0, (path, ran)
            found = files(freeze(to / str(number)))[path]
            assert found.content == files(picture)[path].content, path


def drifted(pair: Pair) -> tuple[Picture, Picture, Picture]:
    """Two rounds, then changes by hand: what both snapshots hold, and what the tree does."""
    lay_out(pair.source)
    pair.sync("--name", "first")
    first = freeze(pair.source)
    go_on(pair.source)
    pair.sync("--name", "second")
    second = freeze(pair.source)
    drift(pair.target)
    return first, second, freeze(pair.target)


@both
def test_what_is_lost_is_brought_and_never_read_as_something_else(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    first, second, by_hand = drifted(pair)
    fill(pair.source / "edited", 0, 20, 9)
    rename(pair.source / "cut", pair.source / "dir/cut")
    report = pair.sync("--discard-drift", "--name", "third")
    assert any("lost what 9 files held" in note for note in report["notes"]), report["notes"]
    assert_tidy(pair.target)
    kept = report["set_aside"]
    assert_same(by_hand, restored(pair.target, kept["id"], place))
    for snap, picture in (("first", first), ("second", second)):
        assert_never_other(pair.target, snap, picture, place, lost=BY_HAND)
    assert_same(pair.source, restored(pair.target, "third", place))
    # From then on all is as before.
    fill(pair.source / "quiet", 0, 30, 6)
    fill(pair.source / "gone", 0, 30, 7)
    assert pair.sync("--check")["set_aside"] is None
    rewrite_quietly(pair.target / "edited", 100, 50, 5)
    shutil.rmtree(pair.target / "dir")
    pair.sync("--discard-drift")


@one
def test_a_round_over_ssh_brings_what_is_lost(
    pair: Pair, server: Server, place: Place, kinds: tuple[str, str]
) -> None:
    _, _, by_hand = drifted(pair)
    client = server.client()
    for source, target in ((pair.source, client.at(pair.target)), (client.at(pair.source), pair.target)):
        report = done("sync", source, target, "--discard-drift", *client.options)
        assert any("lost what 9 files held" in note for note in report["notes"]), report["notes"]
        assert_same(pair.source, pair.target)
        assert_same(by_hand, restored(pair.target, report["set_aside"]["id"], place))
        drift(pair.target)
        by_hand = freeze(pair.target)


@both
def test_a_round_that_was_cut_after_going_back_leaves_no_gap_behind(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    """Until a round has brought them, the files are missing from the tree, and everybody knows."""
    _, second, by_hand = drifted(pair)
    words = ("sync", pair.source, pair.target, "-q", "--discard-drift")
    ran = run(*words, env={"SNAPSYNC_FAULT": "again.replaced:1"})
    assert ran.code == -signal.SIGKILL, ran
    kept = [snap for snap in snapshots(pair.target) if snap.get("aside")]
    assert len(kept) == 1
    ran = run("sync", pair.source, pair.target, "-q", "--snap", "second")
    assert_told(ran, "lost", codes=(3,))
    assert_told(run("promote", pair.target, "-q"), "lost", "--accept-drift", codes=(3,))
    assert_told(run("promote", pair.target, "-q", "--discard-drift"), "lost", codes=(3,))
    assert status(pair.target)["volume"]["role"] == "standby"
    assert_never_other(pair.target, "second", second, place, lost=BY_HAND)
    # No drift is left, so nothing has to be discarded.
    report = pair.sync("--check")
    assert report["set_aside"] is None
    assert_same(by_hand, restored(pair.target, kept[0]["id"], place))
    assert_never_other(pair.target, "second", second, place, lost=BY_HAND)


@one
def test_no_step_of_going_back_without_what_is_lost_can_be_killed_to_an_end(
    pair: Pair, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    lay_out(pair.source)
    pair.sync()
    trace = tmp_path / "trace"
    drift(pair.target)
    done("sync", pair.source, pair.target, "--discard-drift", env={"SNAPSYNC_FAULT_TRACE": trace})
    assert_same(pair.source, pair.target)
    for point in sorted({point for point in passed(trace) if point.split(".")[0] in ("again", "commit")}):
        with subtests.test(point):
            drift(pair.target)
            fill(pair.source / "quiet", 0, 40, len(point))
            words = ("sync", pair.source, pair.target, "-q", "--discard-drift")
            ran = run(*words, env={"SNAPSYNC_FAULT": f"{point}:1"})
            assert ran.code == -signal.SIGKILL, ran
            pair.sync("--discard-drift")
            assert pair.sync("--check")["set_aside"] is None


@one
def test_promotion_that_would_go_back_to_what_is_lost_changes_nothing(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    drifted(pair)
    before, held = freeze(pair.target), snapshots(pair.target)
    ran = run("promote", pair.target, "-q", "--discard-drift")
    assert_told(ran, "lost", "--accept-drift", "edited", codes=(3,))
    assert_same(before, pair.target)
    assert snapshots(pair.target) == held
    assert status(pair.target)["volume"]["role"] == "standby"
    done("promote", pair.target, "--accept-drift")
    assert_same(before, pair.target)
    done("rejoin", pair.source, pair.target)
    assert_same(before, pair.source)


@both
def test_a_repair_brings_what_is_lost_from_the_primary(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    first, _, by_hand = drifted(pair)
    assert_told(run("verify", "-q", "--repair", pair.source, pair.target), "--discard-drift", codes=(3,))
    report = done("verify", "--repair", pair.source, pair.target, "--discard-drift")
    assert report["equal"]
    assert_same(pair.source, pair.target)
    assert_same(by_hand, restored(pair.target, report["mended"]["set_aside"]["id"], place))
    assert_same(pair.source, restored(pair.target, "second", place))
    assert_never_other(pair.target, "first", first, place, lost=BY_HAND)
    fill(pair.source / "gone", 0, 30, 7)
    assert pair.sync("--check")["set_aside"] is None


@one
def test_a_delta_from_a_file_is_not_applied_where_something_is_lost(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    drifted(pair)
    fill(pair.source / "quiet", 0, 30, 6)
    done("snapshot", pair.source, "--name", "third")
    delta = place.absent("ext4")
    done("send", f"{pair.source}@third", "--base", f"{pair.source}@second", "-o", delta)
    ran = run("receive", pair.target, "-i", delta, "-q", "--discard-drift")
    assert_told(ran, "lost", "sync", codes=(3,))
    assert_told(run("receive", pair.target, "-i", delta, "-q"), "lost", "sync", codes=(3,))
    pair.sync()


def change_all(root: Path) -> None:
    for number, path in enumerate(sorted(root.glob("more/**/*"))):
        if path.is_file():
            append(path, 10, number)


@one
@pytest.mark.parametrize(
    "change", [change_all, lambda root: shutil.rmtree(root / "more")], ids=["all", "gone"]
)
def test_many_files_are_brought_at_once(
    pair: Pair, kinds: tuple[str, str], change: Callable[[Path], None]
) -> None:
    bulk(pair.source / "more", 1_500)
    pair.sync()
    change(pair.target)
    pair.sync("--discard-drift")
    assert pair.sync("--check")["set_aside"] is None


@both
def test_a_file_that_was_given_another_name_by_hand_is_not_changed_under_it(
    place: Place, kinds: tuple[str, str]
) -> None:
    pair = Pair.make(place, kinds)
    lay_out(pair.source)
    pair.sync("--name", "first")
    aside = pair.target.with_name(f"{pair.target.name}-aside")
    link(pair.target / "news", aside)
    before, first = aside.read_bytes(), freeze(pair.source)
    # What is not changed is none of its business.
    fill(pair.source / "quiet", 0, 4_000, 76)
    done("sync", pair.source, pair.target)
    go_on(pair.source)
    assert_told(
        run("sync", pair.source, pair.target, "--quiet"), "news (with a name that is not", "--discard-drift"
    )
    pair.sync("--discard-drift")
    assert aside.read_bytes() == before
    assert_never_other(pair.target, "first", first, place, {"news"})
    append(pair.source / "news", 10, 1)
    pair.sync()
    assert aside.read_bytes() == before
