"""Times of the calendar, as people write them: `daily 03:00`, `mon..fri 22:00`, `monthly 1 02:30`, `hourly`.

They are times of the machine's own zone. What the change to summer time leaves out comes as much later; of
what comes twice when it ends, the first counts.
"""

import re
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import count

from snapsync.record import Record

_MINUTE = timedelta(minutes=1)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# After so many days each time of a calendar has come.
_MOST = 63


class Calendar(Record):
    """Times: those of a minute of each hour, or one of certain days.

    `minute` is that of each hour, else None. `weekdays` are 0 (Monday) to 6, `day` is that of a month, with 0
    for the last one; without either each day counts. `text` is how it was written.
    """

    text: str
    minute: int | None = None
    at: time = time()
    weekdays: tuple[int, ...] = ()
    day: int | None = None

    def latest(self, moment: datetime) -> datetime:
        """The newest of the times that is not after `moment`."""
        if self.minute is not None:
            return next(self._minutes(moment, -1))
        return next(found for found in self._times(moment, -1) if found <= moment)

    def following(self, moment: datetime) -> datetime:
        """The first of the times that is after `moment`."""
        if self.minute is not None:
            return next(self._minutes(moment + _MINUTE, 1))
        return next(found for found in self._times(moment, 1) if found > moment)

    def _minutes(self, moment: datetime, step: int) -> Iterator[datetime]:
        """The times of each hour. Each minute is looked at: summer time may begin with half an hour."""
        whole = moment.replace(second=0, microsecond=0)
        minutes = ((whole + step * number * _MINUTE).astimezone() for number in count())
        return (found for found in minutes if found.minute == self.minute)

    def _times(self, moment: datetime, step: int) -> Iterator[datetime]:
        """The times of the days from `moment` on, or back."""
        today = moment.astimezone().date() - timedelta(days=step)
        days = (today + timedelta(days=step * number) for number in range(_MOST))
        return (datetime.combine(day, self.at).astimezone() for day in days if self._has(day))

    def _has(self, day: date) -> bool:
        if self.day == 0:
            return (day + timedelta(days=1)).day == 1
        return (not self.weekdays or day.weekday() in self.weekdays) and self.day in (None, day.day)


def parse(text: str) -> Calendar:
    """The times that a text means. Raises ValueError for any other text."""
    words = text.lower().split()
    if len(words) <= 2 and words[:1] == ["hourly"]:
        return Calendar(text, minute=_minute(words[1]) if words[1:] else 0)
    at = _time(words.pop()) if words and words[-1].count(":") else time()
    match words:
        case ["daily"]:
            return Calendar(text, at=at)
        case ["weekly"]:
            return Calendar(text, at=at, weekdays=(0,))
        case ["weekly", day] | [day] if set(days := _weekdays(day)):
            return Calendar(text, at=at, weekdays=days)
        case ["monthly"]:
            return Calendar(text, at=at, day=1)
        case ["monthly", "last"]:
            return Calendar(text, at=at, day=0)
        case ["monthly", day] if day.isascii() and day.isdigit() and 1 <= int(day) <= 28:
            return Calendar(text, at=at, day=int(day))
    raise ValueError(f"{text!r} is no time of a calendar")


def _weekdays(text: str) -> tuple[int, ...]:
    """The days of `mon..fri,sun`; empty if it names none."""
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        last = last if dots else first
        if first not in _DAYS or last not in _DAYS:
            return ()
        begin, end = _DAYS.index(first), _DAYS.index(last)
        found |= {day % 7 for day in range(begin, end + (7 if end < begin else 0) + 1)}
    return tuple(sorted(found))


def _time(text: str) -> time:
    known = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if not known:
        raise ValueError(f"{text!r} is no time of a day")
    return time(int(known[1]), int(known[2]))


def _minute(text: str) -> int:
    known = re.fullmatch(r":([0-5][0-9])", text)
    if not known:
        raise ValueError(f"{text!r} is no minute of an hour")
    return int(known[1])
