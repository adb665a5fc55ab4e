"""Jobs run when the calendar says so, in the zone of the machine, once and never twice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from configured import Jobs
from hypothesis import given, settings
from hypothesis import strategies as some
from machine import Pair, Place, run, snapshots

from snapsync.jobs import calendar, state
from snapsync.jobs.config import Job

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTE = timedelta(minutes=1)
# A year with both changes of time in it, and a leap day.
BEGIN = datetime(2028, 1, 1, tzinfo=UTC)


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from _in_zone(request.param, monkeypatch)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from _in_zone("Europe/Berlin", monkeypatch)


def _in_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    yield zone
    monkeypatch.undo()
    time.tzset()


def is_it(text: str, moment: datetime) -> bool:
    """Whether a minute on the wall clock is one of a calendar's, by this test's own reading of its text."""
    here = moment.astimezone()
    clock, day = f"{here.hour:02}:{here.minute:02}", DAYS[here.weekday()]
    match text.split():
        case ["hourly", minute]:
            return minute == f":{here.minute:02}"
        case ["daily", at]:
            return at == clock
        case ["weekly", on, at]:
            return (on, at) == (day, clock)
        case ["mon..fri", at]:
            return at == clock and day not in ("sat", "sun")
        case ["fri..mon", at]:
            return at == clock and day in ("fri", "sat", "sun", "mon")
        case ["tue,sat", at]:
            return at == clock and day in ("tue", "sat")
        case ["monthly", "last", at]:
            return at == clock and (here + timedelta(days=1)).day == 1
        case ["monthly", on, at]:
            return at == clock and here.day == int(on)
    raise AssertionError(text)


TEXTS = (
    *("hourly :17", "daily 12:30", "weekly sun 04:05", "mon..fri 22:00", "fri..mon 05:00", "tue,sat 00:00"),
    *("monthly 1 13:59", "monthly last 23:00"),
)


@pytest.mark.parametrize("text", TEXTS)
def test_the_times_are_those_of_the_wall_clock_and_none_is_left_out(text: str, zone: str) -> None:
    """Against a look at each minute of some days, with the changes of time among them."""
    times = calendar.parse(text)
    for begin in (datetime(2028, month, 24, 22, 7, tzinfo=UTC) for month in (2, 3, 9, 10, 12)):
        minutes = [begin + number * MINUTE for number in range(9 * 24 * 60)]
        found = [minute for minute in minutes if is_it(text, minute)]
        if text.startswith("hourly"):
            assert len(found) > 200
        at = times.following(begin - MINUTE)
        for expected in found:
            assert at == expected
            assert times.latest(expected) == expected
            assert times.latest(expected + timedelta(seconds=59)) == expected
            assert times.latest(expected - timedelta(seconds=1)) < expected
            at = times.following(expected)
        assert at > minutes[-1]


def test_what_summer_time_leaves_out_or_has_twice_comes_once_a_day(berlin: str) -> None:
    times = calendar.parse("daily 02:30")
    at, days = times.following(BEGIN), []
    while at.year == 2028:
        days.append(at.astimezone().date())
        at = times.following(at)
    assert len(days) == len(set(days)) == 366


@given(some.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)), some.sampled_from(TEXTS))
@settings(max_examples=300, deadline=None)
def test_a_moment_lies_between_the_latest_time_and_the_following_one(moment: datetime, text: str) -> None:
    times, moment = calendar.parse(text), moment.replace(tzinfo=UTC)
    latest, following = times.latest(moment), times.following(moment)
    assert latest <= moment < following
    assert times.following(latest) == following
    assert times.latest(following) == following


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "sometimes",
            "daily 24:00",
            "daily 3",
            "daily mon 03:00",
            "monthly 31 03:00",
            "monthly 0 03:00",
        ),
        *("hourly 03:00", "hourly :60", "mon.. 03:00", "weekly 8 03:00", "daily 03:00 04:00", "..mon 03:00"),
    ],
)
def test_a_text_that_is_no_time_is_refused_with_its_place(text: str, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    jobs.add("one", Path("/a"), Path("/b"), f'when = "{text}"')
    told = jobs.run()
    assert told.code == 2
    assert "[job.one] when cannot be" in told.err


# --- what is due ----------------------------------------------------------------------------------


def job(when: str, jitter: int = 0, name: str = "one") -> Job:
    return Job(name, "/a", "/b", when=calendar.parse(when), jitter=jitter)


def ran(good: datetime | None, failures: int = 0, attempt: datetime | None = None) -> dict[str, state.Run]:
    return {"one": state.Run("/a", "/b", attempt or good or BEGIN, good=good, failures=failures)}


def test_a_job_is_due_once_for_each_time_and_a_missed_one_is_caught_up(berlin: str) -> None:
    nightly, at = job("daily 03:00"), datetime(2028, 5, 10, 3, 0).astimezone()
    assert state.is_due(nightly, {}, at), "one that never ran is due at once"
    before = ran(at - timedelta(hours=20))
    assert not state.is_due(nightly, before, at - timedelta(seconds=1))
    assert state.is_due(nightly, before, at)
    assert not state.is_due(nightly, ran(at), at + timedelta(hours=23))
    assert state.is_due(nightly, before, at + timedelta(hours=9)), "the machine was off at three"
    caught_up = ran(at + timedelta(hours=9))
    assert not state.is_due(nightly, caught_up, at + timedelta(hours=9, minutes=1))
    assert state.is_due(nightly, caught_up, at + timedelta(days=1))
    assert state.is_due(nightly, ran(at + timedelta(days=400)), at), "the clock was put back"


def test_one_that_fails_is_tried_again_less_and_less_often(berlin: str) -> None:
    nightly, at = job("daily 03:00"), datetime(2028, 5, 10, 3, 0).astimezone()
    for failures, minutes in ((2, 1), (3, 2), (4, 4), (7, 32), (8, 60), (30, 60)):
        known = ran(at - timedelta(days=1), failures, attempt=at)
        assert not state.is_due(nightly, known, at + timedelta(minutes=minutes, seconds=-1))
        assert state.is_due(nightly, known, at + timedelta(minutes=minutes))


def test_jitter_spreads_jobs_and_leaves_each_its_time(berlin: str) -> None:
    at = datetime(2028, 5, 10, 3, 0).astimezone()
    good, begins = at - timedelta(days=1), []
    for number in range(50):
        late = job("daily 03:00", 600, f"job{number}")
        run = state.Run("/a", "/b", good, good=good - timedelta(hours=1))
        due = state.due(late, run, at)
        assert due is not None
        # It may have been late the day before, and is due once a day all the same.
        begins.append((due - good).total_seconds() % 86_400)
    assert all(0 <= late <= 600 for late in begins)
    assert len({int(late) // 60 for late in begins}) > 5
    assert begins[7] == (state.due(job("daily 03:00", 600, "job7"), run, at) - good).total_seconds() % 86_400  # type: ignore[operator]


# --- the command ----------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_run_and_why_and_changes_nothing(jobs: Jobs, place: Place) -> None:
    pair, gone = Pair.make(place, ("xfs", "ext4")), Pair.make(place, ("xfs", "ext4"))
    jobs.add("new", pair.source, pair.target)
    jobs.add("by-hand", Path("/a"), Path("/b"), "")
    jobs.add("nightly", gone.source, gone.target, 'when = "daily 03:00"')
    assert jobs.outcomes("nightly")["nightly"]["outcome"] == "done"
    kept = (jobs.env["SNAPSYNC_STATE_DIR"] / "jobs.json").read_bytes()
    told = jobs.outcomes("--dry-run")
    assert {name: one["outcome"] for name, one in told.items()} == {
        "new": "due",
        "by-hand": "waiting",
        "nightly": "waiting",
    }
    assert "never ran" in told["new"]["why"]
    assert "daily 03:00" in told["nightly"]["why"]
    assert datetime.fromisoformat(told["nightly"]["due"]).astimezone().hour == 3
    os.rename(gone.target, f"{gone.target}-away")
    told = jobs.outcomes("--dry-run", "nightly")
    assert told["nightly"]["outcome"] == "refused"
    shown = jobs.run("--dry-run").out
    assert "new: would run: it never ran well" in shown
    assert "by-hand: runs only when it is named" in shown
    assert (jobs.env["SNAPSYNC_STATE_DIR"] / "jobs.json").read_bytes() == kept
    assert not pair.target.exists()
    assert not (pair.source / ".snapsync").exists()


def test_of_named_jobs_only_those_that_are_due(jobs: Jobs, place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    jobs.add("one", pair.source, pair.target)
    assert jobs.outcomes("--due", "one")["one"]["outcome"] == "done"
    assert jobs.outcomes("--due", "one")["one"]["outcome"] == "waiting"
    assert jobs.outcomes("one")["one"]["outcome"] == "done"
    assert len(snapshots(pair.target)) == 2


def test_a_dry_run_says_where_a_directory_has_to_be_made_first(jobs: Jobs, place: Place) -> None:
    source, disk = place("xfs"), place("ext4")
    (source / "anna b").mkdir()
    target = disk / "the homes"
    jobs.add("homes", source / "*", target / "{name}")
    jobs.add("gone", disk / "nothing", disk / "copy")
    jobs.add("far", Path("backup:/nothing"), disk / "far")
    told = jobs.outcomes("--dry-run")
    (anna,) = [job for name, job in told.items() if name.startswith("homes")]
    assert (anna["outcome"], anna["exit_code"]) == ("refused", 2)
    assert anna["why"] == (
        f"the directory {target} does not exist, and the target {target}/anna b is to lie in it"
    )
    assert f"mkdir -p '{target}'" in jobs.run("--dry-run").out
    assert told["gone"]["why"] == f"the directory {disk}/nothing does not exist"
    assert told["far"]["outcome"] == "due", "whether it is there is seen by the round"
    assert jobs.outcomes(anna["job"], code=2)[anna["job"]]["outcome"] == "failed"
    target.mkdir()
    assert jobs.outcomes("--dry-run", anna["job"])[anna["job"]]["outcome"] == "due"
    jobs.outcomes(anna["job"])


@pytest.mark.parametrize("words", [("--now", "--due"), ("--watch", "--due"), ("--watch", "--dry-run")])
def test_what_contradicts_itself_is_refused(jobs: Jobs, words: tuple[str, ...]) -> None:
    jobs.add("one", Path("/a"), Path("/b"))
    assert jobs.run(*words).code == 2


def test_a_jobs_own_schedule_takes_the_place_of_the_usual_one(jobs: Jobs) -> None:
    jobs.add("one", Path("/a"), Path("/b"), 'when = "daily 03:00"')
    jobs.add("two", Path("/a"), Path("/c"), "")
    jobs.write(f'[defaults]\nperiod = "15m"\n{jobs.text}')
    ran = run("run", "--dry-run", "--json", "--config", jobs.file, env=jobs.env)
    assert ran.code == 0, ran
    jobs.write(f'{jobs.text}\nperiod = "15m"\nwhen = "daily 03:00"\n')
    assert "both say when it runs" in jobs.run().err
