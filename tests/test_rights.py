"""What a client may do with the rights it was given, and that a standby is the one it says it is."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from machine import Pair, Place, Ran, command, done, run, snapshots, status, store
from oracle import assert_same
from remote import HOST, Client, Server
from talking import Standby, change, record, talking
from worlds import fill

KINDS = ("btrfs", "xfs", "ext4")
STRETCH = {"path": [], "size": 1, "range": {"offset": 0, "length": 1}, "window": 64 << 10}


def names(volume: Path) -> list[str]:
    return [snapshot["name"] for snapshot in snapshots(volume)]


@pytest.fixture
def primary(place: Place, kind: str) -> Path:
    """A volume with three snapshots of its owner's, beneath a directory that servers are kept to."""
    volume = place(kind)
    for number in range(3):
        fill(volume / "file", 0, 5_000, number)
        done("snapshot", volume, "--name", f"own-{number}")
    return volume


@pytest.fixture
def reader(server: Server, primary: Path) -> Client:
    return serving(server, primary, "--read-only")


def serving(server: Server, volume: Path, *options: str) -> Client:
    words = [*command(), "serve", "--restrict-to", str(volume.parent), *options]
    return server.client(forced=shlex.join(words))


def pull(client: Client, source: Path, target: Path, *options: str) -> Ran:
    return run("sync", client.at(source.name), target, *client.options, *options, "--json")


def refused(ran: Ran) -> str:
    assert ran.code == 3, ran
    told: str = ran.json["error"]["message"]
    return told


# --- who may only read ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_who_may_only_read_leaves_one_snapshot_however_often_it_pulls(
    primary: Path, reader: Client, place: Place
) -> None:
    other, target = place.absent("xfs"), place.absent("ext4")
    done("sync", primary, other)
    before, known = names(primary), record(primary)["standbys"]
    for number in range(4):
        fill(primary / "file", 0, 5_000, 10 + number)
        ran = pull(reader, primary, target, "--keep-last", "1")
        assert ran.code == 0, ran
        assert any("keeps its old snapshots" in note for note in ran.json["notes"])
        assert_same(primary, target)
        assert len(snapshots(target)) == 1, "its own history is its own"
        assert names(primary)[: len(before)] == before
        assert len(names(primary)) == len(before) + 1
    (id_of_other,) = known
    assert record(primary)["standbys"][id_of_other] == known[id_of_other]


@pytest.mark.parametrize("kind", ["xfs"])
@pytest.mark.parametrize(
    "options", [("--name", "mine"), ("--exclude", "*"), ("--exclude", "a", "--include", "b")], ids=str
)
def test_who_may_only_read_neither_names_nor_chooses(
    primary: Path, reader: Client, place: Place, options: tuple[str, ...]
) -> None:
    before, target = record(primary), place.absent("xfs")
    refused(pull(reader, primary, target, *options))
    assert record(primary) == before
    assert not target.exists()


@pytest.mark.parametrize("kind", ["xfs"])
def test_patterns_that_change_nothing_may_be_named(primary: Path, reader: Client, place: Place) -> None:
    done("sync", primary, place.absent("xfs"), "--exclude", "*.tmp")
    target = place.absent("xfs")
    for options in ((), ("--exclude", "*.tmp")):
        assert pull(reader, primary, target, *options).code == 0
    refused(pull(reader, primary, target, "--everything"))
    assert record(primary)["subset"]["exclude"] == ["*.tmp"]


@pytest.mark.parametrize("kind", KINDS)
def test_who_may_only_read_makes_no_volume(kind: str, server: Server, place: Place) -> None:
    source = place(kind)
    fill(source / "file", 0, 5_000, 1)
    told = refused(pull(serving(server, source, "--read-only"), source, place.absent("xfs")))
    assert "is no volume" in told
    assert not store(source).exists()


@pytest.mark.parametrize("kind", ["xfs"])
def test_what_is_lent_counts_for_no_rule(primary: Path, reader: Client, place: Place) -> None:
    target = place.absent("xfs")
    assert pull(reader, primary, target).code == 0
    lent = names(primary)[-1]
    done("prune", primary, "--keep-last", "1")
    assert names(primary) == ["own-2", lent], "the newest of the owner's, and the base of a standby"
    # Whatever keeps what was lent from going, the next who prunes deletes it.
    (standby,) = record(primary)["standbys"]
    done("release", primary, "--standby", standby)
    done("prune", primary, "--keep-last", "1")
    assert names(primary) == ["own-2"]


@pytest.mark.parametrize("kind", ["xfs"])
def test_standbys_of_readers_are_counted(primary: Path, reader: Client, place: Place) -> None:
    target = place.absent("xfs")
    assert pull(reader, primary, target).code == 0
    ((_, known),) = record(primary)["standbys"].items()
    more = {str(uuid.uuid4()): known for _ in range(15)}
    change(primary, lambda record: record["standbys"].update(more))
    before = names(primary)
    assert "16 standbys" in refused(pull(reader, primary, place.absent("xfs")))
    assert names(primary) == before
    assert pull(reader, primary, target).code == 0, "who is known goes on"


@pytest.mark.parametrize("kind", ["xfs"])
def test_old_snapshots_go_where_the_administrator_lets_them(
    primary: Path, server: Server, place: Place
) -> None:
    before = names(primary)
    for restriction in ((), ("--read-only",)):
        key = serving(server, primary, *restriction)
        assert pull(key, primary, place.absent("xfs"), "--keep-last", "1").code == 0
        assert names(primary)[:3] == before
    key = serving(server, primary, "--read-only", "--allow-prune")
    assert pull(key, primary, place.absent("xfs"), "--keep-last", "1").code == 0
    assert not set(before[:2]) & set(names(primary))


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_who_may_only_read_keeps_nobody_waiting(primary: Path, place: Place) -> None:
    """However long its client takes: the owner goes on meanwhile, and so does its round then."""
    other = place.absent("xfs")
    with talking("--read-only") as wire:
        standby = Standby(wire, primary)
        assert "begin" in standby.open(str(uuid.uuid4()))
        lent = snapshots(primary)[-1]
        done("snapshot", primary, "--name", "meanwhile")
        done("sync", primary, other, "--keep-last", "1")
        with talking("--read-only") as second:
            also = Standby(second, primary)
            assert "begin" in also.open(str(uuid.uuid4()))
            assert lent["name"] in names(primary), "it is being sent"
            also.fail(needed=False)
        done("recover", primary)
        assert "done" in standby.take(lent)
    assert names(primary)[0] == lent["name"], "the base of a standby"
    assert len(record(primary)["standbys"]) == 2
    assert not any((store(primary) / "reading").iterdir())
    assert_same(primary, other)


@pytest.mark.parametrize("kind", ["xfs"])
def test_no_client_puts_its_standby_in_the_place_of_another(primary: Path, place: Place) -> None:
    other = place.absent("xfs")
    done("sync", primary, other)
    known = record(primary)["standbys"]
    ((_, standby_before),) = known.items()
    for options in (("--read-only",), ("--restrict-to", str(primary.parent))):
        with talking(*options) as wire:
            standby = Standby(wire, primary, new_standby=True)
            looked = {key: standby_before[key] for key in ("path", "filesystem")}
            assert "begin" in standby.open(str(uuid.uuid4()), looked=looked)
            assert "done" in standby.take(snapshots(primary)[-1])
        assert known.items() <= record(primary)["standbys"].items()


# --- who lies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
@pytest.mark.parametrize("options", [(), ("--read-only",)], ids=["any", "only reads"])
def test_a_standby_that_lies_of_what_was_cut_has_nothing_deleted(
    primary: Path, options: tuple[str, ...]
) -> None:
    before = names(primary)
    for snapshot in snapshots(primary):
        with talking(*options) as wire:
            pending = {"snapshot": snapshot["id"], "base": None, "manifest": ""}
            standby = Standby(wire, primary)
            assert "begin" in standby.open(str(uuid.uuid4()), pending=pending)
            standby.fail(needed=False)
        assert names(primary) == before


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_standby_that_always_fails_and_needs_it_leaves_one_snapshot(primary: Path) -> None:
    before = names(primary)
    for _ in range(4):
        with talking("--read-only") as wire:
            standby = Standby(wire, primary)
            assert "begin" in standby.open(str(uuid.uuid4()))
            standby.fail(needed=True)
        assert names(primary)[:3] == before
        assert len(names(primary)) <= 4


# --- who may only receive ---------------------------------------------------------------------


@dataclass
class Feeder:
    """A volume with a standby beneath a directory where others have theirs, and the key that may feed it."""

    source: Path
    root: Path
    client: Client

    def push(self, target: object) -> Ran:
        return run("sync", self.source, self.client.at(target), *self.client.options, "--json")

    def verify(self, there: object, here: object = "") -> Ran:
        words = ("verify", here or self.source, self.client.at(there), *self.client.options, "--json")
        return run(*words)


@pytest.fixture
def feeder(server: Server, place: Place, kind: str) -> Feeder:
    source, root, other = place("xfs"), place(kind), place("xfs")
    fill(source / "file", 0, 5_000, 1)
    done("sync", source, root / "own")
    fill(other / "other", 0, 5_000, 2)
    done("sync", other, root / "theirs")
    (root / "primary").mkdir()
    done("snapshot", root / "primary", "--name", "first")
    (root / "full").mkdir()
    fill(root / "full" / "file", 0, 5_000, 1)
    fill(root / "file", 0, 5_000, 1)
    words = [*command(), "serve", "--restrict-to", str(root), "--receive-only"]
    return Feeder(source, root, server.client(forced=shlex.join(words)))


OTHERS = ("theirs", "primary", "full", "file", "absent/below", "file/below", "full/../own", "..", ".snapsync")
NOT_OWN = "is nothing that this client may feed or verify"


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_who_may_only_receive_feeds_and_verifies_its_own(feeder: Feeder) -> None:
    for ran in (feeder.push("own"), feeder.push("new")):
        assert ran.code == 0, ran
    assert feeder.verify("own@latest", f"{feeder.source}@latest").json["equal"]
    for ran in (feeder.push("theirs"), feeder.verify("theirs")):
        assert refused(ran) == f"{HOST}:theirs {NOT_OWN}"


@pytest.mark.parametrize("kind", ["xfs"])
@pytest.mark.parametrize("name", OTHERS)
def test_who_may_only_receive_is_told_the_same_of_all_else(feeder: Feeder, name: str) -> None:
    path, lineage = list(name.encode()), status(feeder.source)["volume"]["lineage"]
    snapshot = {"place": list(f"{name}@latest".encode()), "reading": "all", "lineage": lineage}
    for request in (
        {"push": {"target": path, "channels": 1}},
        {"digest": {"place": path, "reading": "all", "lineage": lineage}},
        {"digest": snapshot},
    ):
        with talking("--restrict-to", str(feeder.root), "--receive-only") as wire:
            answer = wire.ask(request)
            if answer == "ready":
                answer = wire.ask({"look": {"lineage": lineage}})
            assert answer["failed"]["what"] in (f"{name} {NOT_OWN}", f"{name}@latest {NOT_OWN}")
            assert str(feeder.root) not in json.dumps(answer)


@pytest.mark.parametrize("kind", ["xfs"])
def test_who_may_only_receive_verifies_by_its_volume_alone(feeder: Feeder, place: Place) -> None:
    """Whoever has no volume of that lineage has not fed the standby."""
    assert refused(feeder.verify("own", place("xfs")))
    theirs = place("xfs")
    done("snapshot", theirs)
    assert refused(feeder.verify("own", f"{theirs}@latest"))


@pytest.mark.parametrize("kind", ["xfs"])
def test_a_client_that_skips_what_comes_first_learns_no_more(feeder: Feeder) -> None:
    restriction = ("--restrict-to", str(feeder.root), "--receive-only")
    theirs, path = status(feeder.root / "theirs")["volume"]["lineage"], list(b"theirs")
    told = set()
    for ask in (
        {"look": {"lineage": None}},
        {"look": {"lineage": status(feeder.source)["volume"]["lineage"]}},
        {"open": {"lineage": str(uuid.uuid4()), "epoch": 1 << 40, "join": None}},
        {"scrub": {"pieces": [{"path": [], "size": 1, "range": {"offset": 0, "length": 1}}]}},
        {"copies": {"stretches": [STRETCH]}},
        {"prune": {"keep": {"last": 1}, "needed": []}},
    ):
        with talking(*restriction) as wire:
            assert wire.ask({"push": {"target": path, "channels": 1}}) == "ready"
            answer = wire.ask(ask)["failed"]
            assert theirs not in json.dumps(answer)
            told.add(answer["what"])
    assert len(told) <= 3, told
    for request in ({"do": {"volume": path, "deed": "describe"}}, {"do": {"volume": [], "deed": "describe"}}):
        with talking(*restriction) as wire:
            assert "roles" in wire.ask(request)["failed"]["what"]


@pytest.mark.parametrize("kind", ["xfs"])
def test_who_may_read_learns_of_no_standby(primary: Path, place: Place) -> None:
    done("sync", primary, place.absent("xfs"))
    path = list(os.fsencode(primary))
    for options, count in (("--read-only",), 0), ((), 1):
        with talking(*options) as wire:
            told = wire.ask({"do": {"volume": path, "deed": "describe"}})["did"]["described"]
            assert len(told["standbys"]) == count


# --- who a standby is -------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [None, "00" * 32, "", 7], ids=["nothing", "another", "too little", "none"])
@pytest.mark.parametrize("options", [(), ("--read-only",)], ids=["any", "only reads"])
def test_nobody_claims_to_be_another_standby(pair: Pair, options: tuple[str, ...], shown: Any) -> None:
    fill(pair.source / "file", 0, 5_000, 1)
    pair.sync()
    before = record(pair.source)
    (standby,) = before["standbys"]
    with talking(*options) as wire:
        answer = Standby(wire, pair.source).open(standby, secret=shown)
        assert answer["failed"]["exit_code"] == (3 if shown != 7 else 4), answer
    assert record(pair.source) == before
    pair.sync()
    assert_same(pair.source, pair.target)


def test_a_secret_is_the_standbys_and_its_primary_has_a_hash(pair: Pair) -> None:
    pair.sync()
    (known,) = record(pair.source)["standbys"].values()
    secret = record(pair.target)["secret"]
    assert len(bytes.fromhex(secret)) == 32
    assert len(known["secret"]) == 64
    assert secret not in json.dumps(record(pair.source))
    assert known["secret"] not in json.dumps(record(pair.target))
    pair.sync()
    assert record(pair.target)["secret"] == secret, "it is given once"


def test_a_standby_that_an_older_version_knew_is_given_a_secret(pair: Pair) -> None:
    pair.sync()
    change(pair.source, lambda record: [s.pop("secret") for s in record["standbys"].values()])
    change(pair.target, lambda record: record.pop("secret"))
    pair.sync()
    assert record(pair.target)["secret"]
    change(pair.target, lambda record: record.pop("secret"))
    before = record(pair.source)
    ran = run("sync", pair.source, pair.target, "--json")
    assert "does not know its secret" in refused(ran)
    assert record(pair.source) == before
    # As its advice says.
    done("release", pair.source, "--standby", next(iter(before["standbys"])))
    fill(pair.source / "file", 0, 5_000, 2)
    pair.sync()
    assert_same(pair.source, pair.target)


def test_a_standby_whose_primary_lost_its_record_is_given_another(pair: Pair) -> None:
    pair.sync()
    before = record(pair.target)["secret"]
    change(pair.source, lambda record: record["standbys"].clear())
    pair.sync()
    assert record(pair.target)["secret"] != before
    pair.sync()


def test_secrets_outlast_changes_of_roles(place: Place) -> None:
    one, two, three = place("xfs"), place.absent("btrfs"), place.absent("xfs")
    fill(one / "file", 0, 5_000, 1)
    done("sync", one, three)
    done("sync", one, two)
    done("sync", one, three, "--snap", "latest")
    done("switch", one, two)
    done("sync", two, three, "--snap", "latest")
    done("switch", two, one)
    done("sync", one, three, "--snap", "latest")
    done("promote", two)
    fill(two / "file", 0, 5_000, 2)
    done("rejoin", one, two)
    for standby in (one, three):
        done("sync", two, standby, "--snap", "latest")
        assert_same(two, standby)
    assert len(status(two)["standbys"]) == 2


def test_a_round_that_comes_to_nothing_gives_no_secret(pair: Pair) -> None:
    pair.sync()
    shutil.rmtree(pair.target)
    with talking() as wire:
        standby = Standby(wire, pair.source)
        assert "begin" in standby.open(str(uuid.uuid4()))
        standby.fail(needed=False)
    assert len(record(pair.source)["standbys"]) == 1
