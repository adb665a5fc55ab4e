//! A tree that somebody edits while it is copied, and what a tree is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const SIZES: [usize; 4] = [300, 5000, 70_000, 1_500_000];

/// Numbers that look like chance, the same for a seed.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }

    fn one_of<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len())]
    }
}

/// A tree that is edited, with times of which none comes twice.
pub(super) struct Tree {
    pub(super) top: PathBuf,
    pub(super) chance: Chance,
    pub(super) made: u64,
    /// The files that were written without a new size or time.
    pub(super) unlike: BTreeSet<u64>,
}

impl Tree {
    pub(super) fn name(&mut self) -> String {
        self.made += 1;
        format!("n{}", self.made)
    }

    fn of(&self, is: impl Fn(&fs::Metadata) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        visit(&self.top, &mut |path, stat| {
            if is(stat) {
                found.push(path.to_path_buf());
            }
        });
        found.sort();
        found
    }

    fn files(&self) -> Vec<PathBuf> {
        self.of(|stat| stat.is_file())
    }

    pub(super) fn directory(&mut self) -> PathBuf {
        let mut all = self.of(|stat| stat.is_dir());
        all.push(self.top.clone());
        self.chance.one_of(&all).clone()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let first = self.chance.below(1 << 30) as u64;
        bytes.chunks_mut(8).zip(first..).for_each(|(to, n)| {
            to.copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[..to.len()]);
        });
        bytes
    }

    fn stamp(&mut self, path: &Path) {
        self.made += 1;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + self.made);
        File::open(path).unwrap().set_modified(time).unwrap();
    }

    pub(super) fn make(&mut self) {
        let path = self.directory().join(self.name());
        match self.chance.below(8) {
            0 | 1 => fs::create_dir(&path).unwrap(),
            2 => std::os::unix::fs::symlink(self.name(), &path).unwrap(),
            _ => self.file_at(&path),
        }
    }

    pub(super) fn file_at(&mut self, path: &Path) {
        let length = *self.chance.one_of(&SIZES);
        fs::write(path, self.bytes(length)).unwrap();
        self.stamp(path);
    }

    /// Anything that somebody may do to a tree.
    pub(super) fn edit(&mut self) {
        let files = self.files();
        if files.len() < 8 {
            return self.make();
        }
        let path = self.chance.one_of(&files).clone();
        let size = fs::metadata(&path).unwrap().len();
        let to = self.directory().join(self.name());
        match self.chance.below(12) {
            0 => self.make(),
            1 => fs::rename(&path, to).unwrap(),
            2 => fs::remove_file(&path).unwrap(),
            3 => {
                // Another inode takes the name, and perhaps the number.
                fs::remove_file(&path).unwrap();
                fs::write(&path, self.bytes(size as usize)).unwrap();
                self.stamp(&path);
            }
            4 => self.write_slyly(&path),
            5 => {
                let (bytes, file) = (self.bytes(4096), File::options().write(true).open(&path).unwrap());
                file.write_all_at(&bytes, size).unwrap();
                self.stamp(&path);
            }
            6 => {
                File::options().write(true).open(&path).unwrap().set_len(size / 2).unwrap();
                self.stamp(&path);
            }
            7 => fs::hard_link(&path, to).unwrap(),
            8 => {
                let copy = File::create_new(&to).unwrap();
                let from = File::open(&path).unwrap();
                if snapsync_sys::clone_range(&from, 0, size, &copy, 0).is_err() {
                    fs::copy(&path, &to).unwrap();
                }
                self.stamp(&to);
            }
            9 => {
                let all = self.of(|stat| stat.is_dir());
                if let Some(dir) = all.get(self.chance.below(all.len().max(1))) {
                    // Not into itself.
                    let _ = fs::rename(dir, to);
                }
            }
            10 => {
                let mode = 0o600 | self.chance.below(0o100) as u32;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            _ => {
                let at = self.chance.below(size.max(1) as usize);
                let (bytes, file) = (self.bytes(500), File::options().write(true).open(&path).unwrap());
                file.write_all_at(&bytes, at as u64).unwrap();
                self.stamp(&path);
            }
        }
    }

    /// Writes other bytes, and puts the time back.
    fn write_slyly(&mut self, path: &Path) {
        let before = fs::metadata(path).unwrap();
        let bytes = self.bytes(before.len() as usize);
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        self.unlike.insert(before.ino());
    }
}

pub(super) fn visit(dir: &Path, see: &mut impl FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_name() == ".snapsync" {
            continue;
        }
        let stat = fs::symlink_metadata(entry.path()).unwrap();
        see(&entry.path(), &stat);
        if stat.is_dir() {
            visit(&entry.path(), see);
        }
    }
}

/// What is at each path: kind and mode, time, the first name of it, and a digest of what it holds.
pub(super) fn seen(top: &Path) -> BTreeMap<PathBuf, (u32, i64, PathBuf, String)> {
    let (mut all, mut paths) = (BTreeMap::new(), Vec::new());
    visit(top, &mut |path, stat| paths.push((path.to_path_buf(), stat.clone())));
    paths.sort_by(|a, b| a.0.cmp(&b.0));
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for (path, stat) in paths {
        let name = path.strip_prefix(top).unwrap().to_path_buf();
        let holds = match () {
            () if stat.is_file() => fs::read(&path).unwrap(),
            () if stat.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            () => Vec::new(),
        };
        let other = first.entry(stat.ino()).or_insert_with(|| name.clone()).clone();
        let (time, digest) =
            (stat.mtime() * 1_000_000_000 + stat.mtime_nsec(), blake3::hash(&holds).to_string());
        all.insert(name, (stat.mode(), time, other, digest));
    }
    all
}
