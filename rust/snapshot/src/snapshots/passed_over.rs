//! Files of a snapshot whose data cannot be read: they become as another snapshot has them.

use crate::snapshots::lost::AGAIN;
use crate::volume::locked::LockedVolume;
use snapsync_model::{Context, Inode, Monitor, Provider, RelPath, Result, SnapshotInfo};
use snapsync_sys::{Root, btrfs, clone_file, fault};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;

/// A file by its names in the snapshot, and its path and row in the other one, if that has it.
struct Passed {
    paths: Vec<RelPath>,
    before: Option<(RelPath, Inode)>,
}

impl LockedVolume {
    /// Gives up reading some files of a snapshot that nobody else has: their data is as `base` has it, and
    /// what is new is left out.
    pub fn pass_over(
        &mut self,
        info: &mut SnapshotInfo,
        files: &BTreeSet<u64>,
        base: Option<&SnapshotInfo>,
        monitor: &Monitor,
    ) -> Result<()> {
        if info.provider == Provider::Pool {
            return self.keep_files(info, files, base, monitor);
        }
        let passed = self.passed(info, files, base, monitor)?;
        self.expect_unread(info)?;
        let dir = self.dir_of(info.id);
        let (again, tree) = (dir.join(AGAIN), dir.join("tree"));
        if again.is_there() {
            self.settle(&dir)?;
        }
        let into = dir.directory().context("open the directory", dir.show())?;
        btrfs::create_writable_snapshot(tree.tree()?.fd(), into, OsStr::new(AGAIN))
            .context("make a copy of", tree.show())?;
        let now = again.tree()?;
        let was = base.map(|base| self.dir_of(base.id).join("tree").tree()).transpose()?;
        for file in &passed {
            match file.before.as_ref().zip(was.as_ref()) {
                Some(((old, row), was)) => put_back(&now, &file.paths, was, (old, row))?,
                None => remove(&now, &file.paths)?,
            }
        }
        btrfs::set_read_only(now.fd(), true).context("make read-only", again.show())?;
        fault::point("again.made");
        again.exchange(&tree).context("replace", tree.show())?;
        dir.sync().context("sync", dir.show())?;
        fault::point("again.replaced");
        self.settle(&dir)
    }

    fn passed(
        &self,
        info: &SnapshotInfo,
        files: &BTreeSet<u64>,
        base: Option<&SnapshotInfo>,
        monitor: &Monitor,
    ) -> Result<Vec<Passed>> {
        let side = self.open_snapshot(info, monitor)?;
        let before = base.map(|base| self.open_snapshot(base, monitor)).transpose()?;
        let old = before.as_ref().map(|before| before.pick(files)).transpose()?.unwrap_or_default();
        let passed = |row: Inode| {
            let is_it =
                |old: &&Inode| (old.ino, old.generation, old.kind) == (row.ino, row.generation, row.kind);
            let before = before.as_ref().zip(old.iter().find(is_it));
            let before = before.map(|(side, old)| Ok((side.path(old)?, old.clone()))).transpose()?;
            let paths = row.links.iter().map(|link| side.path_of(link)).collect::<Result<_>>()?;
            Ok(Passed { paths, before })
        };
        side.pick(files)?.into_iter().map(passed).collect()
    }
}

/// Gives a file the data and the time that it had.
fn put_back(now: &Root, paths: &[RelPath], was: &Root, (old, row): (&RelPath, &Inode)) -> Result<()> {
    let Some(path) = paths.first() else { return Ok(()) };
    let done = now.write(path).and_then(|mut file| {
        let mut from = was.read(old)?;
        file.set_len(0)?;
        // They may differ in whether their data has checksums.
        clone_file(&from, &file).or_else(|_| io::copy(&mut from, &mut file).map(drop))?;
        drop(file);
        now.entry(path)?.set_mtime(row.attributes.mtime)
    });
    done.context_at("put back", || now.show(path))
}

/// Removes a file, and lets its directories keep their times.
fn remove(now: &Root, paths: &[RelPath]) -> Result<()> {
    for path in paths {
        let above = path.split().map_or(RelPath::root(), |(above, _)| above);
        let done = now.entry(&above).and_then(|directory| {
            let mtime = directory.stat()?.attributes.mtime;
            now.unlink(path)?;
            directory.set_mtime(mtime)
        });
        done.context_at("leave out", || now.show(path))?;
    }
    Ok(())
}
