//! What a round may change at its primary. Whoever began it may have less to say than the volume's owner.

use crate::options::{self, Options};
use crate::round::steps::State;
use crate::volume::holds::holds;
use snapsync_apply::Journal;
use snapsync_model::{Error, Monitor, Result, SnapshotInfo, Subset};
use snapsync_snapshot::{LockedVolume, Request, TakenFor, Volume};
use std::path::Path;
use uuid::Uuid;

/// Standbys that clients who may only read have at one volume: each holds a snapshot.
const MOST_READERS: usize = 16;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    /// Old snapshots go by the rules of the round.
    pub(crate) prunes: bool,
    /// A new standby may take the place of another that was known.
    pub(crate) replaces: bool,
    /// Nothing else changes, and the round's snapshot is lent.
    pub(crate) only_reads: bool,
}

impl Rights {
    pub(crate) const OWNER: Rights = Rights { prunes: true, replaces: true, only_reads: false };

    /// The patterns that a round begins with; refuses what may not be asked for.
    pub(crate) fn subset(
        self,
        options: &Options,
        source: &Path,
        primary: Option<&Volume>,
    ) -> Result<Option<Subset>> {
        let asked = options::asked(options)?;
        if !self.only_reads {
            return Ok(asked);
        }
        let show = source.display();
        let Some(primary) = primary else {
            return Err(only_read(
                &format!("{show} is no volume"),
                "ask its administrator to take a snapshot of it first",
            ));
        };
        if options.name.is_some() {
            return Err(only_read(&format!("cannot name a snapshot of {show}"), "leave out --name"));
        }
        if asked.is_some_and(|asked| asked != *primary.subset()) {
            return Err(only_read(
                &format!("cannot change what is replicated of {show}"),
                "leave out the patterns, or ask its administrator to set them with a round of his own",
            ));
        }
        Ok(None)
    }

    /// Who only reads neither finishes nor takes back what somebody else began.
    pub(crate) fn expect_finished(self, primary: &Volume) -> Result<()> {
        if !self.only_reads || Journal::load(&primary.store())?.is_none() {
            return Ok(());
        }
        Err(only_read(
            &format!("a command that worked on {} was interrupted", primary.path().display()),
            "ask its administrator to run `snapsync recover` there",
        ))
    }

    /// Whether a standby is the one that it says. A new one is.
    pub(crate) fn expect_known(self, primary: &Volume, state: &State, path: &str) -> Result<()> {
        let source = primary.path().display();
        match primary.standbys().get(&state.volume.id) {
            Some(known) => {
                let Some(hash) = &known.secret else { return Ok(()) };
                if state.secret.as_ref().is_some_and(|secret| secret.has_hash(hash)) {
                    return Ok(());
                }
                Err(Error::refused(
                    format!(
                        "{path} says that it is the standby {}, and does not know its secret",
                        known.path
                    ),
                    format!(
                        "if it is a copy, name an empty target; if its store was restored from a backup, \
                         `snapsync \
                         release {source} --standby {}` where the primary is lets it begin anew",
                        state.volume.id
                    ),
                ))
            }
            None => {
                let is_lent = |id| primary.taken_for(id).is_some_and(|by| by.lent);
                let reading = primary.read_by_others().into_iter().filter(|(read, _)| is_lent(*read));
                self.expect_room(primary, reading.count())
            }
        }
    }

    /// For one more standby; `coming` of them are not known yet.
    fn expect_room(self, primary: &Volume, coming: usize) -> Result<()> {
        let readers = || primary.standbys().values().filter(|known| known.reads).count();
        if !self.only_reads || (readers() < MOST_READERS && coming < MOST_READERS) {
            return Ok(());
        }
        Err(only_read(
            &format!("{} has {MOST_READERS} standbys of clients like this one", primary.path().display()),
            "ask its administrator to `snapsync release` those that are gone",
        ))
    }

    /// Whether a round's standby may be remembered: others may have come since it began.
    pub(crate) fn expect_place(self, primary: &Volume, standby: Uuid) -> Result<()> {
        if primary.standbys().contains_key(&standby) { Ok(()) } else { self.expect_room(primary, 0) }
    }

    /// Takes the round's snapshot.
    pub(crate) fn take(
        self,
        primary: &mut LockedVolume,
        state: &State,
        request: Request,
        monitor: &Monitor,
    ) -> Result<SnapshotInfo> {
        let standby = state.volume.id;
        if self.only_reads {
            // What it has is its base, though nobody may have come to remember that.
            take_back(primary, standby, state.newest.as_ref().map(|newest| newest.id), monitor)?;
        }
        primary.take_for(TakenFor { standby, lent: self.only_reads }, request, monitor)
    }

    /// Deletes what was lent for this standby before and is not its base any more.
    pub(crate) fn settle(self, primary: &mut LockedVolume, standby: Uuid, monitor: &Monitor) -> Result<()> {
        if self.only_reads { take_back(primary, standby, None, monitor) } else { Ok(()) }
    }
}

/// Deletes what was lent to this standby, or to one that is not known, and what nobody needs.
fn take_back(primary: &mut LockedVolume, standby: Uuid, base: Option<Uuid>, monitor: &Monitor) -> Result<()> {
    let held = holds(primary)?;
    let is_back = |snapshot: &SnapshotInfo| {
        let is_used = base == Some(snapshot.id) || primary.is_read(snapshot.id);
        !is_used
            && primary.taken_for(snapshot.id).is_some_and(|by| {
                by.lent && (by.standby == standby || !primary.standbys().contains_key(&by.standby))
            })
            && held.iter().all(|hold| hold.snapshot != snapshot.id)
    };
    let back: Vec<SnapshotInfo> = primary.line()?.into_iter().filter(is_back).collect();
    back.iter().try_for_each(|snapshot| primary.delete(snapshot, monitor))
}

/// A round that came to nothing deletes its snapshot, and no other: it may be told what it likes of one that
/// was cut.
pub(crate) fn may_undo(primary: &Volume, snapshot: Uuid, standby: Uuid) -> bool {
    primary.taken_for(snapshot).is_some_and(|by| by.standby == standby)
        && holds(primary).is_ok_and(|held| held.iter().all(|hold| hold.snapshot != snapshot))
}

fn only_read(what: &str, advice: &str) -> Error {
    Error::refused(format!("{what}, and this server is --read-only"), advice)
}
