use crate::vet::manifest::vet;
use snapsync_manifest::{ManifestHeader, ManifestWriter, vet as vet_file};
use snapsync_model::{
    Attributes, Change, ChangeFlags, End, Error, Extent, Kind, Link, Monitor, Op, ROOT, Rare, RelPath,
    Result, Source, Xattr,
};

fn path(text: &str) -> Option<RelPath> {
    Some(RelPath::new(text.as_bytes()).unwrap())
}

fn link(parent: u64, name: &str) -> Link {
    Link { parent, name: name.as_bytes().into() }
}

fn attributes(kind: Kind) -> Attributes {
    let size = if kind == Kind::File { 40_960 } else { 0 };
    Attributes { size, mode: 0o640, uid: 5, gid: 6, mtime: -7, ..Attributes::default() }
}

fn bare(ino: u64, kind: Kind) -> Change {
    Change {
        ino,
        generation: ino + 1000,
        kind,
        flags: ChangeFlags::default(),
        path: None,
        old_path: None,
        links_added: Vec::new(),
        links_removed: Vec::new(),
        nlink: 0,
        nlink_old: 0,
        new: None,
        old: None,
        symlink_target: None,
        xattrs: None,
        extents: Vec::new(),
    }
}

fn created(ino: u64, kind: Kind, at: &str, links: &[(u64, &str)]) -> Change {
    Change {
        flags: ChangeFlags { created: true, ..ChangeFlags::default() },
        path: path(at),
        links_added: links.iter().map(|(parent, name)| link(*parent, name)).collect(),
        nlink: links.len() as u32,
        new: Some(attributes(kind)),
        symlink_target: (kind == Kind::Symlink).then(|| b"/etc/passwd"[..].into()),
        xattrs: Some(vec![Xattr { name: b"user.x"[..].into(), value: b"y"[..].into() }]),
        ..bare(ino, kind)
    }
}

fn deleted(ino: u64, kind: Kind, at: &str, links: &[(u64, &str)]) -> Change {
    Change {
        flags: ChangeFlags { deleted: true, ..ChangeFlags::default() },
        old_path: path(at),
        links_removed: links.iter().map(|(parent, name)| link(*parent, name)).collect(),
        nlink_old: links.len() as u32,
        old: Some(attributes(kind)),
        ..bare(ino, kind)
    }
}

fn kept(ino: u64, kind: Kind, from: &str, to: &str) -> Change {
    Change {
        old_path: path(from),
        path: path(to),
        nlink: u32::from(ino != ROOT),
        nlink_old: u32::from(ino != ROOT),
        old: Some(attributes(kind)),
        new: Some(attributes(kind)),
        ..bare(ino, kind)
    }
}

fn renamed(ino: u64, kind: Kind, from: (&str, u64, &str), to: (&str, u64, &str)) -> Change {
    Change {
        flags: ChangeFlags { renamed: true, ..ChangeFlags::default() },
        links_removed: vec![link(from.1, from.2)],
        links_added: vec![link(to.1, to.2)],
        ..kept(ino, kind, from.0, to.0)
    }
}

fn extent(offset: u64, length: u64, op: Op, source: Option<(End, u64, u64)>) -> Extent {
    let source = source.map(|(end, ino, offset)| Source { end, ino, offset });
    Extent { offset, length, op, source, checksum: None }
}

/// One of everything that a true manifest can hold; the numbers tell the rows that the lies below change.
fn honest() -> Vec<Change> {
    use Kind::*;
    let mut file = created(11, File, "new/file", &[(10, "file"), (ROOT, "other name")]);
    file.extents = vec![
        extent(0, 8192, Op::Data, None),
        extent(8192, 4096, Op::Clone, Some((End::Base, 23, 4096))),
        extent(12_288, 4096, Op::Clone, Some((End::Target, 11, 4096))),
        extent(1 << 40, 4096, Op::Unwritten, None),
    ];
    let mut written = kept(20, File, "old/sub/file", "moved/sub/file");
    written.flags.data = true;
    written.extents = vec![
        extent(4096, 4096, Op::Clone, Some((End::Target, 11, 0))),
        extent(8192, 4096, Op::Data, None),
        extent(40_960, 1 << 50, Op::Hole, None),
    ];
    let mut linked = kept(22, File, "keeps", "keeps");
    linked.flags.links = true;
    (linked.nlink, linked.nlink_old) = (2, 1);
    linked.links_added = vec![link(19, "further")];
    let mut gone_here = renamed(25, File, ("gone/rescued", 24, "rescued"), ("rescued", ROOT, "rescued"));
    gone_here.flags.attributes = true;
    gone_here.new = Some(Attributes { mode: 0o600, ..attributes(File) });
    vec![
        kept(ROOT, Directory, ".", "."),
        created(10, Directory, "new", &[(ROOT, "new")]),
        file,
        created(12, Symlink, "new/link", &[(10, "link")]),
        created(13, Fifo, "fifo", &[(ROOT, "fifo")]),
        renamed(19, Directory, ("old", ROOT, "old"), ("moved", ROOT, "moved")),
        written,
        linked,
        kept(23, File, "lends", "lends"),
        deleted(24, Directory, "gone", &[(ROOT, "gone")]),
        gone_here,
        deleted(26, File, "gone/with it", &[(24, "with it")]),
        // A reused number, for a reused name.
        deleted(30, File, "again", &[(ROOT, "again"), (19, "again too")]),
        created(30, Directory, "again", &[(ROOT, "again")]),
    ]
}

fn check(rows: &[Change]) -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest.arrow");
    let mut writer = ManifestWriter::create(&path, &ManifestHeader::default()).unwrap();
    rows.iter().for_each(|row| writer.write(row).unwrap());
    writer.finish().unwrap();
    vet_file(&path)?;
    vet(&path, &Monitor::default()).map(drop)
}

fn find(rows: &mut [Change], ino: u64) -> &mut Change {
    rows.iter_mut().rfind(|row| row.ino == ino).unwrap()
}

type Lie = fn(&mut Vec<Change>);

/// Checks that each of these is refused, and with the right message.
fn refuse(lies: &[(&str, Lie)]) {
    for (what, lie) in lies {
        let mut rows = honest();
        lie(&mut rows);
        match check(&rows) {
            Err(Error::Integrity { .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_true_manifest_is_believed() {
    check(&honest()).unwrap();
    check(&[]).unwrap();
    let mut first = honest();
    first.retain(|row| row.flags.created);
    let root = Change { xattrs: Some(Vec::new()), ..created(ROOT, Kind::Directory, ".", &[]) };
    first.insert(0, root);
    first.iter_mut().for_each(|row| row.extents.retain(|extent| extent.op != Op::Clone));
    check(&first).unwrap();
}

#[test]
fn rows_in_another_order_are_refused() {
    refuse(&[
        ("swapped", |rows| rows.swap(3, 4)),
        ("twice", |rows| rows.insert(2, rows[1].clone())),
        ("created before deleted", |rows| {
            let last = rows.len() - 1;
            rows.swap(last, last - 1);
        }),
        ("deleted twice", |rows| {
            let row = deleted(26, Kind::File, "x", &[(ROOT, "x")]);
            rows.insert(12, row);
        }),
        ("the root is new, others are not", |rows| {
            rows[0] = Change { xattrs: Some(Vec::new()), ..created(ROOT, Kind::Directory, ".", &[]) };
        }),
    ]);
}

#[test]
fn a_row_that_contradicts_itself_is_refused() {
    refuse(&[
        ("no change", |rows| find(rows, 20).flags.data = false),
        ("no data", |rows| find(rows, 23).flags.data = true),
        ("not renamed", |rows| find(rows, 19).flags.renamed = false),
        ("not linked", |rows| find(rows, 22).flags.links = false),
        ("attributes", |rows| find(rows, 25).flags.attributes = false),
        ("xattrs", |rows| find(rows, 20).flags.xattrs = true),
        ("created and more", |rows| find(rows, 11).flags.data = true),
        ("created without xattrs", |rows| find(rows, 11).xattrs = None),
        ("deleted with xattrs", |rows| find(rows, 26).xattrs = Some(Vec::new())),
        ("created with names that go", |rows| find(rows, 13).links_removed = vec![link(ROOT, "x")]),
        ("deleted with names that come", |rows| find(rows, 26).links_added = vec![link(ROOT, "x")]),
        ("more names than links", |rows| find(rows, 11).nlink = 3),
        ("fewer names than links", |rows| find(rows, 22).nlink = 1),
        ("no name", |rows| {
            let row = find(rows, 13);
            (row.links_added, row.nlink) = (Vec::new(), 0);
        }),
        ("too many names that go", |rows| find(rows, 26).nlink_old = 0),
        ("nlink wraps", |rows| find(rows, 20).nlink = u32::MAX),
        ("a directory with two names", |rows| {
            let row = find(rows, 10);
            row.links_added.push(link(ROOT, "second"));
            row.nlink = 2;
        }),
        ("a directory that keeps a name and gets one", |rows| {
            let row = find(rows, 19);
            (row.nlink, row.nlink_old) = (2, 2);
        }),
    ]);
}

#[test]
fn a_row_of_the_root_that_is_none_is_refused() {
    refuse(&[
        ("the root has a name", |rows| {
            let row = find(rows, ROOT);
            (row.links_added, row.nlink) = (vec![link(10, "root")], 1);
        }),
        ("the root is a file", |rows| find(rows, ROOT).kind = Kind::File),
        ("the root goes", |rows| {
            rows[0] = Change { nlink_old: 0, ..deleted(ROOT, Kind::Directory, ".", &[]) };
        }),
        ("another root", |rows| {
            let row = find(rows, 23);
            (row.path, row.old_path) = (path("."), path("."));
        }),
        ("the root elsewhere", |rows| find(rows, ROOT).path = path("elsewhere")),
    ]);
}

#[test]
fn a_row_of_a_kind_that_cannot_be_so_is_refused() {
    refuse(&[
        ("a link without a target", |rows| find(rows, 12).symlink_target = Some([].into())),
        ("a target with NUL", |rows| find(rows, 12).symlink_target = Some(b"a\0b"[..].into())),
        ("a target too long", |rows| find(rows, 12).symlink_target = Some(vec![b'a'; 5000].into())),
        ("a fifo with a target", |rows| find(rows, 13).symlink_target = Some(b"/"[..].into())),
        ("a device becomes another", |rows| {
            let row = find(rows, 23);
            row.new = Some(Attributes { rdev: 5, ..attributes(Kind::File) });
            row.flags.attributes = true;
        }),
        ("another extent size", |rows| {
            let row = find(rows, 23);
            let rare = Rare { extent_size: 65_536, ..Rare::default() };
            row.new = Some(Attributes { rare, ..attributes(Kind::File) });
            row.flags.attributes = true;
        }),
        ("no copy on write all of a sudden", |rows| {
            let row = find(rows, 23);
            row.new = Some(Attributes { flags: snapsync_sys::NOCOW, ..attributes(Kind::File) });
            row.flags.attributes = true;
        }),
    ]);
}

#[test]
fn values_that_nothing_can_have_are_refused() {
    fn set(rows: &mut [Change], change: fn(&mut Attributes)) {
        change(find(rows, 11).new.as_mut().unwrap());
    }
    fn xattr(rows: &mut [Change], name: &[u8], length: usize) {
        find(rows, 11).xattrs = Some(vec![Xattr { name: name.into(), value: vec![0; length].into() }]);
    }
    refuse(&[
        ("mode", |rows| set(rows, |a| a.mode = 0o100_644)),
        ("flags", |rows| set(rows, |a| a.flags = 0x8000_0000)),
        ("uid", |rows| set(rows, |a| a.uid = u32::MAX)),
        ("project", |rows| set(rows, |a| a.rare.project = u32::MAX)),
        ("XFS flags", |rows| set(rows, |a| a.rare.xflags = 1)),
        ("a second that is reached", |rows| set(rows, |a| a.far_second = 5)),
        ("a fifo of a project", |rows| find(rows, 13).new.as_mut().unwrap().rare.project = 5),
        ("gid", |rows| set(rows, |a| a.gid = u32::MAX)),
        ("size", |rows| set(rows, |a| a.size = u64::MAX)),
        ("size just beyond", |rows| set(rows, |a| a.size = 1 << 63)),
        ("a directory's size", |rows| find(rows, 10).new.as_mut().unwrap().size = 1),
        ("xattr without a name", |rows| xattr(rows, b"", 1)),
        ("xattr without a rest", |rows| xattr(rows, b"user.", 1)),
        ("xattr without a space", |rows| xattr(rows, b"user", 1)),
        ("xattr with NUL", |rows| xattr(rows, b"user.a\0b", 1)),
        ("xattr with a long name", |rows| xattr(rows, &[&b"user."[..], &[b'a'; 300]].concat(), 1)),
        ("xattr with a long value", |rows| xattr(rows, b"user.a", 65_537)),
        ("xattr twice", |rows| {
            let one = Xattr { name: b"user.a"[..].into(), value: b"1"[..].into() };
            let two = Xattr { value: b"2"[..].into(), ..one.clone() };
            find(rows, 11).xattrs = Some(vec![one, two]);
        }),
    ]);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    fn name(rows: &mut [Change], name: &[u8]) {
        find(rows, 13).links_added = vec![Link { parent: ROOT, name: name.into() }];
    }
    refuse(&[
        ("empty", |rows| name(rows, b"")),
        ("dot", |rows| name(rows, b".")),
        ("dots", |rows| name(rows, b"..")),
        ("slash", |rows| name(rows, b"a/b")),
        ("up", |rows| name(rows, b"../fifo")),
        ("NUL", |rows| name(rows, b"fifo\0")),
        ("long", |rows| name(rows, &[b'a'; 256])),
        ("store", |rows| {
            name(rows, b".snapsync");
            find(rows, 13).path = path(".snapsync");
        }),
        ("store as a further name", |rows| find(rows, 22).links_added = vec![link(ROOT, ".snapsync")]),
        ("store in a directory", |rows| find(rows, 22).links_added = vec![link(24, ".snapsync")]),
        ("in a store in a directory", |rows| {
            let row = find(rows, 23);
            (row.path, row.old_path) = (path("a/.snapsync/x"), path("a/.snapsync/x"));
        }),
        ("in the store", |rows| {
            let row = find(rows, 23);
            (row.path, row.old_path) =
                (path(".snapsync/store/journal.json"), path(".snapsync/store/journal.json"));
        }),
        ("out of the store", |rows| {
            *find(rows, 25) = renamed(25, Kind::File, (".snapsync/x", 24, "x"), ("rescued", ROOT, "rescued"));
        }),
        ("deep beyond sense", |rows| {
            let long = "d/".repeat(40_000) + "f";
            *find(rows, 23) = kept(23, Kind::File, &long, &long);
        }),
    ]);
}

#[test]
fn a_store_that_an_older_version_brought_into_a_directory_may_go() {
    let mut rows = honest();
    let at = rows.iter().position(|row| row.ino == 30).unwrap();
    let store = deleted(27, Kind::Directory, "gone/.snapsync", &[(24, ".snapsync")]);
    let record = deleted(28, Kind::File, "gone/.snapsync/volume.json", &[(27, "volume.json")]);
    rows.splice(at..at, [store, record]);
    check(&rows).unwrap();
}

#[test]
fn paths_that_are_not_those_of_the_names_are_refused() {
    refuse(&[
        ("created elsewhere", |rows| find(rows, 13).path = path("elsewhere")),
        ("created at its second name", |rows| find(rows, 11).path = path("other name")),
        ("deleted elsewhere", |rows| find(rows, 26).old_path = path("elsewhere")),
        ("renamed from elsewhere", |rows| find(rows, 25).old_path = path("elsewhere")),
        ("renamed to elsewhere", |rows| find(rows, 25).path = path("elsewhere")),
        ("kept, and moved by nobody", |rows| find(rows, 23).path = path("elsewhere")),
        ("kept, and not moved with its directory", |rows| find(rows, 20).path = path("old/sub/file")),
        ("kept, and moved too far", |rows| find(rows, 20).path = path("moved/file")),
        ("kept in a directory that goes", |rows| {
            *find(rows, 23) = kept(23, Kind::File, "gone/kept", "gone/kept");
        }),
        ("a directory without a row", |rows| find(rows, 13).links_added = vec![link(99, "fifo")]),
        ("a directory that goes", |rows| {
            *find(rows, 13) = created(13, Kind::Fifo, "gone/fifo", &[(24, "fifo")]);
        }),
        ("a directory that is none", |rows| {
            *find(rows, 13) = created(13, Kind::Fifo, "lends/fifo", &[(23, "fifo")]);
        }),
        ("from a directory that comes", |rows| {
            *find(rows, 26) = deleted(26, Kind::File, "new/with it", &[(10, "with it")]);
        }),
        ("from a directory without a row", |rows| find(rows, 26).links_removed = vec![link(99, "with it")]),
        ("without the root", |rows| {
            rows.remove(0);
        }),
        ("in itself", |rows| {
            *find(rows, 10) = created(10, Kind::Directory, "new/new", &[(10, "new")]);
        }),
        ("in each other", |rows| {
            *find(rows, 10) = created(10, Kind::Directory, "again/new", &[(30, "new")]);
            *find(rows, 30) = created(30, Kind::Directory, "new/again", &[(10, "again")]);
        }),
        ("moved below itself", |rows| {
            *find(rows, 19) = renamed(19, Kind::Directory, ("old", ROOT, "old"), ("moved/x", 19, "x"));
        }),
    ]);
}

#[test]
fn a_name_of_two_rows_is_refused() {
    refuse(&[
        ("comes twice to an old directory", |rows| {
            *find(rows, 13) = created(13, Kind::Fifo, "new", &[(ROOT, "new")]);
        }),
        ("comes twice to a new directory", |rows| {
            *find(rows, 13) = created(13, Kind::Fifo, "new/link", &[(10, "link")]);
        }),
        ("comes twice in one row", |rows| {
            let row = find(rows, 11);
            row.links_added[1] = row.links_added[0].clone();
        }),
        ("goes twice", |rows| {
            let row = &mut rows[12];
            *row = deleted(30, Kind::File, "gone/with it", &[(24, "with it")]);
        }),
        ("goes twice in one row", |rows| rows[12].links_removed[1] = rows[12].links_removed[0].clone()),
        ("stays and comes", |rows| {
            *find(rows, 13) = created(13, Kind::Fifo, "lends", &[(ROOT, "lends")]);
        }),
        ("stays and goes", |rows| {
            rows[12] = deleted(30, Kind::File, "lends", &[(ROOT, "lends")]);
        }),
        ("two stay at one path", |rows| {
            *find(rows, 23) = kept(23, Kind::File, "keeps", "keeps");
        }),
        ("two directories at one path", |rows| {
            rows.insert(10, kept(25, Kind::Directory, "old", "moved"));
            rows.remove(11);
        }),
    ]);
}

#[test]
fn extents_that_make_no_file_are_refused() {
    fn first(rows: &mut [Change], extent: Extent) {
        find(rows, 11).extents[0] = extent;
    }
    fn cloned(rows: &mut [Change], source: (End, u64, u64)) {
        find(rows, 11).extents[1] = extent(8192, 4096, Op::Clone, Some(source));
    }
    refuse(&[
        ("overlap", |rows| first(rows, extent(0, 8193, Op::Data, None))),
        ("empty", |rows| first(rows, extent(0, 0, Op::Data, None))),
        ("beyond the size", |rows| first(rows, extent(1 << 39, 4096, Op::Data, None))),
        ("beyond any file", |rows| find(rows, 11).extents[3].offset = i64::MAX as u64),
        ("wraps", |rows| find(rows, 11).extents[3].length = u64::MAX),
        ("a source for data", |rows| first(rows, extent(0, 8192, Op::Data, Some((End::Base, 23, 0))))),
        ("a clone of nothing", |rows| find(rows, 11).extents[1].source = None),
        ("not in the base", |rows| cloned(rows, (End::Base, 10, 0))),
        ("a file without a row", |rows| cloned(rows, (End::Base, 99, 0))),
        ("beyond the base's file", |rows| cloned(rows, (End::Base, 23, 40_000))),
        ("far beyond the base's file", |rows| cloned(rows, (End::Base, 23, u64::MAX - 10))),
        ("a directory of the base", |rows| cloned(rows, (End::Base, 24, 0))),
        ("a clone of a clone", |rows| cloned(rows, (End::Target, 11, 12_288))),
        ("a clone of itself", |rows| cloned(rows, (End::Target, 11, 8192))),
        ("half of it is no data", |rows| cloned(rows, (End::Target, 11, 6000))),
        ("data that goes", |rows| cloned(rows, (End::Target, 26, 0))),
        ("a file without data", |rows| cloned(rows, (End::Target, 23, 0))),
        ("data of a directory", |rows| find(rows, 10).extents = vec![extent(0, 1, Op::Unwritten, None)]),
        ("data of what goes", |rows| find(rows, 26).extents = vec![extent(0, 1, Op::Hole, None)]),
    ]);
}

#[test]
fn data_beyond_counting_is_refused() {
    refuse(&[("three times the most", |rows| {
        for ino in [11, 20, 22] {
            let row = find(rows, ino);
            row.new.as_mut().unwrap().size = i64::MAX as u64;
            row.extents = vec![extent(0, i64::MAX as u64, Op::Data, None)];
            row.flags.data = !row.flags.created;
        }
    })]);
}

#[test]
fn totals_that_are_not_those_of_the_rows_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("manifest.arrow");
    let mut writer = ManifestWriter::create(&file, &ManifestHeader::default()).unwrap();
    honest().iter().for_each(|row| writer.write(row).unwrap());
    writer.finish().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let (told, lie) = (b"00000000000000000014", b"00000000000000000013");
    let places: Vec<usize> = (0..bytes.len() - 20).filter(|at| bytes[*at..].starts_with(told)).collect();
    assert!(!places.is_empty());
    let mut forged = bytes;
    places.into_iter().for_each(|at| forged[at..at + 20].copy_from_slice(lie));
    std::fs::write(&file, forged).unwrap();
    vet_file(&file).unwrap();
    assert!(matches!(vet(&file, &Monitor::default()), Err(Error::Integrity { .. })));
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }

    fn number(&mut self) -> u64 {
        let numbers =
            [0, 1, 7, 10, 11, 19, 20, 22, 23, 24, 25, 30, 4096, 40_960, 1 << 63, u64::MAX, i64::MAX as u64];
        numbers[self.below(numbers.len() as u64) as usize]
    }

    fn name(&mut self) -> Link {
        let names = ["a", "new", "gone", "again", "file", "moved", ".snapsync", "..", "", "lends"];
        link(self.number(), names[self.below(names.len() as u64) as usize])
    }
}

/// Changes one or two values of a row.
fn tamper(rows: &mut Vec<Change>, random: &mut Random) {
    let at = random.below(rows.len() as u64) as usize;
    let other = rows[random.below(rows.len() as u64) as usize].clone();
    let (number, name) = (random.number(), random.name());
    let row = &mut rows[at];
    match random.below(16) {
        0 => row.ino = number,
        1 => row.kind = other.kind,
        2 => row.flags = other.flags,
        3 => row.path = other.path,
        4 => row.old_path = other.old_path,
        5 => row.links_added.push(name),
        6 => row.links_removed.push(name),
        7 => row.nlink = number as u32,
        8 => row.nlink_old = number as u32,
        9 => row.new = other.new,
        10 => row.old = other.old,
        11 => row.extents = other.extents,
        12 => {
            if let Some(new) = &mut row.new {
                new.size = number;
            }
        }
        13 => {
            if let Some(extent) = row.extents.last_mut() {
                extent.offset = number % (1 << 62);
            }
        }
        14 => {
            if let Some(source) = row.extents.iter_mut().find_map(|extent| extent.source.as_mut()) {
                (source.ino, source.offset) = (number, random.number());
            }
        }
        _ => {
            rows.remove(at);
        }
    }
}

#[test]
fn random_lies_are_refused_or_do_no_harm() {
    let number = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (seed, rounds) = (number("SNAPSYNC_SEED", 20_261_123), number("SNAPSYNC_ROUNDS", 500));
    let mut random = Random(seed);
    for round in 0..rounds {
        let mut rows = honest();
        for _ in 0..=random.below(3) {
            tamper(&mut rows, &mut random);
        }
        match check(&rows) {
            Ok(()) | Err(Error::Integrity { .. }) => {}
            Err(other) => panic!("seed {seed}, round {round}: {other:?}"),
        }
    }
}
