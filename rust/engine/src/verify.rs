//! Proof that two trees hold the same: every entry, by content and metadata.

use crate::place::Place;
use crate::report::{Difference, Verified};
use rayon::prelude::*;
use snapsync_model::{Context, Inode, Kind, Monitor, ROOT, RelPath, Result, Side, Stage, locked, unlocked};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Differences told; more are counted.
const TOLD: usize = 1000;
const READ: usize = 1 << 18;

/// Compares two volumes, snapshots or directories.
pub fn verify(a: &Path, b: &Path, monitor: &Monitor) -> Result<Verified> {
    let started = Instant::now();
    let (left, right) = (Place::parse(a)?, Place::parse(b)?);
    monitor.start(Stage::Verify, 0);
    let (left, right) = (left.open(monitor)?, right.open(monitor)?);
    let (left, right) = (Listing::read(left.side())?, Listing::read(right.side())?);
    monitor.start(Stage::Verify, left.paths.len() as u64);
    let found = Found { monitor, bytes: AtomicU64::new(0), differences: Mutex::default() };
    compare(&left, &right, &found)?;
    let mut differences = unlocked(found.differences);
    differences.sort_by(|x, y| (&x.path, &x.what).cmp(&(&y.path, &y.what)));
    let difference_count = differences.len() as u64;
    differences.truncate(TOLD);
    Ok(Verified {
        verb: "verify",
        a: a.to_path_buf(),
        b: b.to_path_buf(),
        equal: difference_count == 0,
        entries: left.paths.len() as u64,
        bytes: found.bytes.into_inner(),
        difference_count,
        differences,
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A side by path: every name, with its inode and the first of that inode's names.
struct Listing<'a> {
    side: &'a dyn Side,
    inodes: Vec<Inode>,
    paths: Vec<(RelPath, usize)>,
    first_name: HashMap<usize, RelPath>,
}

impl<'a> Listing<'a> {
    fn read(side: &'a dyn Side) -> Result<Listing<'a>> {
        let inodes: Vec<Inode> = side.inodes()?.collect::<Result<_>>()?;
        let mut paths = Vec::new();
        let mut first_name = HashMap::new();
        for (at, inode) in inodes.iter().enumerate() {
            let mut names: Vec<RelPath> =
                inode.links.iter().map(|link| side.path_of(link)).collect::<Result<_>>()?;
            if inode.ino == ROOT {
                names.push(RelPath::root());
            }
            names.sort_unstable();
            if names.len() > 1 {
                first_name.insert(at, names[0].clone());
            }
            paths.extend(names.into_iter().map(|path| (path, at)));
        }
        paths.sort_unstable();
        Ok(Listing { side, inodes, paths, first_name })
    }

    /// A new ext4 has this directory of itself.
    fn is_lost_and_found(&self, at: usize) -> bool {
        let (path, inode) = &self.paths[at];
        let next_is_inside =
            self.paths.get(at + 1).is_some_and(|(p, _)| p.as_bytes().starts_with(b"lost+found/"));
        path.as_bytes() == b"lost+found" && self.inodes[*inode].kind == Kind::Directory && !next_is_inside
    }
}

struct Found<'a> {
    monitor: &'a Monitor,
    bytes: AtomicU64,
    differences: Mutex<Vec<Difference>>,
}

impl Found<'_> {
    fn add(&self, path: &RelPath, what: &str, a: &dyn ToString, b: &dyn ToString) {
        locked(&self.differences).push(Difference {
            path: path.display().into_owned(),
            what: what.to_owned(),
            a: a.to_string(),
            b: b.to_string(),
        });
    }
}

fn compare(left: &Listing<'_>, right: &Listing<'_>, found: &Found<'_>) -> Result<()> {
    let mut both = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < left.paths.len() || j < right.paths.len() {
        match (left.paths.get(i), right.paths.get(j)) {
            (Some((p, _)), Some((q, _))) if p == q => {
                both.push((i, j));
                (i, j) = (i + 1, j + 1);
            }
            (Some((p, _)), other) if other.is_none_or(|(q, _)| p < q) => {
                one_sided(left, i, found, "present", "missing");
                i += 1;
            }
            _ => {
                one_sided(right, j, found, "missing", "present");
                j += 1;
            }
        }
    }
    both.par_iter().try_for_each(|(i, j)| {
        found.monitor.check()?;
        let ((path, a), (_, b)) = (&left.paths[*i], &right.paths[*j]);
        entry(left, right, path, (*a, *b), found)?;
        found.monitor.advance(1);
        Ok(())
    })
}

fn one_sided(listing: &Listing<'_>, at: usize, found: &Found<'_>, a: &str, b: &str) {
    if listing.is_lost_and_found(at) {
        found.monitor.note("an empty lost+found, which the file system made, is on one side only");
    } else {
        found.add(&listing.paths[at].0, "entry", &a, &b);
    }
}

fn entry(
    left: &Listing<'_>,
    right: &Listing<'_>,
    path: &RelPath,
    (i, j): (usize, usize),
    found: &Found<'_>,
) -> Result<()> {
    let (a, b) = (&left.inodes[i], &right.inodes[j]);
    if a.kind != b.kind {
        found.add(path, "kind", &a.kind.name(), &b.kind.name());
        return Ok(());
    }
    let names = (left.first_name.get(&i), right.first_name.get(&j));
    if names.0 != names.1 {
        let show =
            |name: Option<&RelPath>| name.map_or("nothing else".to_owned(), |n| n.display().into_owned());
        found.add(path, "hard link to", &show(names.0), &show(names.1));
    }
    if names.0.is_some_and(|first| first != path) {
        // Its other names are the same inode, which is compared once.
        return Ok(());
    }
    attributes(left, right, path, (a, b), found)?;
    if a.kind == Kind::File && a.attributes.size == b.attributes.size {
        content(left, right, path, (a, b), found)?;
    }
    Ok(())
}

fn attributes(
    left: &Listing<'_>,
    right: &Listing<'_>,
    path: &RelPath,
    (a, b): (&Inode, &Inode),
    found: &Found<'_>,
) -> Result<()> {
    let (x, y) = (&a.attributes, &b.attributes);
    if a.kind == Kind::File && x.size != y.size {
        found.add(path, "size", &x.size, &y.size);
    }
    if x.mode != y.mode && a.kind != Kind::Symlink {
        found.add(path, "mode", &format!("{:04o}", x.mode), &format!("{:04o}", y.mode));
    }
    let pairs = [
        ("uid", i128::from(x.uid), i128::from(y.uid)),
        ("gid", i128::from(x.gid), i128::from(y.gid)),
        ("device", i128::from(x.rdev), i128::from(y.rdev)),
        ("mtime (ns)", i128::from(x.mtime), i128::from(y.mtime)),
    ];
    pairs.iter().filter(|(_, p, q)| p != q).for_each(|(what, p, q)| found.add(path, what, p, q));
    let (x, y) = (left.side.details(a)?, right.side.details(b)?);
    if x.flags != y.flags {
        found.add(path, "inode flags", &format!("{:#x}", x.flags), &format!("{:#x}", y.flags));
    }
    if x.symlink_target != y.symlink_target {
        let show =
            |target: Option<Box<[u8]>>| String::from_utf8_lossy(&target.unwrap_or_default()).into_owned();
        found.add(path, "symlink target", &show(x.symlink_target), &show(y.symlink_target));
    }
    if x.xattrs != y.xattrs {
        let names = |details: &[snapsync_model::Xattr], other: &[snapsync_model::Xattr]| {
            let differing = details.iter().filter(|xattr| !other.contains(xattr));
            differing
                .map(|xattr| String::from_utf8_lossy(&xattr.name).into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        found.add(path, "extended attributes", &names(&x.xattrs, &y.xattrs), &names(&y.xattrs, &x.xattrs));
    }
    Ok(())
}

fn content(
    left: &Listing<'_>,
    right: &Listing<'_>,
    path: &RelPath,
    (a, b): (&Inode, &Inode),
    found: &Found<'_>,
) -> Result<()> {
    let size = a.attributes.size;
    if size == 0 {
        return Ok(());
    }
    let (x, y) = (left.side.open(a)?, right.side.open(b)?);
    let (mut left, mut right) = (vec![0; READ.min(size as usize)], vec![0; READ.min(size as usize)]);
    let mut at = 0;
    while at < size {
        found.monitor.check()?;
        let length = (size - at).min(left.len() as u64) as usize;
        x.read_exact_at(&mut left[..length], at).context("read", path.as_path())?;
        y.read_exact_at(&mut right[..length], at).context("read", path.as_path())?;
        if let Some(first) = (0..length).find(|i| left[*i] != right[*i]) {
            found.add(path, "content", &format!("at byte {}", at + first as u64), &"differs");
            return Ok(());
        }
        at += length as u64;
    }
    found.bytes.fetch_add(size, Relaxed);
    Ok(())
}
