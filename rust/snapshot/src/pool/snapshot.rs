//! A pool snapshot as a side: an inode table with its objects.

use crate::pool::before::Stack;
use crate::pool::in_tree::{InTree, Looked, TreeOf};
use crate::pool::pack::Pool;
use rustix::fs::makedev;
use serde::Deserialize;
use snapsync_manifest::Table;
use snapsync_model::{
    Content, Context, Details, Directories, Error, Inode, Inodes, Layout, Link, Packed, Placed, PlainFiles,
    RelPath, Result, Side, UNSETTLED, locked,
};
use snapsync_sys::{FileSystem, Spot, btrfs, next_data_in, stat_of};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// What counts of a journal here.
#[derive(Deserialize)]
struct Journal {
    phase: String,
}

/// A pool snapshot, open for reading.
pub struct PoolSnapshot {
    pub(crate) table: Table,
    pub(crate) pool: Pool,
    filesystem: FileSystem,
    pub(crate) space: Option<u128>,
    /// Read when a path is first asked for.
    directories: OnceLock<Directories>,
    /// Looked for when bytes have no object.
    tree: Mutex<Option<Looked>>,
    /// None where each object has its file.
    tree_of: Option<TreeOf>,
    is_proof: OnceLock<bool>,
    pub(crate) plain: Arc<PlainFiles>,
    /// What `inodes` gives, if that is not everything.
    pub(crate) listed: Option<Vec<Inode>>,
}

impl PoolSnapshot {
    /// The one whose store directory is `dir`.
    pub(crate) fn open(
        dir: &Spot,
        pool: Spot,
        filesystem: FileSystem,
        tree_of: Option<TreeOf>,
    ) -> Result<PoolSnapshot> {
        let space = if filesystem.shares_blocks() {
            let (major, minor) = pool.stat().context("read the attributes of", pool.show())?.dev;
            Some(u128::from(makedev(major, minor)))
        } else {
            None
        };
        Ok(PoolSnapshot {
            table: Table::open(dir)?,
            pool: Pool::new(pool),
            filesystem,
            space,
            directories: OnceLock::new(),
            tree: Mutex::default(),
            tree_of,
            is_proof: OnceLock::new(),
            plain: Arc::default(),
            listed: None,
        })
    }

    /// The bytes of a file: its object, or what the tree has of it; None where they are lost.
    pub(crate) fn bytes(&self, inode: &Inode) -> Result<Option<Content>> {
        let object = || self.pool.open(inode.object).or_else(|error| self.cannot_open(inode, error));
        if let Some(file) = self.bytes_at_their_place(inode)? {
            return Ok(Some(file));
        }
        // What a commit changes meanwhile has an object first.
        let mut asked = None;
        for again in [false, true] {
            if let Some(file) = object()? {
                return Ok(Some(file));
            }
            let stack = Stack::of(&self.pool, inode.object);
            if let Some(stack) = stack.or_else(|error| self.cannot_open(inode, error))? {
                if let Some(content) = self.over_bottom(inode, stack, again)? {
                    return Ok(Some(content));
                }
                continue;
            }
            let Some(tree) = self.tree(again)? else { return Ok(None) };
            if asked.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, &tree)) {
                break;
            }
            if let Some(file) = tree.open(inode, self.is_proof().then_some(|| self.path(inode)))? {
                return Ok(Some(file.into()));
            }
            asked = Some(tree);
        }
        object()
    }

    /// Where the tree keeps the bytes, few files have an object: the one at the path of the row is looked at
    /// first. Of a row without a change time an object says more.
    fn bytes_at_their_place(&self, inode: &Inode) -> Result<Option<Content>> {
        if self.tree_of.is_none() || inode.ctime == UNSETTLED || !self.is_proof() {
            return Ok(None);
        }
        let Some(tree) = self.tree(false)?.filter(|tree| tree.proves()) else { return Ok(None) };
        Ok(tree.open_at(|| self.path(inode), inode)?.map(Content::from))
    }

    /// Before-images of an object over what lies at their bottom; None where that is lost.
    fn over_bottom(&self, inode: &Inode, stack: Stack, again: bool) -> Result<Option<Content>> {
        let row = Inode { object: stack.bottom, ..inode.clone() };
        let bottom = self.pool.open(stack.bottom).or_else(|error| self.cannot_open(&row, error))?;
        if let Some(file) = bottom {
            return Ok(Some(stack.over(file)));
        }
        let Some(tree) = self.tree(again)? else { return Ok(None) };
        // Its own table says nothing of the bottom.
        let file = tree.open(&row, None::<fn() -> Result<RelPath>>)?;
        Ok(file.map(|file| stack.over(file.into())))
    }

    /// Whether the times of its own rows prove anything: not on a primary that was mounted anew.
    fn is_proof(&self) -> bool {
        let tells = |tree: &TreeOf| !tree.is_mounted_anew(&self.table);
        *self.is_proof.get_or_init(|| self.tree_of.as_ref().is_none_or(tells))
    }

    /// Where the bytes of a file are, for people.
    pub(crate) fn place_of(&self, inode: &Inode) -> PathBuf {
        let object = self.object(inode);
        let tree = || self.tree(false).ok()??.path(inode).ok()?;
        match inode.object {
            0 => PathBuf::from("/dev/null"),
            _ if self.pool.has(inode.object) => object.show(),
            _ => tree().unwrap_or_else(|| object.show()),
        }
    }

    /// The file that has the object of an inode, or had it: it is looked for.
    fn object(&self, inode: &Inode) -> Spot {
        self.pool.place_of(inode.object)
    }

    fn cannot_open<T>(&self, inode: &Inode, error: io::Error) -> Result<T> {
        Err(error).context("open", self.object(inode).show())
    }

    fn cannot_read_extents<T>(&self, inode: &Inode, error: io::Error) -> Result<T> {
        Err(error).context("read the extents of", self.object(inode).show())
    }

    fn tree(&self, again: bool) -> Result<Option<Arc<InTree>>> {
        let Some(tree_of) = &self.tree_of else { return Ok(None) };
        let mut looked = locked(&self.tree);
        if again || looked.is_none() {
            let last = looked.take();
            *looked = Some(Looked::at(tree_of, last)?);
        }
        Ok(looked.as_ref().and_then(|looked| looked.tree.clone()))
    }

    /// A commit moves files on, and the newest table tells of that only when it is done.
    fn is_being_committed(&self) -> bool {
        let journal = self.pool.dir().above().map(|store| store.join("journal.json"));
        let text = journal.and_then(|journal| journal.read().ok()).unwrap_or_default();
        let phase = serde_json::from_slice::<Journal>(&text).map(|journal| journal.phase);
        phase.is_ok_and(|phase| phase != "staging")
    }

    fn lost(&self, inode: &Inode) -> Error {
        let path = self.path(inode).map(|path| path.display().into_owned());
        let path = path.unwrap_or_else(|_| format!("inode {}", inode.ino));
        let Some(tree) = &self.tree_of else {
            return Error::Lost {
                what: format!(
                    "the bytes of {path} in a snapshot are lost: {} is gone from the store, or damaged",
                    self.object(inode).show().display()
                ),
                advice:
                    "it was deleted by hand, or the file system was damaged: take the file from the other \
                         side, and delete the snapshots that had it"
                        .to_owned(),
            };
        };
        let show = tree.root.path().display();
        if self.is_being_committed() {
            return Error::refused(
                format!("cannot read a snapshot of {show}: a round is being committed there, or was stopped"),
                format!(
                    "run this again when it has ended; `snapsync recover {show}` ends one that was stopped"
                ),
            );
        }
        if tree.is_light {
            return Error::Lost {
                what: format!(
                    "{show} keeps no history of its own, and {path} is not what it was in that snapshot"
                ),
                advice: format!(
                    "take it from a standby that has the snapshot: `snapsync status {show}` names them"
                ),
            };
        }
        Error::Lost {
            what: format!("the bytes of {path} in a snapshot of {show} are lost"),
            advice:
                "they were changed in the tree, or removed from the store, by hand: take the file from the \
                     other side, and delete the snapshots that had it"
                    .to_owned(),
        }
    }

    /// The number of its names, with those of inodes that it does not list.
    pub fn names(&self) -> Result<u64> {
        self.table.names()
    }

    fn directories(&self) -> Result<&Directories> {
        if let Some(directories) = self.directories.get() {
            return Ok(directories);
        }
        let directories = self.table.directories()?;
        Ok(self.directories.get_or_init(|| directories))
    }
}

fn is_same(object: &Spot, file: &File) -> bool {
    let (there, here) = (object.stat(), stat_of(file));
    there.is_ok_and(|there| here.is_ok_and(|here| (there.dev, there.ino) == (here.dev, here.ino)))
}

/// What is read of several files has no addresses.
fn data_of(content: &Content, size: u64) -> io::Result<Vec<Placed>> {
    let (mut data, mut at) = (Vec::new(), 0);
    while let Some(range) = next_data_in(content, at, size)? {
        data.push(range.into());
        at = range.end();
    }
    Ok(data)
}

/// Exact for compressed extents too, where the tree may be searched.
fn object_layout(object: &File, size: u64, filesystem: FileSystem) -> io::Result<Layout> {
    if filesystem.magic == FileSystem::BTRFS {
        match btrfs::layout(object, object.metadata()?.ino(), size, 0) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            other => return other,
        }
    }
    snapsync_sys::layout(object, size, filesystem)
}

impl Side for PoolSnapshot {
    fn inodes(&self) -> Result<Inodes<'_>> {
        match &self.listed {
            Some(listed) => Ok(Box::new(listed.iter().cloned().map(Ok))),
            None => self.everything(),
        }
    }

    fn everything(&self) -> Result<Inodes<'_>> {
        Ok(Box::new(self.table.rows()?))
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        self.table.pick(inos)
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        self.directories()?.path(link)
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        Ok(inode.details.as_deref().cloned().unwrap_or_default())
    }

    fn open(&self, inode: &Inode) -> Result<Content> {
        // An empty file has no object.
        if inode.object == 0 {
            return File::open("/dev/null").map(Content::from).context("open", "/dev/null");
        }
        self.bytes(inode)?.ok_or_else(|| self.lost(inode))
    }

    fn holds_still(&self, inode: &Inode, content: &Content) -> Result<()> {
        // What came from a pack stays as it is.
        let (Some(file), lies_on) = (content.bottom(), content.lies_on()) else { return Ok(()) };
        // Who has read from objects alone has not asked for the tree.
        let has_tree = locked(&self.tree).as_ref().is_some_and(|looked| looked.tree.is_some());
        if !has_tree || inode.object == 0 {
            return Ok(());
        }
        let object = lies_on.unwrap_or(inode.object);
        let (row, proves) = (Inode { object, ..inode.clone() }, lies_on.is_none() && self.is_proof());
        for again in [false, true] {
            if let Some(tree) = self.tree(again)?
                && tree.holds(&row, proves, file)?
            {
                return Ok(());
            }
            // A commit may have made it the object.
            if is_same(&self.object(&row), file) {
                return Ok(());
            }
        }
        Err(self.lost(inode))
    }

    fn layout(&self, inode: &Inode, content: &Content) -> Result<Layout> {
        let size = inode.attributes.size;
        let unwritten = inode.details.as_ref().map_or(&[][..], |d| &d.unwritten);
        if inode.object == 0 {
            return Ok(Layout::new(size, &[], unwritten));
        }
        // What came from a pack is all data.
        if content.bottom().is_none() && content.lies_on().is_none() {
            return Ok(Layout::whole(size));
        }
        let Some(file) = content.file() else {
            let data = data_of(content, size);
            let data = data.or_else(|error| self.cannot_read_extents(inode, error))?;
            return Ok(Layout::new(size, &data, unwritten));
        };
        // Clones lose preallocation on some file systems: the table knows where it was.
        let stored = object_layout(file, size, self.filesystem);
        let stored = stored.or_else(|error| self.cannot_read_extents(inode, error))?;
        // An object shares everything with its file: what it shares with others was asked when it was taken.
        Ok(stored.with(inode.shared, unwritten))
    }

    fn known_layout(&self, inode: &Inode) -> Result<Option<Layout>> {
        // What is in a pack is all data, and shares nothing.
        let in_pack =
            || self.pool.range_in_pack(inode.object).or_else(|error| self.cannot_open(inode, error));
        let is_whole = inode.object != 0 && (self.plain.has(inode) || in_pack()?.is_some());
        Ok(is_whole.then(|| Layout::whole(inode.attributes.size)))
    }

    fn packed(&self, inode: &Inode) -> Result<Option<Packed>> {
        let bytes = || self.pool.bytes(inode.object).or_else(|error| self.cannot_open(inode, error));
        let packed = if inode.object == 0 { None } else { bytes()? };
        Ok(packed.filter(|packed| packed.bytes.len() as u64 == inode.attributes.size))
    }

    /// Objects are never rewritten, and both sides keep theirs.
    fn space(&self) -> Option<u128> {
        self.space
    }
}
