//! The promotions that led to an epoch. Each names the one before it, because a number alone proves nothing.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The number of promotions that are kept and sent. A volume that missed more of them begins anew.
const MOST: usize = 1024;
/// No real lineage has so many epochs; a higher number was made up.
pub const MOST_EPOCHS: u64 = 1 << 48;
/// RFC 3339 with nanoseconds is shorter than this.
const LONGEST_TIME: usize = 40;

/// A standby that became a primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    pub id: Uuid,
    /// The epoch that began with this promotion.
    pub epoch: u64,
    /// The promotion before; None if none is known.
    pub before: Option<Uuid>,
    pub volume: Uuid,
    /// The snapshot that the standby held when it was promoted.
    pub after: Uuid,
    /// RFC 3339, UTC.
    pub at: String,
}

/// The last promotions of a lineage, oldest first. Empty in its first epoch, or if an older version made all
/// of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Promotions(Vec<Promotion>);

/// How the promotions that one end shows relate to those that the other end knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They agree as far as both go, and show every step after that.
    Shown,
    /// They belong to an earlier epoch.
    Behind,
    /// The epoch is later, but the promotions do not show how it came to be.
    Unshown,
    /// Another volume was promoted than the one known here.
    Forked,
}

impl Promotions {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the last one is of this volume, when it held this snapshot.
    pub fn are_of(&self, volume: Uuid, after: Uuid) -> bool {
        self.0.last().is_some_and(|last| last.volume == volume && last.after == after)
    }

    /// Adds a promotion of a volume that is in `epoch`; the last promotion's epoch is the new one.
    pub fn promoted(
        &self,
        epoch: u64,
        id: Uuid,
        volume: Uuid,
        after: Uuid,
        at: String,
    ) -> Result<(u64, Self)> {
        let next = epoch.checked_add(1).filter(|next| *next <= MOST_EPOCHS).ok_or_else(|| {
            Error::refused(
                format!("there is no epoch after {epoch}"),
                "no lineage has so many promotions: begin a new one, from a directory without a store",
            )
        })?;
        let mut all = self.0.clone();
        let before = all.last().map(|last| last.id);
        all.push(Promotion { id, epoch: next, before, volume, after, at });
        all.drain(..all.len().saturating_sub(MOST));
        Ok((next, Promotions(all)))
    }

    /// Whether each promotion follows the one before and the last one began `epoch`.
    pub fn lead_to(&self, epoch: u64) -> bool {
        let follows = |pair: &[Promotion]| {
            pair[0].epoch.checked_add(1) == Some(pair[1].epoch) && pair[1].before == Some(pair[0].id)
        };
        (1..=MOST_EPOCHS).contains(&epoch)
            && self.0.len() <= MOST
            && self.0.last().is_none_or(|last| last.epoch == epoch)
            && self.0.windows(2).all(follows)
            && self.0.iter().all(|promotion| promotion.at.len() <= LONGEST_TIME)
    }

    /// Compares these, which should have led to `epoch`, with `own`, which led to `own_epoch`.
    pub fn standing(&self, epoch: u64, own: &Promotions, own_epoch: u64) -> Standing {
        let at = |epoch: u64| self.0.iter().find(|promotion| promotion.epoch == epoch);
        if epoch < own_epoch {
            return Standing::Behind;
        }
        if !self.lead_to(epoch) {
            return Standing::Unshown;
        }
        if own.0.iter().any(|own| at(own.epoch).is_some_and(|shown| shown != own)) {
            return Standing::Forked;
        }
        // An equal epoch needs no proof.
        if epoch == own_epoch {
            return Standing::Shown;
        }
        match (at(own_epoch + 1), own.0.last()) {
            (None, _) => Standing::Unshown,
            (Some(next), Some(last)) if next.before != Some(last.id) => Standing::Forked,
            (Some(_), _) => Standing::Shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// A lineage that began in `start`, and the promotions made by the volumes in `by`.
    fn led(start: u64, by: &[u128]) -> (u64, Promotions) {
        by.iter().fold((start, Promotions::default()), |(epoch, all), by| {
            all.promoted(epoch, id(*by), id(100 + by), id(0), "2026-11-26T10:00:00Z".into()).unwrap()
        })
    }

    fn standing(shown: &(u64, Promotions), own: &(u64, Promotions)) -> Standing {
        shown.1.standing(shown.0, &own.1, own.0)
    }

    #[test]
    fn an_epoch_goes_up_by_promotions_that_are_shown() {
        let (own, shown) = (led(1, &[1]), led(1, &[1, 2, 3]));
        assert_eq!(standing(&shown, &own), Standing::Shown);
        assert_eq!(standing(&shown, &led(1, &[])), Standing::Shown);
        assert_eq!(standing(&own, &own), Standing::Shown);
        assert_eq!(standing(&own, &shown), Standing::Behind);
    }

    #[test]
    fn a_number_alone_shows_nothing() {
        let own = led(1, &[1]);
        assert_eq!(standing(&(3, Promotions::default()), &own), Standing::Unshown);
        assert_eq!(standing(&(4, led(1, &[1, 2]).1), &own), Standing::Unshown);
        assert_eq!(standing(&(u64::MAX, Promotions::default()), &own), Standing::Unshown);
        // These begin after the last promotion that `own` knows.
        assert_eq!(standing(&led(3, &[4, 5]), &own), Standing::Unshown);
        let mut torn = led(1, &[1, 2, 3]);
        torn.1.0.remove(1);
        assert_eq!(standing(&torn, &own), Standing::Unshown);
    }

    #[test]
    fn two_that_were_promoted_apart_have_forked() {
        assert_eq!(standing(&led(1, &[2]), &led(1, &[1])), Standing::Forked);
        assert_eq!(standing(&led(1, &[2, 3]), &led(1, &[1])), Standing::Forked);
        assert_eq!(standing(&led(2, &[3]), &led(1, &[1])), Standing::Forked);
        let mut changed = led(1, &[1, 2]);
        changed.1.0[0].after = id(7);
        assert_eq!(standing(&changed, &led(1, &[1])), Standing::Forked);
    }

    #[test]
    fn a_store_of_an_older_version_begins_where_it_is() {
        let old = (5, Promotions::default());
        assert_eq!(standing(&old, &old), Standing::Shown);
        assert_eq!(standing(&led(5, &[1]), &old), Standing::Shown);
        assert_eq!(standing(&(6, Promotions::default()), &old), Standing::Unshown);
    }

    #[test]
    fn what_is_kept_is_bounded_and_an_epoch_never_wraps() {
        let many: Vec<u128> = (0..MOST as u128 + 10).collect();
        let all = led(1, &many);
        assert_eq!((all.0, all.1.0.len()), (MOST as u64 + 11, MOST));
        assert_eq!(standing(&all, &led(1, &many[..MOST])), Standing::Shown);
        assert_eq!(standing(&all, &led(1, &many[..2])), Standing::Unshown);
        for last in [MOST_EPOCHS, u64::MAX] {
            let refused = Promotions::default().promoted(last, id(1), id(2), id(3), String::new());
            assert_eq!(refused.unwrap_err().exit_code(), 3);
            assert_eq!(
                standing(&(u64::MAX, Promotions::default()), &(last, Promotions::default())),
                Standing::Unshown
            );
        }
    }
}
