//! Restores a snapshot, or some of its paths, into a directory that is not a volume.
//!
//! This is a first round without a volume at its end: a whole delta is staged in the directory's `.snapsync`,
//! which is all that exists before the commit, and which is removed when the directory holds the content.

use crate::accounts::translated::{Of, Translated};
use crate::delta::outgoing::{announce, copy, header, volume_head};
use crate::delta::pruned::Pruned;
use crate::delta::room::Room;
use crate::delta::selected::no_such_path;
use crate::delta::sides::Sides;
use crate::delta::staging::{
    IncomingDelta, StageReport, StageTarget, as_offered, begin, is_cut, with_data, workers,
};
use crate::location::inside::is_in_store;
use crate::location::{directory, target};
use crate::options::Terms;
use rayon::prelude::*;
use snapsync_apply::{Incoming, Journal, Loss, Phase, discard};
use snapsync_manifest::ManifestReader;
use snapsync_model::{
    Change, Counts, Error, Inode, Inodes, Kind, Monitor, Provider, RelPath, Result, Side, SnapshotInfo, Stage,
};
use snapsync_snapshot::{Restoring, Volume, hold, is_vacant_in, restoring};
use snapsync_stream::wire::DeltaHead;
use snapsync_stream::{Budget, Held, MEMORY, Readable, run};
use snapsync_sys::{Named, Parents, Root, Spot, can_share, fault};
use std::collections::VecDeque;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use uuid::Uuid;

/// The number of rows whose data is shared in parallel.
const CHUNK: usize = 1024;
/// The number of files of which at least one must be able to share its blocks: some kinds cannot.
const TRIED: usize = 16;

/// What fills a directory.
pub(crate) trait Filling {
    /// Equal for the same paths of the same snapshot.
    fn id(&self) -> Uuid;

    /// Stages all of it and commits; returns the losses and the number of shared bytes.
    fn bring(&mut self, to: &Landing<'_>, terms: Terms) -> Result<(Vec<Loss>, u64)>;
}

/// A snapshot of a volume on this machine, or some paths of it.
pub(crate) struct Content {
    volume: Volume,
    snapshot: SnapshotInfo,
    sides: Sides,
    id: Uuid,
}

impl Content {
    pub(crate) fn new(
        volume: &Volume,
        snapshot: &SnapshotInfo,
        paths: &[RelPath],
        monitor: &Monitor,
    ) -> Result<Content> {
        let side = volume.open_snapshot(snapshot, monitor)?;
        let (volume, snapshot, id) = (volume.clone(), snapshot.clone(), id_of(snapshot, paths));
        if paths.iter().all(RelPath::is_root) {
            return Ok(Content { volume, snapshot, sides: Sides::of_side(side), id });
        }
        let pruned = Pruned::new(side, paths);
        if let Some(path) = pruned.missing()? {
            return Err(no_such_path(&snapshot, &volume, &path));
        }
        Ok(Content { volume, snapshot, sides: Sides::of_side(Box::new(pruned)), id })
    }

    /// The same with the owners that its lineage has, or that another volume of it has for those.
    pub(crate) fn owned(self, by: Option<&Volume>) -> Content {
        let own = self.volume.accounts_of(&self.snapshot).cloned();
        let theirs = by.and_then(|volume| volume.accounts_of(&self.snapshot));
        let sides = self.sides.with_target(|side| {
            Translated::by(theirs, Of::Volume, Translated::by(own.as_ref(), Of::Lineage, side))
        });
        Content { sides, ..self }
    }

    pub(crate) fn side(&self) -> &dyn Side {
        &*self.sides.target
    }

    /// Fails with `Error::Lost` for a file whose bytes are gone, before anything is written.
    pub(crate) fn expect_whole(&self, monitor: &Monitor) -> Result<()> {
        if self.snapshot.provider == Provider::Btrfs {
            return Ok(());
        }
        let lost = lost_in(self.side(), 1, monitor)?;
        lost.first().map_or(Ok(()), |inode| self.side().open(inode).map(drop))
    }

    /// Writes the manifest, and returns the head of the delta that brings all of it.
    pub(crate) fn write_manifest(&self, manifest: &dyn Named, monitor: &Monitor) -> Result<DeltaHead> {
        let Content { volume, snapshot, sides, .. } = self;
        let counts = sides.write_manifest(manifest, &header(volume, None, snapshot), monitor)?;
        Ok(volume_head(volume, None, snapshot, &counts))
    }
}

/// The files of a side whose bytes are gone: all of them, or at least so many.
pub(crate) fn lost_in(side: &dyn Side, enough: usize, monitor: &Monitor) -> Result<Vec<Inode>> {
    let has_data = |inode: &Inode| inode.kind == Kind::File && inode.attributes.size > 0;
    let mut rows = side.inodes()?.filter(|inode| inode.as_ref().map_or(true, has_data));
    let mut lost = Vec::new();
    while lost.len() < enough {
        monitor.check()?;
        let chunk: Vec<Inode> = rows.by_ref().take(CHUNK).collect::<Result<_>>()?;
        if chunk.is_empty() {
            break;
        }
        let found = chunk.into_par_iter().map(|inode| match side.open(&inode) {
            Err(Error::Lost { .. }) => Ok(Some(inode)),
            other => other.map(|_| None),
        });
        lost.extend(found.collect::<Result<Vec<_>>>()?.into_iter().flatten());
    }
    Ok(lost)
}

pub(crate) fn id_of(snapshot: &SnapshotInfo, paths: &[RelPath]) -> Uuid {
    let mut hasher = blake3::Hasher::new();
    hasher.update(snapshot.id.as_bytes());
    for path in paths {
        hasher.update(path.as_bytes()).update(b"\0");
    }
    let hash = *hasher.finalize().as_bytes();
    Uuid::from_bytes(std::array::from_fn(|at| hash[at]))
}

/// The result of filling a directory.
pub(crate) struct Filled {
    pub(crate) counts: Counts,
    pub(crate) shared: u64,
    pub(crate) losses: Vec<Loss>,
    /// The directory.
    pub(crate) root: Arc<Root>,
}

/// The directory to restore into.
pub(crate) struct RestoreTarget {
    pub(crate) path: PathBuf,
    /// The parent directory; None if the target is known to exist.
    above: Option<Root>,
    /// None if it does not exist yet.
    root: Option<Root>,
}

impl RestoreTarget {
    /// A directory that was made just now, and that only this command uses.
    pub(crate) fn made(root: Root) -> RestoreTarget {
        RestoreTarget { path: root.path().to_path_buf(), above: None, root: Some(root) }
    }

    /// Examines the target without writing anything.
    pub(crate) fn find(path: &Path, source: Option<&Volume>) -> Result<RestoreTarget> {
        let target::Target { path, volume, exists, .. } = target::target_of(path)?;
        let occupied = |why: &str| {
            let what = format!("cannot restore to {}: {why}", path.display());
            Err(Error::refused(what, "name an absent or empty directory"))
        };
        if source.is_some_and(|source| is_in_store(&path, source)) {
            return occupied("it is in the store of the volume");
        }
        if volume.is_some() {
            return occupied("it is a volume");
        }
        target::expect_no_standby_around(&path)?;
        // From here on these descriptors count, even if something else takes their names.
        let above = Root::open_straight(directory::parent(&path)?)?;
        let root = if exists { Some(hold(Root::open_straight(&path)?)?) } else { None };
        if let Some(root) = &root
            && restoring(root)?.is_none()
            && !is_vacant_in(root)?
        {
            return occupied("it is not empty");
        }
        match &root {
            Some(root) => directory::writable(root)?,
            None => directory::writable(&Root::open(directory::parent(&path)?)?)?,
        }
        Ok(RestoreTarget { path, above: Some(above), root })
    }

    /// The parent directory, in which a whole tree gets its name.
    pub(crate) fn above(&self) -> Option<&Root> {
        self.above.as_ref()
    }

    /// Fills the directory, or resumes an interrupted run with the same content.
    pub(crate) fn fill(&self, content: &mut dyn Filling, terms: Terms, monitor: &Monitor) -> Result<Filled> {
        let made = self.above.as_ref().filter(|_| self.root.is_none());
        let name = self.path.file_name().unwrap_or_default();
        let root = match (&self.root, made) {
            (None, Some(above)) => above.make_directory(name)?,
            (Some(root), _) => root.again()?,
            (None, None) => Root::open_straight(&self.path)?,
        };
        let filled = self.begin(root, content.id()).and_then(|work| {
            let filled = self.bring(&work, content, terms, monitor);
            match &filled {
                Ok(_) => work.finish()?,
                Err(error) if !is_cut(error) && !has_begun(&work)? => work.finish()?,
                Err(_) => {}
            }
            filled
        });
        if let (Err(_), Some(above)) = (&filled, made) {
            // This succeeds only if it is empty: an interrupted run can be resumed.
            let _ = rustix::fs::unlinkat(above.fd(), name, rustix::fs::AtFlags::REMOVEDIR);
        }
        filled
    }

    /// Removes what another restore has only staged.
    fn begin(&self, root: Root, id: Uuid) -> Result<Restoring> {
        let root = hold(root)?;
        let left = restoring(&root)?;
        let vacant = is_vacant_in(&root)?;
        if left != Some(id) && !vacant {
            return Err(Error::refused(
                format!("{} holds another restore that was not finished", self.path.display()),
                "run that one again, or empty the directory with its .snapsync",
            ));
        }
        let work = Restoring::begin(root, id)?;
        if left != Some(id) {
            work.clear()?;
        }
        work.mark()?;
        Ok(work)
    }

    fn bring(
        &self,
        work: &Restoring,
        content: &mut dyn Filling,
        terms: Terms,
        monitor: &Monitor,
    ) -> Result<Filled> {
        let (root, store) = (work.root(), work.store());
        let manifest = store.join("manifest.arrow");
        let (mut losses, mut shared) = (Vec::new(), 0);
        match Journal::load(&store)?.filter(|journal| journal.phase != Phase::Staging) {
            Some(journal) if journal.phase != Phase::Applied => {
                Incoming::open(root, &store, journal, monitor)?.commit()?;
            }
            Some(_) => {}
            // Only the end of the cleanup is missing.
            None if !is_vacant_in(root)? => {
                return Ok(Filled { counts: Counts::default(), shared, losses, root: root.clone() });
            }
            None => {
                let landing = Landing { root, store: &store, manifest: &manifest, monitor };
                (losses, shared) = content.bring(&landing, terms)?;
            }
        }
        let counts = ManifestReader::open(&manifest)?.counts()?;
        discard(root, content.id())?;
        Ok(Filled { counts, shared, losses, root: root.clone() })
    }
}

/// Whether the tree was touched.
fn has_begun(work: &Restoring) -> Result<bool> {
    Ok(Journal::load(&work.store())?.is_some_and(|journal| journal.phase != Phase::Staging))
}

/// Where the content of a directory is staged.
pub(crate) struct Landing<'a> {
    root: &'a Arc<Root>,
    store: &'a Spot,
    /// The place of its manifest.
    pub(crate) manifest: &'a Spot,
    pub(crate) monitor: &'a Monitor,
}

impl<'a> Landing<'a> {
    /// Stages what needs no data of a delta whose manifest is in its place.
    pub(crate) fn begin(
        &self,
        head: &DeltaHead,
        terms: Terms,
        shares: bool,
    ) -> Result<(Incoming<'a>, StageReport)> {
        let stage = StageTarget {
            root: self.root.clone(),
            store: self.store.clone(),
            copies: false,
            displaces: false,
            by_range: false,
            unlisted: false,
            shares,
            base: None,
            is_own: false,
            plain: Arc::default(),
        };
        let offer = IncomingDelta {
            header: head,
            manifest: announce(self.manifest)?,
            terms,
            file: self.manifest,
            spare: None,
            again: None,
            fetch: &mut |to| copy(self.manifest, to),
        };
        let mut room = Room::given(self.root, self.monitor);
        begin(&stage, offer, &mut as_offered, &mut room, self.monitor)
    }
}

impl Filling for Content {
    fn id(&self) -> Uuid {
        self.id
    }

    fn bring(&mut self, to: &Landing<'_>, terms: Terms) -> Result<(Vec<Loss>, u64)> {
        let mut head = self.write_manifest(to.manifest, to.monitor)?;
        fault::point("restore.manifest");
        head.snapshot.id = self.id;
        let shares = shares(self.side(), to.root)?;
        let (mut incoming, begun) = to.begin(&head, terms, shares)?;
        to.monitor.start(Stage::Stage, head.totals.data_bytes);
        to.monitor.advance(begun.kept);
        let shared = transfer(self.side(), to, &incoming, &begun.held, shares)?;
        incoming.seal()?;
        incoming.commit()?;
        Ok((begun.losses, shared))
    }
}

fn transfer(
    side: &dyn Side,
    to: &Landing<'_>,
    incoming: &Incoming<'_>,
    held: &Held,
    shares: bool,
) -> Result<u64> {
    let (budget, from) = (Budget::new(MEMORY), Readable { side, held, restless: None });
    let (monitor, sink) = (to.monitor, || incoming.sink());
    if !shares {
        run(with_data(to.manifest)?, from, workers(), &budget, monitor, &sink)?;
        return Ok(0);
    }
    let (rows, shared) = (ManifestReader::open(to.manifest)?, AtomicU64::new(0));
    let inodes = side.inodes()?.peekable();
    let rows =
        Sharing { rows, inodes, side, incoming, held, monitor, shared: &shared, left: VecDeque::new() };
    run(rows, from, workers(), &budget, monitor, &sink)?;
    Ok(shared.into_inner())
}

/// Whether files in `dir` can share blocks with files of a side.
fn shares(side: &dyn Side, dir: &Root) -> Result<bool> {
    let has_data = |inode: &Result<_>| {
        inode.as_ref().map_or(true, |i: &snapsync_model::Inode| i.kind == Kind::File && i.attributes.size > 0)
    };
    for inode in side.inodes()?.filter(has_data).take(TRIED) {
        if side.open(&inode?)?.file().is_some_and(|file| can_share(file, dir.fd())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Shares the data of rows if possible, and passes on the other rows.
struct Sharing<'a> {
    rows: ManifestReader,
    inodes: Peekable<Inodes<'a>>,
    side: &'a dyn Side,
    incoming: &'a Incoming<'a>,
    held: &'a Held,
    monitor: &'a Monitor,
    shared: &'a AtomicU64,
    left: VecDeque<Change>,
}

impl Sharing<'_> {
    fn refill(&mut self) -> Result<bool> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let Some(change) = self.rows.next().transpose()? else { break };
            if self.held.left(&change).is_empty() {
                continue;
            }
            let earlier = |i: &Result<snapsync_model::Inode>| i.as_ref().is_ok_and(|i| i.ino < change.ino);
            while self.inodes.next_if(earlier).is_some() {}
            let inode = self.inodes.next_if(|i| i.as_ref().map_or(true, |i| i.ino == change.ino));
            chunk.push((change, inode.transpose()?));
        }
        let is_more = !chunk.is_empty();
        let (side, incoming, monitor) = (self.side, self.incoming, self.monitor);
        let shared = chunk.into_par_iter().map_init(
            || Parents::new(incoming.root()),
            |parents, (change, inode)| {
                monitor.check()?;
                let Some(inode) = inode else { return Ok(Some(change)) };
                let content = side.open(&inode)?;
                // Others have no blocks to share.
                let Some(file) = content.file() else {
                    return Ok(Some(change));
                };
                let is_still = || side.holds_still(&inode, &content).is_ok();
                if !incoming.share(parents, &change, file, is_still)? {
                    return Ok(Some(change));
                }
                self.shared.fetch_add(change.data_bytes(), Relaxed);
                monitor.advance(change.data_bytes());
                Ok(None)
            },
        );
        let left: Vec<Result<Option<Change>>> = shared.collect();
        for change in left {
            self.left.extend(change?);
        }
        Ok(is_more)
    }
}

impl Iterator for Sharing<'_> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        loop {
            if let Some(change) = self.left.pop_front() {
                return Some(Ok(change));
            }
            match self.refill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
