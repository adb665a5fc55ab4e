//! Writes a snapshot as a delta to a file or a pipe.

use crate::accounts::leaving::Leaving;
use crate::delta::incoming::BUFFER;
use crate::delta::outgoing::{header, put_head, volume_head};
use crate::delta::sides::Sides;
use crate::delta::staging::{with_data, workers};
use crate::delta::{became, output_file};
use crate::location::directory::is_elsewhere;
use crate::location::place::{Place, describe};
use crate::location::text::Location;
use crate::options::TransferOptions;
use crate::report::rounds::Sent;
use snapsync_manifest::ManifestHeader;
use snapsync_model::{Context, Counts, Error, Identity, Monitor, Promotions, Result, SnapshotInfo, Stage};
use snapsync_snapshot::{can_be_a_name, identity_of};
use snapsync_stream::wire::{DeltaHead, VERSION, software};
use snapsync_stream::{Channel, Held, Limit, Outlet, Readable};
use snapsync_sys::{Named, Root};
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A snapshot that can be sent, or that a delta can start from.
struct Sendable {
    place: Place,
    info: SnapshotInfo,
    identity: Identity,
}

/// Sends `snapshot` to `output` or standard output: the changes since the nearest of `bases`, or all of it if
/// there are none.
pub fn send(
    snapshot: &Path,
    bases: &[PathBuf],
    output: Option<&Path>,
    name: Option<String>,
    transfer: &TransferOptions,
    monitor: &Monitor,
) -> Result<Sent> {
    let started = Instant::now();
    let mut target = Sendable::find(snapshot)?;
    if let Some(name) = name {
        can_be_a_name(&name)?;
        target.info.name = name;
    }
    let bases = bases.iter().map(|path| Sendable::find(path)).collect::<Result<Vec<_>>>()?;
    let base = nearest(&target, bases, monitor);
    monitor.start(Stage::Compare, 0);
    let dir = snapsync_sys::scratch()?;
    let manifest = dir.path().join("manifest.arrow");
    let (sides, head) = open(base.as_ref(), &target, monitor)?;
    let mut leaving = target.leaving();
    let counts = sides.write_delta(None, &manifest, &head, &mut leaving, monitor)?;
    target.remember(&leaving)?;
    if let Some((tree, _)) = target.place.tree(monitor)? {
        became::tell(&tree, &manifest, false, monitor)?;
    }
    let names = leaving.names(monitor);
    let head = DeltaHead { names, ..delta_head(base.as_ref(), &target, &counts) };
    let sent = deliver(output, &head, &manifest, &sides, transfer, monitor)?;
    Ok(Sent {
        verb: "send",
        snapshot: target.info,
        base: base.map(|base| base.info),
        output: output.map(Path::to_path_buf),
        changes: counts,
        data_bytes: counts.data_bytes,
        frames: sent.frames,
        stored_bytes: sent.stored,
        notes: monitor.take_notes(),
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Writes the delta to its destination. A file appears only when it is complete.
fn deliver(
    output: Option<&Path>,
    head: &DeltaHead,
    manifest: &dyn Named,
    sides: &Sides,
    transfer: &TransferOptions,
    monitor: &Monitor,
) -> Result<snapsync_stream::Transferred> {
    let file = output.map(output_file::file_of).transpose()?.flatten();
    match (file.as_deref(), output) {
        (None, Some(path)) => {
            let to = File::options().write(true).open(path).context("open", path)?;
            write(to.into(), path, head, manifest, sides, transfer, monitor)
        }
        (Some(path), _) => {
            let temporary = output_file::temporary_beside(path);
            let file = snapsync_sys::create_private_file(&temporary).context("create", &temporary)?;
            let written = write(file.into(), path, head, manifest, sides, transfer, monitor);
            let kept = written.and_then(|sent| output_file::keep(&temporary, path).map(|()| sent));
            kept.inspect_err(|_| {
                let _ = std::fs::remove_file(&temporary);
            })
        }
        (None, None) => {
            let name = Path::new("standard output");
            let stdout = io::stdout().as_fd().try_clone_to_owned().context("open", name)?;
            write(stdout, name, head, manifest, sides, transfer, monitor)
        }
    }
}

fn write(
    to: OwnedFd,
    name: &Path,
    head: &DeltaHead,
    manifest: &dyn Named,
    sides: &Sides,
    transfer: &TransferOptions,
    monitor: &Monitor,
) -> Result<snapsync_stream::Transferred> {
    let mut channel = Channel::new(to, monitor).context("write", name)?;
    channel.limit(transfer.limit.map(Limit::new).as_ref());
    let mut to = BufWriter::with_capacity(BUFFER, channel);
    let seed = put_head(&mut to, head, manifest, name)?;
    monitor.start(Stage::Send, head.totals.data_bytes);
    let rows = with_data(manifest)?;
    let outlets = vec![Outlet { to: Box::new(to), name: name.to_path_buf() }];
    let from = Readable { side: &*sides.target, held: &Held::default(), restless: None };
    snapsync_stream::send(rows, from, seed, outlets, transfer.compression, workers(), monitor)
}

impl Sendable {
    fn find(text: &Path) -> Result<Sendable> {
        let place = Place::parse(text)?;
        let (info, identity) = match &place {
            Place::Log(_) => return Err(is_elsewhere(&Location::parse(text)?)),
            Place::Snapshot(named) => {
                let (volume, info) = &**named;
                (info.clone(), Identity { id: info.id, origin: volume.origin_of(info) })
            }
            Place::Directory(root) => {
                let path = root.path();
                let identity = identity_of(path)?.ok_or_else(|| not_a_snapshot(path))?;
                (describe(path, &identity)?, identity)
            }
        };
        Ok(Sendable { place, info, identity })
    }

    fn leaving(&self) -> Leaving {
        match &self.place {
            Place::Snapshot(named) => Leaving::of(&named.0, &named.1),
            Place::Directory(_) | Place::Log(_) => Leaving::default(),
        }
    }

    /// Others may work on the volume, which is locked only if there is anything to remember.
    fn remember(&self, leaving: &Leaving) -> Result<()> {
        match &self.place {
            Place::Snapshot(named) if leaving.has_grown() => leaving.remember(&mut named.0.clone().lock()?),
            _ => Ok(()),
        }
    }
}

fn not_a_snapshot(path: &Path) -> Error {
    Error::usage(
        format!("{} is not a snapshot: it could change while it is sent", path.display()),
        "name VOLUME@SNAP, a read-only Btrfs subvolume, or what `receive --as-snapshot` has made",
    )
}

/// The base that was taken last, since which the least has changed.
fn nearest(target: &Sendable, mut bases: Vec<Sendable>, monitor: &Monitor) -> Option<Sendable> {
    let age = |base: &Sendable| (base.info.sequence, base.identity.origin.map_or(0, |o| o.transid));
    bases.sort_by_key(age);
    let newest = bases.pop()?;
    if !bases.is_empty() {
        let (newest, target) = (&newest.info.name, &target.info.name);
        monitor.note(format!("{target} is sent as what changed since {newest}, the newest of the bases"));
    }
    Some(newest)
}

fn open(base: Option<&Sendable>, target: &Sendable, monitor: &Monitor) -> Result<(Sides, ManifestHeader)> {
    if let (Place::Snapshot(to), Some(Place::Snapshot(from))) = (&target.place, base.map(|b| &b.place))
        && to.0.info().id == from.0.info().id
    {
        let sides = Sides::of_volume(&to.0, Some(&from.1), &to.1, monitor)?;
        return Ok((sides, header(&to.0, Some(&from.1), &to.1)));
    }
    let sides = match base {
        Some(base) => Sides::of_places(&base.place, &target.place, monitor)?,
        None => Sides::whole(&target.place, monitor)?,
    };
    let head = match &target.place {
        Place::Snapshot(to) => header(&to.0, base.map(|base| &base.info), &to.1),
        Place::Directory(_) | Place::Log(_) => {
            ManifestHeader::of(base.map(|base| base.info.id), &target.info)
        }
    };
    Ok((sides, head))
}

fn delta_head(base: Option<&Sendable>, target: &Sendable, counts: &Counts) -> DeltaHead {
    let identity = base.map(|base| base.identity);
    let filesystem = |root: &Root| {
        snapsync_sys::filesystem(root.fd()).map(snapsync_sys::FileSystem::name).unwrap_or_default()
    };
    match &target.place {
        Place::Snapshot(named) => {
            DeltaHead { base: identity, ..volume_head(&named.0, None, &target.info, counts) }
        }
        place => DeltaHead {
            version: VERSION,
            snapshot: SnapshotInfo { parent: identity.map(|base| base.id), ..target.info.clone() },
            origin: target.identity.origin,
            base: identity,
            volume: None,
            lineage: None,
            epoch: 0,
            promotions: Promotions::default(),
            filesystem: if let Place::Directory(root) = place { filesystem(root) } else { String::new() },
            totals: counts.into(),
            software: software(),
            by_name: false,
            names: None,
        },
    }
}
