//! Prepares everything that a commit changes: it is made changeable, and meanwhile nobody has more rights to
//! it than before or after. The way back begins in the same way.

use crate::access::{self, Meanwhile};
use crate::attributes;
use crate::commit::forward::{access_to, open_for_flags};
use crate::commit::save::is_saved;
use crate::known::Row;
use crate::names::Places;
use crate::stage::incoming::Incoming;
use snapsync_model::{Change, Context, Kind, RelPath, Result};
use snapsync_sys::{Entry, acl, tolerate};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

impl Incoming<'_> {
    /// Removes what would keep the commit from changing an inode: immutable and append-only flags and, for an
    /// ordinary user, missing write permission. Nobody gets more rights to it than before or after. Returns
    /// whether that takes rights away.
    pub(crate) fn loosen(&self, places: &Places) -> Result<bool> {
        let narrows = AtomicBool::new(self.journal.base.is_none());
        if self.journal.base.is_none() {
            self.close_root()?;
        }
        self.each_known(self.known_rows_of_base(|_| true)?, |Row { change, known }| {
            let (Some(path), Some(old)) = (&change.old_path, change.old) else { return Ok(()) };
            if change.only_lends() {
                return Ok(());
            }
            // Later steps notice an entry that is gone or was replaced.
            let Some(entry) = self.look_for(path, known)? else { return Ok(()) };
            if old.flags & attributes::LOOSENED != 0 {
                open_for_flags(&entry)
                    .and_then(|f| attributes::loosen(&f))
                    .context("unprotect", self.root.show(path))?;
            }
            let list = if change.flags.xattrs { entry.access_list() } else { Ok(None) };
            let list = list.context("read the access list of", self.root.show(path))?;
            let meanwhile =
                access::meanwhile(change, places.moves(), access::changes_list(change, list.as_deref()));
            let narrowed = narrow(&entry, change, meanwhile).context("narrow", self.root.show(path))?;
            narrows.fetch_or(narrowed, Relaxed);
            self.open_for_work(&entry, change).context("set the mode of", self.root.show(path))
        })?;
        Ok(narrows.into_inner())
    }

    /// Closes a directory that becomes the root of a tree until everything is in it.
    fn close_root(&self) -> Result<()> {
        let root = self.root.entry(&RelPath::root());
        root.and_then(|root| take(&root, Kind::Directory)).context("close", self.root.path())
    }

    /// A deleted file only loses its name, whoever owns it.
    fn open_for_work(&self, entry: &Entry, change: &Change) -> io::Result<()> {
        let is_dir = change.kind == Kind::Directory;
        if !(is_dir || (change.kind == Kind::File && !change.flags.deleted)) {
            return Ok(());
        }
        let (mode, wanted) = (entry.stat()?.attributes.mode, access::rights_to_work(change.kind));
        if mode & wanted != wanted && !entry.allows(access_to(change.kind)) {
            entry.set_mode(mode | wanted)?;
        }
        Ok(())
    }

    /// The same for the way back, wherever entries are by now: everything that is restored is narrowed again.
    pub(crate) fn narrow_all(&self, places: &Places) -> Result<()> {
        if self.journal.base.is_none() {
            self.close_root()?;
        }
        if !self.journal.known {
            return Ok(());
        }
        self.each_saved(
            |change| is_saved(change) && access::is_narrowed(change, places.moves()),
            |Row { change, known }, saved| {
                let before = saved.xattrs.as_deref().and_then(acl::access_list);
                let lists = access::changes_list(change, before);
                let meanwhile = access::meanwhile(change, places.moves(), lists);
                change.path.iter().chain(&change.old_path).try_for_each(|path| {
                    let Some(entry) = self.look_for(path, known)? else { return Ok(()) };
                    narrow(&entry, change, meanwhile).map(drop).context("narrow", self.root.show(path))
                })
            },
        )
    }
}

/// Returns whether that takes rights away. If the file system has no modes, they protect nothing.
fn narrow(entry: &Entry, change: &Change, meanwhile: Option<Meanwhile>) -> io::Result<bool> {
    let now = entry.stat()?;
    if now.kind != change.kind {
        return Ok(false);
    }
    if access::loses_capabilities(change) {
        tolerate(entry.remove_xattr(acl::CAPABILITIES), true)?;
    }
    match meanwhile {
        None => Ok(false),
        Some(Meanwhile::Taken) => take(entry, change.kind).map(|()| true),
        Some(Meanwhile::Narrowed { kept, gets }) => {
            let mode = now.attributes.mode & kept | gets;
            if mode != now.attributes.mode {
                tolerate(entry.set_mode(mode), true)?;
            }
            Ok(mode != now.attributes.mode)
        }
    }
}

/// Makes something belong to this process alone.
pub(crate) fn take(entry: &Entry, kind: Kind) -> io::Result<()> {
    let now = entry.stat()?.attributes;
    let wanted = access::taken(kind, &now);
    tolerate(entry.set_mode(wanted.mode), true)?;
    if now.uid != wanted.uid {
        // A user who cannot change owners already owns it.
        tolerate(entry.set_owner(wanted.uid, wanted.gid), true)?;
        // Its owner may have changed the mode again before.
        tolerate(entry.set_mode(wanted.mode), true)?;
    }
    Ok(())
}
