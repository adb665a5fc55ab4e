//! What a round may change at its primary. Whoever started it may have fewer rights than the volume's owner.

use crate::options::{self, Options};
use crate::round::steps::State;
use crate::volume::holds::holds;
use crate::volume::kept;
use snapsync_apply::Journal;
use snapsync_model::{Error, Monitor, Result, SnapshotInfo, Subset};
use snapsync_snapshot::{Around, LockedVolume, Request, TakenFor, Volume};
use snapsync_sys::Root;
use uuid::Uuid;

/// The most standbys that read-only clients can have at one volume; each of them keeps a snapshot.
const MOST_READERS: usize = 16;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    /// Whether old snapshots are deleted by the round's rules.
    pub(crate) prunes: bool,
    /// Whether a new standby may replace a known one.
    pub(crate) replaces: bool,
    /// Whether nothing else changes, and the round's snapshot is lent.
    pub(crate) only_reads: bool,
}

impl Rights {
    pub(crate) const OWNER: Rights = Rights { prunes: true, replaces: true, only_reads: false };

    /// The patterns for the round; refuses what may not be asked for.
    pub(crate) fn subset(
        self,
        options: &Options,
        source: &Root,
        primary: Option<&Volume>,
    ) -> Result<Option<Subset>> {
        let asked = options::asked(options, source.part().is_some())?;
        if !self.only_reads {
            return Ok(asked);
        }
        let show = source.title().display();
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

    /// A read-only client neither finishes nor undoes what somebody else began.
    pub(crate) fn expect_finished(self, primary: &Volume) -> Result<()> {
        if !self.only_reads || Journal::load(&primary.store())?.is_none() {
            return Ok(());
        }
        Err(only_read(
            &format!("a command that worked on {} was interrupted", primary.path().display()),
            "ask its administrator to run `snapsync recover` there",
        ))
    }

    /// Checks that a standby is the one it claims to be. A new one always is.
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

    /// Checks for space for another standby; `coming` of them are not recorded yet.
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

    /// Checks whether the round's standby may be recorded: others may have come since it began.
    pub(crate) fn expect_place(self, primary: &Volume, standby: Uuid) -> Result<()> {
        if primary.standbys().contains_key(&standby) { Ok(()) } else { self.expect_room(primary, 0) }
    }

    /// Takes the round's snapshot.
    pub(crate) fn take(
        self,
        primary: &mut LockedVolume,
        state: &State,
        request: Request,
        around: &dyn Around,
        monitor: &Monitor,
    ) -> Result<SnapshotInfo> {
        let standby = state.volume.id;
        if self.only_reads {
            // Its newest snapshot is its base, even if no round has recorded that.
            take_back(primary, standby, state.newest.as_ref().map(|newest| newest.id), monitor)?;
        }
        primary.take_for(TakenFor { standby, lent: self.only_reads }, request, around, monitor)
    }

    /// Deletes snapshots lent to this standby before that are not its base any more.
    pub(crate) fn settle(self, primary: &mut LockedVolume, standby: Uuid, monitor: &Monitor) -> Result<()> {
        if self.only_reads { take_back(primary, standby, None, monitor) } else { Ok(()) }
    }
}

/// Deletes snapshots lent to this standby, or to an unknown one, that nobody needs.
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
    kept::delete_all(primary, &back, monitor)
}

/// Whether a failed round may delete its snapshot, and no other: the peer may claim anything about an
/// interrupted delta.
pub(crate) fn may_undo(primary: &Volume, snapshot: Uuid, standby: Uuid) -> bool {
    primary.taken_for(snapshot).is_some_and(|by| by.standby == standby)
        && holds(primary).is_ok_and(|held| held.iter().all(|hold| hold.snapshot != snapshot))
}

fn only_read(what: &str, advice: &str) -> Error {
    Error::refused(format!("{what}, and this server is --read-only"), advice)
}
