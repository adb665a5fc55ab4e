//! A file whose bytes do not hold still while it is read is left out if the caller says so, and all others
//! arrive.

use snapsync_model::{
    Attributes, Change, ChangeFlags, Content, Context, Details, Directories, Error, Extent, Inode, Inodes,
    Kind, Layout, Link, Monitor, Op, ROOT, RelPath, Restless, Result, Side, locked,
};
use snapsync_stream::{Budget, Held, MEMORY, Readable, Sink, run};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Mutex;

const LENGTH: u64 = 20_000;

/// What happens to a file: one in three changes before it is opened, one in three while it is read.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Still,
    GoneBefore,
    GoneMeanwhile,
}

struct Sample;

fn fate(ino: u64) -> Fate {
    [Fate::Still, Fate::GoneBefore, Fate::GoneMeanwhile][ino as usize % 3]
}

fn lost() -> Error {
    Error::Lost { what: "it is not there any more".to_owned(), advice: String::new() }
}

impl Side for Sample {
    fn inodes(&self) -> Result<Inodes<'_>> {
        let inode = |ino| Inode {
            ino,
            generation: 1,
            kind: Kind::File,
            attributes: Attributes { size: LENGTH, mode: 0o644, ..Attributes::default() },
            ctime: 0,
            blocks: 40,
            links: vec![Link { parent: ROOT, name: format!("f{ino}").into_bytes().into() }],
            details: None,
            object: ino,
            shared: false,
        };
        Ok(Box::new((1..100).map(inode).map(Ok)))
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        Directories::default().path(link)
    }

    fn details(&self, _inode: &Inode) -> Result<Details> {
        Ok(Details::default())
    }

    fn open(&self, inode: &Inode) -> Result<Content> {
        if fate(inode.ino) == Fate::GoneBefore {
            return Err(lost());
        }
        let mut file = tempfile::tempfile().context("make", "a file")?;
        file.write_all(&vec![inode.ino as u8; LENGTH as usize]).context("write", "a file")?;
        Ok(file.into())
    }

    fn holds_still(&self, inode: &Inode, _file: &Content) -> Result<()> {
        if fate(inode.ino) == Fate::GoneMeanwhile { Err(lost()) } else { Ok(()) }
    }

    fn layout(&self, _inode: &Inode, _file: &Content) -> Result<Layout> {
        Ok(Layout::default())
    }
}

fn row(ino: u64) -> Change {
    let data = |offset, length| Extent { offset, length, op: Op::Data, source: None, checksum: None };
    Change {
        ino,
        generation: 1,
        kind: Kind::File,
        flags: ChangeFlags { created: true, ..ChangeFlags::default() },
        path: None,
        old_path: None,
        links_added: Vec::new(),
        links_removed: Vec::new(),
        nlink: 1,
        nlink_old: 0,
        new: None,
        old: None,
        symlink_target: None,
        xattrs: None,
        extents: vec![data(0, 4096), data(8192, LENGTH - 8192)],
    }
}

/// The bytes that arrive of each file.
fn read(restless: Option<&Restless>) -> (Result<()>, BTreeMap<u64, u64>) {
    let (arrived, held, budget) = (Mutex::new(BTreeMap::new()), Held::default(), Budget::new(MEMORY));
    let make_sink = || -> Sink<'_> {
        Box::new(|frame| {
            assert!(frame.bytes.iter().all(|byte| *byte == frame.change.ino as u8));
            *locked(&arrived).entry(frame.change.ino).or_insert(0) += frame.bytes.len() as u64;
            Ok(frame.bytes)
        })
    };
    let from = Readable { side: &Sample, held: &held, restless };
    let done = run((1..100).map(row).map(Ok), from, 4, &budget, &Monitor::default(), &make_sink);
    (done, arrived.into_inner().unwrap())
}

#[test]
fn what_does_not_hold_still_is_left_out_and_named() {
    let restless = Restless::default();
    let (done, arrived) = read(Some(&restless));
    done.unwrap();
    let (still, others): (BTreeSet<u64>, BTreeSet<u64>) = (1..100).partition(|ino| fate(*ino) == Fate::Still);
    assert_eq!(restless.into_inner(), others);
    assert_eq!(arrived, still.into_iter().map(|ino| (ino, LENGTH - 4096)).collect());
}

#[test]
fn without_anybody_who_takes_them_it_is_an_error() {
    assert!(matches!(read(None).0, Err(Error::Lost { .. })));
}
