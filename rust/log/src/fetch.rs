//! Reads frames back from packs, as the frames of a delta.

use crate::commit::StoredObject;
use crate::log::Log;
use snapsync_manifest::FrameRow;
use snapsync_model::{Error, Monitor, Result, locked};
use snapsync_stream::wire::{Digest, FrameHead, LARGEST_FRAME, Sum};
use snapsync_stream::{Arrivals, Limit, unpacked};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Frames this far apart in a pack are read together: a request costs more than these bytes.
const GAP: u64 = 256 << 10;
/// The most bytes of one request.
const MOST: u64 = 16 << 20;

/// A frame that is wanted, and the pack that it is in.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub pack: Arc<StoredObject>,
    pub row: FrameRow,
}

/// A request for frames that lie close together in one pack.
struct Span {
    pack: Arc<StoredObject>,
    start: u64,
    end: u64,
    rows: Vec<FrameRow>,
}

/// All requests that are left; several readers share them.
pub struct Fetch<'a> {
    log: &'a Log,
    spans: Mutex<VecDeque<Span>>,
    limit: Option<Arc<Limit>>,
    monitor: &'a Monitor,
}

impl<'a> Fetch<'a> {
    pub fn new(
        log: &'a Log,
        mut wanted: Vec<Wanted>,
        limit: Option<Arc<Limit>>,
        monitor: &'a Monitor,
    ) -> Result<Fetch<'a>> {
        wanted.sort_by(|one, other| (&one.pack.key, one.row.at).cmp(&(&other.pack.key, other.row.at)));
        let mut spans: VecDeque<Span> = VecDeque::new();
        for Wanted { pack, row } in wanted {
            if row.raw > LARGEST_FRAME {
                return Err(log.objects().damaged(&pack.key, "its index names a frame that is too large"));
            }
            let end = row.at.checked_add(row.stored.into()).filter(|end| *end <= pack.size);
            let end = end.ok_or_else(|| {
                log.objects().damaged(&pack.key, "its index names bytes that it does not have")
            })?;
            match spans.back_mut() {
                Some(span)
                    if span.pack.key == pack.key
                        && span.start <= row.at
                        && row.at.saturating_sub(span.end) <= GAP
                        && end - span.start <= MOST =>
                {
                    span.end = span.end.max(end);
                    span.rows.push(row);
                }
                _ => spans.push_back(Span { pack, start: row.at, end, rows: vec![row] }),
            }
        }
        Ok(Fetch { log, spans: Mutex::new(spans), limit, monitor })
    }

    /// Readers that bring all frames between them, each with its own end. `seed` holds the digests of a head
    /// and a manifest.
    pub fn arrivals(&self, readers: usize, seed: [Digest; 2]) -> Vec<Arrivals<'_>> {
        let name = PathBuf::from(self.log.address().to_string());
        let reader = || Reader {
            fetch: self,
            sum: Some(Sum::new(seed[0], seed[1])),
            rows: VecDeque::new(),
            span: Vec::new(),
            start: 0,
            ready: Vec::new(),
            at: 0,
            payload: 0..0,
        };
        (0..readers.max(1)).map(|_| Arrivals { from: Box::new(reader()), name: name.clone() }).collect()
    }

    fn next(&self) -> Option<Span> {
        locked(&self.spans).pop_front()
    }
}

/// One of the readers.
struct Reader<'a> {
    fetch: &'a Fetch<'a>,
    /// None after the end.
    sum: Option<Sum>,
    /// The rest of the frames of the present span, and its bytes.
    rows: VecDeque<FrameRow>,
    span: Vec<u8>,
    /// Where the span begins in its pack.
    start: u64,
    /// What is handed out next, and then a part of the span.
    ready: Vec<u8>,
    at: usize,
    payload: Range<usize>,
}

impl Reader<'_> {
    /// Makes the next record ready; false after the end.
    fn advance(&mut self) -> Result<bool> {
        (self.at, self.payload) = (0, 0..0);
        self.ready.clear();
        while self.rows.is_empty() {
            self.fetch.monitor.check()?;
            let Some(span) = self.fetch.next() else {
                let Some(sum) = self.sum.take() else { return Ok(false) };
                self.ready = sum.end().to_bytes().to_vec();
                return Ok(true);
            };
            if let Some(limit) = &self.fetch.limit {
                let waited = limit.wait(span.end - span.start, self.fetch.monitor);
                waited.map_err(|e| snapsync_stream::wire::lift(e, "read", &PathBuf::from(&span.pack.key)))?;
            }
            let range = span.start..span.end;
            self.span = self.fetch.log.pack_range((&span.pack.key, span.pack.size), range).map_err(cut)?;
            self.start = span.start;
            self.rows = span.rows.into();
        }
        let Some(row) = self.rows.pop_front() else { return Ok(false) };
        let from = (row.at - self.start) as usize;
        let place = from..from + row.stored as usize;
        let Some(payload) = self.span.get(place.clone()) else {
            return Err(Error::integrity("a frame lies outside of what was read", "report this"));
        };
        let mut head = FrameHead::of(row.raw, row.stored, row.ino, row.offset, row.digest);
        if row.is_whole() {
            self.ready.extend(head.to_bytes());
            self.payload = place;
        } else {
            let bytes = unpacked(&head, payload.to_vec())?;
            let skip = row.skip as usize;
            let piece = &bytes[skip..skip + row.length as usize];
            head =
                FrameHead::of(row.length, row.length, row.ino, row.offset, *blake3::hash(piece).as_bytes());
            self.ready.extend(head.to_bytes());
            self.ready.extend(piece);
        }
        self.sum.iter_mut().for_each(|sum| sum.add(&head));
        Ok(true)
    }
}

/// What has come before the store failed is kept.
fn cut(error: Error) -> Error {
    match error {
        Error::Failed { what, advice } => Error::Cut { what, advice },
        other => other,
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let is_empty = self.at == self.ready.len() && self.payload.is_empty();
        if is_empty && !self.advance().map_err(io::Error::other)? {
            return Ok(0);
        }
        if self.at < self.ready.len() {
            let length = bytes.len().min(self.ready.len() - self.at);
            bytes[..length].copy_from_slice(&self.ready[self.at..self.at + length]);
            self.at += length;
            return Ok(length);
        }
        let length = bytes.len().min(self.payload.len());
        bytes[..length].copy_from_slice(&self.span[self.payload.start..self.payload.start + length]);
        self.payload.start += length;
        Ok(length)
    }
}
