//! A snapshot whose bytes lie in a tree may lose them. A base that did is not believed and not read: all of
//! the target is a change. A target that did is an error.

use snapsync_compare::{Told, Trust, changes};
use snapsync_model::{
    Address, Attributes, Change, Content, Context, Details, Directories, Error, Inode, Inodes, Kind, Layout,
    Link, Monitor, Op, Placed, ROOT, Range, RelPath, Result, Side, read_still,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const BLOCK: u64 = 4096;
const WINDOW: u64 = 64 << 10;

/// Files of one directory, by number.
#[derive(Default)]
struct Sample {
    files: BTreeMap<u64, Sampled>,
    space: Option<u128>,
}

#[derive(Default)]
struct Sampled {
    bytes: Vec<u8>,
    placed: Vec<Placed>,
    unwritten: Vec<Range>,
    is_lost: bool,
    /// It was cut when it was read, and has grown again since.
    is_short: bool,
    /// So often somebody changes the file while it is read; then its bytes are elsewhere.
    moves: AtomicU64,
}

impl Sampled {
    fn of(bytes: &[u8]) -> Sampled {
        let all = Range { offset: 0, length: bytes.len() as u64 };
        Sampled { bytes: bytes.to_vec(), placed: vec![all.into()], ..Sampled::default() }
    }

    fn at(bytes: &[u8], address: u64) -> Sampled {
        let mut sampled = Sampled::of(bytes);
        sampled.placed[0].address = Some(Address { extent: 0, offset: address });
        sampled.placed[0].shared = true;
        sampled
    }

    fn lost(self) -> Sampled {
        Sampled { is_lost: true, ..self }
    }

    fn moving(self, moves: u64) -> Sampled {
        Sampled { moves: moves.into(), ..self }
    }
}

fn sample(files: impl IntoIterator<Item = (u64, Sampled)>) -> Sample {
    Sample { files: files.into_iter().collect(), space: None }
}

fn lost(ino: u64) -> Error {
    Error::Lost { what: format!("the bytes of f{ino} are lost"), advice: String::new() }
}

impl Side for Sample {
    fn inodes(&self) -> Result<Inodes<'_>> {
        let inode = |ino, kind, size, links, object| Inode {
            ino,
            generation: 1,
            kind,
            attributes: Attributes { size, mode: 0o644, ..Attributes::default() },
            ctime: 0,
            blocks: 8,
            links,
            details: None,
            object,
            shared: true,
        };
        let root = inode(ROOT, Kind::Directory, 0, Vec::new(), 0);
        let files = self.files.iter().map(move |(ino, file)| {
            let name = format!("f{ino}").into_bytes().into();
            inode(*ino, Kind::File, file.bytes.len() as u64, vec![Link { parent: ROOT, name }], *ino)
        });
        Ok(Box::new(std::iter::once(root).chain(files).map(Ok)))
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        Directories::default().path(link)
    }

    fn details(&self, _inode: &Inode) -> Result<Details> {
        Ok(Details::default())
    }

    fn open(&self, inode: &Inode) -> Result<Content> {
        let sampled = &self.files[&inode.ino];
        if sampled.is_lost {
            return Err(lost(inode.ino));
        }
        let mut file = tempfile::tempfile().context("make", "a file")?;
        let other = vec![b'?'; sampled.bytes.len()];
        let is_moving = sampled.moves.load(Relaxed) > 0;
        let bytes = if is_moving { &other } else { &sampled.bytes };
        let length = if sampled.is_short { bytes.len() / 2 } else { bytes.len() };
        file.write_all(&bytes[..length]).context("write", "a file")?;
        Ok(file.into())
    }

    fn holds_still(&self, inode: &Inode, _file: &Content) -> Result<()> {
        let count = |moves: u64| moves.checked_sub(1);
        match self.files[&inode.ino].moves.fetch_update(Relaxed, Relaxed, count) {
            Ok(_) => Err(lost(inode.ino)),
            Err(_) => Ok(()),
        }
    }

    fn layout(&self, inode: &Inode, _file: &Content) -> Result<Layout> {
        let Sampled { bytes, placed, unwritten, .. } = &self.files[&inode.ino];
        Ok(Layout::new(bytes.len() as u64, placed, unwritten))
    }

    fn space(&self) -> Option<u128> {
        self.space
    }
}

fn rows(base: &Sample, target: &Sample) -> Result<Vec<Change>> {
    rows_told(base, target, &BTreeMap::new())
}

fn rows_told(base: &Sample, target: &Sample, told: &BTreeMap<u64, Told>) -> Result<Vec<Change>> {
    let mut rows = Vec::new();
    let mut emit = |change| {
        rows.push(change);
        Ok(())
    };
    let monitor = Monitor::default();
    changes(Some(base), target, Trust::Nothing, &BTreeSet::new(), told, &monitor, &mut emit)?;
    Ok(rows)
}

/// Offset, length and what is done, of the one file that changed.
fn extents(base: &Sample, target: &Sample) -> Vec<(u64, u64, Op)> {
    let rows = rows(base, target).unwrap();
    assert_eq!(rows.len(), 1);
    assert!(rows[0].survives() && rows[0].flags.data);
    rows[0].extents.iter().map(|e| (e.offset, e.length, e.op)).collect()
}

#[test]
fn of_a_file_that_its_base_has_lost_everything_is_a_change() {
    let size = 4 * BLOCK;
    let target = || Sampled {
        placed: vec![Range { offset: 0, length: BLOCK }.into()],
        unwritten: vec![Range { offset: 2 * BLOCK, length: BLOCK }],
        ..Sampled::of(&vec![7; size as usize])
    };
    let wanted = [(0, BLOCK, Op::Data), (BLOCK, BLOCK, Op::Hole), (2 * BLOCK, BLOCK, Op::Unwritten)];
    let wanted = [&wanted[..], &[(3 * BLOCK, BLOCK, Op::Hole)]].concat();
    // The same bytes, and the same holes, by what the table knows of it.
    assert_eq!(rows(&sample([(1, target())]), &sample([(1, target())])).unwrap(), []);
    assert_eq!(extents(&sample([(1, target().lost())]), &sample([(1, target())])), wanted);
    // One that is lost while it is read.
    assert_eq!(extents(&sample([(1, target().moving(9))]), &sample([(1, target())])), wanted);
}

#[test]
fn a_file_that_was_cut_while_it_was_compared_is_sent_whole() {
    let (old, new) = (|| Sampled::of(&[1; 100]), || Sampled::of(&[2; 100]));
    let short = |file: Sampled| sample([(1, Sampled { is_short: true, ..file })]);
    assert_eq!(extents(&sample([(1, old())]), &short(new())), [(0, 100, Op::Data)]);
    assert_eq!(extents(&short(old()), &sample([(1, new())])), [(0, 100, Op::Data)]);
}

#[test]
fn what_the_receiver_tells_stands_for_the_lost_base() {
    let range = |from: u64, to: u64| Range { offset: from * WINDOW, length: (to - from) * WINDOW };
    let target = Sampled {
        placed: vec![range(0, 4).into()],
        unwritten: vec![range(5, 6)],
        ..Sampled::of(&vec![7; 7 * WINDOW as usize])
    };
    let base = Sampled { bytes: vec![7; 7 * WINDOW as usize], ..Sampled::default() };
    let copy = Layout::new(7 * WINDOW, &[range(0, 3).into(), range(5, 6).into()], &[range(3, 5)]);
    let mut told = Told::new(copy, WINDOW);
    [0, 2, 3, 6].into_iter().for_each(|window| told.has_window_at(window * WINDOW));
    let told = BTreeMap::from([(1, told)]);
    let rows = rows_told(&sample([(1, base.lost())]), &sample([(1, target)]), &told).unwrap();
    let found: Vec<_> =
        rows[0].extents.iter().map(|e| (e.offset / WINDOW, e.length / WINDOW, e.op)).collect();
    // What the copy has only preallocated is sent, whatever is said of its bytes.
    let wanted = [(1, 1, Op::Data), (3, 1, Op::Data), (4, 1, Op::Hole), (5, 1, Op::Unwritten)];
    assert_eq!(found, wanted);
}

#[test]
fn no_address_of_a_lost_base_proves_anything_and_no_clone_comes_from_it() {
    let bytes = vec![7; 64 << 10];
    let there = |files: Vec<(u64, Sampled)>| Sample { space: Some(1), ..sample(files) };
    let one = || (1, Sampled::at(&bytes, 8192));
    let all = bytes.len() as u64;
    let target = there(vec![one(), (2, Sampled::at(&bytes, 8192))]);
    let ops = |base: &Sample| -> Vec<_> {
        let rows = rows(base, &target).unwrap();
        rows.iter().flat_map(|row| row.extents.iter().map(|e| (row.ino, e.length, e.op))).collect()
    };
    assert_eq!(ops(&there(vec![one()])), [(2, all, Op::Clone)]);
    let lost = there(vec![(1, one().1.lost())]);
    // What is sent of the first is what the second is a clone of.
    let rows = rows(&lost, &target).unwrap();
    let sources: Vec<_> = rows.iter().flat_map(|row| &row.extents).filter_map(|e| e.source).collect();
    assert!(sources.iter().all(|source| source.end == snapsync_model::End::Target), "{sources:?}");
    assert_eq!(ops(&lost), [(1, all, Op::Data), (2, all, Op::Clone)]);
}

#[test]
fn a_lost_target_is_an_error_that_names_the_file() {
    let target = sample([(1, Sampled::of(&[1; 100])), (2, Sampled::of(&[2; 100]).lost())]);
    for base in [sample([]), sample([(1, Sampled::of(&[1; 100])), (2, Sampled::of(&[1; 100]))])] {
        let error = rows(&base, &target).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.sentence().contains("f2"), "{error}");
    }
    let both = rows(&sample([(2, Sampled::of(&[2; 100]).lost())]), &target).unwrap_err();
    assert!(both.sentence().contains("f2"), "{both}");
}

#[test]
fn what_went_elsewhere_while_it_was_read_is_read_there() {
    let (old, new) = (Sampled::of(&[1; 100]), || Sampled::of(&[1; 100]));
    assert_eq!(rows(&sample([(1, old)]), &sample([(1, new().moving(1))])).unwrap(), []);
    let side = sample([(1, new().moving(1)), (2, new().moving(9))]);
    let inodes: Vec<Inode> = side.inodes().unwrap().skip(1).collect::<Result<_>>().unwrap();
    let first = |ino: usize| {
        let mut file = side.open(&inodes[ino])?;
        read_still(&side, &inodes[ino], &mut file, |file| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, 0).context("read", "a file")?;
            Ok(byte[0])
        })
    };
    assert_eq!(first(0).unwrap(), 1);
    assert!(matches!(first(1), Err(Error::Lost { .. })));
}
