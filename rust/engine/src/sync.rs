//! One round: the primary's snapshot, the changes since the newest common one, their data, the standby's snapshot.

use crate::place::{self, Target};
use crate::recover::{finish, give_up, recover};
use crate::report::Synced;
use crate::sides::Sides;
use crate::subset;
use snapsync_apply::{Incoming, Journal, Loss, Phase};
use snapsync_manifest::{Header, ManifestReader};
use snapsync_model::{
    Context, Counters, Counts, Error, Monitor, Provider, Result, Role, Side, SnapshotInfo, Stage, Subset,
};
use snapsync_snapshot::{Request, Standby, Volume, name_is_free};
use snapsync_sys::{Root, btrfs, supports_reflinks};
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of the new snapshot; after the time without one.
    pub name: Option<String>,
    /// Snapshots to keep on each side; all without it.
    pub keep_last: Option<usize>,
    /// Refuse a target that cannot hold everything.
    pub strict: bool,
    /// Which part of the volume is replicated from now on; what it was without any.
    pub exclude: Vec<String>,
    pub include: Vec<String>,
    /// All of it again.
    pub everything: bool,
}

/// Brings `target` in step with `source`. The first round makes both volumes.
pub fn sync(source: &Path, target: &Path, options: &Options, monitor: &Monitor) -> Result<Synced> {
    let started = Instant::now();
    let (source, primary, target) = place::ends(source, target)?;
    let taken = primary.as_ref().map_or_else(|| Ok(Vec::new()), Volume::snapshots)?;
    options.name.iter().try_for_each(|name| name_is_free(name, &taken))?;
    if options.keep_last == Some(0) {
        return Err(Error::usage("at least one snapshot must be kept", "use --keep-last 1 or more"));
    }
    let subset = subset::asked(options)?;
    let mut made = Made::default();
    let ends = Ends::make(&source, primary, target, &mut made);
    let result = ends.and_then(|mut ends| {
        let _locks = ends.lock()?;
        ends.round(options, subset, monitor, started)
    });
    if result.is_err() {
        made.unmake();
    }
    result
}

/// What this round has made from nothing, and takes away again when it fails before anything is in it.
#[derive(Default)]
struct Made {
    stores: Vec<Volume>,
    directory: Option<std::path::PathBuf>,
}

impl Made {
    fn unmake(self) {
        // The failure itself is what people need to hear of; what is left is found vacant by the next round.
        for volume in self.stores {
            let untouched = Journal::load(&volume.store()).is_ok_and(|j| j.is_none());
            if untouched && volume.snapshots().is_ok_and(|s| s.is_empty()) {
                let _ = volume.remove_store();
            }
        }
        if let Some(path) = self.directory {
            let _ = remove_made_directory(&path);
        }
    }
}

fn remove_made_directory(path: &Path) -> Result<()> {
    let above = Root::open(place::parent(path)?)?;
    let name = path.file_name().unwrap_or_default();
    let is_subvolume = Root::open(path).is_ok_and(|root| btrfs::is_subvolume(root.fd()).unwrap_or(false));
    if std::fs::read_dir(path).context("list", path)?.next().is_some() {
        return Ok(());
    }
    if is_subvolume {
        return btrfs::delete_subvolume(above.fd(), name).context("delete the subvolume", path);
    }
    std::fs::remove_dir(path).context("remove", path)
}

struct Ends {
    primary: Volume,
    standby: Volume,
}

impl Ends {
    fn make(source: &Path, primary: Option<Volume>, target: Target, made: &mut Made) -> Result<Ends> {
        let primary = match primary {
            Some(volume) => volume,
            None => {
                let volume = Volume::init(source, Role::Primary, Uuid::new_v4(), 1)?;
                made.stores.push(volume.clone());
                volume
            }
        };
        let standby = match target.volume {
            Some(volume) => volume,
            None => {
                if !target.exists {
                    make_target(&target.path)?;
                    made.directory = Some(target.path.clone());
                }
                let info = primary.info();
                let volume = Volume::init(&target.path, Role::Standby, info.lineage, info.epoch)?;
                made.stores.push(volume.clone());
                volume
            }
        };
        Ok(Ends { primary, standby })
    }

    fn lock(&mut self) -> Result<[snapsync_sys::Lock; 2]> {
        let locks = [self.primary.lock()?, self.standby.lock()?];
        self.primary.reload()?;
        self.standby.reload()?;
        Ok(locks)
    }

    fn round(
        &mut self,
        options: &Options,
        subset: Option<Subset>,
        monitor: &Monitor,
        started: Instant,
    ) -> Result<Synced> {
        let mut recovered = recover(&mut self.primary, monitor)?;
        recovered.extend(recover(&mut self.standby, monitor)?);
        let base = self.common_base()?;
        monitor.start(Stage::Snapshot, 0);
        let before = self.primary.subset().clone();
        let mut snapshot = self.primary.take(Request::New { name: options.name.clone(), subset }, monitor)?;
        let result = self.bring(base.as_ref(), &mut snapshot, options, monitor);
        let brought = match result {
            Ok(brought) => brought,
            Err(error) => {
                self.undo(&snapshot, before);
                return Err(error);
            }
        };
        self.remember(&snapshot)?;
        let pruned = self.prune(options.keep_last, monitor)?;
        Ok(Synced {
            verb: "sync",
            primary: self.primary.info(),
            standby: self.standby.info(),
            base,
            unchanged: brought.counts.rows == 0,
            changes: brought.counts,
            data_bytes: brought.counts.data_bytes,
            tree_bytes: snapshot.bytes.unwrap_or(0),
            tree_entries: snapshot.entries.unwrap_or(0),
            snapshot,
            losses: brought.losses,
            notes: monitor.take_notes(),
            recovered,
            pruned,
            counters: brought.counters,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The standby's newest snapshot, which its tree holds; the primary must have it too.
    fn common_base(&self) -> Result<Option<SnapshotInfo>> {
        let Some(newest) = self.standby.snapshots()?.pop() else {
            if snapsync_snapshot::is_vacant(self.standby.path())? {
                return Ok(None);
            }
            return Err(Error::refused(
                format!("{} has no snapshot yet and is not empty", self.standby.path().display()),
                "move what is in it away, or name another target",
            ));
        };
        let common = self.primary.snapshots()?.into_iter().find(|s| s.id == newest.id);
        common.map(Some).ok_or_else(|| {
            Error::refused(
                format!(
                    "{} no longer has snapshot {}, the newest of {}",
                    self.primary.path().display(),
                    newest.name,
                    self.standby.path().display()
                ),
                "without a common snapshot only a new standby can follow: name an empty target",
            )
        })
    }

    /// Makes the standby hold `snapshot`.
    fn bring(
        &mut self,
        base: Option<&SnapshotInfo>,
        snapshot: &mut SnapshotInfo,
        options: &Options,
        monitor: &Monitor,
    ) -> Result<Brought> {
        let sides = Sides::of_volume(&self.primary, base, snapshot, monitor)?;
        if sides.target_is_whole {
            let (entries, bytes) = count(&*sides.target)?;
            self.primary.record_counts(snapshot, entries, bytes)?;
        }
        let mut incoming = Incoming::begin(
            self.standby.path(),
            &self.standby.store(),
            snapshot.clone(),
            base.map(|b| b.id),
            monitor,
        )?;
        let brought = stage(
            &self.standby,
            &sides,
            &header(&self.primary, base, snapshot),
            &mut incoming,
            options,
            base.is_some_and(|base| !base.subset.is_everything()),
            monitor,
        );
        // Nothing of the tree was touched so far.
        let brought = brought.inspect_err(|_| {
            if let Ok(Some(journal)) = Journal::load(&self.standby.store())
                && journal.phase == Phase::Staging
            {
                let _ = give_up(&self.standby, &journal);
            }
        })?;
        if !sides.target_is_whole
            && let Some((entries, bytes)) = base.and_then(|base| base.entries.zip(base.bytes))
        {
            let now = &brought.counts;
            let entries = (entries + now.created).saturating_sub(now.deleted);
            let bytes = (bytes + now.bytes_added).saturating_sub(now.bytes_removed);
            self.primary.record_counts(snapshot, entries, bytes)?;
        }
        let counts = (snapshot.entries.unwrap_or(0), snapshot.bytes.unwrap_or(0));
        incoming.commit()?;
        drop(incoming);
        let mut taken = finish(&mut self.standby, snapshot, base.map(|b| b.id), monitor)?;
        self.standby.record_counts(&mut taken, counts.0, counts.1)?;
        Ok(brought)
    }

    /// After a failure that left the standby where it was, the primary's new snapshot has no purpose, and neither has
    /// its subset.
    fn undo(&mut self, snapshot: &SnapshotInfo, subset: Subset) {
        let standby_needs_it = !matches!(Journal::load(&self.standby.store()), Ok(None));
        if !standby_needs_it && self.standby.find_snapshot(&snapshot.id.to_string()).is_err() {
            // Not the monitor of the round: it may have been told to stop.
            let _ = self.primary.delete(snapshot, &Monitor::default());
            let _ = self.primary.restore_subset(subset);
        }
    }

    fn remember(&mut self, snapshot: &SnapshotInfo) -> Result<()> {
        let standby = Standby {
            path: self.standby.path().to_string_lossy().into_owned(),
            snapshot: snapshot.id,
            name: snapshot.name.clone(),
            at: jiff::Timestamp::now().to_string(),
        };
        self.primary.remember_standby(self.standby.info().id, standby)
    }

    /// Keeps the newest snapshots on both sides; what is the base of any standby stays on the primary.
    fn prune(&mut self, keep_last: Option<usize>, monitor: &Monitor) -> Result<Vec<SnapshotInfo>> {
        let Some(keep) = keep_last else { return Ok(Vec::new()) };
        let held: Vec<Uuid> = self.primary.standbys().values().map(|s| s.snapshot).collect();
        let mut pruned = Vec::new();
        for volume in [&mut self.primary, &mut self.standby] {
            let snapshots = volume.snapshots()?;
            let old = snapshots.len().saturating_sub(keep);
            for info in snapshots.iter().take(old).filter(|s| !held.contains(&s.id)) {
                volume.delete(info, monitor)?;
                pruned.push(info.clone());
            }
        }
        Ok(pruned)
    }
}

/// A subvolume where the file system has them.
fn make_target(path: &Path) -> Result<()> {
    let above = Root::open(place::parent(path)?)?;
    let name = path.file_name().unwrap_or_default();
    let on_btrfs =
        snapsync_sys::filesystem(above.fd()).context("read the file system of", above.path())?.name()
            == "btrfs";
    if on_btrfs {
        return btrfs::create_subvolume(above.fd(), name).context("create the subvolume", path);
    }
    std::fs::create_dir(path).context("create the directory", path)
}

fn count(side: &dyn Side) -> Result<(u64, u64)> {
    side.inodes()?.try_fold((0, 0), |(entries, bytes), inode| {
        let inode = inode?;
        let size = if inode.kind == snapsync_model::Kind::File { inode.attributes.size } else { 0 };
        Ok((entries + 1, bytes + size))
    })
}

struct Brought {
    counts: Counts,
    counters: Counters,
    losses: Vec<Loss>,
}

/// Fills the stage and seals it. `strays`: the standby may hold entries that no snapshot has.
fn stage(
    standby: &Volume,
    sides: &Sides,
    header: &Header,
    incoming: &mut Incoming<'_>,
    options: &Options,
    strays: bool,
    monitor: &Monitor,
) -> Result<Brought> {
    monitor.start(Stage::Compare, 0);
    let manifest = incoming.manifest();
    let counts = sides.write_manifest(&manifest, header, monitor)?;
    let report = incoming.prepare(copies(standby), strays)?;
    if options.strict && !report.losses.is_empty() {
        return Err(too_strict(standby, &report.losses));
    }
    monitor.start(Stage::Stage, counts.data_bytes);
    incoming.entries()?;
    let rows = ManifestReader::open(&manifest)?;
    // Reading waits for the disk: more workers than cores keep it busy.
    let workers = 2 * rayon::current_num_threads();
    snapsync_stream::run(rows, &*sides.target, workers, monitor, &|| incoming.sink())?;
    incoming.seal()?;
    // What the standby does with it for itself does not count.
    Ok(Brought { counts, losses: report.losses, counters: monitor.counters() })
}

fn too_strict(standby: &Volume, losses: &[Loss]) -> Error {
    let list: Vec<String> = losses.iter().map(|l| format!("{} ({} entries)", l.what, l.count)).collect();
    Error::refused(
        format!("{} cannot hold: {}", standby.path().display(), list.join("; ")),
        "leave out --strict to go without, or name a target that can",
    )
}

/// Whether the standby's own snapshot copies data.
fn copies(standby: &Volume) -> bool {
    let store = Root::open(&standby.store());
    standby.info().provider == Provider::Pool && !store.is_ok_and(|root| supports_reflinks(root.fd()))
}

pub(crate) fn header(volume: &Volume, base: Option<&SnapshotInfo>, target: &SnapshotInfo) -> Header {
    let info = volume.info();
    Header {
        base: base.map(|b| b.id.to_string()).unwrap_or_default(),
        target: target.id.to_string(),
        volume: info.id.to_string(),
        provider: info.provider.name().to_owned(),
        filesystem: info.filesystem,
        created: target.created.clone(),
    }
}
