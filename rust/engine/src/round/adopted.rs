//! A round that makes a standby of a copy that is there already.

use crate::delta::copied::{Copied, Copying};
use crate::digest::Reading;
use crate::names::Names;
use crate::options::Options;
use crate::round::steps::{StandbyEnd, State};
use crate::volume::adopted::takes_away;
use snapsync_model::{Error, Monitor, Result, Side, SnapshotInfo, Stage};
use snapsync_sys::Named;

/// What the standby holds instead of a snapshot.
pub(super) struct Adopted {
    /// As if it were one.
    held: SnapshotInfo,
    reading: Reading,
    /// Once it was asked for.
    copy: Option<Copied>,
    /// Whether that stays as a snapshot.
    is_kept: bool,
}

impl Adopted {
    pub(super) fn of(state: &State, options: &Options) -> Result<Option<Adopted>> {
        let Some(held) = state.adopted.clone().filter(|_| state.newest.is_none()) else { return Ok(None) };
        let reading = options.adopt.ok_or_else(|| {
            Error::integrity(
                format!("{} adopts what is there, and was not asked to", state.volume.path.display()),
                "use the same snapsync on both sides",
            )
        })?;
        Ok(Some(Adopted { held, reading, copy: None, is_kept: false }))
    }

    pub(super) fn held(&self) -> &SnapshotInfo {
        &self.held
    }

    /// What the standby holds, with the numbers of the target. It is asked for, and read there, only once: in
    /// a later snapshot nothing is the same that was changed meanwhile.
    pub(super) fn copy(
        &mut self,
        target: &dyn Side,
        standby: &mut dyn StandbyEnd,
        path: &str,
        monitor: &Monitor,
    ) -> Result<Copied> {
        if let Some(copy) = &self.copy {
            return Ok(copy.clone());
        }
        let names = Names::of(target)?;
        monitor.start(Stage::Compare, names.len());
        let mut copying = Copying::new(&names, self.reading, path.into(), monitor)?;
        standby.records(self.reading, &mut |records| copying.take(records))?;
        let copy = copying.finish()?;
        let size = copy.size();
        (self.held.entries, self.held.bytes) = (Some(size.entries), Some(size.bytes));
        if size.unread > 0 {
            monitor.note(format!(
                "{} files of {path} were not read, as they have the size and time of those of the source: \
                 `snapsync verify` reads them",
                size.unread
            ));
        }
        Ok(self.copy.insert(copy).clone())
    }

    /// Once it is known what changes.
    pub(super) fn note(&mut self, manifest: &dyn Named) -> Result<()> {
        self.is_kept = takes_away(manifest)?;
        Ok(())
    }

    /// The snapshot that keeps what was there, if not all of it is there still.
    pub(super) fn kept(&self) -> Option<SnapshotInfo> {
        self.is_kept.then(|| self.held.clone())
    }
}
