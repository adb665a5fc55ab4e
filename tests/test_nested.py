"""What a strict round says of nested subvolumes, which are not replicated."""

from pathlib import Path

import pytest
from machine import Pair, Place, assert_told, capless, done, run, sh, subvolume
from oracle import assert_same


@pytest.fixture(params=["btrfs", "pool"])
def pair(place: Place, request: pytest.FixtureRequest) -> Pair:
    """A source that is a subvolume, or a directory in one."""
    pair = Pair(place("btrfs") if request.param == "btrfs" else place.absent("btrfs"), place.absent("xfs"))
    (pair.source / "dir/deep").mkdir(parents=True)
    (pair.source / "dir/file").write_text("1")
    return pair


def nested(path: Path) -> Path:
    subvolume(path)
    (path / "inside").write_text(path.name)
    return path


def strict(pair: Pair, *options: str) -> dict[str, object]:
    return done("sync", pair.source, pair.target, "--strict", *options)


def refused(pair: Pair, *words: str, wrap: tuple[str, ...] = ()) -> None:
    result = run("sync", pair.source, pair.target, "--strict", wrap=wrap)
    assert_told(result, "nested subvolume", "--exclude", *words, codes=(3,))


def test_a_strict_first_round_refuses_a_nested_subvolume_and_leaves_nothing(pair: Pair) -> None:
    nested(pair.source / "dir/deep/one")
    refused(pair, "dir/deep/one")
    assert not (pair.source / ".snapsync").exists()
    strict(pair, "--exclude", "/dir/deep/one")
    assert (pair.target / "dir/file").read_text() == "1"


def test_a_strict_round_refuses_one_that_is_new_and_goes_on_without_it(pair: Pair) -> None:
    strict(pair)
    one = nested(pair.source / "dir/one")
    nested(one / "within")
    (pair.source / "dir/file").write_text("22")
    refused(pair, "dir/one")
    assert (pair.target / "dir/file").read_text() == "1", "nothing was touched"
    taken = done("list", pair.source)["snapshots"]
    assert len(taken) == 1, "the snapshot of the refused round is gone"  # type: ignore[arg-type]
    sh("btrfs", "-q", "subvolume", "delete", one / "within", one)
    strict(pair)
    assert_same(pair.source, pair.target)


def test_a_strict_round_refuses_one_that_earlier_rounds_left_out(pair: Pair) -> None:
    """Nothing has changed in its directory since, so a search of both snapshots does not come by."""
    one = nested(pair.source / "dir/one")
    done("sync", pair.source, pair.target)
    (pair.source / "other").write_text("1")
    refused(pair, "dir/one")
    one.rename(pair.source / "dir/deep/two")
    refused(pair, "dir/deep/two")
    strict(pair, "--exclude", "/dir/deep/two")
    strict(pair)
    assert (pair.target / "other").read_text() == "1"


def test_stores_and_what_lies_elsewhere_are_no_subvolumes_of_the_tree(pair: Pair) -> None:
    nested(pair.source.parent / f"beside-{pair.source.name}")
    inner = pair.source / "dir/volume"
    inner.mkdir()
    done("init", inner)
    done("sync", inner, pair.target.with_name("inner"))
    for _ in range(2):
        strict(pair)


def test_of_many_all_are_looked_at(pair: Pair) -> None:
    """The kernel tells 255 at a time."""
    for number in range(260):
        subvolume(pair.source / f"dir/{number}")
    strict(pair, "--exclude", "/dir/*", "--include", "/dir/file", "--include", "/dir/deep")
    nested(pair.source / "last")
    refused(pair, "last")


def test_a_dry_run_tells_that_a_strict_round_would_be_refused(pair: Pair) -> None:
    strict(pair)
    nested(pair.source / "dir/one")
    ran = run("sync", pair.source, pair.target, "--strict", "--dry-run", "--json")
    assert ran.code == 3
    assert "dir/one" in ran.json["refused"]
    assert done("sync", pair.source, pair.target, "--dry-run")["refused"] is None


@pytest.mark.parametrize("to", ["btrfs", "xfs"])
def test_one_with_a_standby_of_its_own_takes_its_place_after_a_promotion(place: Place, to: str) -> None:
    """As `docs/details.md` says."""
    pair = Pair(place("btrfs"), place.absent(to))
    (pair.source / "homes").mkdir()
    anna = nested(pair.source / "homes/anna")
    beside = pair.target.with_name(f"{pair.target.name}-anna")
    for text in ("1", "22"):
        (anna / "file").write_text(text)
        (pair.source / "file").write_text(text)
        strict(pair, "--exclude", "/homes/*")
        done("sync", anna, beside, "--strict")
    back = pair.target / "homes/anna"
    done("promote", pair.target)
    done("promote", beside)
    beside.rename(back)
    assert (back.stat().st_ino == 256) == (to == "btrfs"), "it is a subvolume again"
    done("verify", anna, back)
    done("rejoin", pair.source, pair.target)
    done("rejoin", anna, back)
    (back / "file").write_text("333")
    (pair.target / "file").write_text("333")
    done("sync", pair.target, pair.source, "--strict")
    done("sync", back, anna, "--strict")
    assert (anna / "file").read_text() == (pair.source / "file").read_text() == "333"
    assert (anna / "inside").read_text() == "anna"


def test_who_is_not_root_is_refused_too(place: Place) -> None:
    pair = Pair(place.absent("btrfs"), place.absent("xfs"))
    (pair.source / "secret").mkdir(parents=True)
    nested(pair.source / "secret/one")
    (pair.source / "secret").chmod(0)
    wrap = capless()
    done("sync", pair.source, pair.target, "--strict", "--exclude", "/secret", wrap=wrap)
    nested(pair.source / "two")
    refused(pair, "two", wrap=wrap)
