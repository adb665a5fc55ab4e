"""A standby on a machine with other users and groups finds the owners of files by name, both ways."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from between import Rule, between
from configured import Jobs
from hosts import Host
from machine import Place, Ran, assert_told, done, passed, run, store
from object_store import Logs
from oracle import assert_same, freeze
from test_crash import advance, lay_out
from worlds import World, bulk, chown, fill, set_acl

TOP = (("btrfs", "btrfs"), ("xfs", "ext4"), ("ext4", "xfs"))
kinds = pytest.mark.parametrize("kinds", TOP, ids="-".join)
one = pytest.mark.parametrize("kinds", [("xfs", "ext4")], ids="-".join)

PEOPLE = [f"user{number}" for number in range(1, 10)] + [f"acl{number}" for number in range(1000, 1010)]
NAMES = ("--owners", "names")
ENDS = {"commit.marked", "commit.applied", "commit.snapshot", "commit.discarded", "commit.owned"}


class Two:
    """A primary on one machine, and its standby on another."""

    def __init__(self, place: Place, folder: Path, kinds: tuple[str, str], seed: int = 0) -> None:
        chance = random.Random(seed)
        numbers = [int("".join(filter(str.isdecimal, name))) for name in PEOPLE]
        others = [chance.sample(numbers, len(numbers)) for _ in range(2)]
        mine = dict(zip(PEOPLE, numbers, strict=True))
        theirs = [dict(zip(PEOPLE, them, strict=True)) for them in others]
        self.a = Host(folder / "a", dict(mine), dict(mine))
        self.b = Host(folder / "b", *theirs)
        self.source, self.target = place(kinds[0]), place.absent(kinds[1])

    def push(self, *options: object, code: int = 0, env: dict[str, object] | None = None) -> Ran:
        words = ("sync", self.source, f"there:{self.target}", *self.b.there, *options)
        ran = run(*words, "--json", wrap=self.a.here, env=env)
        assert ran.code == code, ran
        return ran

    def back(self, *options: object, code: int = 0) -> Ran:
        words = ("sync", self.target, f"here:{self.source}", *self.a.there, *options)
        ran = run(*words, "--json", wrap=self.b.here)
        assert ran.code == code, ran
        return ran

    def assert_same(self) -> None:
        """By the names of owners alone, and by the product's own verify on both machines."""
        assert_same(self.source, self.b.picture(self.target, self.a))
        far = run("verify", self.source, f"there:{self.target}", *self.b.there, "--json", wrap=self.a.here)
        assert far.json["equal"], far.json["differences"]
        assert run("verify", self.source, self.target, wrap=self.b.here).code == 0


@pytest.fixture
def two(place: Place, tmp_path: Path, kinds: tuple[str, str]) -> Two:
    return Two(place, tmp_path, kinds)


def accounts(volume: Path) -> Any:
    return json.loads((store(volume) / "volume.json").read_text()).get("accounts")


@kinds
@pytest.mark.parametrize("seed", range(2))
def test_files_belong_to_who_has_the_same_name(
    place: Place, tmp_path: Path, kinds: tuple[str, str], seed: int
) -> None:
    two = Two(place, tmp_path, kinds, seed)
    world = World(two.source, seed)
    world.grow(120)
    two.push(*NAMES)
    two.assert_same()
    for _ in range(3):
        world.churn(60)
        for _ in range(10):
            world.any_owner()
            world.any_acl()
        planned = json.loads(two.push("--dry-run").out)
        assert planned["refused"] is None, planned
        two.push()
        two.assert_same()
    assert accounts(two.source) is None, "its own numbers are those of the lineage"


@kinds
def test_after_a_failover_and_back_everybody_has_his_own(two: Two, kinds: tuple[str, str]) -> None:
    world = World(two.source, 1)
    world.grow(80)
    two.a.add("known", 6001)
    two.b.add("known", 6002)
    fill(two.source / "known", 0, 10, 1)
    chown(two.source / "known", 6001, 0)
    two.push(*NAMES)
    done("promote", two.target, wrap=two.b.here)
    # Accounts that came later: the number of one is free on the other machine, the other's is not.
    two.b.add("late", 3001)
    two.a.add("late", 5001)
    two.b.add("clash", 6001)
    two.a.add("clash", 5002)
    for name in ("late", "clash"):
        fill(two.target / name, 0, 5_000, 1)
        chown(two.target / name, two.b.users[name], 0)
        set_acl(two.target / name, "access", two.b.users[name], 7)
    World(two.target, 2).churn(40)
    words = ("rejoin", two.source, f"there:{two.target}", *two.b.there)
    rejoined = done(*words, wrap=two.a.here)
    assert rejoined["round"]["changes"]["created"] >= 2
    for name in ("late", "clash"):
        assert os.stat(two.source / name).st_uid == two.a.users[name]
    assert accounts(two.source) is not None
    World(two.target, 3).churn(40)
    two.back()
    assert run("verify", two.target, two.source).code == 0
    assert_same(two.target, two.a.picture(two.source, two.b))
    # And once more the other way.
    switched = done("switch", two.target, f"here:{two.source}", *two.a.there, wrap=two.b.here)
    assert switched["promoted"]
    World(two.source, 4).churn(40)
    two.push()
    assert_same(two.target, two.a.picture(two.source, two.b))


@one
def test_an_owner_whose_number_is_anothers_is_refused_and_changes_nothing(
    two: Two, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    bulk(two.source, 5)
    two.push(*NAMES)
    before, known = freeze(two.target), accounts(two.target)
    two.a.add("ghost", 2001)
    two.b.add("tenant", 2001)
    fill(two.source / "file", 0, 10, 1)
    chown(two.source / "file", 2001, 0)
    ran = run("sync", two.source, f"there:{two.target}", *two.b.there, "--quiet", wrap=two.a.here)
    assert_told(ran, "user ghost (2001)", "2001 is tenant", "--owners", codes=(3,))
    assert json.loads(two.push("--dry-run", code=3).out)["refused"]
    map_file = tmp_path / "map"
    for text, words in [
        ("user ghost = nobody-at-all", ["nobody-at-all"]),
        (f"user ghost = {two.b.users['user1']}", ["another user"]),
    ]:
        map_file.write_text(text)
        fill(two.source / "own", 0, 10, 1)
        chown(two.source / "own", two.a.users["user1"], 0)
        ran = two.push("--owners", map_file, code=3)
        assert all(word in ran.err for word in words), ran.err
    assert_same(before, two.target)
    assert accounts(two.target) == known
    map_file.write_text("# who is who\nuser ghost = tenant\n\ngroup 7777 = 8888 # of nobody\n")
    chown(two.source / "own", -1, 7777)
    two.push("--owners", map_file)
    assert os.stat(two.target / "file").st_uid == 2001
    assert os.stat(two.target / "own").st_gid == 8888
    # The map has it now, and the rules are needed no more.
    chown(two.source / "own", 2001, -1)
    two.push()
    assert run("verify", two.source, two.target).code == 0


@one
def test_an_account_that_is_not_known_keeps_a_free_number_but_not_with_strict(
    two: Two, kinds: tuple[str, str]
) -> None:
    two.a.add("ghost", 2001)
    fill(two.source / "file", 0, 10, 1)
    chown(two.source / "file", 2001, 2002)
    ran = two.push(*NAMES, "--strict", code=3)
    assert "there is no user ghost here" in ran.err
    assert not two.target.exists()
    notes = json.loads(two.push(*NAMES).out)["notes"]
    assert any("user ghost (2001)" in note for note in notes), notes
    stat = os.stat(two.target / "file")
    assert (stat.st_uid, stat.st_gid) == (2001, 2002)
    # It is that person's for good.
    two.b.add("ghost", 6001)
    fill(two.source / "more", 0, 10, 1)
    chown(two.source / "more", 2001, 2002)
    two.push()
    assert os.stat(two.target / "more").st_uid == 2001


@one
def test_a_standby_that_kept_numbers_until_now_finds_new_owners_by_name(
    two: Two, kinds: tuple[str, str]
) -> None:
    two.a.add("same", 1700)
    two.b.add("same", 1700)
    fill(two.source / "old", 0, 10, 1)
    chown(two.source / "old", 1700, 0)
    two.push()
    fill(two.source / "new", 0, 3_000_000, 1)
    chown(two.source / "new", two.a.users["user2"], 0)
    # A transfer that was cut has staged the file for its number.
    words = ("sync", two.source, f"there:{two.target}", *two.b.there)
    cut = run(*words, wrap=two.a.here, env={"SNAPSYNC_FAULT": "stage.done:1"})
    assert cut.code
    two.push(*NAMES)
    assert os.stat(two.target / "new").st_uid == two.b.users["user2"]
    assert os.stat(two.target / "old").st_uid == 1700
    assert run("verify", two.source, two.target).code == 0


@pytest.mark.parametrize("kinds", [("btrfs", "btrfs"), ("ext4", "xfs")], ids="-".join)
def test_killed_anywhere_the_next_round_finds_the_same_owners(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    def prepared(name: str) -> Two:
        two = Two(place, tmp_path / name, kinds)
        lay_out(two.source)
        two.push(*NAMES)
        advance(two.source, 1)
        for number in range(9):
            fill(two.source / f"own-{number}", 0, 5_000, number)
            chown(two.source / f"own-{number}", number, number % 7)
        return two

    trace = tmp_path / "trace"
    prepared("first").push(env={"SNAPSYNC_FAULT_TRACE": trace})
    hits = Counter(passed(trace))
    assert "commit.owned" in hits
    chosen = [point for point in hits if point.startswith("stage.") or point in ENDS]
    for number, point in enumerate(chosen):
        with subtests.test(point=point):
            two = prepared(f"{number}")
            fault: dict[str, object] = {"SNAPSYNC_FAULT": f"{point}:{hits[point] // 2 + 1}"}
            words = ("sync", two.source, f"there:{two.target}", *two.b.there)
            ran = run(*words, wrap=two.a.here, env=fault)
            assert ran.code in (5, -signal.SIGKILL), ran
            two.push()
            two.assert_same()


@one
def test_pulls_files_and_logs_bring_names(
    two: Two, logs: Logs, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    world = World(two.source, 5)
    world.grow(60)
    pulled, received, follower = (two.target.parent / f"{two.target.name}-{way}" for way in "prf")
    log = logs("directory").address
    for turn in range(3):
        name = f"s{turn}"
        done("sync", two.source, log, "--name", name, wrap=two.a.here)
        once = NAMES if turn == 0 else ()
        words = ("sync", f"there:{two.source}", pulled, "--snap", name, *two.a.there, *once)
        done(*words, wrap=two.b.here)
        base = ("--base", f"{two.source}@s{turn - 1}") if turn else ()
        file = tmp_path / "delta"
        run("send", f"{two.source}@{name}", *base, "-o", file, wrap=two.a.here)
        done("receive", received, "-i", file, *once, wrap=two.b.here)
        if turn != 1:
            done("sync", log, follower, *once, wrap=two.b.here)
        for target in (pulled, received) if turn == 1 else (pulled, received, follower):
            assert_same(two.source, two.b.picture(target, two.a))
            assert run("verify", two.source, target).code == 0
        world.churn(30)
        world.any_owner()
        # The follower meets them in rounds that it catches up with one after the other.
        two.a.add(f"late{turn}", 7000 + turn)
        two.b.add(f"late{turn}", 7010 - turn)
        give(two.source / f"late{turn}", 7000 + turn)
    assert_told(run("sync", two.source, log, *NAMES), "followers", codes=(2,))


@one
def test_what_comes_from_a_standby_belongs_to_whom_the_primary_says(
    two: Two, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    World(two.source, 6).grow(60)
    first = json.loads(two.push(*NAMES).out)["snapshot"]["name"]
    before = freeze(two.source)
    address = f"{two.source}@{first}"
    for number, (standby, ssh) in enumerate([(two.target, ()), (f"there:{two.target}", two.b.there)]):
        to = two.source.parent / f"{two.source.name}-restored-{number}"
        done("restore", address, "--from", standby, "--to", to, *ssh, wrap=two.a.here)
        assert_same(before, to)


@one
def test_a_repair_gives_files_back_to_their_owners(two: Two, kinds: tuple[str, str]) -> None:
    bulk(two.source, 10)
    chown(next(path for path in two.source.rglob("*") if path.is_file()), two.a.users["user3"], 0)
    two.push(*NAMES)
    damaged = next(path for path in two.target.rglob("*") if path.is_file() and ".snapsync" not in path.parts)
    chown(damaged, 4242, 4242)
    assert run("verify", two.source, two.target).code == 4
    assert done("verify", two.source, two.target, "--repair", "--discard-drift")["equal"]
    two.assert_same()


@one
def test_owners_are_not_told_of_a_copy_to_adopt(two: Two, kinds: tuple[str, str]) -> None:
    fill(two.source / "file", 0, 10, 1)
    two.target.mkdir()
    fill(two.target / "file", 0, 10, 1)
    before = freeze(two.target)
    ran = two.push("--adopt", *NAMES, code=3)
    assert "copy to adopt" in ran.err
    assert_same(before, two.target)


@one
def test_a_job_finds_owners_as_it_is_told(
    two: Two, jobs: Jobs, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    fill(two.source / "file", 0, 10, 1)
    chown(two.source / "file", two.a.users["user4"], 9999)
    (tmp_path / "map").write_text("group 9999 = 7\n")
    rsh = dict(zip(two.b.there[::2], two.b.there[1::2], strict=True))
    lines = [
        f"owners = {json.dumps(str(tmp_path / 'map'))}",
        f"rsh = {json.dumps(rsh['--rsh'])}",
        f"remote_path = {json.dumps(rsh['--remote-path'])}",
    ]
    jobs.add("far", two.source, Path(f"there:{two.target}"), "\n".join(lines))
    ran = run("run", "far", "--config", jobs.file, env=jobs.env, wrap=two.a.here)
    assert ran.code == 0, ran
    stat = os.stat(two.target / "file")
    assert (stat.st_uid, stat.st_gid) == (two.b.users["user4"], 7)


@one
@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("user alice bob", "line 1"),
        ("\nperson a = b", "line 2"),
        ("user a = b\nuser a = c", "once more"),
        ("user a = b\nuser c = b", "one to one"),
        ("user 4294967295 = 1", "no number"),
        (b"user \xff = b", "not text"),
        (None, "cannot read"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused_before_anything_is_done(
    place: Place, tmp_path: Path, kinds: tuple[str, str], text: str | bytes | None, word: str
) -> None:
    source, target, file = place(kinds[0]), place.absent(kinds[1]), tmp_path / "map"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_told(run("sync", source, target, "--owners", file), word, codes=(2,))
    assert not target.exists()
    assert not (source / ".snapsync").exists()


@one
def test_a_list_with_an_account_of_its_own_is_translated(two: Two, kinds: tuple[str, str]) -> None:
    fill(two.source / "file", 0, 10, 1)
    set_acl(two.source / "file", "access", two.a.users["user5"], 7)
    two.push(*NAMES)
    value = os.getxattr(two.target / "file", "system.posix_acl_access")
    numbers = {number for tag, _, number in struct.iter_unpack("<HHI", value[4:]) if tag == 2}
    assert numbers == {two.b.users["user5"]}
    here = [pair["here"] for pair in accounts(two.target)["users"].values()]
    assert len(set(here)) == len(here)


def give(path: Path, number: int, size: int = 10) -> None:
    fill(path, 0, size, number)
    chown(path, number, 0)


def owner(path: Path) -> int:
    return os.stat(path).st_uid


@kinds
def test_on_one_machine_a_map_counts_for_files_with_data_too(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    source, target = place(kinds[0]), place.absent(kinds[1])
    rules = tmp_path / "map"
    rules.write_text("\ufeffuser 1001 = 1002\nuser 1002 = 1001\n")
    for number, size in ((1001, 100_000), (1002, 0)):
        give(source / f"of-{number}", number, size)
    done("sync", source, target, "--owners", rules)
    # The rules are remembered.
    give(source / "more", 1001)
    done("sync", source, target)
    assert [owner(target / name) for name in ("of-1001", "of-1002", "more")] == [1002, 1001, 1002]
    assert run("verify", source, target).code == 0


@one
def test_a_number_that_only_one_side_gave_is_free_for_the_other(two: Two, kinds: tuple[str, str]) -> None:
    give(two.source / "first", two.a.users["user1"])
    two.push(*NAMES)
    done("switch", two.source, f"there:{two.target}", *two.b.there, wrap=two.a.here)
    done("switch", two.target, f"here:{two.source}", *two.a.there, wrap=two.b.here)
    two.a.add("erin", 1050)
    two.b.add("dave", 1050)
    give(two.source / "erins", 1050)
    assert "1050 is dave" in two.push(code=3).err
    done("promote", two.target, wrap=two.b.here)
    give(two.target / "daves", 1050)
    ran = run("rejoin", two.source, f"there:{two.target}", *two.b.there, wrap=two.a.here)
    assert ran.code == 3, ran
    assert "1050 is erin" in ran.err
    two.a.add("dave", 1055)
    two.back()
    assert owner(two.source / "daves") == 1055


@one
def test_a_standby_that_was_ahead_learns_anew_what_came_after(
    two: Two, place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    two.a.add("erin", 1507)
    two.b.add("dave", 1507)
    third = Host(tmp_path / "c", two.a.users | {"dave": 1555}, dict(two.a.groups))
    ahead, file = place.absent("xfs"), tmp_path / "delta"
    give(two.source / "first", two.a.users["user1"])
    done("snapshot", two.source, "--name", "s1", wrap=two.a.here)
    run("send", f"{two.source}@s1", "-o", file, wrap=two.a.here)
    done("receive", two.target, "-i", file, *NAMES, wrap=two.b.here)
    done("receive", ahead, "-i", file, *NAMES, wrap=third.here)
    give(two.source / "erins", 1507)
    done("snapshot", two.source, "--name", "s2", wrap=two.a.here)
    run("send", f"{two.source}@s2", "--base", f"{two.source}@s1", "-o", file, wrap=two.a.here)
    done("receive", ahead, "-i", file, wrap=third.here)
    done("promote", two.target, wrap=two.b.here)
    give(two.target / "daves", 1507)
    done("rejoin", ahead, f"there:{two.target}", *two.b.there, wrap=third.here)
    assert owner(ahead / "daves") == 1555
    # The old primary, which never knew that somebody finds owners by name, does so too.
    two.a.add("dave", 1556)
    done("rejoin", two.source, f"there:{two.target}", *two.b.there, wrap=two.a.here)
    assert owner(two.source / "daves") == 1556
    # And so does who follows the new one on its own machine.
    copy = place.absent("ext4")
    done("sync", two.target, copy, wrap=two.b.here)
    assert_same(two.target, copy)


@one
def test_a_number_that_is_given_to_somebody_else_is_refused_until_that_is_said(
    two: Two, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    two.a.add("alice", 1601)
    two.b.users |= {"alice": 1605, "bob": 1606}
    two.b.write()
    give(two.source / "alices", 1601)
    two.push(*NAMES)
    del two.a.users["alice"]
    two.a.add("bob", 1601)
    give(two.source / "bobs", 1601)
    before = freeze(two.target)
    assert "user bob (1601): here it is 1606, and it was 1605 as alice" in two.push(code=3).err
    assert_same(before, two.target)
    (rules := tmp_path / "map").write_text("user bob = 1606\n")
    assert "it was 1605" in two.push("--owners", rules, code=3).err
    rules.write_text("user 1601 = alice\n")
    two.push("--owners", rules)
    assert owner(two.target / "bobs") == 1605


@one
def test_numbers_that_a_standby_kept_are_proved_by_name_when_it_is_asked_to(
    two: Two, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    two.a.add("alice", 1601)
    two.b.users |= {"alice": 1605, "bob": 1601}
    two.b.write()
    give(two.source / "alices", 1601)
    two.push()
    give(two.source / "more", 1601)
    assert "here it is 1605, and it was 1601 until now" in two.push(*NAMES, code=3).err
    (rules := tmp_path / "map").write_text("user alice = 1601\n")
    two.push("--owners", rules)
    assert owner(two.target / "more") == 1601


@one
def test_what_was_staged_with_other_owners_is_staged_anew(
    two: Two, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    two.a.add("alice", 1601)
    two.b.users |= {"bob": 1606}
    two.b.write()
    give(two.source / "alices", 1601, 3_000_000)
    words = ("sync", two.source, f"there:{two.target}", *two.b.there, *NAMES)
    assert run(*words, wrap=two.a.here, env={"SNAPSYNC_FAULT": "stage.done:1"}).code
    two.b.add("alice", 1605)
    two.push(*NAMES, "--strict")
    assert owner(two.target / "alices") == 1605
    give(two.source / "carols", 1602, 3_000_000)
    two.a.add("carol", 1602)
    assert run(*words, wrap=two.a.here, env={"SNAPSYNC_FAULT": "stage.done:1"}).code
    (rules := tmp_path / "map").write_text("user carol = bob\n")
    two.push("--owners", rules)
    assert owner(two.target / "carols") == 1606


@one
def test_snapshots_from_before_have_the_numbers_that_they_were_taken_with(
    two: Two, kinds: tuple[str, str]
) -> None:
    two.a.add("erin", 1607)
    two.b.users |= {"dave": 1607, "erin": 1609}
    two.b.write()
    done("init", two.source, "--history", "full")
    give(two.source / "erins", 1607)
    two.push("--name", "n1")
    (two.source / "erins").unlink()
    two.push("--name", "n2")
    two.push("--name", "n3", *NAMES)
    give(two.source / "again", 1607)
    two.push("--name", "n4")
    assert owner(two.target / "again") == 1609
    for name in ("n1", "n2", "n3", "n4"):
        there = f"there:{two.target}@{name}"
        words = ("verify", f"{two.source}@{name}", there, "--quick", *two.b.there, "--json")
        assert run(*words, wrap=two.a.here).json["equal"], name


@one
def test_the_highest_numbers_are_numbers_too(two: Two, kinds: tuple[str, str]) -> None:
    two.a.add("high", 6001)
    two.b.add("high", 6002)
    give(two.source / "first", 6001)
    two.push(*NAMES)
    done("promote", two.target, wrap=two.b.here)
    two.b.add("other", 6001)
    for number in (6001, 2**31 + 6001, 2**32 - 2):
        give(two.target / f"of-{number}", number)
    done("rejoin", two.source, f"there:{two.target}", *two.b.there, wrap=two.a.here)
    assert owner(two.source / f"of-{2**32 - 2}") == 2**32 - 2
    assert len({owner(two.source / f"of-{number}") for number in (6001, 2**31 + 6001, 2**32 - 2)}) == 3
    assert run("verify", two.target, two.source).code == 0


@one
def test_a_version_that_does_not_know_names_refuses_the_standby_and_not_the_primary(
    two: Two, kinds: tuple[str, str]
) -> None:
    bulk(two.source, 2)
    two.push(*NAMES)
    formats = [
        json.loads((store(end) / "volume.json").read_text())["format"] for end in (two.source, two.target)
    ]
    assert formats == [6, 7]


@one
def test_a_server_that_does_not_know_names_is_not_asked_for_them(
    place: Place, kinds: tuple[str, str]
) -> None:
    source, target = place(kinds[0]), place.absent(kinds[1])
    rule: Rule = {"when": "software", "instead": [{"software": "snapsync 0.0.9", "features": []}]}
    assert_told(
        run("sync", source, f"there:{target}", *between(rule), *NAMES, "--quiet"), "owners", codes=(1,)
    )
    assert not target.exists()
