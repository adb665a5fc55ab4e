//! Reads a delta without applying it: one in a file, or one round in a log.

use crate::delta::incoming::{BUFFER, fetch};
use crate::location::logs;
use crate::report::rounds::Inspected;
use snapsync_log::LogAddress;
use snapsync_manifest::FrameRow;
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_stream::wire::{DeltaHead, ManifestHead, Record, Sum, read_head};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Reads the delta in `file` but not the data of its frames, and writes its manifest to `manifest`.
pub fn inspect_delta(file: &Path, manifest: &Path, monitor: &Monitor) -> Result<Inspected> {
    if let Some((log, snapshot)) = LogAddress::parse_snapshot(file)? {
        return of_log(&log, snapshot.as_deref().unwrap_or("latest"), manifest);
    }
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
    Ok(report(header, (sum.frames, sum.bytes, stored), complete))
}

/// The round that brought a snapshot to a log.
fn of_log(address: &LogAddress, snapshot: &str, manifest: &Path) -> Result<Inspected> {
    let (log, published, is_kept) = logs::round_of(address, snapshot)?;
    let name = &published.delta.snapshot.name;
    log.download(&published.manifest, &manifest.to_path_buf()).map_err(|error| match error {
        Error::Integrity { .. } if !is_kept => Error::usage(
            format!("{address} keeps all of snapshot {name}, and not any more what changed in its round"),
            format!("`snapsync diff {address}@SNAP {address}@{name}` compares it with another one"),
        ),
        other => other,
    })?;
    let frames = published.index.as_ref().map(|index| log.index(index)).transpose()?.unwrap_or_default();
    let bytes = |of: fn(&FrameRow) -> u32| frames.iter().map(|frame| u64::from(of(frame))).sum();
    let (raw, stored) = (bytes(|frame| frame.raw), bytes(|frame| frame.stored));
    Ok(report(published.delta, (frames.len() as u64, raw, stored), true))
}

fn is_followed(from: &mut impl Read, file: &Path) -> Result<bool> {
    Ok(from.read(&mut [0]).context("read", file)? > 0)
}

/// `frames` are their number, their bytes, and those that are stored of them.
fn report(header: DeltaHead, frames: (u64, u64, u64), complete: bool) -> Inspected {
    let (frames, raw_bytes, stored_bytes) = frames;
    Inspected {
        version: header.version,
        snapshot: header.snapshot,
        base: header.base.map(|base| base.id.to_string()),
        origin: header.origin.map(|origin| origin.uuid.to_string()),
        volume: header.volume.map(|id| id.to_string()),
        lineage: header.lineage.map(|id| id.to_string()),
        epoch: header.epoch,
        software: header.software,
        frames,
        raw_bytes,
        stored_bytes,
        complete,
    }
}
