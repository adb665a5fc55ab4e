//! Verifies what is believed unchanged: each round reads a share of the files again on both sides, and
//! compares their digests. Files are read in the order of the circle over which `digest` spreads their paths,
//! from where the last round stopped, so that all are read once in the period if there are enough rounds; no
//! round reads more than its limit. Differing files are recorded with the standby and sent whole in the next
//! round.

use crate::digest::{CHUNK, Digest, content, place_of};
use crate::options::Scrubbing;
use crate::report::rounds::{Scrubbed, TOLD, Unlike};
use crate::round::steps::StandbyEnd;
use crate::volume::pieces::{Piece, Seen, seen};
use rayon::prelude::*;
use snapsync_model::{
    Content, Error, Inode, Kind, Monitor, Provider, Range, RelPath, Result, Side, SnapshotInfo, Stage,
    UNSETTLED, read_still,
};
use snapsync_snapshot::{Scrub, Volume};
use snapsync_sys::{Root, stat_of};
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

/// A round reads something once this fraction of the period has passed: files are not listed for less.
const OFTEN: u32 = 120;
/// The most files of a round, and the least that each counts for.
const MOST: usize = 1 << 18;
const LEAST: u64 = 16 << 10;
/// The bytes of one or more files that are compared in one step.
const STEP: u64 = 128 << 20;
/// The most files, and bytes of their paths, in one question to the standby.
const ASKED: usize = 1024;
const PATHS: usize = 256 << 10;
/// A round stops looking after this many differences, because each is recorded.
const TOO_MANY: usize = 1000;

/// A due file, ordered by its distance from the start of the arc.
struct Near {
    distance: u64,
    cost: u64,
    inode: Inode,
    path: RelPath,
}

impl PartialEq for Near {
    fn eq(&self, other: &Near) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Near) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Near) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Near {
    fn key(&self) -> (u64, u64) {
        (self.distance, self.inode.ino)
    }
}

/// What a round reads, and where the next round continues.
struct Share {
    chosen: Vec<Chosen>,
    by: u128,
    offset: u64,
}

struct Chosen {
    distance: u64,
    inode: Inode,
    piece: Piece,
}

/// The nearest files of the arc, as many as the limit allows.
fn nearest(
    side: &dyn Side,
    from: u64,
    due: u128,
    limit: u64,
    monitor: &Monitor,
) -> Result<(Vec<Near>, u128)> {
    let (mut near, mut total, mut until) = (BinaryHeap::new(), 0_u64, due);
    for inode in side.inodes()? {
        let inode = inode?;
        if inode.kind != Kind::File || inode.attributes.size == 0 {
            continue;
        }
        monitor.check()?;
        let path = side.path(&inode)?;
        let distance = place_of(&path).wrapping_sub(from);
        if u128::from(distance) >= until {
            continue;
        }
        let cost = inode.attributes.size.min(inode.blocks.saturating_mul(512)).max(LEAST);
        total = total.saturating_add(cost);
        near.push(Near { distance, cost, inode: Inode { details: None, ..inode }, path });
        while let Some(last) = near.peek()
            && (total - last.cost >= limit || near.len() > MOST)
        {
            (total, until) = (total - last.cost, u128::from(last.distance));
            near.pop();
        }
    }
    Ok((near.into_sorted_vec(), until))
}

/// Chooses files, or a part of the first one, until the limit is reached.
fn choose(side: &dyn Side, state: &Scrub, due: u128, limit: u64, monitor: &Monitor) -> Result<Share> {
    let (near, until) = nearest(side, state.place(), due, limit, monitor)?;
    let mut share = Share { chosen: Vec::new(), by: until, offset: 0 };
    let mut left = limit;
    for Near { distance, cost, inode, path } in near {
        let size = inode.attributes.size;
        let from = if distance == 0 { state.offset().min(size) } else { 0 };
        if cost.min((size - from).max(LEAST)) > left {
            (share.by, share.offset) = (u128::from(distance), from);
            if share.chosen.is_empty() {
                share.offset = from + (left / CHUNK * CHUNK).min(size - from);
                share.add(distance, &inode, &path, from, share.offset);
            }
            return Ok(share);
        }
        left -= cost.min((size - from).max(LEAST));
        share.add(distance, &inode, &path, from, size);
    }
    Ok(share)
}

impl Share {
    fn add(&mut self, distance: u64, inode: &Inode, path: &RelPath, mut from: u64, to: u64) {
        while from < to {
            let range = Range { offset: from, length: STEP.min(to - from) };
            let piece = Piece { path: path.as_bytes().to_vec(), size: inode.attributes.size, range };
            self.chosen.push(Chosen { distance, inode: inode.clone(), piece });
            from = range.end();
        }
    }

    /// The number of these that are compared in one step.
    fn step(chosen: &[Chosen]) -> usize {
        let (mut bytes, mut paths) = (0, 0);
        let fits = |next: &&Chosen| {
            bytes += next.piece.range.length;
            paths += next.piece.path.len();
            bytes <= STEP && paths <= PATHS
        };
        chosen.iter().take(ASKED).take_while(fits).count().max(1)
    }
}

/// The primary's copy: in its snapshot, and in its tree if that has not visibly changed since.
struct Own {
    /// None where the tree had it, which changed since: the next snapshot reads it anyway.
    snapshot: Option<Seen>,
    live: Option<Digest>,
}

/// The primary's side of a scrub.
pub(crate) struct Primary<'a> {
    side: Box<dyn Side>,
    /// Set if the snapshot is a copy of what was read in the tree.
    tree: Option<Arc<Root>>,
    monitor: &'a Monitor,
}

impl<'a> Primary<'a> {
    fn open(volume: &Volume, snapshot: &SnapshotInfo, monitor: &'a Monitor) -> Result<Primary<'a>> {
        let is_copy = snapshot.provider == Provider::Pool;
        let tree = is_copy.then(|| volume.root().clone());
        Ok(Primary { side: volume.open_snapshot(snapshot, monitor)?, tree, monitor })
    }

    fn look(&self, chosen: &Chosen) -> Result<Own> {
        let path = RelPath::new(&chosen.piece.path)?;
        let (inode, range) = (&chosen.inode, chosen.piece.range);
        let found = self.side.open(inode).and_then(|mut file| {
            read_still(&*self.side, inode, &mut file, |file| seen(file, &path, range, self.monitor))
        });
        let snapshot = match found {
            Ok(seen) => Some(seen),
            Err(Error::Io { source, .. }) => Some(Seen::Lacks(snapsync_model::reason(&source))),
            Err(Error::Lost { .. }) => None,
            Err(other) => return Err(other),
        };
        self.monitor.advance(chosen.piece.range.length);
        let live = self.tree.as_ref().map_or(Ok(None), |root| self.live(root, chosen, &path))?;
        Ok(Own { snapshot, live })
    }

    /// None if it visibly changed: then the next snapshot reads it anyway.
    fn live(
        &self,
        root: &Root,
        Chosen { inode, piece, .. }: &Chosen,
        path: &RelPath,
    ) -> Result<Option<Digest>> {
        // Also None if somebody holds a lease, for whom a scrub does not wait.
        let Ok(file) = root.read_now(path).map(Content::from) else { return Ok(None) };
        let is_same = || {
            file.file().is_some_and(|file| {
                stat_of(file).is_ok_and(|now| {
                    (now.ino, now.generation, now.kind) == (inode.ino, inode.generation, inode.kind)
                        && (now.ctime, now.attributes.size) == (inode.ctime, inode.attributes.size)
                        && now.attributes.mtime == inode.attributes.mtime
                })
            })
        };
        if inode.ctime == UNSETTLED || !is_same() {
            return Ok(None);
        }
        match content(&file, path.as_path(), piece.range, self.monitor) {
            Ok(digest) => Ok(Some(digest).filter(|_| is_same())),
            Err(Error::Io { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

/// The results of a scrub, besides what is reported to people.
#[derive(Default)]
struct Found {
    told: Vec<Unlike>,
    /// Inodes of files that differ, including those that the primary must read again.
    unlike: BTreeSet<u64>,
    doubted: BTreeSet<u64>,
    lost: BTreeSet<u64>,
}

impl Found {
    fn add(&mut self, chosen: &Chosen, own: &Own, theirs: &Seen) {
        let (ino, live) = (chosen.inode.ino, own.live.map(Seen::Holds));
        let Some(snapshot) = &own.snapshot else { return };
        let what = match (snapshot, &live, theirs) {
            (Seen::Lacks(why), None, _) => {
                self.lost.insert(ino);
                format!("the primary's snapshot cannot be read: {why}")
            }
            (Seen::Lacks(why), Some(_), _) => format!("the primary's snapshot cannot be read: {why}"),
            (own, Some(live), _) if own != live => {
                "changed on the primary, though its times did not".to_owned()
            }
            (_, _, Seen::Lacks(why)) => format!("on the standby: {why}"),
            (own, _, theirs) if own != theirs => "other bytes on the standby".to_owned(),
            _ => return,
        };
        if live.as_ref().is_some_and(|live| live != snapshot) {
            self.doubted.insert(ino);
        }
        if self.unlike.insert(ino) && self.told.len() < TOLD {
            let path = String::from_utf8_lossy(&chosen.piece.path).into_owned();
            self.told.push(Unlike { path, what });
        }
    }
}

/// Reads the due share of the files that are in `snapshot` on both sides; also returns those that the
/// primary's next snapshot must read again.
pub(crate) fn scrub(
    primary: &Volume,
    standby: &mut dyn StandbyEnd,
    snapshot: &SnapshotInfo,
    scrubbing: Scrubbing,
    state: &mut Scrub,
    monitor: &Monitor,
) -> Result<(Scrubbed, BTreeSet<u64>)> {
    let mut report = Scrubbed::default();
    let due = state.due(scrubbing.period);
    if due < (1 << 64) / u128::from(OFTEN) {
        return Ok((report.at(state), BTreeSet::new()));
    }
    let own = Primary::open(primary, snapshot, monitor)?;
    let share = choose(&*own.side, state, due, scrubbing.limit.max(CHUNK), monitor)?;
    let total = share.chosen.iter().map(|chosen| chosen.piece.range.length).sum();
    monitor.start(Stage::Scrub, total);
    let (mut found, mut next) = (Found::default(), (share.by, share.offset));
    let mut rest = &share.chosen[..];
    let mut files = BTreeSet::new();
    while let Some(first) = rest.first() {
        if found.unlike.len() >= TOO_MANY {
            next = (u128::from(first.distance), first.piece.range.offset);
            break;
        }
        let (step, others) = rest.split_at(Share::step(rest));
        rest = others;
        for (chosen, (own, theirs)) in step.iter().zip(&compare(&own, standby, step)?) {
            found.add(chosen, own, theirs);
            files.insert(chosen.inode.ino);
            report.bytes += chosen.piece.range.length;
        }
    }
    report.files = files.len() as u64;
    report.difference_count = found.unlike.len() as u64;
    state.files += report.files;
    state.bytes += report.bytes;
    state.differences += report.difference_count;
    state.advance(next.0, due, scrubbing.period, next.1);
    remember(&share.chosen, &found, state);
    report.differences = found.told;
    Ok((report.at(state), found.doubted))
}

/// Both sides of some files.
fn compare(own: &Primary<'_>, standby: &mut dyn StandbyEnd, step: &[Chosen]) -> Result<Vec<(Own, Seen)>> {
    let pieces: Vec<Piece> = step.iter().map(|chosen| chosen.piece.clone()).collect();
    let mut looked = Vec::new();
    let theirs = standby.scrub(&pieces, &mut || {
        looked = step.par_iter().with_max_len(1).map(|chosen| own.look(chosen)).collect::<Result<_>>()?;
        Ok(())
    })?;
    Ok(looked.into_iter().zip(theirs).collect())
}

/// Records what the next round sends again. Unreadable files are not sent.
fn remember(chosen: &[Chosen], found: &Found, state: &mut Scrub) {
    let again = |chosen: &&Chosen| {
        found.unlike.contains(&chosen.inode.ino) && !found.lost.contains(&chosen.inode.ino)
    };
    for chosen in chosen.iter().filter(again) {
        let path = String::from_utf8_lossy(&chosen.piece.path).into_owned();
        state.pending.insert(chosen.inode.ino, path);
    }
}
