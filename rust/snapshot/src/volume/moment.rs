//! Dates and times as people write them, and the snapshot of a line that was the newest then.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use snapsync_model::{Error, Result, SnapshotInfo};

/// What a date or a time means: a date is the whole day, a time the whole second, or what of it is written.
/// So a snapshot is found by the time that is shown of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub first: Timestamp,
    pub last: Timestamp,
}

impl Moment {
    /// None if the text is nothing of that kind: `2026-11-25`, `2026-11-25T14:00`, with seconds, `Z` or an
    /// offset if need be, `today`, `yesterday`, `now`, or `2h-ago`. Without an offset they are local times.
    pub fn parse(text: &str) -> Result<Option<Moment>> {
        Moment::parse_at(text, &Zoned::now())
    }

    /// The same of a text that must be one.
    pub fn named(text: &str) -> Result<Moment> {
        Moment::parse(text)?.ok_or_else(|| {
            Error::usage(
                format!("{text:?} is no date or time"),
                "write it as 2026-11-25, 2026-11-25T14:00, yesterday or 2h-ago",
            )
        })
    }

    fn parse_at(text: &str, now: &Zoned) -> Result<Option<Moment>> {
        let zone = now.time_zone();
        let wrong = |e: jiff::Error| {
            Error::usage(
                format!("cannot understand the time {text:?}: {e}"),
                "write it as 2026-11-25, 2026-11-25T14:00 or 2026-11-25T14:00:05+01:00",
            )
        };
        let day = |date: Date| Moment::of_day(date, zone).map(Some).map_err(wrong);
        match text {
            "now" => Ok(Some(Moment::at(now.timestamp()))),
            "today" => day(now.date()),
            "yesterday" => now.date().yesterday().map_err(wrong).and_then(day),
            _ if is_like_a_date(text) => match text.len() {
                10 => text.parse().map_err(wrong).and_then(day),
                _ => Moment::written(text, zone).map(Some).map_err(wrong),
            },
            _ => match text.strip_suffix("-ago").map(str::parse::<Span>) {
                Some(Ok(span)) if !span.is_negative() && text.starts_with(|c: char| c.is_ascii_digit()) => {
                    now.checked_sub(span).map(|at| Some(Moment::at(at.timestamp()))).map_err(wrong)
                }
                _ => Ok(None),
            },
        }
    }

    fn at(instant: Timestamp) -> Moment {
        Moment { first: instant, last: instant }
    }

    /// A date with a time.
    fn written(text: &str, zone: &TimeZone) -> Result<Moment, jiff::Error> {
        let first = instant(text, zone)?;
        let fraction = text.split_once(['.', ',']).map_or("", |(_, after)| after);
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count().min(9);
        let length = Span::new().nanoseconds(10_i64.pow(9 - digits as u32) - 1);
        Ok(Moment { first, last: first.checked_add(length)? })
    }

    /// A day has 23 or 25 hours where the clock is changed.
    fn of_day(date: Date, zone: &TimeZone) -> Result<Moment, jiff::Error> {
        let first = date.to_zoned(zone.clone())?.timestamp();
        let next = date.tomorrow()?.to_zoned(zone.clone())?.timestamp();
        Ok(Moment { first, last: next.checked_sub(Span::new().nanoseconds(1))? })
    }
}

/// Whether it begins as a date does. Digits alone are the number of a snapshot.
fn is_like_a_date(text: &str) -> bool {
    let is_as = |(byte, form): (u8, u8)| if form == b'-' { byte == b'-' } else { byte.is_ascii_digit() };
    text.len() >= 10
        && text.bytes().zip(*b"0000-00-00").all(is_as)
        && matches!(text.as_bytes().get(10), None | Some(b'T' | b't' | b' '))
}

/// A date with a time. Of a local time that the clock shows twice it is the first one.
fn instant(text: &str, zone: &TimeZone) -> Result<Timestamp, jiff::Error> {
    // What reads local times passes over offsets and names of zones.
    if text.contains('[') {
        return text.parse::<Zoned>().map(|zoned| zoned.timestamp());
    }
    let has_offset = text[10..].contains(['Z', 'z', '+', '-']);
    if has_offset {
        return text.parse();
    }
    Ok(text.parse::<DateTime>()?.to_zoned(zone.clone())?.timestamp())
}

/// The newest snapshot of a line, oldest first, that was taken at the moment that a text means or before it.
/// None if the text means none.
pub(super) fn newest_at(snapshots: &[SnapshotInfo], text: &str, show: &str) -> Result<Option<usize>> {
    let Some(moment) = Moment::parse(text)? else { return Ok(None) };
    let taken = |info: &SnapshotInfo| info.created.parse::<Timestamp>().ok().filter(|_| !info.aside);
    let is_then = |info: &SnapshotInfo| taken(info).is_some_and(|at| at <= moment.last);
    if let Some(at) = snapshots.iter().rposition(is_then) {
        return Ok(Some(at));
    }
    let first = snapshots.iter().find_map(|info| taken(info).map(|at| (info, at)));
    let what = match first {
        Some((first, at)) => format!(
            "{show} has no snapshot from {text} or before: the first is {}, taken {}",
            first.name,
            shown(at)
        ),
        None => format!("{show} has no snapshot from {text} or before"),
    };
    Err(Error::usage(what, format!("`snapsync list {show}` shows those it has")))
}

/// In local time, so that it can be written back.
fn shown(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(zone: &str, now: &str) -> Zoned {
        now.parse::<DateTime>().unwrap().to_zoned(TimeZone::get(zone).unwrap()).unwrap()
    }

    /// The first and the last instant of a text, as seen in a zone.
    fn means(text: &str, now: &Zoned) -> Option<(String, String)> {
        let moment = Moment::parse_at(text, now).unwrap()?;
        Some((moment.first.to_string(), moment.last.to_string()))
    }

    fn once(text: &str, now: &Zoned) -> String {
        means(text, now).unwrap().0
    }

    #[test]
    fn a_date_is_a_day_of_the_zone() {
        let berlin = at("Europe/Berlin", "2026-11-27T12:00");
        let day = |first: &str, last: &str| Some((first.to_owned(), last.to_owned()));
        let november = day("2026-11-24T23:00:00Z", "2026-11-25T22:59:59.999999999Z");
        assert_eq!(means("2026-11-25", &berlin), november);
        let west = at("America/New_York", "2026-11-27T12:00");
        let later = day("2026-11-25T05:00:00Z", "2026-11-26T04:59:59.999999999Z");
        assert_eq!(means("2026-11-25", &west), later);
        assert_eq!(means("yesterday", &at("Europe/Berlin", "2026-11-26T00:00")), november);
        assert_eq!(means("today", &at("Europe/Berlin", "2026-11-25T23:59")), november);
    }

    #[test]
    fn a_day_on_which_the_clock_changes_has_an_hour_more_or_less() {
        let berlin = at("Europe/Berlin", "2026-11-27T12:00");
        let hours = |text: &str| {
            let moment = Moment::parse_at(text, &berlin).unwrap().unwrap();
            (moment.last.as_second() - moment.first.as_second() + 1) / 3600
        };
        assert_eq!(["2026-03-29", "2026-03-30", "2026-10-25"].map(hours), [23, 24, 25]);
        // The clock goes from 2 to 3 in spring, and from 3 to 2 in autumn.
        assert_eq!(once("2026-03-29T02:30", &berlin), "2026-03-29T01:30:00Z");
        assert_eq!(once("2026-10-25T02:30", &berlin), "2026-10-25T00:30:00Z");
        assert_eq!(once("2026-10-25T02:30+01:00", &berlin), "2026-10-25T01:30:00Z");
        // Here it changes at midnight: that day begins at 1.
        let beirut = at("Asia/Beirut", "2026-11-27T12:00");
        assert_eq!(means("2026-03-29", &beirut).unwrap().0, "2026-03-28T22:00:00Z");
        let spring = at("Europe/Berlin", "2026-03-29T12:00");
        assert_eq!(once("1d-ago", &spring), "2026-03-28T11:00:00Z");
        assert_eq!(once("24h-ago", &spring), "2026-03-28T10:00:00Z");
    }

    #[test]
    fn a_time_is_local_or_has_an_offset() {
        let berlin = at("Europe/Berlin", "2026-11-27T12:00");
        for (text, instant) in [
            ("2026-11-25T14:00", "2026-11-25T13:00:00Z"),
            ("2026-11-25T14:00:05", "2026-11-25T13:00:05Z"),
            ("2026-11-25 14:00:05.25", "2026-11-25T13:00:05.25Z"),
            ("2026-07-25T14:00", "2026-07-25T12:00:00Z"),
            ("2026-11-25T14:00Z", "2026-11-25T14:00:00Z"),
            ("2026-11-25T14:00+02:00", "2026-11-25T12:00:00Z"),
            ("2026-11-25T14:00:05.25-03:30", "2026-11-25T17:30:05.25Z"),
            ("2026-11-25T14:00[America/New_York]", "2026-11-25T19:00:00Z"),
            ("now", "2026-11-27T11:00:00Z"),
            ("90m-ago", "2026-11-27T09:30:00Z"),
            ("1h30m-ago", "2026-11-27T09:30:00Z"),
        ] {
            assert_eq!(once(text, &berlin), instant, "{text}");
        }
    }

    #[test]
    fn a_time_lasts_as_long_as_its_last_digit() {
        let now = at("UTC", "2026-11-27T12:00");
        for (text, last) in [
            ("2026-11-25T14:00", "2026-11-25T14:00:00.999999999Z"),
            ("2026-11-25T14:00:05", "2026-11-25T14:00:05.999999999Z"),
            ("2026-11-25T14:00:05+02:00", "2026-11-25T12:00:05.999999999Z"),
            ("2026-11-25T14:00:05.25Z", "2026-11-25T14:00:05.259999999Z"),
            ("2026-11-25T14:00:05.123456+02:00", "2026-11-25T12:00:05.123456999Z"),
            ("2026-11-25T14:00:05.123456789Z", "2026-11-25T14:00:05.123456789Z"),
            ("now", "2026-11-27T12:00:00Z"),
            ("2h-ago", "2026-11-27T10:00:00Z"),
        ] {
            assert_eq!(means(text, &now).unwrap().1, last, "{text}");
        }
    }

    #[test]
    fn a_name_is_no_time_and_a_bad_time_is_told() {
        let now = at("UTC", "2026-11-27T12:00");
        for name in
            ["monday", "7", "20261125", "20261125T140000Z", "2026-11", "2026-11-25-b", "long-ago", "-ago"]
        {
            assert_eq!(means(name, &now), None, "{name}");
        }
        for bad in ["2026-13-01", "2026-02-30", "2026-11-25T25:00", "2026-11-25T", "2026-11-25T14:00+99:00"] {
            let error = Moment::parse_at(bad, &now).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(bad), "{error}");
        }
    }
}
