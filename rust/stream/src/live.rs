//! The data of a snapshot, where its volume still has it.
//!
//! What was written last is in memory as the volume's file, and nowhere as the snapshot's: it would be read from the disk
//! again. The two hold the same bytes for as long as the file has the change time that it had in the snapshot, if that is
//! clearly older than the snapshot: what was dirty in memory was written out before the snapshot was taken, through a
//! memory map as well, and whoever writes after that changes the time first. So the time is asked for after each read,
//! and what was read counts only if it is still the same.

use snapsync_model::{Inode, RelPath, Result, Side};
use snapsync_sys::{FileSystem, Root, stat_of};
use std::fs::File;

/// A volume, beside a snapshot of it.
pub struct Live {
    root: Root,
    /// Change times from here on, in ns since 1970, prove nothing.
    before: i64,
}

impl Live {
    /// The volume at `root`, a snapshot of which was taken after `before`, less what two changes may lie apart that have
    /// the same time. None on file systems that do not keep change times strictly, through memory maps and caches.
    pub fn new(root: Root, filesystem: FileSystem, before: i64) -> Option<Live> {
        filesystem.has_strict_times().then_some(Live { root, before })
    }

    fn open(&self, path: &RelPath, inode: &Inode) -> Option<File> {
        if inode.ctime >= self.before {
            return None;
        }
        let file = self.root.read(path).ok()?;
        is_still(&file, inode).then_some(file)
    }
}

fn is_still(file: &File, inode: &Inode) -> bool {
    stat_of(file).is_ok_and(|now| {
        (now.ino, now.generation, now.kind) == (inode.ino, inode.generation, inode.kind)
            && (now.ctime, now.attributes.size) == (inode.ctime, inode.attributes.size)
    })
}

/// Where data is read from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub side: &'a dyn Side,
    /// The volume that the side is a snapshot of.
    pub live: Option<&'a Live>,
}

impl<'a> From<&'a dyn Side> for Source<'a> {
    fn from(side: &'a dyn Side) -> Source<'a> {
        Source { side, live: None }
    }
}

impl Source<'_> {
    /// The data of the inode at `path`.
    pub(crate) fn open(&self, path: Option<&RelPath>, inode: &Inode) -> Result<Open> {
        let live = self.live.zip(path).and_then(|(live, path)| live.open(path, inode));
        match live {
            Some(file) => Ok(Open { file, is_live: true }),
            None => self.side.open(inode).map(|file| Open { file, is_live: false }),
        }
    }
}

pub(crate) struct Open {
    pub(crate) file: File,
    is_live: bool,
}

impl Open {
    /// Whether what was just read was not the snapshot's data.
    pub(crate) fn has_left(&self, inode: &Inode) -> bool {
        self.is_live && !is_still(&self.file, inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::tests::change;
    use crate::{Budget, FRAME, Held, MEMORY, run};
    use snapsync_model::{Change, Context, Details, Inodes, Layout, Link, Monitor, locked, unlocked};
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::sync::Mutex;
    use std::time::Duration;

    /// What a snapshot that is taken now would say of a file.
    fn seen(file: &File) -> Inode {
        let now = stat_of(file).unwrap();
        Inode {
            ino: now.ino,
            generation: now.generation,
            kind: now.kind,
            attributes: now.attributes,
            ctime: now.ctime,
            blocks: now.blocks,
            links: Vec::new(),
            details: None,
            object: 0,
            shared: false,
        }
    }

    fn name() -> RelPath {
        RelPath::new(b"file").unwrap()
    }

    #[test]
    fn a_file_is_live_until_it_changes_and_never_where_its_time_is_too_new() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        std::fs::write(&path, b"snapshot").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let inode = seen(&file);
        let live = |before| Live { root: Root::open(home.path()).unwrap(), before };
        assert!(live(inode.ctime).open(&name(), &inode).is_none());
        assert!(live(inode.ctime + 1).open(&name(), &inode).is_some());

        let open = Open { file: live(i64::MAX).open(&name(), &inode).unwrap(), is_live: true };
        assert!(!open.has_left(&inode));
        std::thread::sleep(Duration::from_millis(20));
        file.write_all_at(b"SNAPSHOT", 0).unwrap();
        assert!(open.has_left(&inode));
        assert!(live(i64::MAX).open(&name(), &inode).is_none());
    }

    /// A snapshot of one file, whose data is in another.
    struct One(Inode, PathBuf);

    impl Side for One {
        fn inodes(&self) -> Result<Inodes<'_>> {
            Ok(Box::new(std::iter::once(Ok(self.0.clone()))))
        }

        fn path_of(&self, _: &Link) -> Result<RelPath> {
            Ok(name())
        }

        fn details(&self, _: &Inode) -> Result<Details> {
            Ok(Details::default())
        }

        fn open(&self, _: &Inode) -> Result<File> {
            File::open(&self.1).context("open", &self.1)
        }

        fn layout(&self, _: &Inode, _: &File) -> Result<Layout> {
            Ok(Layout::default())
        }
    }

    #[test]
    fn what_is_written_between_two_reads_of_a_file_is_not_the_snapshots() {
        let home = tempfile::tempdir().unwrap();
        let (path, object) = (home.path().join("file"), home.path().join("object"));
        let size = 3 * FRAME;
        std::fs::write(&path, vec![b'a'; size as usize]).unwrap();
        std::fs::copy(&path, &object).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let side = One(seen(&file), object.clone());
        let live = Live { root: Root::open(home.path()).unwrap(), before: i64::MAX };
        // So that it shows where data came from.
        std::fs::write(&object, vec![b'b'; size as usize]).unwrap();
        let row = Change { path: Some(name()), ..change(side.0.ino, &[(0, size)]) };
        let (frames, file) = (Mutex::new(Vec::new()), &file);
        let source = Source { side: &side, live: Some(&live) };
        let (held, budget) = (Held::default(), Budget::new(MEMORY));
        run(std::iter::once(Ok(row)), source, &held, 1, &budget, &Monitor::default(), &|| {
            let frames = &frames;
            Box::new(move |frame| {
                if frame.offset == 0 {
                    std::thread::sleep(Duration::from_millis(20));
                    file.write_all_at(b"c", FRAME).unwrap();
                }
                locked(frames).push((frame.offset, frame.bytes[0], frame.bytes[FRAME as usize - 1]));
                Ok(frame.bytes)
            })
        })
        .unwrap();
        assert_eq!(unlocked(frames), [(0, b'a', b'a'), (FRAME, b'b', b'b'), (2 * FRAME, b'b', b'b')]);
    }

    #[test]
    fn another_file_of_that_name_is_not_taken_for_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        std::fs::write(&path, b"snapshot").unwrap();
        let inode = seen(&File::open(&path).unwrap());
        std::fs::write(home.path().join("other"), b"snapshot").unwrap();
        std::fs::rename(home.path().join("other"), &path).unwrap();
        let live = Live { root: Root::open(home.path()).unwrap(), before: i64::MAX };
        assert!(live.open(&name(), &inode).is_none());
    }
}
