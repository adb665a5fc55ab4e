//! Reads a delta without applying it.

use crate::delta::incoming::{BUFFER, fetch};
use crate::report::rounds::Inspected;
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_stream::wire::{DeltaHead, ManifestHead, Record, Sum, read_head};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Reads the delta in `file` but not the data of its frames, and writes its manifest to `manifest`.
pub fn inspect_delta(file: &Path, manifest: &Path, monitor: &Monitor) -> Result<Inspected> {
    let mut from = BufReader::with_capacity(BUFFER, File::open(file).context("open", file)?);
    let (header, head) = read_head(&mut from, file)?;
    let announced = ManifestHead::read(&mut from, file)?;
    if announced.length > from.get_ref().metadata().context("read", file)?.len() {
        return Err(Error::integrity(
            format!("the manifest in {} is longer than the file", file.display()),
            "it was cut, or it is damaged: send it again",
        ));
    }
    fetch(&mut from, announced, manifest, file)?;
    snapsync_manifest::ManifestReader::open(manifest)?;
    let mut sum = Sum::new(head, announced.digest);
    let mut stored = 0;
    let complete = loop {
        monitor.check()?;
        match Record::read(&mut from, file) {
            Ok(Record::Frame(frame)) => {
                sum.add(&frame);
                stored += u64::from(frame.stored);
                from.seek_relative(frame.stored.into()).context("read", file)?;
            }
            Ok(Record::End(end)) if end == sum.end() => break true,
            Ok(Record::End(_)) => {
                return Err(Error::integrity(
                    format!("the frames in {} are not those that its end counts", file.display()),
                    "send it again",
                ));
            }
            Err(Error::Cut { .. }) => break false,
            Err(error) => return Err(error),
        }
    };
    if complete && is_followed(&mut from, file)? {
        return Err(Error::integrity(
            format!("something follows the end of the delta in {}", file.display()),
            "send it again",
        ));
    }
    Ok(report(header, &sum, stored, complete))
}

fn is_followed(from: &mut impl Read, file: &Path) -> Result<bool> {
    Ok(from.read(&mut [0]).context("read", file)? > 0)
}

fn report(header: DeltaHead, sum: &Sum, stored: u64, complete: bool) -> Inspected {
    Inspected {
        version: header.version,
        snapshot: header.snapshot,
        base: header.base.map(|base| base.id.to_string()),
        origin: header.origin.map(|origin| origin.uuid.to_string()),
        volume: header.volume.map(|id| id.to_string()),
        lineage: header.lineage.map(|id| id.to_string()),
        epoch: header.epoch,
        software: header.software,
        frames: sum.frames,
        raw_bytes: sum.bytes,
        stored_bytes: stored,
        complete,
    }
}
