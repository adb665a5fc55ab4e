//! The passes of a round of a light primary. Its snapshot is read from its tree, while others write there.
//! What was changed before it was read is left out, the snapshot is taken again, and the round goes on with
//! what has arrived. What never holds still is sent in the end as it was read, and named.

use crate::delta::staging::Again;
use crate::round::held::{LONG, Primary};
use snapsync_model::{Error, Monitor, Result, Side, SnapshotInfo, locked};
use snapsync_snapshot::{Elusive, Moved, Standby};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The number of passes in which each file that is sent has held still.
const STEADY: u32 = 2;
/// The number of passes after which a file that is cut, or moved about, each time it is read is given up.
const PATIENT: u32 = 6;
/// The most passes. After so many not even the files that are given up are always the same.
const MOST: u32 = 100;
/// The number of files that an error names, and a note.
const NAMED: usize = 5;
const A_NOTE: usize = 20;

/// How far the transfer of a snapshot has come.
pub(super) struct Passes {
    /// The standby that it is for.
    standby: Uuid,
    /// The digest of the manifest that the standby's stage was made from.
    staged: Option<String>,
    done: u32,
    /// Files that were not what their rows say.
    restless: BTreeSet<u64>,
    /// Files that were read all the same, once that is allowed.
    moved: Option<Moved>,
    /// Those that were not found again although they were read so, and whatever may go like them.
    elusive: Elusive,
    /// Those that were given up, by name.
    kept: BTreeSet<String>,
    /// Those whose data could not be read.
    unread: BTreeSet<u64>,
}

/// Files that a pass has left out.
pub(super) struct LeftOut {
    /// By inode.
    paths: BTreeMap<u64, String>,
    /// The directories that they were in.
    directories: BTreeSet<u64>,
}

impl LeftOut {
    pub(super) fn of(side: &dyn Side, files: &BTreeSet<u64>) -> Result<LeftOut> {
        let directories =
            side.pick(files)?.iter().flat_map(|row| &row.links).map(|link| link.parent).collect();
        Ok(LeftOut { paths: named(side, files)?, directories })
    }
}

impl Passes {
    pub(super) fn new(standby: Uuid, staged: Option<String>) -> Passes {
        let (restless, elusive, kept, unread) = Default::default();
        Passes { standby, staged, done: 0, restless, moved: None, elusive, kept, unread }
    }

    /// Before the first pass: a snapshot whose transfer was cut is not what the tree holds any more.
    pub(super) fn begin(
        &self,
        primary: &mut Primary,
        snapshot: &mut SnapshotInfo,
        monitor: &Monitor,
    ) -> Result<()> {
        if primary.is_light() && self.is_own(primary, snapshot) && !primary.has_just_taken(snapshot.id) {
            primary.hold(LONG, monitor)?.retake(snapshot, &Elusive::default(), monitor)?;
        }
        Ok(())
    }

    /// Whether nobody but this standby is to have the snapshot yet.
    fn is_own(&self, primary: &Primary, snapshot: &SnapshotInfo) -> bool {
        let has = |(id, standby): (&Uuid, &Standby)| *id != self.standby && standby.snapshot == snapshot.id;
        primary.taken_for(snapshot.id).is_some_and(|by| by.standby == self.standby)
            && !primary.standbys().iter().any(has)
    }

    /// What the standby may keep of its stage now that it gets this manifest: nothing, if it is not known
    /// what has changed since.
    pub(super) fn offer(
        &mut self,
        primary: &mut Primary,
        snapshot: &SnapshotInfo,
        manifest: String,
        monitor: &Monitor,
    ) -> Result<Again> {
        let sent =
            primary.sent(snapshot)?.into_iter().find(|sent| Some(&sent.manifest) == self.staged.as_ref());
        primary.hold(LONG, monitor)?.note_sent(snapshot, manifest.clone())?;
        self.staged = Some(manifest);
        Ok(sent.map_or_else(Again::default, |sent| Again {
            from: sent.manifest,
            unlike: sent.unlike.union(&self.restless).copied().collect(),
        }))
    }

    /// After a pass that has left files out: takes the snapshot again.
    pub(super) fn go_on(
        &mut self,
        primary: &mut Primary,
        snapshot: &mut SnapshotInfo,
        base: Option<&SnapshotInfo>,
        LeftOut { paths, directories }: LeftOut,
        monitor: &Monitor,
    ) -> Result<()> {
        self.done += 1;
        let show = primary.path().display();
        if !self.is_own(primary, snapshot) {
            let (name, names) = (&snapshot.name, first_of(paths.values()));
            return Err(Error::refused(
                format!("{show} keeps no history, and has changed since snapshot {name}: {names}"),
                "sync without --snap: a new snapshot has what is there now",
            ));
        }
        if self.done == MOST {
            return Err(Error::failed(
                format!(
                    "{} in {show} were cut, or moved about, whenever they were read",
                    first_of(paths.values())
                ),
                "run this again when that has ended, or leave them out with --exclude",
            ));
        }
        monitor.check()?;
        let restless: BTreeSet<u64> = paths.keys().copied().collect();
        let is_stuck = self.restless == restless;
        self.restless = restless;
        let primary = primary.hold(LONG, monitor)?;
        if self.moved.is_some() {
            self.elusive.files.extend(&self.restless);
            self.elusive.directories.extend(directories);
        }
        let is_retaken = self.done < PATIENT
            && match primary.retake(snapshot, &self.elusive, monitor) {
                Err(error) if error.is_full() && self.moved.is_some() => false,
                other => other.map(|()| true)?,
            };
        if !is_retaken {
            self.kept.extend(paths.into_values());
            primary.keep_files(snapshot, &self.restless, base, monitor)?;
        }
        if self.moved.is_some() || self.done >= STEADY || is_stuck {
            primary.read_as_it_is(snapshot, self.moved.get_or_insert_default().clone());
        }
        Ok(())
    }

    /// After a pass in which the data of some files could not be read: the snapshot has them as `base`.
    pub(super) fn pass_over(
        &mut self,
        primary: &mut Primary,
        snapshot: &mut SnapshotInfo,
        base: Option<&SnapshotInfo>,
        unread: BTreeMap<u64, String>,
        monitor: &Monitor,
    ) -> Result<()> {
        let show = primary.path().display().to_string();
        if !self.is_own(primary, snapshot) || unread.keys().all(|ino| self.unread.contains(ino)) {
            let whys: Vec<&str> = unread.values().map(String::as_str).collect();
            return Err(Error::failed(
                format!(
                    "snapshot {} of {show} holds what cannot be read: {}",
                    snapshot.name,
                    whys.join("; ")
                ),
                "--keep-going cannot leave it out of this snapshot: make it readable, or leave it out with \
                 --exclude",
            ));
        }
        let primary = primary.hold(LONG, monitor)?;
        let files: BTreeSet<u64> = unread.keys().copied().collect();
        self.unread.extend(&files);
        let paths = named(&*primary.open_snapshot(snapshot, monitor)?, &files)?;
        primary.pass_over(snapshot, &files, base, monitor)?;
        for (ino, why) in unread {
            monitor.list_skipped(paths.get(&ino).cloned().unwrap_or_default(), why);
        }
        Ok(())
    }

    /// Names what was not read as of one moment, or not at all.
    pub(super) fn tell(&self, side: &dyn Side, monitor: &Monitor) -> Result<()> {
        let moved = self.moved.as_ref().map(|moved| locked(moved).clone()).unwrap_or_default();
        let moved: BTreeSet<String> = named(side, &moved)?.into_values().collect();
        each_named(&moved, monitor, |names| {
            format!(
                "changed each time it was read, so that the standby has it as it was read, and not as of \
                 one moment: {names}"
            )
        });
        each_named(&self.kept, monitor, |names| {
            format!(
                "was cut, or moved about, each time it was read, so that the standby has it as before, or \
                 not at all if it is new: {names}"
            )
        });
        Ok(())
    }
}

/// Names every one of them: of all others it is said that they are as of one moment.
fn each_named(names: &BTreeSet<String>, monitor: &Monitor, note: impl Fn(String) -> String) {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.chunks(A_NOTE).for_each(|names| monitor.note(note(names.join(", "))));
}

/// The paths of some files.
fn named(side: &dyn Side, inos: &BTreeSet<u64>) -> Result<BTreeMap<u64, String>> {
    let found = side.pick(inos)?;
    found.iter().map(|inode| Ok((inode.ino, side.path(inode)?.display().into_owned()))).collect()
}

/// As many names as a message holds.
fn first_of<'a>(mut names: impl Iterator<Item = &'a String>) -> String {
    let first: Vec<&str> = names.by_ref().take(NAMED).map(String::as_str).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
