//! Calendar rules for keeping snapshots.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use snapsync_model::{Error, Result, SnapshotInfo};
use std::collections::BTreeMap;

/// How many snapshots are kept: the newest ones, and the newest of each of the last hours, days, ISO weeks,
/// months and years (UTC) that have any. Without any number all snapshots are kept; the newest one always is.
///
/// Unknown rules of a newer version are refused: ignoring them would delete more than was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    pub last: Option<usize>,
    pub hourly: Option<usize>,
    pub daily: Option<usize>,
    pub weekly: Option<usize>,
    pub monthly: Option<usize>,
    pub yearly: Option<usize>,
    /// The days for which manifests are kept after their snapshots; without it they are 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<usize>,
}

/// Equal for two moments of one period, and greater for later ones.
type Period = (i16, i16, i8);

impl Keep {
    /// Reads counts by the names of their rules, as users type them.
    pub fn by_name(counts: impl IntoIterator<Item = (String, i64)>) -> Result<Keep> {
        let mut keep = Keep::default();
        for (name, count) in counts {
            let place = match name.as_str() {
                "last" => &mut keep.last,
                "hourly" => &mut keep.hourly,
                "daily" => &mut keep.daily,
                "weekly" => &mut keep.weekly,
                "monthly" => &mut keep.monthly,
                "yearly" => &mut keep.yearly,
                "history" => &mut keep.history,
                _ => {
                    return Err(Error::usage(
                        format!("there is no rule {name:?} for keeping snapshots"),
                        "use last, hourly, daily, weekly, monthly, yearly and history",
                    ));
                }
            };
            *place = Some(usize::try_from(count).unwrap_or(0));
        }
        keep.check()?;
        Ok(keep)
    }

    /// Refuses rules that keep nothing at all.
    pub fn check(&self) -> Result<()> {
        let history = [("history", self.history)];
        match self.rules().iter().chain(&history).find(|(_, count)| *count == Some(0)) {
            Some((name, _)) => Err(Error::usage(
                format!("--keep-{name} 0 would keep nothing"),
                format!("use --keep-{name} 1 or more, or leave it out"),
            )),
            None => Ok(()),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Keep::default()
    }

    fn rules(&self) -> [(&'static str, Option<usize>); 6] {
        [
            ("last", self.last),
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ]
    }

    /// The rules that keep each of these snapshots, oldest first; empty for one that is deleted.
    pub(crate) fn reasons(&self, snapshots: &[SnapshotInfo]) -> Vec<Vec<String>> {
        let mut why = vec![Vec::new(); snapshots.len()];
        why.iter_mut().next_back().into_iter().for_each(|why| why.push("newest".to_owned()));
        let moments: Vec<_> = snapshots.iter().map(moment).collect();
        for (name, count) in self.rules() {
            let Some(count) = count else { continue };
            if name == "last" {
                why.iter_mut().rev().take(count).for_each(|why| why.push(name.to_owned()));
                continue;
            }
            // The newest of a period replaces earlier ones.
            let newest: BTreeMap<Period, usize> = moments
                .iter()
                .enumerate()
                .filter_map(|(at, time)| Some((period(name, (*time)?), at)))
                .collect();
            newest.into_values().rev().take(count).for_each(|at| why[at].push(name.to_owned()));
        }
        for (why, time) in why.iter_mut().zip(moments) {
            if self.rules().iter().all(|(_, count)| count.is_none()) {
                why.push("everything is kept".to_owned());
            } else if time.is_none() {
                why.push("when it was taken is not known".to_owned());
            }
        }
        why
    }
}

/// When a snapshot was taken; a primary elsewhere may have written anything here.
fn moment(info: &SnapshotInfo) -> Option<DateTime> {
    info.created.parse().ok().map(|at| TimeZone::UTC.to_datetime(at))
}

fn period(name: &str, at: DateTime) -> Period {
    let week = at.date().iso_week_date();
    match name {
        "hourly" => (at.year(), at.date().day_of_year(), at.hour()),
        "daily" => (at.year(), at.date().day_of_year(), 0),
        "weekly" => (week.year(), week.week().into(), 0),
        "monthly" => (at.year(), at.month().into(), 0),
        _ => (at.year(), 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::Provider;
    use snapsync_model::Subset;
    use uuid::Uuid;

    fn taken(times: &[&str]) -> Vec<SnapshotInfo> {
        let snapshot = |(at, time): (usize, &&str)| SnapshotInfo {
            id: Uuid::from_u128(at as u128),
            name: format!("s{at}"),
            sequence: at as u64,
            parent: None,
            created: (*time).to_owned(),
            provider: Provider::Pool,
            entries: None,
            bytes: None,
            subset: Subset::default(),
            aside: false,
        };
        times.iter().enumerate().map(snapshot).collect()
    }

    fn stay(keep: &Keep, times: &[&str]) -> Vec<usize> {
        let why = keep.reasons(&taken(times));
        (0..times.len()).filter(|at| !why[*at].is_empty()).collect()
    }

    #[test]
    fn of_each_period_the_newest_stays() {
        let days =
            ["2026-01-01T08:00:00Z", "2026-01-01T09:00:00Z", "2026-01-02T23:59:59Z", "2026-01-03T00:00:00Z"];
        assert_eq!(stay(&Keep { daily: Some(2), ..Keep::default() }, &days), [2, 3]);
        assert_eq!(stay(&Keep { daily: Some(9), ..Keep::default() }, &days), [1, 2, 3]);
        assert_eq!(stay(&Keep { yearly: Some(9), ..Keep::default() }, &days), [3]);
        assert_eq!(stay(&Keep { last: Some(1), daily: Some(3), ..Keep::default() }, &days), [1, 2, 3]);
    }

    #[test]
    fn weeks_begin_on_monday_and_belong_to_their_iso_year() {
        // From Thursday, 31 December 2026, to Monday, 4 January 2027: week 53 ends on the Sunday.
        let days = ["2026-12-31T12:00:00Z", "2027-01-03T12:00:00Z", "2027-01-04T00:00:00Z"];
        assert_eq!(stay(&Keep { weekly: Some(9), ..Keep::default() }, &days), [1, 2]);
    }

    #[test]
    fn periods_without_a_snapshot_do_not_count() {
        let far = ["2020-02-29T00:00:00Z", "2023-06-01T00:00:00Z", "2026-01-01T00:00:00Z"];
        assert_eq!(stay(&Keep { monthly: Some(2), ..Keep::default() }, &far), [1, 2]);
    }

    #[test]
    fn the_newest_stays_whatever_its_clock_says() {
        let stepped = ["2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z", "1970-01-01T00:00:00Z"];
        assert_eq!(stay(&Keep { daily: Some(1), ..Keep::default() }, &stepped), [1, 2]);
    }

    #[test]
    fn a_snapshot_without_a_time_stays() {
        let odd = ["yesterday", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"];
        assert_eq!(stay(&Keep { last: Some(1), ..Keep::default() }, &odd), [0, 2]);
    }

    #[test]
    fn without_numbers_everything_stays() {
        assert_eq!(stay(&Keep::default(), &["2026-01-01T00:00:00Z"; 3]), [0, 1, 2]);
        assert!(stay(&Keep { last: Some(1), ..Keep::default() }, &[]).is_empty());
    }

    #[test]
    fn none_of_something_and_unknown_periods_are_mistakes() {
        for (name, count) in [("last", 0), ("daily", -1), ("dayly", 3)] {
            let error = Keep::by_name([(name.to_owned(), count)]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.sentence().contains(name));
        }
        assert!(serde_json::from_str::<Keep>(r#"{"last": 1, "minutely": 3}"#).is_err());
    }
}
