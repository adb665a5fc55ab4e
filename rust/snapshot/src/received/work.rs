//! The working tree in which the next snapshot of a shelf is made.

use crate::received::area::{
    MADE, Made, ROOT, RootState, claim_area, clear, ensure_private, make_own, remove_own_area, write_json,
};
use crate::received::copy::copy_tree;
use crate::received::identity::{Base, FORMAT, Record, State, TREE, received, record_of};
use crate::received::shelf::ReceivedDirectory;
use crate::store::bound::hold;
use rustix::fs::{Mode, OFlags};
use snapsync_model::{Context, Error, Identity, Monitor, RelPath, Result};
use snapsync_sys::{
    Lock, PROTECTIVE, Root, Spot, btrfs, fault, remove_tree, set_flags_of, stat_at, sync_filesystem,
};
use snapsync_walk::STORE;
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

impl ReceivedDirectory {
    /// Prepares to make `snapshot` from `base`: a working area with a tree that equals the base, or is empty.
    /// It is locked against other commands until it is dropped. An interrupted receive of the same snapshot
    /// from the same base is resumed.
    pub fn begin<'a>(
        &'a self,
        snapshot: &Identity,
        base: Option<Base>,
        monitor: &'a Monitor,
    ) -> Result<Work<'a>> {
        let held = self.held()?;
        let (area, lock) = claim_area(&held, snapshot.id)?;
        let mut work =
            Work { shelf: self, held, id: snapshot.id, area, base, is_resumed: false, monitor, _lock: lock };
        if let Some(record) = record_of(&work.held, snapshot.id)?
            && let Some(place) = self.place_of(&record)?
        {
            work.discard()?;
            return Err(Error::refused(
                format!("this snapshot was received before: it is {}", place.path.display()),
                "use that one; to receive it again, delete it first",
            ));
        }
        work.is_resumed = work.is_made()?;
        if !work.is_resumed
            && let Err(e) = work.make()
        {
            // The first error is reported. The next command removes what cannot be removed now.
            let _ = work.discard();
            return Err(e);
        }
        Ok(work)
    }
}

/// A snapshot being made on a shelf. Dropping it keeps the working area for a later `begin`.
pub struct Work<'a> {
    shelf: &'a ReceivedDirectory,
    /// The shelf's directory, with its `.snapsync`.
    held: Arc<Root>,
    id: Uuid,
    area: Spot,
    base: Option<Base>,
    is_resumed: bool,
    monitor: &'a Monitor,
    _lock: Lock,
}

impl Work<'_> {
    /// The path of the working tree, for messages.
    pub fn tree(&self) -> PathBuf {
        self.area.show().join(TREE)
    }

    /// The open working tree, a copy of the base or empty. It contains an empty `.snapsync` for the stage.
    pub fn root(&self) -> Result<Arc<Root>> {
        hold(self.area.join(TREE).tree()?).map(Arc::new)
    }

    /// The place of the journal, which is removed together with the tree and not before.
    pub fn store(&self) -> &Spot {
        &self.area
    }

    /// The place of what is known about all snapshots of the shelf.
    pub fn shelf(&self) -> Spot {
        Spot::top(self.held.clone()).join(STORE)
    }

    /// Whether the tree differs from the base already, and the journal says how to go on.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    fn made(&self) -> Made {
        Made { base: self.base.as_ref().map(|base| base.identity) }
    }

    /// Whether there is a complete tree made from the same base.
    fn is_made(&self) -> Result<bool> {
        let file = self.area.join(MADE);
        // If it cannot be parsed, the tree is made anew.
        let text = file.read_if_there().context("read", file.show())?;
        let is_same =
            |text: Vec<u8>| serde_json::from_slice::<Made>(&text).is_ok_and(|made| made == self.made());
        Ok(text.is_some_and(is_same) && self.area.join(TREE).is_there())
    }

    /// Removes everything made and received so far, and makes the tree again.
    pub fn start_over(&mut self) -> Result<()> {
        self.is_resumed = false;
        self.make()
    }

    fn make(&self) -> Result<()> {
        clear(&self.area)?;
        let (area, tree) = (self.area.tree()?, self.area.join(TREE));
        let show = tree.show();
        match (&self.base, self.shelf.is_btrfs) {
            (Some(base), true) => {
                btrfs::create_writable_snapshot(base.root.fd(), area.fd(), OsStr::new(TREE))
                    .context("take a writable snapshot of", base.path())?;
            }
            (None, true) => {
                btrfs::create_subvolume(area.fd(), OsStr::new(TREE))
                    .context("create the subvolume", &show)?;
            }
            (base, false) => {
                area.create_dir(&RelPath::new(TREE.as_bytes())?, 0o777)
                    .context("create the directory", &show)?;
                if let Some(base) = base {
                    let copied = copy_tree(&base.root, tree.tree()?, self.monitor);
                    // Somebody may have exchanged the base, so that it could not be copied.
                    self.expect_unchanged(base)?;
                    copied?;
                }
            }
        }
        self.add_store().context("make a place for the stage in", &show)?;
        sync_filesystem(area.fd()).context("sync the file system of", area.path())?;
        fault::point("receive.tree");
        write_json(&self.area, MADE, &self.made())?;
        fault::point("receive.made");
        Ok(())
    }

    /// The owner of the base may have changed it while it was copied.
    fn expect_unchanged(&self, base: &Base) -> Result<()> {
        match &base.record {
            Some(record) if record.is_changed(&base.root)? => Err(Error::refused(
                format!("{} was changed while it was copied", base.path().display()),
                "delete it and receive the base again, or send without a base",
            )),
            _ => Ok(()),
        }
    }

    /// Gives the tree an empty `.snapsync`, and leaves its root otherwise unchanged. In a snapshot of a
    /// volume it contains the empty stub of the store.
    fn add_store(&self) -> io::Result<()> {
        let tree = self.area.join(TREE).tree().map_err(io::Error::other)?;
        let state = RootState::of(tree.fd())?;
        state.loosen(tree.fd())?;
        remove_tree(tree.fd(), OsStr::new(STORE))?;
        let own = RelPath::new(STORE.as_bytes()).map_err(io::Error::other)?;
        tree.create_dir(&own, 0o700)?;
        make_own(tree.open_at(&own, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)?;
        state.restore_time(tree.fd())?;
        if state.flags & PROTECTIVE == 0 { Ok(()) } else { set_flags_of(tree.fd(), state.flags) }
    }

    /// Removes everything made and received so far.
    pub fn discard(self) -> Result<()> {
        remove_own_area(&self.area)
    }

    /// Publishes the tree as snapshot `name`. On failure nothing has that name, and the working area stays.
    pub fn publish(self, name: &str, snapshot: &Identity) -> Result<PathBuf> {
        self.shelf.name_is_free(name)?;
        // From here on the descriptor counts, because another directory may get the name later.
        let tree = self.area.join(TREE).tree()?;
        self.strip(&tree)?;
        let record = self.record(&tree, name, snapshot)?;
        let records = received(&self.held);
        ensure_private(&records)?;
        write_json(&records, &format!("{}.json", self.id), &record)?;
        fault::point("receive.recorded");
        self.move_to(name)?;
        fault::point("receive.moved");
        self.shelf.settle(&tree, &self.area)?;
        fault::point("receive.settled");
        remove_own_area(&self.area)?;
        Ok(self.shelf.path().join(name))
    }

    /// Removes everything from the tree that is not the snapshot's, and marks it on Btrfs. Everything is on
    /// the disk afterwards.
    fn strip(&self, tree: &Root) -> Result<()> {
        let show = tree.path();
        let state = match RootState::load(&self.area)? {
            // An earlier attempt may have removed it already.
            Some(state) => state,
            None => {
                let state = RootState::of(tree.fd()).context("read the attributes of", show)?;
                write_json(&self.area, ROOT, &state)?;
                state
            }
        };
        state.loosen(tree.fd()).context("set the flags of", show)?;
        remove_tree(tree.fd(), OsStr::new(STORE)).context("remove", show.join(STORE))?;
        state.restore_time(tree.fd()).context("set the time of", show)?;
        sync_filesystem(tree.fd()).context("sync the file system of", show)?;
        fault::point("receive.stripped");
        Ok(())
    }

    fn record(&self, tree: &Root, name: &str, snapshot: &Identity) -> Result<Record> {
        let show = tree.path();
        let mut subvolume = None;
        if self.shelf.is_btrfs {
            let mark = snapshot.mark();
            btrfs::set_received(tree.fd(), mark.uuid.into_bytes(), mark.transid)
                .context("mark as received", show)?;
            let info = btrfs::subvolume(tree.fd()).context("read the subvolume of", show)?;
            subvolume = Some(Uuid::from_bytes(info.uuid));
        }
        let stat = stat_at(tree.fd(), OsStr::new(".")).context("read the attributes of", show)?;
        let (inode, born) = (stat.ino, stat.generation);
        let state = if subvolume.is_none() { Some(State::of(tree)?) } else { None };
        let name = name.to_owned();
        Ok(Record { format: FORMAT, identity: *snapshot, name, inode, born, subvolume, state })
    }

    fn move_to(&self, name: &str) -> Result<()> {
        let below = format!("{STORE}/receiving/{}/{TREE}", self.id);
        let (from, to) = (RelPath::new(below.as_bytes())?, RelPath::root().join(name.as_bytes())?);
        let root = &self.held;
        match root.rename_to_new(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // It describes a tree that is not in the directory.
                let record = received(&self.held).join(format!("{}.json", self.id));
                record.remove_file().context("remove", record.show())?;
                Err(self.shelf.is_taken(name))
            }
            other => other.context("move the snapshot to", root.show(&to)),
        }
    }
}
