//! The names of two sides on this machine, put together by path, and their files compared.

use crate::digest::{BATCH, Body, CHUNK, Digest, Reading, Record, digest_of, readable};
use crate::names::{Encoded, Merged, Name, Names};
use rayon::prelude::*;
use snapsync_model::{ByDigests, Content, Context, Inode, Kind, Monitor, RelPath, Result, Side, read_still};
use std::cmp::Ordering;
use std::iter::Peekable;

/// A name that one side has, or both.
pub(crate) struct Pair {
    pub(crate) a: Option<Record>,
    pub(crate) b: Option<Record>,
    /// The inodes that have it, if both sides are on this machine.
    pub(crate) inodes: Option<Inodes>,
    /// Set for a file that was read on both sides.
    pub(crate) compared: Option<Compared>,
}

/// An inode of each side, at the same path.
pub(crate) type Inodes = (Inode, Inode);

/// What reading a file has shown. What cannot be read equals nothing.
#[derive(Clone, Copy)]
pub(crate) struct Compared {
    pub(crate) is_same: bool,
    pub(crate) is_readable: [bool; 2],
}

impl Compared {
    /// Of its content on either side, or what stands for it.
    pub(crate) fn of<T: PartialEq>([x, y]: &[Option<T>; 2]) -> Compared {
        Compared { is_same: x.is_some() && x == y, is_readable: [x.is_some(), y.is_some()] }
    }
}

type Two = (Option<Encoded>, Option<Encoded>);

struct Met<'a>(Peekable<Merged<'a>>, Peekable<Merged<'a>>);

impl Met<'_> {
    /// The next names; none at the end.
    fn more(&mut self) -> Result<Vec<Two>> {
        let Met(a, b) = self;
        let mut met = Vec::new();
        while met.len() < BATCH {
            let order = match (a.peek(), b.peek()) {
                (None, None) => break,
                (Some(Ok(x)), Some(Ok(y))) => x.path.cmp(&y.path),
                (Some(_), None) | (Some(Err(_)), _) => Ordering::Less,
                (None, _) | (_, Some(Err(_))) => Ordering::Greater,
            };
            let x = if order.is_le() { a.next().transpose()? } else { None };
            let y = if order.is_ge() { b.next().transpose()? } else { None };
            met.push((x, y));
        }
        Ok(met)
    }
}

/// Two sides on this machine.
pub(crate) struct Pairs<'a> {
    pub(crate) a: &'a dyn Side,
    pub(crate) b: &'a dyn Side,
    pub(crate) reading: Reading,
    pub(crate) monitor: &'a Monitor,
}

impl Pairs<'_> {
    /// Hands on all pairs in order of their paths.
    pub(crate) fn each(
        &self,
        (a, b): (&Names<'_>, &Names<'_>),
        mut take: impl FnMut(Pair) -> Result<()>,
    ) -> Result<()> {
        let mut names = Met(a.iter()?.peekable(), b.iter()?.peekable());
        let mut met = names.more()?;
        while !met.is_empty() {
            let compare = || met.par_iter().with_max_len(1).map(|met| self.pair(met)).collect();
            let (next, pairs): (_, Result<Vec<Pair>>) = rayon::join(|| names.more(), compare);
            pairs?.into_iter().try_for_each(&mut take)?;
            met = next?;
        }
        Ok(())
    }

    fn pair(&self, (x, y): &Two) -> Result<Pair> {
        self.monitor.check()?;
        let decode = |name: &Option<Encoded>| name.as_ref().map(Encoded::decode).transpose();
        let (mut x, mut y) = (decode(x)?, decode(y)?);
        self.monitor.advance(u64::from(x.is_some()));
        let inode = |name: &mut Option<Name>| name.as_mut().and_then(|name| name.inode.take());
        let inodes = inode(&mut x).zip(inode(&mut y)).filter(|(x, y)| x.kind == y.kind);
        let mut pair = Pair { a: x.map(Record::from), b: y.map(Record::from), inodes, compared: None };
        if let Pair { a: Some(a), b: Some(b), inodes: Some(inodes), compared } = &mut pair {
            let (p, q) = &*inodes;
            let (size, path) = (p.attributes.size, &a.path);
            let is_read = p.kind == Kind::File && q.attributes.size == size && self.reading.wants(path, size);
            let (x, y) = if is_read {
                let (x, file) = self.a.details_and_data(path, p)?;
                let (y, other) = self.b.details_and_data(path, q)?;
                *compared = Some(self.compared(path, (p, file), (q, other))?);
                (x, y)
            } else {
                (self.a.details(p)?, self.b.details(q)?)
            };
            (a.body, b.body) = (Some(Body::of(p, x, None)), Some(Body::of(q, y, None)));
        }
        Ok(pair)
    }

    /// Small files are compared as they are. Two large ones are read at the same time, and one alone where
    /// the other side has digests.
    fn compared(
        &self,
        path: &RelPath,
        (p, x): (&Inode, Result<Content>),
        (q, y): (&Inode, Result<Content>),
    ) -> Result<Compared> {
        let size = p.attributes.size;
        let held_against = |holds: &ByDigests<'_>, side: &dyn Side, inode, file: Result<Content>| {
            let read = |file: &Content| holds(file, path.as_path());
            readable(file.and_then(|mut file| read_still(side, inode, &mut file, read)))
        };
        if let Some(holds) = self.a.by_digests(p) {
            let is_same = held_against(&holds, self.b, q, y)?;
            return Ok(Compared { is_same: is_same == Some(true), is_readable: [true, is_same.is_some()] });
        }
        if let Some(holds) = self.b.by_digests(q) {
            let is_same = held_against(&holds, self.a, p, x)?;
            return Ok(Compared { is_same: is_same == Some(true), is_readable: [is_same.is_some(), true] });
        }
        if size > CHUNK {
            let digest = |side, inode, file| -> Result<Option<Digest>> {
                readable(digest_of(side, path, inode, file, self.monitor))
            };
            let (x, y) = rayon::join(|| digest(self.a, p, x), || digest(self.b, q, y));
            return Ok(Compared::of(&[x?, y?]));
        }
        let bytes = |side: &dyn Side, inode, file: Result<Content>| {
            let read = |file: &Content| {
                let mut bytes = vec![0; size as usize];
                file.read_exact_at(&mut bytes, 0).context("read", path.as_path()).map(|()| bytes)
            };
            readable(file.and_then(|mut file| read_still(side, inode, &mut file, read)))
        };
        Ok(Compared::of(&[bytes(self.a, p, x)?, bytes(self.b, q, y)?]))
    }
}
