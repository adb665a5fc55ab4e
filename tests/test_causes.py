"""A refusal says what is so, and the steps that it tells work."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from machine import Pair, Place, Ran, assert_told, done, need, run, sh, snapshots, status, store
from oracle import assert_same
from remote import Server
from test_config import Jobs
from worlds import fill

from snapsync.jobs import lag


def steps(ran: Ran, **names: object) -> None:
    """Does what a message tells in backticks, in its order, with what it only names filled in."""
    for step in re.findall(r"`(.*?)`", ran.err.split("; if it is gone")[0]):
        words = [str(names.get(word, word)) for word in shlex.split(step)]
        words = [
            word.replace("OLD/", f"{names.get('OLD')}/", 1) if word.startswith("OLD/") else word
            for word in words
        ]
        if words[0] == "snapsync":
            done(*words[1:])
        else:
            sh(*words)


def two_rounds(pair: Pair) -> None:
    for seed in range(2):
        fill(pair.source / "file", 0, 10_000, seed)
        pair.sync()
    fill(pair.source / "file", 0, 10_000, 7)


def lose(volume: Path, sequence: int, what: str) -> None:
    """Deletes a part of a snapshot, as somebody would who looks for space."""
    (snapshot,) = (snap for snap in snapshots(volume) if snap["sequence"] == sequence)
    folder = store(volume) / "snapshots" / snapshot["id"]
    if what == "tree":
        sh("btrfs", "subvolume", "delete", folder / "tree")
    else:
        (folder / "table.arrow").unlink()


# --- a snapshot that was deleted by hand ----------------------------------------------------------


@pytest.mark.parametrize(("kinds", "what"), [(("btrfs", "xfs"), "tree"), (("xfs", "btrfs"), "table")])
def test_a_base_that_was_deleted_by_hand_on_the_primary(pair: Pair, what: str) -> None:
    two_rounds(pair)
    lose(pair.source, 1, what)
    ran = run("sync", pair.source, pair.target)
    name = snapshots(pair.source)[1]["name"]
    assert_told(ran, f"snapshot {name}", "deleted by hand", codes=(4,))
    assert len(snapshots(pair.source)) == 2, "the round that failed leaves no snapshot"
    steps(ran, STANDBY=pair.target)
    pair.sync()
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize(("kinds", "what"), [(("xfs", "btrfs"), "tree"), (("btrfs", "xfs"), "table")])
def test_the_newest_that_was_deleted_by_hand_on_the_standby(pair: Pair, what: str) -> None:
    two_rounds(pair)
    lose(pair.target, 1, what)
    ran = run("verify", f"{pair.target}@1", f"{pair.source}@1")
    assert_told(ran, "deleted by hand", "--discard-drift", codes=(4,))
    steps(ran)
    pair.sync("--discard-drift")
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "ext4")])
def test_a_table_that_is_gone_keeps_no_round_from_its_end(pair: Pair) -> None:
    """What was committed gets its snapshot without what the old one could have told."""
    two_rounds(pair)
    lose(pair.target, 1, "table")
    pair.sync()
    assert_same(pair.source, pair.target)
    fill(pair.source / "file", 0, 10_000, 8)
    pair.sync()
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("kinds", [("xfs", "btrfs")])
def test_an_object_that_is_gone_is_an_integrity_error(pair: Pair, place: Place) -> None:
    two_rounds(pair)
    shutil.rmtree(store(pair.source) / "pool" / "2")
    # Its standby would be asked.
    pair.target.rename(pair.target.with_name("elsewhere"))
    ran = run("restore", f"{pair.source}@1", "--to", place.absent("xfs"), "-q")
    assert_told(ran, "gone from the store", codes=(4,))


# --- subvolumes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("btrfs", "xfs")])
@pytest.mark.parametrize("of", ["the volume", "a snapshot of it"])
def test_a_rollback_leaves_the_store_behind(pair: Pair, of: str) -> None:
    two_rounds(pair)
    old, new = pair.source.with_name("old"), pair.source.with_name("new")
    taken = pair.source if of == "the volume" else (pair.source / ".snapsync/latest").resolve()
    sh("btrfs", "subvolume", "snapshot", taken, new)
    pair.source.rename(old)
    new.rename(pair.source)
    for verb in (("sync", pair.source, pair.target), ("snapshot", pair.source), ("status", pair.source)):
        ran = run(*verb)
        assert_told(ran, "in the place of a volume", codes=(3,))
    steps(ran, OLD=old)
    pair.sync()
    assert_same(pair.source, pair.target)
    fill(pair.source / "file", 0, 10_000, 9)
    pair.sync()
    assert_same(pair.source, pair.target)
    assert len(snapshots(pair.source)) == 4


def test_a_standby_that_was_rolled_back_so_too(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "btrfs"))
    two_rounds(pair)
    old = pair.target.with_name("old")
    pair.target.rename(old)
    sh("btrfs", "subvolume", "snapshot", old, pair.target)
    ran = run("sync", pair.source, pair.target)
    assert_told(ran, "in the place of a volume", codes=(3,))
    steps(ran, OLD=old)
    pair.sync()
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("kinds", [("btrfs", "xfs")])
def test_a_read_only_subvolume_is_no_source(pair: Pair) -> None:
    fill(pair.source / "file", 0, 10_000, 1)
    sh("btrfs", "property", "set", pair.source, "ro", "true")
    for verb in (("sync", pair.source, pair.target), ("snapshot", pair.source)):
        ran = run(*verb)
        assert_told(ran, "a read-only subvolume", codes=(3,))
    done("send", pair.source, "-o", pair.target.with_name("delta"))
    sh(*shlex.split(re.findall(r"`(btrfs .*?)`", ran.err)[0]))
    pair.sync()
    assert_same(pair.source, pair.target)


@contextmanager
def swapped_to(file: Path) -> Iterator[None]:
    need("mkswap", "swapon")
    sh("btrfs", "filesystem", "mkswapfile", "--size", "4m", file)
    sh("swapon", file)
    try:
        yield
    finally:
        if str(file) in Path("/proc/swaps").read_text():
            sh("swapoff", file)


@pytest.mark.parametrize("kinds", [("btrfs", "xfs")])
def test_a_swap_file_keeps_a_subvolume_from_snapshots(pair: Pair) -> None:
    fill(pair.source / "file", 0, 10_000, 1)
    with swapped_to(pair.source / "swap"):
        ran = run("sync", pair.source, pair.target)
        assert_told(ran, f"swaps to {pair.source / 'swap'}", codes=(3,))
        steps(ran)
        pair.sync()
    assert_same(pair.source, pair.target)


# --- places ---------------------------------------------------------------------------------------


def test_a_url_is_told_how_it_is_written(pair: Pair) -> None:
    for url, right in (
        ("ssh://root@host/srv/x", "root@host:/srv/x"),
        ("ssh://host:2222/srv/x", "host:/srv/x with `-o Port=2222`"),
        ("rsync://host/x", "[user@]host:PATH"),
    ):
        assert_told(run("sync", pair.source, url), right, codes=(2,))
        assert_told(run("verify", url, pair.source), right, codes=(2,))


def test_an_ipv6_address_keeps_its_brackets(jobs: Jobs, pair: Pair, server: Server) -> None:
    """The job of such a standby is known by what its primary has written down."""
    fill(pair.source / "file", 0, 10_000, 1)
    client = server.client()
    client.config.write_text(client.config.read_text().replace("Host standby-host", "Host ::1"))
    for target in (f"[::1]:{pair.target}", f"root@[::1]:{pair.target}"):
        report = done("sync", pair.source, target, *client.options)
        assert report["standby"]["path"] == target
        (known,) = status(pair.source)["standbys"]
        assert known["path"] == target
        jobs.add(
            "six" if "@" in target else "web", pair.source, Path(target), f"rsh = {json.dumps(client.rsh)}"
        )
    ran = run("status", "--config", jobs.file, "--json", env=jobs.env)
    assert all(job["lag"]["seconds"] is not None for job in ran.json["jobs"][1:])
    assert lag._is_at("::1:/srv/x", "[::1]:/srv/x"), "as older volumes know it"
    assert lag._is_at("root@[fe80::1]:/home/x", "root@[fe80::1]:x")
    assert not lag._is_at("[::1]:/srv/x", "[::2]:/srv/x")
    done("release", pair.source, "--standby", target)


def test_an_emptied_source_is_told(pair: Pair) -> None:
    two_rounds(pair)
    (pair.source / "file").unlink()
    (note,) = (note for note in pair.sync()["notes"] if "empty now" in note)
    assert snapshots(pair.target)[1]["name"] in note


# --- what a job goes without ----------------------------------------------------------------------


def test_a_job_with_losses_is_not_plainly_ok(jobs: Jobs, place: Place, tmp_path: Path) -> None:
    """Until its standby begins anew: a round that does not touch it does not bring it."""
    source, target = place("btrfs"), place.absent("ext4")
    fill(source / "file", 0, 10_000, 1)
    for name in ("one", "two"):
        (source / name).write_text(name)
        sh("setfattr", "-n", "btrfs.compression", "-v", "zstd", source / name)
        sh("chattr", "+c", source / name)
    jobs.add("web", source, target)
    (job,) = jobs.outcomes().values()
    assert job["losses"], "a target that holds all of it tests nothing"
    lost = sum(loss["count"] for loss in job["losses"])
    fill(source / "file", 0, 10_000, 2)
    (job,) = jobs.outcomes("web").values()

    def told() -> tuple[dict[str, Any], str, str]:
        as_json = run("status", "--config", jobs.file, "--json", env=jobs.env).json["jobs"][0]
        text = run("status", "--config", jobs.file, env=jobs.env).out
        return as_json, text, run("status", "--config", jobs.file, "--max-lag", "1h", env=jobs.env).out

    as_json, text, line = told()
    assert sum(loss["count"] for loss in as_json["losses"]) == lost
    assert as_json["lag"]["lost"] == lost
    assert as_json["losses"][0]["what"] in text
    assert f"with losses in {lost} entries" in line
    metrics = tmp_path / "metrics.prom"
    run("status", "--config", jobs.file, "--prometheus", metrics, env=jobs.env)
    assert re.search(rf"snapsync_lost_entries{{.*}} {lost}\.0", metrics.read_text())


def test_the_notes_of_a_job_stay_with_it(jobs: Jobs, pair: Pair) -> None:
    two_rounds(pair)
    (pair.source / "file").unlink()
    jobs.add("web", pair.source, pair.target)
    jobs.outcomes()
    (job,) = run("status", "--config", jobs.file, "--json", env=jobs.env).json["jobs"]
    assert any("empty now" in note for note in job["notes"])
    assert any(
        "empty now" in line for line in run("status", "--config", jobs.file, env=jobs.env).out.splitlines()
    )
