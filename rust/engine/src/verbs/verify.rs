//! Proves that two trees are equal in every entry, by content and metadata. Each side lists what it holds,
//! and the lists are merged by path.

use crate::accounts::translated::{Of, Translated};
use crate::digest::{BATCH, Body, Digest, Near, READ, Reading, Record, Runs, UNREADABLE};
use crate::location::place::{Opened, Place};
use crate::location::text::{Address, Location};
use crate::names::Names;
use crate::options::SshOptions;
use crate::pairs::{Compared, Inodes, Pair, Pairs};
use crate::remote::digests::RemoteDigests;
use crate::report::checks::{Difference, Verified};
use rayon::prelude::*;
use snapsync_model::{
    Attributes, Content, Context, Error, Inode, Kind, Layout, Monitor, Range, RelPath, Result, Side, Stage,
};
use snapsync_snapshot::PoolSnapshot;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

/// The most differences that are listed; the rest is only counted.
const TOLD: usize = 1000;

/// Compares two volumes, snapshots or directories, each of which may be on another machine.
pub fn verify(a: &Path, b: &Path, reading: Reading, ssh: &SshOptions, monitor: &Monitor) -> Result<Verified> {
    let started = Instant::now();
    let named = (Named::parse(a)?, Named::parse(b)?);
    monitor.start(Stage::Verify, 0);
    // Another machine reads its tree while this one reads its own.
    let ask = |one: &Named, other: &Named| one.ask(ssh, reading, other.lineage(), monitor);
    let remote = (ask(&named.0, &named.1)?, ask(&named.1, &named.0)?);
    let differing = if reading == Reading::Nothing { named.0.differing(&named.1)? } else { None };
    let all = differing.as_ref().map(|(a, _)| a.names()).transpose()?;
    let opened = match differing {
        Some((a, b)) => (Some(Opened::Snapshot(Box::new(a))), Some(Opened::Snapshot(Box::new(b)))),
        None => {
            let lineage = common_lineage(&named.0, &named.1);
            let open = |one: &Named| one.open(lineage, monitor);
            let (a, b) = rayon::join(|| open(&named.0), || open(&named.1));
            (a?, b?)
        }
    };
    let (a_names, b_names) = rayon::join(|| list(opened.0.as_ref()), || list(opened.1.as_ref()));
    let names = (a_names?, b_names?);
    let counted = names.0.as_ref().or(names.1.as_ref());
    monitor.start(Stage::Verify, counted.map_or(0, Names::len));
    let here = names.0.as_ref().zip(names.1.as_ref());
    let pools = (named.0.pool(), named.1.pool());
    let is_one_pool = pools.0.is_some() && pools.0 == pools.1;
    let both = here.map(|(a, b)| Both { a: a.side, b: b.side, is_one_pool });
    let mut found =
        Found { both, monitor, lost_and_found: None, doubtful: Vec::new(), report: report(a, b, reading) };
    if let Some((a, b)) = here {
        Pairs { a: a.side, b: b.side, reading, monitor }.each((a, b), |pair| found.pair(pair))?;
    } else {
        let near = |names| Near::new(names, reading, true, monitor);
        let mut left = Feed::new(names.0.as_ref().map(near).transpose()?, remote.0);
        let mut right = Feed::new(names.1.as_ref().map(near).transpose()?, remote.1);
        merge(&mut left, &mut right, &mut found)?;
    }
    found.settle()?;
    if let [true, false] | [false, true] = [&named.0, &named.1].map(Named::is_log)
        && reading != Reading::Nothing
    {
        monitor.note(
            "what the log holds is known by digests, and read only where it differs: to read all of it, \
             verify the log with itself",
        );
    }
    if found.lost_and_found.is_some() {
        monitor.note("an empty lost+found, which the file system made, is on one side only");
    }
    let mut report = found.report;
    report.entries = all.unwrap_or(report.entries);
    report.differences.sort_by(|x, y| (&x.path, &x.what).cmp(&(&y.path, &y.what)));
    report.equal = report.difference_count == 0;
    report.notes = monitor.take_notes();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn report(a: &Path, b: &Path, reading: Reading) -> Verified {
    Verified {
        verb: "verify",
        a: a.to_path_buf(),
        b: b.to_path_buf(),
        equal: false,
        entries: 0,
        bytes: 0,
        mode: reading.name(),
        seed: reading.seed(),
        read_entries: 0,
        unproven: 0,
        unproven_bytes: 0,
        difference_count: 0,
        differences: Vec::new(),
        notes: Vec::new(),
        mended: None,
        seconds: 0.0,
    }
}

fn list(opened: Option<&Opened>) -> Result<Option<Names<'_>>> {
    opened.map(|opened| Names::of(opened.side())).transpose()
}

/// The lineage that both are of; another machine tells owners by it if its side is, too. What is of one
/// volume has the same owners as it is.
fn common_lineage(a: &Named, b: &Named) -> Option<Uuid> {
    let volume = |named: &Named| match named {
        Named::Here(place) => place.volume().ok().flatten(),
        Named::There(_) => None,
    };
    match (a, b) {
        (Named::Here(_), Named::Here(_)) => {
            let (a, b) = (volume(a)?, volume(b)?);
            (a.lineage == b.lineage && a.id != b.id).then_some(a.lineage)
        }
        _ => volume(a).or(volume(b)).map(|volume| volume.lineage),
    }
}

/// A place on this machine or another.
enum Named {
    Here(Place),
    There(Address),
}

impl Named {
    fn parse(text: &Path) -> Result<Named> {
        let location = Location::parse(text)?;
        location
            .there()
            .map_or_else(|| Place::at(&location).map(Named::Here), |remote| Ok(Named::There(remote)))
    }

    /// The lineage of a volume here, by which the other side may recognise it.
    fn lineage(&self) -> Option<Uuid> {
        match self {
            Named::Here(place) => place.volume().ok().flatten().map(|volume| volume.lineage),
            Named::There(_) => None,
        }
    }

    fn ask<'a>(
        &self,
        ssh: &SshOptions,
        reading: Reading,
        lineage: Option<Uuid>,
        monitor: &'a Monitor,
    ) -> Result<Option<RemoteDigests<'a>>> {
        match self {
            Named::Here(_) => Ok(None),
            Named::There(address) => RemoteDigests::ask(address, ssh, reading, lineage, monitor).map(Some),
        }
    }

    fn is_log(&self) -> bool {
        matches!(self, Named::Here(Place::Log(_)))
    }

    /// Its owners have the numbers that they have in this lineage, if it is of that.
    fn open(&self, lineage: Option<Uuid>, monitor: &Monitor) -> Result<Option<Opened>> {
        let Named::Here(place) = self else { return Ok(None) };
        let opened = place.open(monitor)?;
        let accounts = lineage.map_or(Ok(None), |lineage| place.accounts(lineage))?;
        Ok(Some(match accounts {
            Some(accounts) => {
                Opened::Snapshot(Translated::by(Some(&accounts), Of::Lineage, opened.into_side()))
            }
            None => opened,
        }))
    }

    /// Two snapshots of one pool, reduced to what their tables have otherwise; None where both are to be
    /// compared as a whole.
    fn differing(&self, other: &Named) -> Result<Option<(PoolSnapshot, PoolSnapshot)>> {
        match (self, other) {
            (Named::Here(Place::Snapshot(a)), Named::Here(Place::Snapshot(b)))
                if self.pool().is_some() && self.pool() == other.pool() =>
            {
                [&a.1, &b.1].into_iter().try_for_each(|info| a.0.expect_there(info))?;
                a.0.differing_alone(&a.1, &b.1)
            }
            _ => Ok(None),
        }
    }

    fn pool(&self) -> Option<&Path> {
        match self {
            Named::Here(place) => place.pool(),
            Named::There(_) => None,
        }
    }
}

/// The records of a side, one batch ahead of the comparison.
struct Feed<'a> {
    near: Option<Near<'a>>,
    remote: Option<RemoteDigests<'a>>,
    ahead: VecDeque<Record>,
    has_ended: bool,
}

impl<'a> Feed<'a> {
    fn new(near: Option<Near<'a>>, remote: Option<RemoteDigests<'a>>) -> Feed<'a> {
        Feed { near, remote, ahead: VecDeque::new(), has_ended: false }
    }

    fn more(&mut self) -> Result<Vec<Record>> {
        match (&mut self.near, &mut self.remote) {
            (Some(near), _) => near.more(),
            (_, Some(remote)) => remote.more(),
            _ => Ok(Vec::new()),
        }
    }

    fn is_short(&self) -> bool {
        self.ahead.is_empty() && !self.has_ended
    }

    fn fill(&mut self, monitor: &Monitor) -> Result<()> {
        if self.ahead.len() < BATCH && !self.has_ended {
            // After a failure here the other side need not be waited for.
            let more = self.more().inspect_err(|_| monitor.cancel())?;
            self.has_ended = more.is_empty();
            self.ahead.extend(more);
        }
        Ok(())
    }
}

/// Reads both sides at the same time.
fn fill<'a>(a: &mut Feed<'a>, b: &mut Feed<'a>, monitor: &Monitor) -> Result<()> {
    let both = if a.remote.is_some() || b.remote.is_some() {
        // Waiting for another machine must not take a thread from the work here.
        let (remote, other) = if a.remote.is_some() { (a, b) } else { (b, a) };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| remote.fill(monitor));
            let filled = other.fill(monitor);
            (filled, waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    } else {
        rayon::join(|| a.fill(monitor), || b.fill(monitor))
    };
    match both {
        // It was stopped because the other side failed.
        (Err(Error::Interrupted), Err(error)) | (Err(error), _) => Err(error),
        (Ok(()), other) => other,
    }
}

fn merge<'a>(a: &mut Feed<'a>, b: &mut Feed<'a>, found: &mut Found<'_>) -> Result<()> {
    loop {
        while a.is_short() || b.is_short() {
            fill(a, b, found.monitor)?;
        }
        let order = match (a.ahead.front(), b.ahead.front()) {
            (None, None) => return Ok(()),
            (Some(x), Some(y)) => x.path.cmp(&y.path),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let a = if order.is_le() { a.ahead.pop_front() } else { None };
        let b = if order.is_ge() { b.ahead.pop_front() } else { None };
        let digest = |record: Option<&Record>| record?.body.as_ref()?.content;
        let readable = |digest: Digest| (digest != UNREADABLE).then_some(digest);
        let digests = digest(a.as_ref()).zip(digest(b.as_ref()));
        let compared = digests.map(|(x, y)| Compared::of(&[readable(x), readable(y)]));
        found.pair(Pair { a, b, inodes: None, compared })?;
    }
}

/// Both sides, if both are on this machine.
struct Both<'a> {
    a: &'a dyn Side,
    b: &'a dyn Side,
    is_one_pool: bool,
}

impl Both<'_> {
    fn proves_anything(&self) -> bool {
        self.is_one_pool || (self.a.space().is_some() && self.a.space() == self.b.space())
    }

    /// Whether the addresses prove that two files of one size are equal.
    fn proves(&self, (x, y): &Inodes) -> Result<bool> {
        if self.is_one_pool && x.object == y.object && x.object != 0 {
            return Ok(true);
        }
        if self.a.space().is_none() || self.a.space() != self.b.space() {
            return Ok(false);
        }
        // Both stay open until it is known that neither changed, so that no block is given to another.
        let (p, q) = (self.a.open(x)?, self.b.open(y)?);
        let is_same = lies_at_the_same_place(&self.a.layout(x, &p)?, &self.b.layout(y, &q)?);
        self.hold_still((x, &p), (y, &q))?;
        Ok(is_same)
    }

    fn hold_still(&self, x: (&Inode, &Content), y: (&Inode, &Content)) -> Result<()> {
        self.a.holds_still(x.0, x.1)?;
        self.b.holds_still(y.0, y.1)
    }

    /// The first byte that differs, if it still does.
    fn first_difference(&self, path: &RelPath, inodes: &Inodes, monitor: &Monitor) -> Result<Option<u64>> {
        let size = inodes.0.attributes.size;
        let (x, y) = (self.a.open(&inodes.0)?, self.b.open(&inodes.1)?);
        let (mut left, mut right) = (vec![0; READ.min(size as usize)], vec![0; READ.min(size as usize)]);
        let mut found = None;
        let all = Range { offset: 0, length: size };
        for run in Runs::of(&x, all).chain(Runs::of(&y, all)) {
            monitor.check()?;
            let run = run.context("read", path.as_path())?;
            if found.is_some_and(|found| found <= run.offset) {
                continue;
            }
            let (left, right) = (&mut left[..run.length as usize], &mut right[..run.length as usize]);
            x.read_exact_at(left, run.offset).context("read", path.as_path())?;
            y.read_exact_at(right, run.offset).context("read", path.as_path())?;
            if let Some(first) = left.iter().zip(right).position(|(x, y)| x != y) {
                found = Some(run.offset + first as u64);
            }
        }
        self.hold_still((&inodes.0, &x), (&inodes.1, &y))?;
        Ok(found)
    }
}

/// Holes and preallocation read as zeros anywhere; for data every address must be known.
fn lies_at_the_same_place(x: &Layout, y: &Layout) -> bool {
    let data = |layout: &Layout| layout.placed().iter().map(|p| (p.range, p.address)).collect::<Vec<_>>();
    let (x, y) = (data(x), data(y));
    x.iter().all(|(_, address)| address.is_some()) && x == y
}

struct Found<'a> {
    both: Option<Both<'a>>,
    monitor: &'a Monitor,
    /// A new ext4 contains this directory: on one side only it counts once something is in it.
    lost_and_found: Option<RelPath>,
    /// Files that were not read, and may still be proven equal.
    doubtful: Vec<(Option<Inodes>, u64)>,
    report: Verified,
}

impl Found<'_> {
    fn add(&mut self, path: &RelPath, what: &str, a: &dyn ToString, b: &dyn ToString) {
        self.report.difference_count += 1;
        if self.report.differences.len() < TOLD {
            self.report.differences.push(Difference {
                path: path.display().into_owned(),
                what: what.to_owned(),
                a: a.to_string(),
                b: b.to_string(),
            });
        }
    }

    fn one_sided(&mut self, record: &Record, a: &str, b: &str) {
        let path = record.path.as_bytes();
        if path == b"lost+found" && record.kind == Kind::Directory {
            self.lost_and_found = Some(record.path.clone());
            return;
        }
        if path.starts_with(b"lost+found/")
            && let Some(above) = self.lost_and_found.take()
        {
            self.add(&above, "entry", &a, &b);
        }
        self.add(&record.path, "entry", &a, &b);
    }

    fn pair(&mut self, pair: Pair) -> Result<()> {
        self.report.entries += u64::from(pair.a.is_some());
        match (&pair.a, &pair.b) {
            (Some(a), Some(b)) => self.entry(a, b, pair.inodes, pair.compared),
            (a, b) => {
                a.iter().for_each(|a| self.one_sided(a, "present", "missing"));
                b.iter().for_each(|b| self.one_sided(b, "missing", "present"));
                Ok(())
            }
        }
    }

    fn entry(
        &mut self,
        a: &Record,
        b: &Record,
        inodes: Option<Inodes>,
        compared: Option<Compared>,
    ) -> Result<()> {
        let path = &a.path;
        if a.kind != b.kind {
            self.add(path, "kind", &a.kind.name(), &b.kind.name());
            return Ok(());
        }
        if a.first != b.first {
            let show = |name: &Option<RelPath>| {
                name.as_ref().map_or("nothing else".to_owned(), |n| n.display().into_owned())
            };
            self.add(path, "hard link to", &show(&a.first), &show(&b.first));
        }
        // Further names belong to the same inode, which is compared once.
        let (Some(x), Some(y)) = (&a.body, &b.body) else { return Ok(()) };
        self.attributes(path, a.kind, x, y);
        if a.kind == Kind::File && x.attributes.size == y.attributes.size {
            self.content(path, x.attributes.size, inodes, compared)?;
        }
        Ok(())
    }

    fn attributes(&mut self, path: &RelPath, kind: Kind, a: &Body, b: &Body) {
        let (x, y) = (&a.attributes, &b.attributes);
        if kind == Kind::File && x.size != y.size {
            self.add(path, "size", &x.size, &y.size);
        }
        if x.mode != y.mode && kind != Kind::Symlink {
            self.add(path, "mode", &format!("{:04o}", x.mode), &format!("{:04o}", y.mode));
        }
        let pairs = [
            ("uid", i128::from(x.uid), i128::from(y.uid)),
            ("gid", i128::from(x.gid), i128::from(y.gid)),
            ("device", i128::from(x.rdev), i128::from(y.rdev)),
            ("mtime (ns)", x.time(), y.time()),
            ("project", x.rare.project.into(), y.rare.project.into()),
            ("extent size", x.rare.extent_size.into(), y.rare.extent_size.into()),
            ("copied extent size", x.rare.cow_extent_size.into(), y.rare.cow_extent_size.into()),
        ];
        pairs.iter().filter(|(_, p, q)| p != q).for_each(|(what, p, q)| self.add(path, what, p, q));
        if x.flags != y.flags {
            self.add(path, "inode flags", &flags_shown(x.flags), &flags_shown(y.flags));
        }
        if x.rare.xflags != y.rare.xflags {
            let show = |attributes: &Attributes| format!("{:#x}", attributes.rare.xflags);
            self.add(path, "XFS flags", &show(x), &show(y));
        }
        if a.symlink_target != b.symlink_target {
            let show = |body: &Body| String::from_utf8_lossy(&body.symlink_target).into_owned();
            self.add(path, "symlink target", &show(a), &show(b));
        }
        if a.xattrs != b.xattrs {
            self.add(path, "extended attributes", &only_in(a, b), &only_in(b, a));
        }
    }

    fn content(
        &mut self,
        path: &RelPath,
        size: u64,
        inodes: Option<Inodes>,
        compared: Option<Compared>,
    ) -> Result<()> {
        if let Some(Compared { is_same, is_readable }) = compared {
            self.report.read_entries += 1;
            if is_same {
                self.report.bytes = self.report.bytes.saturating_add(size);
            } else {
                let (a, b) = self.where_content_differs(path, inodes.as_ref())?;
                let show = |is_readable, what| if is_readable { what } else { "cannot be read".to_owned() };
                self.add(path, "content", &show(is_readable[0], a), &show(is_readable[1], b.to_owned()));
            }
        } else if size > 0 {
            self.doubtful.push((inodes, size));
        }
        if self.doubtful.len() >= BATCH { self.settle() } else { Ok(()) }
    }

    fn where_content_differs(
        &self,
        path: &RelPath,
        inodes: Option<&Inodes>,
    ) -> Result<(String, &'static str)> {
        let byte = match self.both.as_ref().zip(inodes) {
            // No more differences are listed.
            Some((both, inodes)) if self.report.differences.len() < TOLD => {
                match both.first_difference(path, inodes, self.monitor) {
                    // Told by the digest.
                    Err(Error::Io { .. } | Error::Lost { .. }) => None,
                    other => other?,
                }
            }
            _ => None,
        };
        Ok((byte.map_or("differs".to_owned(), |byte| format!("at byte {byte}")), "differs"))
    }

    /// Counts the files that nothing proves equal.
    fn settle(&mut self) -> Result<()> {
        let mut doubtful = std::mem::take(&mut self.doubtful);
        if let Some(both) = self.both.as_ref().filter(|both| both.proves_anything()) {
            let proven: Vec<bool> = doubtful
                .par_iter()
                .map(|(inodes, _)| {
                    self.monitor.check()?;
                    match inodes.as_ref().map_or(Ok(false), |inodes| both.proves(inodes)) {
                        Err(Error::Lost { .. }) => Ok(false),
                        other => other,
                    }
                })
                .collect::<Result<_>>()?;
            let mut proven = proven.into_iter();
            doubtful.retain(|_| !proven.next().unwrap_or_default());
        }
        self.report.unproven += doubtful.len() as u64;
        let bytes = self.report.unproven_bytes;
        self.report.unproven_bytes = doubtful.iter().map(|(_, size)| *size).fold(bytes, u64::saturating_add);
        Ok(())
    }
}

/// The flags as `lsattr` shows them.
fn flags_shown(flags: u32) -> String {
    if flags == 0 { "none".to_owned() } else { snapsync_sys::flag_names(flags) }
}

/// The names in `body` that the other lacks or has with another value.
fn only_in(body: &Body, other: &Body) -> String {
    let differing = body.xattrs.iter().filter(|xattr| !other.xattrs.contains(xattr));
    differing.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join(" ")
}
