//! Writes the changes between two snapshots or directories as a manifest.

use crate::delta::outgoing::header;
use crate::delta::output_file::{file_of, keep, temporary_beside};
use crate::delta::sides::Sides;
use crate::location::place::Place;
use crate::report::rounds::Diff;
use snapsync_manifest::ManifestHeader;
use snapsync_model::{Context, Counts, Error, Monitor, Result, SnapshotInfo, Stage, count as count_of};
use snapsync_snapshot::Volume;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Writes the manifest of the changes from `base` to `target` to `output`; without `output` only counts them.
pub fn diff(base: &Path, target: &Path, output: Option<&Path>, monitor: &Monitor) -> Result<Diff> {
    diff_of((&Place::parse(base)?, base), (&Place::parse(target)?, target), output, monitor)
}

/// The same of places that are open, with what they are called.
pub(crate) fn diff_of(
    (old, base): (&Place, &Path),
    (new, target): (&Place, &Path),
    output: Option<&Path>,
    monitor: &Monitor,
) -> Result<Diff> {
    let started = Instant::now();
    monitor.start(Stage::Compare, 0);
    let sides = Sides::of_places(old, new, monitor)?;
    tell_what_is_lost(&sides, base, monitor)?;
    let head = match (old, new) {
        (Place::Snapshot(base), Place::Snapshot(target)) if base.0.info().id == target.0.info().id => {
            header(&base.0, Some(&base.1), &target.1)
        }
        (Place::Log(base), Place::Log(target)) => ManifestHeader::of(Some(base.info.id), &target.info),
        _ => ManifestHeader { created: jiff::Timestamp::now().to_string(), ..ManifestHeader::default() },
    };
    let (output, counts) = match output {
        Some(output) => {
            write(&sides, &head, output, monitor).map(|(output, counts)| (Some(output), counts))?
        }
        None => (None, count(&sides, &head, monitor)?),
    };
    Ok(Diff {
        verb: "diff",
        base: base.to_path_buf(),
        target: target.to_path_buf(),
        output,
        changes: counts,
        data_bytes: counts.data_bytes,
        notes: monitor.take_notes(),
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Says where a difference may be none, because the base has only a table of what it held.
fn tell_what_is_lost(sides: &Sides, base: &Path, monitor: &Monitor) -> Result<()> {
    let files = sides.lost()?.try_fold(0, |files, pair| pair.map(|_| files + 1))?;
    if files > 0 {
        let base = base.display();
        monitor.note(format!(
            "the old bytes of {} are not in {base}: all of each counts as changed, also where only its \
             attributes are. The same snapshots of a standby tell it exactly",
            count_of(files, "file", "files")
        ));
    }
    Ok(())
}

/// The same between two snapshots of a volume.
pub(crate) fn of_volume(
    volume: &Volume,
    base: &SnapshotInfo,
    target: &SnapshotInfo,
    output: &Path,
    monitor: &Monitor,
) -> Result<Counts> {
    monitor.start(Stage::Compare, 0);
    let sides = Sides::between(volume, base, target, monitor)?;
    write(&sides, &header(volume, Some(base), target), output, monitor).map(|(_, counts)| counts)
}

fn write(
    sides: &Sides,
    head: &ManifestHeader,
    output: &Path,
    monitor: &Monitor,
) -> Result<(PathBuf, Counts)> {
    let output = file_of(output)?.ok_or_else(|| {
        let what = format!("{} is no file", output.display());
        Error::usage(what, "a manifest is written in more than one place: name a file")
    })?;
    // A failure must not leave half a manifest under the requested name.
    let temporary = temporary_beside(&output);
    let written = sides.write_manifest(&temporary, head, monitor);
    let kept = written.and_then(|counts| {
        let synced = File::open(&temporary).and_then(|file| file.sync_all());
        synced.context("write", &temporary)?;
        keep(&temporary, &output).map(|()| counts)
    });
    let counts = kept.inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })?;
    Ok((output, counts))
}

/// Counts the changes without writing a manifest.
fn count(sides: &Sides, head: &ManifestHeader, monitor: &Monitor) -> Result<Counts> {
    let dir = snapsync_sys::scratch()?;
    sides.write_manifest(&dir.path().join("manifest.arrow"), head, monitor)
}
