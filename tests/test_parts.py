"""Parts of one tree have patterns, snapshots, standbys and roles of their own."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from machine import (
    REFUSALS,
    Pair,
    Place,
    assert_told,
    command,
    done,
    passed,
    run,
    snapshots,
    status,
    stopped_at,
    verified,
)
from oracle import Picture, assert_same, freeze
from remote import Server
from test_config import Jobs
from test_subset import part
from worlds import append, fill

import snapsync

KINDS = pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "ext4"), ("ext4", "btrfs")], ids="-".join)
POOL = pytest.mark.parametrize("kinds", [("xfs", "xfs")], ids="-".join)


def of(volume: Path, name: str) -> str:
    return f"{volume}@{name}/"


def below(root: Path, *tops: str) -> list[bytes]:
    """The paths beneath some directories of a tree, with them."""
    found = [root / top for top in tops] + [path for top in tops for path in (root / top).rglob("*")]
    return [os.fsencode(path.relative_to(root)) for path in found]


def assert_has(standby: Path, volume: Path, *tops: str) -> None:
    """The standby holds those directories of the volume, and nothing else."""
    assert_same(only(volume, *tops), standby)


def outside(volume: Path, *tops: str) -> Picture:
    """What is not in those directories of a volume."""
    inside = set(below(volume, *tops))
    picture = freeze(volume)
    return part(picture, [path for path in picture.entries if path not in inside and path != b"."])


def only(volume: Path, *tops: str) -> Picture:
    return part(freeze(volume), below(volume, *tops))


def listed(volume: Path, name: str) -> list[str]:
    return [snap["name"] for snap in done("list", of(volume, name))["snapshots"]]


@pytest.fixture
def tree(pair: Pair) -> Pair:
    """A volume with mail and web pages; none of it has a standby yet."""
    for directory in ("mail/inbox", "mail/sent", "www/pages", "other"):
        (pair.source / directory).mkdir(parents=True)
        for number in range(4):
            fill(pair.source / directory / f"{number}", 0, 3_000 + 40_000 * (number % 2), number + 1)
    return pair


class Life:
    """Two parts of a volume, each with a standby of its own."""

    def __init__(self, pair: Pair, place: Place, kinds: tuple[str, str]) -> None:
        self.volume = pair.source
        self.standby = {"mail": pair.target, "www": place.absent(kinds[1])}
        self.keep = {"mail": "--keep-last=2", "www": "--keep-last=4"}

    def round(self, name: str, *options: str, **how: Any) -> dict[str, Any]:
        words = ("--part", name, self.volume, self.standby[name], self.keep[name], *options)
        report = done("sync", *words, **how)
        assert_has(self.standby[name], self.volume, name)
        verified(of(self.volume, name), self.standby[name])
        return report


@pytest.fixture
def life(tree: Pair, place: Place, kinds: tuple[str, str]) -> Life:
    made = Life(tree, place, kinds)
    for name in made.standby:
        made.round(name, "--include", f"/{name}", "--name", "first")
    return made


def change(volume: Path, seed: int) -> None:
    change_only(volume, "mail/inbox", seed)
    change_only(volume, "www/pages", seed)
    change_only(volume, "other", seed)


def change_only(volume: Path, top: str, seed: int) -> None:
    if (volume / top).is_dir():
        append(volume / top / "0", 100, seed)
        fill(volume / top / "1", 4_096, 4_096, seed)
        fill(volume / top / f"new-{seed}", 0, 2_000, seed)
        (volume / top / f"new-{seed - 1}").unlink(missing_ok=True)


@KINDS
def test_each_part_has_snapshots_retention_and_standbys_of_its_own(
    life: Life, kinds: tuple[str, str]
) -> None:
    for number in range(5):
        change(life.volume, number)
        life.round("mail", "--name", f"m{number}")
        if number % 2:
            life.round("www", "--name", f"w{number}")
    names = {name: [snap["name"] for snap in snapshots(path)] for name, path in life.standby.items()}
    assert names == {"mail": ["m3", "m4"], "www": ["first", "w1", "w3"]}
    for name, held in names.items():
        assert listed(life.volume, name) == held
    for verb in ("list", "status"):
        parts = done(verb, life.volume)["parts"]
        told = {found["name"]: (found["volume"]["role"], found["latest"]["name"]) for found in parts}
        assert told == {"mail": ("primary", "m4"), "www": ("primary", "w3")}
    assert {found["name"]: found["volume"]["subset"] for found in parts} == {
        name: {"exclude": ["/*"], "include": [f"/{name}"]} for name in ("mail", "www")
    }
    assert snapshots(life.volume) == [], "the whole volume has none of their snapshots"
    shown = run("list", life.volume).out
    assert "2 parts" in shown
    assert "m4 of " in shown
    assert "www: primary, 3 snapshots, latest" in run("status", life.volume).out


@KINDS
def test_a_snapshot_of_a_part_is_restored_cloned_compared_held_and_deleted(
    life: Life, place: Place, kinds: tuple[str, str]
) -> None:
    volume, mail = life.volume, of(life.volume, "mail")
    was = only(volume, "mail")
    change(volume, 1)
    life.round("mail", "--name", "second")
    copy, clone = place.absent(kinds[0]), place.absent(kinds[0])
    done("restore", f"{mail}first", "--to", copy)
    assert_same(was, copy)
    done("clone", f"{mail}first", clone, "--name", "copy")
    assert_same(was, clone)
    rows = done("diff", f"{mail}first", f"{mail}second")["changes"]
    assert (rows["created"], rows["deleted"]) == (1, 0)
    found = done("versions", volume / "mail/inbox/1")
    assert found["volume"]["path"] == mail
    assert [[snap["name"] for snap in version["snapshots"]] for version in found["versions"]] == [
        ["first"],
        ["second"],
    ]
    assert_told(
        run("versions", volume / "mail/inbox/1", "--part", "nope"), "its parts are mail, www", codes=(2,)
    )
    aside = outside(volume, "mail")
    done("restore", f"{mail}first", "mail/inbox")
    assert_same(was, only(volume, "mail"), ignore={"mtime_ns"})
    assert_same(aside, outside(volume, "mail"))
    (volume / "mail/more").mkdir()
    done("restore", f"{mail}first")
    assert_same(was, only(volume, "mail"))
    assert_same(aside, outside(volume, "mail"), without={b"."})
    done("hold", f"{mail}first", "--reason", "it matters")
    assert_told(run("delete", f"{mail}first"), f"`snapsync release {mail}first`", codes=(3,))
    done("release", f"{mail}first")
    done("delete", f"{mail}first")
    assert "first" not in listed(volume, "mail")
    assert listed(volume, "www") == ["first"]


@KINDS
def test_a_part_fails_over_and_back_and_nothing_outside_of_it_is_touched(
    life: Life, kinds: tuple[str, str]
) -> None:
    volume, standby, mail = life.volume, life.standby["mail"], of(life.volume, "mail")
    change(volume, 1)
    life.round("mail")
    done("promote", standby)
    append(standby / "mail/inbox/0", 500, 3)
    fill(volume / "mail/inbox/left", 0, 100, 1)
    change(volume, 2)
    done("sync", "--part", "www", volume, life.standby["www"])
    aside = outside(volume, "mail")
    report = done("rejoin", mail, standby)
    assert report["left"], "what was written on the old primary is kept"
    assert_same(aside, outside(volume, "mail"))
    assert_same(standby, only(volume, "mail"))
    # Others go on beside it, and in the directories that hold both.
    fill(volume / "beside", 0, 100, 1)
    change_only(volume, "www/pages", 3)
    fill(standby / "mail/sent/new", 0, 9_000, 1)
    shutil.rmtree(standby / "mail/inbox")
    aside = outside(volume, "mail")
    done("sync", standby, mail)
    assert_same(aside, outside(volume, "mail"))
    assert_same(standby, only(volume, "mail"), ignore={"mtime_ns"})
    assert_told(run("sync", "--part", "mail", volume, standby), "primary", codes=(3,))
    fill(volume / "mail/sent/new", 0, 9_000, 2)
    assert_told(run("sync", standby, mail, "--check"), "mail/sent/new", codes=(3,))
    done("sync", standby, mail, "--discard-drift")
    done("switch", standby, mail)
    # On Btrfs the time of a directory that holds both travels when it changes again.
    fill(volume / "again", 0, 100, 1)
    life.round("mail")
    life.round("www")
    assert run("list", f"{volume}@mail/", "--quiet").out.count("drift-") == 1


@KINDS
def test_a_round_of_a_part_that_is_killed_leaves_the_others_alone(
    life: Life, kinds: tuple[str, str], tmp_path: Path
) -> None:
    change(life.volume, 1)
    life.round("mail", env={"SNAPSYNC_FAULT_TRACE": tmp_path / "trace"})
    points = sorted(set(passed(tmp_path / "trace")))
    pick = random.Random(kinds[0])
    for number, point in enumerate(pick.sample(points, 6), 2):
        change(life.volume, number)
        words = ("--part", "mail", life.volume, life.standby["mail"])
        ran = run("sync", *words, env={"SNAPSYNC_FAULT": f"{point}:1"})
        assert ran.code in (0, -signal.SIGKILL), ran
        life.round("www")
        if number % 2:
            assert status(life.volume)["unfinished"] is None
        life.round("mail")
    done("recover", of(life.volume, "mail"))


@POOL
def test_two_parts_and_the_whole_volume_are_brought_side_by_side(
    life: Life, place: Place, kinds: tuple[str, str], tmp_path: Path
) -> None:
    change(life.volume, 1)
    words = ("sync", "--part", "mail", life.volume, life.standby["mail"])
    with stopped_at("stage.begin", *words):
        life.round("www")
        pair = Pair(life.volume, place.absent(kinds[1]))
        pair.sync()
        change(life.volume, 2)
        life.round("www")
        pair.sync()
        busy = run(*words)
        assert_told(busy, f"another command is working on {life.standby['mail']}", codes=(3,))
    life.round("mail")
    assert snapshots(life.volume)[-1]["entries"] == len(freeze(life.volume).entries)


@POOL
def test_a_first_round_that_fails_leaves_no_part_and_no_volume(tree: Pair, kinds: tuple[str, str]) -> None:
    os.mkdir(tree.target)
    fill(tree.target / "occupied", 0, 10, 1)
    before = freeze(tree.source)
    assert_told(run("sync", "--part", "mail", tree.source, tree.target), "not empty", codes=(3,))
    shutil.rmtree(tree.target)
    killed = {"SNAPSYNC_FAULT": "stage.begin:error"}
    for name in ("a/b", "a@b", "", ".", "..", "7", "latest", "x" * 201, "a\nb"):
        ran = run("sync", "--part", name, tree.source, tree.target, env=killed)
        assert_told(ran, "cannot be the name of a part", codes=(2,))
    for pattern in ("mail", "**/mail", "!/mail"):
        ran = run("sync", "--part", "mail", "--include", pattern, tree.source, tree.target)
        assert_told(ran, "pattern", codes=(2,))
    assert not (tree.source / ".snapsync").exists()
    assert_same(before, tree.source)
    done("snapshot", tree.source)
    assert_told(run("sync", "--part", "mail", f"{tree.source}@www/", tree.target), codes=(2,))
    assert_told(run("list", of(tree.source, "mail")), "no part", "--part mail", codes=(2,))


@POOL
def test_a_part_may_be_deep_and_several_paths(tree: Pair, kinds: tuple[str, str]) -> None:
    done("sync", "--part", "p", tree.source, tree.target, "--include", "/mail/sent", "--include", "/www/")
    keep = [*below(tree.source, "mail/sent", "www"), b"mail"]
    assert_same(part(freeze(tree.source), keep), tree.target)
    done("sync", of(tree.source, "p"), tree.target, "--exclude", "/mail/*", "--include", "/mail/inbox")
    keep = [path for path in freeze(tree.source).entries if not path.startswith(b"mail/sent")]
    assert_same(part(freeze(tree.source), set(keep) - {b"."}), tree.target)


@POOL
def test_a_directory_with_the_name_of_a_part_is_what_it_is_or_refused(
    life: Life, kinds: tuple[str, str]
) -> None:
    other = Path(f"{life.volume}@else")
    (other / "first").mkdir(parents=True)
    fill(other / "first/file", 0, 10, 1)
    verified(f"{other}/first", f"{other}/first/")
    verified(f"{other}/", other)
    hiding = Path(f"{life.volume}@mail")
    (hiding / "first").mkdir(parents=True)
    try:
        for words in (("list", f"{hiding}/"), ("verify", f"{hiding}/first", hiding)):
            assert_told(run(*words), "is a directory, and a", codes=(2,))
        assert run("list", f"{life.volume}/.@mail/", "--quiet").out == "first\n"
        verified(f"{hiding}/.", f"{hiding}/.")
    finally:
        shutil.rmtree(hiding)


@POOL
def test_a_volume_that_was_moved_is_adopted_with_its_parts(life: Life, kinds: tuple[str, str]) -> None:
    moved = life.volume.with_name("moved")
    shutil.copytree(life.volume, moved, symlinks=True)
    assert_told(
        run("list", of(moved, "mail")), "belongs to another directory", f"recover {moved}@mail/ --adopt"
    )
    done("recover", moved, "--adopt")
    assert listed(moved, "mail") == listed(moved, "www") == ["first"]


@POOL
def test_python_and_jobs_know_parts(life: Life, tmp_path: Path, kinds: tuple[str, str]) -> None:
    report = snapsync.sync(life.volume, life.standby["mail"], part="mail", name="by-python")
    assert report.primary.path == of(life.volume, "mail")
    volume = snapsync.Volume(life.volume, part="mail")
    assert [snap.name for snap in volume.snapshots()] == ["first", "by-python"]
    assert volume.status().standbys[0].path == str(life.standby["mail"])
    jobs = Jobs(tmp_path)
    for name in life.standby:
        jobs.add(name, life.volume, life.standby[name], f'part = "{name}"')
    assert {name: job["outcome"] for name, job in jobs.outcomes("mail", "www").items()} == {
        "mail": "done",
        "www": "done",
    }
    told = run("status", "--config", jobs.file, "--json", env=jobs.env).json["jobs"]
    assert [(job["job"], job["problems"], job["source"]["volume"]["path"]) for job in told] == [
        (name, [], of(life.volume, name)) for name in life.standby
    ]


@POOL
def test_parts_are_reached_over_ssh_and_gates_hold_for_them(
    life: Life, place: Place, server: Server, kinds: tuple[str, str]
) -> None:
    there, volume = server.client(), life.volume
    far = place.absent("xfs")
    words = ("--part", "mail", there.at(volume), far, *there.options)
    done("sync", *words, "--name", "pulled")
    assert_has(far, volume, "mail")
    verify = run("verify", f"{there.at(volume)}@mail/pulled", far, *there.options)
    assert verify.code == 0, verify
    change(volume, 1)
    done("sync", there.at(volume) + "@mail/", far, *there.options, "--channels", "2")
    assert_has(far, volume, "mail")
    own = server.client(forced=f"{command()[0]} serve --restrict-to {of(volume, 'mail')}")
    done("sync", own.at(volume) + "@mail/", far, *own.options)
    for place_ in (f"{own.at(volume)}@www/", own.at(volume), f"{own.at(volume)}@mail/www"):
        assert_told(run("sync", place_, place.absent("xfs"), *own.options), "may not work on", codes=(3,))
    other = server.client(forced=f"{command()[0]} serve --restrict-to {volume / 'mail'}")
    assert_told(run("sync", f"{other.at(volume)}@mail/", far, *other.options), "may not work on", codes=(3,))


@POOL
def test_no_part_of_another_tree_is_made_as_a_standby(
    tree: Pair, place: Place, server: Server, kinds: tuple[str, str]
) -> None:
    """Its root would get the owner and mode of another, and whoever may only receive would write in it."""
    host, ordinary, absent = place(kinds[1]), place(kinds[1]), place.absent(kinds[1])
    done("snapshot", host)
    untouched = freeze(host), freeze(ordinary)
    words = ("sync", "--part", "mail", "--include", "/mail", tree.source)
    assert_told(run(*words, f"{host}@copy/", "--quiet"), "has no part copy", codes=(3,))
    assert_told(run(*words, f"{ordinary}@copy/", "--quiet"), "is no volume", codes=(2,))
    gate = server.client(forced=f"{command()[0]} serve --restrict-to {host.parent} --receive-only")
    for place_ in (host, ordinary):
        ran = run(*words, f"{gate.at(place_)}@copy/", *gate.options, "--quiet")
        assert ran.code in REFUSALS, ran
    assert not (host / ".snapsync/parts").exists()
    assert not (tree.source / ".snapsync").exists()
    assert not Path(f"{ordinary}@copy").exists()
    for before, now in zip(untouched, (host, ordinary), strict=True):
        assert_same(before, now)
    done(*words, f"{absent}@copy/")
    assert_has(Path(f"{absent}@copy"), tree.source, "mail")


@POOL
def test_a_directory_with_the_name_of_a_part_does_not_take_its_place(
    tree: Pair, kinds: tuple[str, str]
) -> None:
    hiding = Path(f"{tree.source}@mail")
    fill_in = hiding / "other"
    fill_in.mkdir(parents=True)
    try:
        done("sync", "--part", "mail", "--include", "/mail", tree.source, tree.target)
        assert_has(tree.target, tree.source, "mail")
        assert not (hiding / ".snapsync").exists()
    finally:
        shutil.rmtree(hiding)


@POOL
def test_patterns_that_would_make_a_part_of_everything_are_refused(
    tree: Pair, kinds: tuple[str, str]
) -> None:
    words = ("sync", "--part", "mail", "--include", "/mail", tree.source, tree.target)
    assert_told(run(*words, "--exclude", "*.tmp", "--quiet"), "bring back", "--exclude '/*'", codes=(2,))
    assert not (tree.source / ".snapsync").exists()
    done(*words, "--exclude", "/*")
    assert_has(tree.target, tree.source, "mail")


@KINDS
def test_whatever_happens_to_a_part_its_snapshots_and_the_others_are_whole(
    life: Life, place: Place, kinds: tuple[str, str], tmp_path: Path
) -> None:
    volume, mail, standby = life.volume, of(life.volume, "mail"), str(life.standby["mail"])
    pick = random.Random("-".join(kinds))
    primary, other = mail, standby
    trees = {mail: volume, standby: Path(standby)}
    change(volume, 0)
    done("sync", mail, standby, env={"SNAPSYNC_FAULT_TRACE": tmp_path / "trace"})
    points = sorted(set(passed(tmp_path / "trace")))
    was: dict[str, Picture] = {}
    for number in range(1, 9):
        for top in ("www/pages", "other"):
            change_only(volume, top, number)
        change_only(trees[primary], "mail/inbox", number)
        aside = outside(volume, "mail")
        turn = pick.choice(("kill", "kill", "switch", "over", "delete"))
        if turn == "kill":
            ran = run("sync", primary, other, env={"SNAPSYNC_FAULT": f"{pick.choice(points)}:1"})
            assert ran.code in (0, -signal.SIGKILL), ran
        elif turn == "switch":
            done("switch", primary, other)
            primary, other = other, primary
        elif turn == "over":
            done("promote", other, "--discard-drift")
            done("rejoin", primary, other)
            primary, other = other, primary
        elif len(was) > 1:
            name = pick.choice(sorted(was)[:-1])
            done("delete", f"{primary if primary == mail else f'{primary}@'}{name}")
            del was[name]
        name = f"r{number}"
        done("sync", primary, other, "--name", name)
        was[name] = only(trees[primary], "mail")
        assert_same(was[name], only(trees[other], "mail"), without={b"."})
        assert_same(aside, outside(volume, "mail"), without={b"."})
        life.round("www")
    for name, picture in was.items():
        # A standby that was promoted where blocks are not shared may have lost what changed since.
        codes = set()
        for address in (f"{mail}{name}", f"{standby}@{name}"):
            to = place.absent("xfs")
            ran = run("restore", address, "--to", to)
            codes.add(ran.code)
            if ran.code == 0:
                assert_same(picture, to, without={b"."})
        assert 0 in codes
        assert codes <= ({0, 4} if "ext4" in kinds else {0})


@POOL
def test_what_others_put_among_the_parts_is_refused(life: Life, place: Place, kinds: tuple[str, str]) -> None:
    volume, parts = life.volume, life.volume / ".snapsync/parts"
    (parts / "link").symlink_to(parts / "mail")
    os.chown(parts / "www", 65534, 65534)
    assert_told(run("list", of(volume, "link")), "is a link", codes=(3,))
    assert_told(run("list", of(volume, "www")), "belongs to user 65534", codes=(3,))
    told = {found["name"]: found["problem"] for found in done("list", volume)["parts"]}
    assert told.keys() == {"mail", "www"}
    assert told["mail"] is None
    assert "belongs to user 65534" in told["www"]
    assert "unreadable" in run("status", volume).out
    os.chown(parts / "www", 0, 0)
    os.rename(parts, moved := place(kinds[0]) / "parts")
    parts.symlink_to(moved)
    assert_told(run("sync", "--part", "mail", volume, life.standby["mail"]), "is a link", codes=(3,))
    parts.unlink()
    os.rename(moved, parts)
    life.round("www")
