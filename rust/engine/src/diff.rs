//! The changes between two snapshots or directories, as a manifest.

use crate::place::{Opened, Place};
use crate::report::Diff;
use crate::sync::{header, trust, write_manifest};
use snapsync_compare::Trust;
use snapsync_manifest::Header;
use snapsync_model::{Error, Monitor, Result, Stage};
use snapsync_sys::{Root, btrfs};
use snapsync_walk::{Tree, relabel_by_path};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Writes the manifest of the changes from `base` to `target` to `output`.
pub fn diff(base: &Path, target: &Path, output: &Path, monitor: &Monitor) -> Result<Diff> {
    let started = Instant::now();
    let (old, new) = (Place::parse(base)?, Place::parse(target)?);
    monitor.start(Stage::Compare, 0);
    let mut opened = (old.open(monitor)?, new.open(monitor)?);
    let trust = identify(&old, &new, &mut opened)?;
    let head = match (&old, &new) {
        (Place::Snapshot(base), Place::Snapshot(target)) if base.0.info().id == target.0.info().id => {
            header(&base.0, Some(&base.1), &target.1)
        }
        _ => Header { created: jiff::Timestamp::now().to_string(), ..Header::default() },
    };
    // A failure must not leave half a manifest under the name that was asked for.
    let temporary = temporary_beside(output);
    let written = write_manifest(&temporary, &head, Some(opened.0.side()), opened.1.side(), trust, monitor);
    let counts =
        written.and_then(|counts| rename(&temporary, output).map(|()| counts)).inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })?;
    Ok(Diff {
        verb: "diff",
        base: base.to_path_buf(),
        target: target.to_path_buf(),
        output: output.to_path_buf(),
        changes: counts,
        data_bytes: counts.data_bytes,
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn temporary_beside(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    output.with_file_name(name)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    use snapsync_model::Context;
    std::fs::rename(from, to).context("write", to)
}

/// Decides what makes an inode the same on both sides, and what proves it unchanged.
fn identify(old: &Place, new: &Place, opened: &mut (Opened, Opened)) -> Result<Trust> {
    if let (Place::Snapshot(base), Place::Snapshot(target)) = (old, new)
        && base.0.info().id == target.0.info().id
    {
        return trust(&base.0, Some(&base.1));
    }
    let live = |volume: &Path, directory: &Path| directory.canonicalize().ok() == volume.canonicalize().ok();
    match (old, new) {
        (Place::Snapshot(named), Place::Directory(dir)) | (Place::Directory(dir), Place::Snapshot(named))
            if live(named.0.path(), dir) =>
        {
            return Ok(Trust::Nothing);
        }
        _ => {}
    }
    match opened {
        (Opened::Tree(a), Opened::Tree(b)) if a.shares_numbers_with(b) => Ok(subvolume_trust(a, b)),
        (reference, Opened::Tree(tree)) => relabel_by_path(reference.side(), tree).map(|()| Trust::Nothing),
        (Opened::Tree(tree), reference) => relabel_by_path(reference.side(), tree).map(|()| Trust::Nothing),
        _ => Err(Error::usage(
            "snapshots of two volumes have no inode numbers in common",
            "compare them with `snapsync verify`, or name directories",
        )),
    }
}

/// Two read-only snapshots of one subvolume keep times and numbers; anything else is read.
fn subvolume_trust(a: &Tree, b: &Tree) -> Trust {
    let info = |tree: &Tree| Root::open(tree.path()).ok().and_then(|root| btrfs::subvolume(root.fd()).ok());
    match (info(a), info(b)) {
        (Some(a), Some(b))
            if a.read_only && b.read_only && a.parent_uuid == b.parent_uuid && a.parent_uuid != [0; 16] =>
        {
            Trust::Times { before: a.created_at.min(b.created_at) }
        }
        _ => Trust::Nothing,
    }
}
