//! Files that are no manifests, and manifests that were tampered with: a word about what is wrong, and
//! nothing else.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_ipc::{CompressionType, root_as_footer, root_as_message};
use arrow_schema::{Field, Schema};
use rustix::process::{Resource, Rlimit, setrlimit};
use snapsync_manifest::{ManifestHeader, ManifestReader, ManifestWriter, vet};
use snapsync_model::{
    Attributes, Change, ChangeFlags, End, Error, Extent, Kind, Link, Op, RelPath, Result, Source, Xattr,
};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Threads take address space as well, but nothing like what a bomb would.
const MEMORY: u64 = 4 << 30;

fn bounded() {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: None }).unwrap();
}

fn rounds(usual: u64) -> u64 {
    std::env::var("SNAPSYNC_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

/// xorshift64*: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn extent(offset: u64, op: Op) -> Extent {
    let source = (op == Op::Clone).then_some(Source { end: End::Base, ino: 7, offset: 0 });
    let checksum = (op == Op::Data).then_some([7; 32]);
    Extent { offset, length: 4096, op, source, checksum }
}

fn row(ino: u64) -> Change {
    let kinds = [Kind::File, Kind::Symlink, Kind::Directory, Kind::Fifo];
    let kind = kinds[ino as usize % kinds.len()];
    let end: &[u8] = if ino.is_multiple_of(3) { b"\xff" } else { b"" };
    let name = [b"name-", ino.to_string().as_bytes(), end].concat();
    let deleted = ino % 7 == 6;
    let is_file = kind == Kind::File && !deleted;
    let path = RelPath::new(&name).unwrap();
    let link = vec![Link { parent: 0, name: name.clone().into() }];
    let none = Vec::new;
    let attributes = Attributes { size: 1 << 20, mtime: -5, mode: 0o644, ..Attributes::default() };
    Change {
        ino,
        generation: ino * 1000,
        kind,
        flags: ChangeFlags { created: !deleted, deleted, ..ChangeFlags::default() },
        path: (!deleted).then(|| path.clone()),
        old_path: deleted.then_some(path),
        links_added: if deleted { none() } else { link.clone() },
        links_removed: if deleted { link } else { Vec::new() },
        nlink: u32::from(!deleted),
        nlink_old: u32::from(deleted),
        new: (!deleted).then_some(attributes),
        old: deleted.then_some(attributes),
        symlink_target: (kind == Kind::Symlink && !deleted).then(|| b"somewhere"[..].into()),
        xattrs: is_file.then(|| vec![Xattr { name: b"user.x"[..].into(), value: name.into() }]),
        extents: if is_file {
            vec![
                extent(0, Op::Data),
                extent(4096, Op::Clone),
                extent(8192, Op::Hole),
                extent(1 << 30, Op::Unwritten),
            ]
        } else {
            Vec::new()
        },
    }
}

fn write(path: &Path, rows: impl Iterator<Item = Change>) {
    let mut writer = ManifestWriter::create(path, &ManifestHeader::default()).unwrap();
    rows.for_each(|row| writer.write(&row).unwrap());
    writer.finish().unwrap();
}

fn valid(dir: &Path, rows: u64) -> Vec<u8> {
    let path = dir.join("valid.arrow");
    write(&path, (1..=rows).map(row));
    vet(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn try_bytes(dir: &Path, bytes: &[u8]) -> Result<()> {
    let path = dir.join("tried.arrow");
    std::fs::write(&path, bytes).unwrap();
    vet(&path)
}

/// True where it is refused, as what it is.
fn is_refused(result: &Result<()>, what: &str) -> bool {
    match result {
        Ok(()) => false,
        Err(Error::Integrity { .. }) => true,
        Err(other) => panic!("{what}: {other:?}"),
    }
}

const EXTREMES: [i64; 12] =
    [i64::MAX, i64::MIN, -1, -2, 0, 1, 7, 1 << 31, (1 << 31) - 1, 1 << 40, 0x7fff_ffff_ffff_fff8, 1 << 29];

/// Changes some bytes in one of the ways in which files are made to hurt.
fn tamper(bytes: &mut Vec<u8>, random: &mut Random) -> &'static str {
    let length = bytes.len();
    // Footer and messages are what says where everything is.
    let somewhere = match random.below(3) {
        0 => random.below(length),
        1 => length - 1 - random.below(length.min(4000)),
        _ => random.below(length.min(9000)),
    };
    match random.below(7) {
        0 | 1 => {
            for _ in 0..=random.below(6) {
                let at = (somewhere + random.below(64)).min(length - 1);
                bytes[at] ^= 1 << random.below(8);
            }
            "flip"
        }
        2 => {
            bytes.truncate(somewhere);
            "truncate"
        }
        3 => {
            let from = random.below(length);
            let count = random.below(200).min(length - from).min(length - somewhere);
            bytes.copy_within(from..from + count, somewhere);
            "splice"
        }
        4 => {
            let value = EXTREMES[random.below(EXTREMES.len())].to_le_bytes();
            let at = (somewhere & !7).min(length - 8);
            bytes[at..at + 8].copy_from_slice(&value);
            "long"
        }
        5 => {
            let value = (EXTREMES[random.below(EXTREMES.len())] as i32).to_le_bytes();
            let at = (somewhere & !3).min(length - 4);
            bytes[at..at + 4].copy_from_slice(&value);
            "int"
        }
        _ => {
            let count = random.below(100);
            bytes.splice(somewhere..somewhere, std::iter::repeat_n(0x41, count));
            "insert"
        }
    }
}

#[test]
fn a_manifest_that_was_tampered_with_is_read_or_refused() {
    bounded();
    let dir = tempfile::tempdir().unwrap();
    let seed = std::env::var("SNAPSYNC_SEED").map_or(20_261_123, |text| text.parse().unwrap());
    let mut random = Random(seed);
    let files = [valid(dir.path(), 0), valid(dir.path(), 3), valid(dir.path(), 40), valid(dir.path(), 9000)];
    let mut refused = 0;
    let rounds = rounds(2000);
    for round in 0..rounds {
        let which = if round % 50 == 0 { 3 } else { random.below(3) };
        let mut bytes = files[which].clone();
        let mut how = tamper(&mut bytes, &mut random);
        while random.below(3) == 0 && bytes.len() > 100 {
            how = tamper(&mut bytes, &mut random);
        }
        let what = format!("seed {seed}, round {round}, {how}");
        refused += u64::from(is_refused(&try_bytes(dir.path(), &bytes), &what));
    }
    assert!(refused > rounds / 4, "only {refused} of {rounds} with seed {seed}");
}

#[test]
fn whatever_is_no_manifest_is_told_as_damaged() {
    bounded();
    let dir = tempfile::tempdir().unwrap();
    let whole = valid(dir.path(), 3);
    for bytes in [&b""[..], b"ARROW1", &[0; 100], &[0xff; 5000], b"ARROW1\0\0\xff\xff\xff\x7fARROW1"] {
        assert!(is_refused(&try_bytes(dir.path(), bytes), "no manifest"));
    }
    for end in (0..whole.len()).step_by(3) {
        assert!(is_refused(&try_bytes(dir.path(), &whole[..end]), "cut off"), "{end}");
    }
    // The length of the footer is believed by nobody.
    for length in [-1, 0, i32::MAX, i32::MIN, 33 << 20] {
        let mut bytes = whole.clone();
        let at = bytes.len() - 10;
        bytes[at..at + 4].copy_from_slice(&i32::to_le_bytes(length));
        assert!(is_refused(&try_bytes(dir.path(), &bytes), "footer"), "{length}");
    }
}

/// Where the buffers of the first batch are in the file: offset and length of each.
fn buffers(bytes: &[u8]) -> Vec<(usize, usize)> {
    let tail = bytes.len() - 10;
    let length = i32::from_le_bytes(bytes[tail..tail + 4].try_into().unwrap()) as usize;
    let footer = root_as_footer(&bytes[tail - length..tail]).unwrap();
    let block = footer.recordBatches().unwrap().get(0);
    let (at, metadata) = (block.offset() as usize, block.metaDataLength() as usize);
    let message = root_as_message(&bytes[at + 8..at + metadata]).unwrap();
    let batch = message.header_as_record_batch().unwrap();
    let place = |b: &arrow_ipc::Buffer| (at + metadata + b.offset() as usize, b.length() as usize);
    batch.buffers().unwrap().iter().map(place).collect()
}

#[test]
fn a_buffer_that_unpacks_to_other_bytes_than_it_claims_is_refused() {
    bounded();
    let dir = tempfile::tempdir().unwrap();
    let whole = valid(dir.path(), 9000);
    let places = buffers(&whole);
    let packed = places.iter().filter(|(_, length)| *length > 8);
    for (at, _) in packed.clone() {
        for claimed in [i64::MAX, 1 << 40, 600 << 20, 500 << 20, -2, i64::MIN, 1] {
            let mut bytes = whole.clone();
            bytes[*at..*at + 8].copy_from_slice(&claimed.to_le_bytes());
            assert!(is_refused(&try_bytes(dir.path(), &bytes), "claimed"), "{claimed}");
        }
    }
    let (at, length) = *packed.max_by_key(|(_, length)| *length).unwrap();
    for (size, claims) in [(100 << 20, 64), (100 << 20, 100 << 20), (64, 100 << 20)] {
        let bomb = zstd::bulk::compress(&vec![0; size], 3).unwrap();
        assert!(bomb.len() + 8 <= length, "the bomb of {} bytes has no place", bomb.len());
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&i64::to_le_bytes(claims));
        bytes[at + 8..at + 8 + bomb.len()].copy_from_slice(&bomb);
        assert!(is_refused(&try_bytes(dir.path(), &bytes), "bomb"), "{size} {claims}");
    }
}

/// Each of these once made the Arrow reader panic, which is caught but printed.
#[test]
fn what_the_fuzzer_found_is_refused_before_arrow_reads_it() {
    bounded();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/crashes/manifest");
    let found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!found.is_empty());
    for path in found {
        let error = vet(&path).unwrap_err().to_string();
        assert!(!error.contains("gave up"), "{}: {error}", path.display());
    }
}

/// The manifest of the rows 1 to 7, with columns changed, as anybody can write it.
fn forge(dir: &Path, change: impl Fn(&Field, ArrayRef) -> ArrayRef) -> Result<()> {
    let from = dir.join("honest.arrow");
    write(&from, (1..=7).map(row));
    let reader = FileReader::try_new(File::open(&from).unwrap(), None).unwrap();
    let schema = reader.schema();
    let batch = reader.into_iter().next().unwrap().unwrap();
    let columns: Vec<ArrayRef> =
        schema.fields().iter().zip(batch.columns()).map(|(f, c)| change(f, c.clone())).collect();
    // Whatever it takes to be written.
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .zip(&columns)
        .map(|(f, c)| Field::new(f.name(), c.data_type().clone(), f.is_nullable() || c.null_count() > 0))
        .collect();
    let schema = Arc::new(Schema::new(fields).with_metadata(schema.metadata().clone()));
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let path = dir.join("forged.arrow");
    save(&path, &schema, &batch);
    vet(&path)
}

fn save(path: &PathBuf, schema: &Schema, batch: &RecordBatch) {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).unwrap();
    let mut writer = FileWriter::try_new_with_options(File::create(path).unwrap(), schema, options).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
}

/// Replaces one column.
fn forge_one(dir: &Path, name: &str, column: impl Fn(&ArrayRef) -> ArrayRef) -> Result<()> {
    forge(dir, |field, old| if field.name() == name { column(&old) } else { old })
}

#[test]
fn a_forged_column_is_refused() {
    bounded();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    forge(dir, |_, column| column).unwrap();
    let numbers = |value: Option<u64>| -> ArrayRef { Arc::new(UInt64Array::from(vec![value; 7])) };
    let small = |value: Option<u32>| -> ArrayRef { Arc::new(UInt32Array::from(vec![value; 7])) };
    let texts = |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value; 7])) };
    let raw = |value: &[u8]| -> ArrayRef { Arc::new(BinaryArray::from_opt_vec(vec![Some(value); 7])) };
    let lies: Vec<(&str, ArrayRef)> = vec![
        ("kind", texts(Some("whiteout"))),
        ("kind", texts(None)),
        ("kind", numbers(Some(1))),
        ("inode", numbers(None)),
        ("nlink", small(None)),
        ("data_bytes", numbers(Some(u64::MAX))),
        ("data_bytes", numbers(None)),
        ("path", texts(None)),
        ("path", texts(Some("../up"))),
        ("path", texts(Some("/etc/passwd"))),
        ("path_raw", raw(b"../\xff")),
        ("path_raw", raw(b"another")),
        ("path_raw", raw(b"another\xff")),
        ("size", numbers(None)),
        ("size", numbers(Some(u64::MAX))),
        ("mode", small(None)),
        ("uid", small(None)),
        ("rdev", numbers(None)),
        ("flags_old", small(Some(0))),
        ("old_path", texts(Some("x"))),
    ];
    for (name, column) in lies {
        let result = forge_one(dir, name, |_| column.clone());
        assert!(is_refused(&result, name), "{name}: {column:?}");
    }
}

/// The manifest above with a field of its extents replaced.
fn forge_extents(dir: &Path, at: usize, column: impl Fn(usize) -> ArrayRef) -> Result<()> {
    forge_one(dir, "extents", |old| {
        let list = old.as_list::<i32>();
        let items = list.values().as_struct();
        let mut columns = items.columns().to_vec();
        columns[at] = column(items.len());
        let fields: Vec<Field> = items
            .fields()
            .iter()
            .zip(&columns)
            .map(|(f, c)| Field::new(f.name(), c.data_type().clone(), f.is_nullable() || c.null_count() > 0))
            .collect();
        let items = arrow_array::StructArray::new(fields.into(), columns, None);
        let field = Field::new("item", items.data_type().clone(), false);
        let list =
            arrow_array::ListArray::new(Arc::new(field), list.offsets().clone(), Arc::new(items), None);
        Arc::new(list)
    })
}

#[test]
fn a_forged_extent_is_refused() {
    bounded();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let numbers = |value: Option<u64>| move |n| Arc::new(UInt64Array::from(vec![value; n])) as ArrayRef;
    let texts =
        |value: Option<&'static str>| move |n| Arc::new(StringArray::from(vec![value; n])) as ArrayRef;
    for value in [0, u64::MAX, 1 << 63] {
        assert!(is_refused(&forge_extents(dir, 0, numbers(Some(value))), "offset"));
        assert!(is_refused(&forge_extents(dir, 1, numbers(Some(value))), "length"));
    }
    for (at, name) in [(0, "offset"), (1, "length"), (4, "source_inode"), (5, "source_offset")] {
        assert!(is_refused(&forge_extents(dir, at, numbers(None)), name), "{name}");
    }
    for value in [None, Some("copy"), Some("")] {
        assert!(is_refused(&forge_extents(dir, 2, texts(value)), "op"), "{value:?}");
    }
    for value in [None, Some("elsewhere"), Some("base")] {
        assert!(is_refused(&forge_extents(dir, 3, texts(value)), "source"), "{value:?}");
    }
}

#[test]
fn a_column_of_another_type_is_refused() {
    bounded();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let result = forge_one(dir, "inode", |old| {
        let values = old.as_primitive::<UInt64Type>().values().iter().map(|v| *v as u32);
        Arc::new(UInt32Array::from_iter_values(values))
    });
    assert!(is_refused(&result, "u32"));
}

#[test]
fn rows_as_large_as_they_may_be_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.arrow");
    let mut many = row(4);
    let size = 600_000 * 8192;
    many.new = Some(Attributes { size, ..Attributes::default() });
    many.extents = (0..600_000).map(|n| extent(n * 8192, Op::Data)).collect();
    let mut wide = row(8);
    let xattr =
        |n: u64| Xattr { name: format!("user.{n}").as_bytes().into(), value: vec![n as u8; 60_000].into() };
    wide.xattrs = Some((0..200).map(xattr).collect());
    let rows =
        std::iter::once(many.clone()).chain((0..20).map(|n| Change { ino: 8 + 4 * n, ..wide.clone() }));
    write(&path, rows);
    vet(&path).unwrap();
    let first = ManifestReader::open(&path).unwrap().next().unwrap().unwrap();
    assert_eq!(first, many);
}
