"""A date or a time stands for the newest snapshot that was taken then or before."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from machine import Pair, Place, assert_told, done, run, snapshots
from oracle import assert_same, freeze
from remote import Server

DAY = 86_400


def taken(volume: object) -> dict[str, datetime]:
    """When the snapshots of a volume or a log were taken, oldest first."""
    listed = done("list", volume)["snapshots"]
    return {snap["name"]: datetime.fromisoformat(snap["created"]) for snap in listed}


def meant(volume: object, text: str, zone: str = "UTC") -> str:
    """The name of the snapshot that VOLUME@TEXT is."""
    address = f"{volume}{text}" if str(volume).endswith("/") else f"{volume}@{text}"
    report = done("hold", address, "--reason", "asked", env={"TZ": zone})
    return str(report["snapshot"]["name"])


def zone_at(midnight: datetime, *, east: bool) -> str:
    """A zone in which a day begins at that moment, in the form of POSIX, with its sign."""
    seconds = -int(midnight.timestamp()) % DAY - (0 if east else DAY)
    hours, rest = divmod(abs(seconds), 3600)
    return f"<XYZ>{'-' if east else '+'}{hours:02}:{rest // 60:02}:{rest % 60:02}"


def three(volume: Path, *to: object) -> dict[str, datetime]:
    """Snapshots a, b, c, each in another second."""
    for name in "abc":
        (volume / "file").write_text(name)
        done(*(("sync", volume, *to) if to else ("snapshot", volume)), "--name", name)
        time.sleep(1.1)
    return taken(volume)


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "btrfs"), ("ext4", "ext4")], ids="-".join)
def test_a_time_is_the_newest_snapshot_at_or_before_it(pair: Pair, kinds: tuple[str, str]) -> None:
    times = three(pair.source, pair.target)
    assert taken(pair.target) == times
    for volume in (pair.source, pair.target):
        for name, at in times.items():
            assert meant(volume, at.isoformat()) == name
            assert meant(volume, at.replace(tzinfo=None).isoformat()) == name
            assert meant(volume, f"{at:%Y-%m-%dT%H:%M:%S.%fZ}") == name
            far = at.astimezone(timezone(timedelta(hours=5, minutes=30)))
            assert meant(volume, far.isoformat()) == name
            assert meant(volume, far.replace(tzinfo=None).isoformat(), "Asia/Kolkata") == name
            # As a list shows it.
            assert meant(volume, f"{at:%Y-%m-%d %H:%M:%S}") == name
        assert meant(volume, (times["b"] - timedelta(milliseconds=1)).isoformat()) == "a"
        assert meant(volume, "now") == "c"
        assert meant(volume, "0s-ago") == "c"
        assert meant(volume, "2999-01-01") == "c"


@pytest.mark.parametrize("east", [True, False], ids=["east", "west"])
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_date_ends_with_its_day_in_local_time(place: Place, kind: str, east: bool) -> None:
    volume = place(kind)
    times = three(volume)
    midnight = times["c"].replace(microsecond=0)
    zone = zone_at(midnight, east=east)
    offset = timezone(timedelta(seconds=-int(midnight.timestamp()) % DAY - (0 if east else DAY)))
    today = datetime.now(offset).date()
    assert midnight.astimezone(offset).date() == today
    assert meant(volume, "yesterday", zone) == "b"
    assert meant(volume, "today", zone) == "c"
    assert meant(volume, f"{today - timedelta(days=1)}", zone) == "b"
    assert meant(volume, f"{today}", zone) == "c"
    # The same texts where the day is another one.
    assert meant(volume, f"{times['a']:%Y-%m-%d}", "UTC") in "abc"
    assert meant(volume, f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}", "Pacific/Kiritimati") == "c"


def test_a_time_before_the_first_snapshot_names_the_first(place: Place) -> None:
    volume = place("xfs")
    times = three(volume)
    before = times["a"] - timedelta(seconds=5)
    for text in ("2001-02-03", before.isoformat(), "3d-ago", "yesterday"):
        zone = zone_at(before, east=True)
        ran = run("restore", f"{volume}@{text}", "--to", place.absent("xfs"), env={"TZ": zone})
        at = times["a"].replace(microsecond=0) + timedelta(seconds=-int(before.timestamp()) % DAY)
        assert_told(ran, f"the first is a, taken {at:%Y-%m-%dT%H:%M}", codes=(2,))
    for text in ("2026-02-30", "2026-11-25T25:00"):
        assert_told(run("restore", f"{volume}@{text}"), f'the time "{text}"', codes=(2,))
    assert_told(run("restore", f"{volume}@tuesday"), 'no snapshot "tuesday"', codes=(2,))


def test_a_name_comes_before_a_time(place: Place) -> None:
    volume = place("btrfs")
    for name in ("yesterday", "2001-02-03", "now", "2026-11-25 14:00", "last"):
        done("snapshot", volume, "--name", name)
    for name in ("yesterday", "2001-02-03", "now", "2026-11-25 14:00"):
        assert meant(volume, name) == name
    assert meant(volume, "today") == "last"


def test_a_directory_that_is_called_like_a_date_stays_one(place: Place) -> None:
    volume = place("btrfs")
    done("snapshot", volume)
    other = volume.with_name(f"{volume.name}@2999-01-01")
    other.mkdir()
    (other / "x").touch()
    report = done("diff", f"{volume}@latest", other, env={"TZ": "UTC"})
    assert report["counts"]["created"] == 1 if "counts" in report else report["changes"]["created"] == 1


def test_what_is_restored_is_what_was_there_then(pair: Pair, kinds: tuple[str, str]) -> None:
    held = {}
    for name in "ab":
        (pair.source / name).write_text(name)
        held[name] = freeze(pair.source)
        pair.sync("--name", name)
        time.sleep(1.1)
    then = taken(pair.source)["a"]
    to = pair.target.with_name("then")
    done("restore", f"{pair.target}@{then.isoformat()}", "--to", to)
    assert_same(held["a"], to)
    # A relative name with a time looks like a host with a path.
    text = f"{then + timedelta(milliseconds=10):%Y-%m-%dT%H:%M:%S.%f}"
    done("restore", f"{pair.source.name}@{text}", env={"TZ": "UTC"}, cwd=pair.source.parent)
    assert_same(held["a"], pair.source)


def test_parts_and_logs_know_times_too(place: Place, tmp_path: Path) -> None:
    volume, standby, log = place("xfs"), place.absent("ext4"), f"file://{tmp_path}/log"
    (volume / "mail").mkdir()
    for name in "ab":
        (volume / "mail/inbox").write_text(name)
        done("sync", "--part", "mail", "--include", "/mail", volume, standby, "--name", name)
        done("sync", volume, log, "--name", f"whole-{name}")
        time.sleep(1.1)
    part = f"{volume}@mail/"
    for of, first in ((part, "a"), (log, "whole-a"), (standby, "a")):
        at = taken(of)[first]
        assert meant(of, at.isoformat()) == first
        assert_told(
            run("hold", f"{of}{'' if of == part else '@'}2001-02-03"), f"the first is {first}", codes=(2,)
        )
    to = place.absent("xfs")
    done("restore", f"{log}@{taken(log)['whole-a'].isoformat()}", "--to", to)
    assert (to / "mail/inbox").read_text() == "a"


def test_another_machine_is_asked_for_a_time(place: Place, server: Server) -> None:
    volume, client = place("xfs"), server.client()
    (volume / "x").write_text("a")
    done("snapshot", volume, "--name", "a")
    at = taken(volume)["a"]
    held = place.absent("xfs")
    done("restore", f"{volume}@a", "--to", held)
    time.sleep(0.01)
    (volume / "x").write_text("b")
    done("snapshot", volume, "--name", "b")
    assert run("verify", client.at(f"{volume}@{at.isoformat()}"), held, *client.options).code == 0
    assert run("verify", client.at(f"{volume}@now"), held, *client.options).code == 4
    assert len(snapshots(volume)) == 2
    assert os.path.exists(held)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_number_with_a_minus_counts_back_from_the_newest(place: Place, kind: str) -> None:
    volume = place(kind)
    for name in "abc":
        done("snapshot", volume, "--name", name)
    assert [meant(volume, text) for text in ("latest", "-0", "-1", "-2")] == ["c", "c", "b", "a"]
    assert_told(run("hold", f"{volume}@-3", "-q"), "no snapshot")
    # What was kept aside is none of the line.
    done("restore", f"{volume}@a")
    assert meant(volume, "-1") != "c"
