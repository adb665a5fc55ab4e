//! A manifest of unknown origin: what `vet` lets pass can be read, and every row of it found.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use snapsync_manifest::{ChangeRows, ManifestReader, vet};
use snapsync_model::{Change, Monitor, Op, Range};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// In memory.
static FILE: LazyLock<(File, PathBuf)> = LazyLock::new(|| {
    let file = memfd_create("manifest", MemfdFlags::CLOEXEC).expect("a file in memory");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file.into(), path)
});

fuzz_target!(|bytes: &[u8]| {
    let (file, path) = &*FILE;
    ftruncate(file, 0).expect("the file is ours");
    file.write_all_at(bytes, 0).expect("there is room");
    if vet(path).is_ok() {
        read(path);
    }
});

fn read(path: &Path) {
    let reader = ManifestReader::open(path).expect("it was vetted");
    reader.header().expect("it was vetted");
    reader.counts().expect("it was vetted");
    let changes: Vec<Change> = reader.map(|row| row.expect("it was vetted")).collect();
    changes.iter().for_each(ask);
    let rows = ChangeRows::open(path).expect("it was vetted");
    let makes_sense = snapsync_apply::fuzz_vet(&path.to_path_buf(), &Monitor::default()).is_ok();
    for change in changes.iter().take(64) {
        let found = rows.find(change.ino).expect("it was vetted");
        // Only where the rows are sorted is every one of them found.
        if makes_sense && !change.flags.deleted {
            assert_eq!(found.as_deref(), Some(change));
        }
    }
}

/// What later stages ask a row.
fn ask(change: &Change) {
    change.display_path();
    change.beyond_end().count();
    change.loses_tail();
    for block in [512, 4096, 65_536] {
        change.cut_hole(block);
        let holes = change.extents.iter().enumerate().filter(|(_, extent)| extent.op == Op::Hole);
        holes.for_each(|(at, _)| _ = change.to_end_of_block(at, block));
    }
    for extent in &change.extents {
        let range = Range { offset: extent.offset, length: extent.length };
        assert_eq!(change.names_data(range), extent.op == Op::Data);
    }
}
