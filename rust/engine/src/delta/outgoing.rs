//! Prepares a delta: its manifest, and its head.

use snapsync_manifest::ManifestHeader;
use snapsync_model::{Context, Counts, Identity, Result, Side, SnapshotInfo};
use snapsync_snapshot::{Alive, LockedVolume, Volume};
use snapsync_stream::wire::{DeltaHead, Digest, ManifestHead, VERSION, lift, software, write_head};
use snapsync_sys::{Named, Spot};
use std::io::{self, Write};
use std::path::Path;

/// The manifest of an outgoing delta in the volume's store, and the mark that keeps others from deleting what
/// is read: they may work on the volume meanwhile.
pub(crate) struct Outgoing(Alive);

impl Outgoing {
    pub(crate) fn make(
        primary: &LockedVolume,
        snapshot: &SnapshotInfo,
        base: Option<&SnapshotInfo>,
    ) -> Result<Outgoing> {
        primary.read_out(snapshot.id, base.map(|base| base.id)).map(Outgoing)
    }

    pub(crate) fn manifest(&self) -> Spot {
        self.0.dir().join("manifest.arrow")
    }
}

/// The manifest's announcement to the receiver.
pub(crate) fn announce(manifest: &dyn Named) -> Result<ManifestHead> {
    let mut hasher = blake3::Hasher::new();
    let mut file = manifest.open().context("open", manifest.show())?;
    let length = std::io::copy(&mut file, &mut hasher).context("read", manifest.show())?;
    Ok(ManifestHead { length, digest: *hasher.finalize().as_bytes() })
}

/// Writes what comes before the frames; returns the digests that their end needs.
pub(crate) fn put_head(
    to: &mut impl Write,
    head: &DeltaHead,
    manifest: &dyn Named,
    name: &Path,
) -> Result<[Digest; 2]> {
    let announced = announce(manifest)?;
    let mut put = || {
        let digest = write_head(to, head)?;
        to.write_all(&announced.to_bytes())?;
        io::copy(&mut manifest.open()?, to)?;
        io::Result::Ok(digest)
    };
    let digest = put().map_err(|e| lift(e, "write", name))?;
    Ok([digest, announced.digest])
}

/// Copies a manifest into a stage.
pub(crate) fn copy(manifest: &Spot, to: &Spot) -> Result<()> {
    copy_file(manifest, to)
}

/// The same from wherever it is.
pub(crate) fn copy_file(manifest: &dyn Named, to: &Spot) -> Result<()> {
    let mut from = manifest.open().context("open", manifest.show())?;
    let mut file = to.create().context("create", to.show())?;
    std::io::copy(&mut from, &mut file).map(drop).context("write", to.show())
}

/// The entries and the sum of the sizes of files, which holes may make larger than any number here.
pub(crate) fn count(side: &dyn Side) -> Result<(u64, u64)> {
    side.inodes()?.try_fold((0, 0), |(entries, bytes), inode| {
        let inode = inode?;
        let size = if inode.kind == snapsync_model::Kind::File { inode.attributes.size } else { 0 };
        Ok((entries + 1, u64::saturating_add(bytes, size)))
    })
}

/// The head of a delta between two snapshots of a volume.
pub(crate) fn volume_head(
    volume: &Volume,
    base: Option<&SnapshotInfo>,
    snapshot: &SnapshotInfo,
    counts: &Counts,
) -> DeltaHead {
    let info = volume.info();
    let identity = |snapshot: &SnapshotInfo| Identity { id: snapshot.id, origin: volume.origin_of(snapshot) };
    DeltaHead {
        version: VERSION,
        snapshot: snapshot.clone(),
        origin: volume.origin_of(snapshot),
        base: base.map(identity),
        volume: Some(info.id),
        lineage: Some(info.lineage).filter(|_| !snapshot.aside),
        epoch: info.epoch,
        promotions: volume.promotions().clone(),
        filesystem: info.filesystem,
        totals: counts.into(),
        software: software(),
        by_name: volume.accounts().is_some(),
        names: None,
    }
}

/// The same for the manifest's metadata.
pub(crate) fn header(volume: &Volume, base: Option<&SnapshotInfo>, target: &SnapshotInfo) -> ManifestHeader {
    let info = volume.info();
    ManifestHeader {
        volume: info.id.to_string(),
        provider: info.provider.name().to_owned(),
        filesystem: info.filesystem,
        ..ManifestHeader::of(base.map(|base| base.id), target)
    }
}
