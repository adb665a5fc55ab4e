//! Snapshots by other means: a command makes a tree that stands still, a round reads that in place of the
//! volume's own, and another command takes it away, whatever happened.
//!
//! What is about to be made is written down before, so that the next round takes away what one that was
//! killed has left.

use crate::options::{Hooks, KnownBy, Options, Taking};
use crate::process::command::{Running, Words, filled};
use crate::process::hooks::{self, Record};
use serde::{Deserialize, Serialize};
use snapsync_model::{Context, Error, Monitor, Provider, Result};
use snapsync_snapshot::{Frozen, LockedVolume, Volume};
use snapsync_sys::{Lock, Root, Spot, fault, sync_filesystem};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// In the store from before a tree is made until it is taken away.
const RECORD: &str = "taken.json";
/// Locked by the round whose tree that is.
const LOCK: &str = "taken.lock";
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Serialize, Deserialize)]
struct Taken {
    id: Uuid,
    name: String,
    /// None until it is known.
    path: Option<PathBuf>,
}

/// A tree that was made, or is about to be.
pub(crate) struct TakenTree<'a> {
    taken: Taken,
    volume: PathBuf,
    store: Spot,
    taking: &'a Taking,
    release: Option<Words>,
}

/// Whether a tree may still be there.
pub(crate) fn is_left(volume: &Volume) -> bool {
    volume.store().join(RECORD).is_there()
}

/// Refuses it where a volume takes its own snapshots, or where its bytes could not be found again.
pub(crate) fn can_be_taken(volume: &Volume, taking: &Taking) -> Result<()> {
    let path = volume.path().display();
    if taking.take.is_empty() {
        return Ok(());
    }
    if volume.info().provider == Provider::Btrfs {
        return Err(Error::usage(
            format!("{path} is a Btrfs subvolume, and its snapshots are of one moment by themselves"),
            "leave out --take",
        ));
    }
    if volume.is_light() && taking.identity == KnownBy::Path {
        return Err(Error::refused(
            format!("{path} keeps no history, and its files are not known again by their paths alone"),
            format!(
                "`snapsync init {path} --history full` keeps a copy of what it holds; or --identity inode"
            ),
        ));
    }
    Ok(())
}

/// Waits until no other round reads a tree that it has made: what one of them takes away, or takes for the
/// newest, must not be the other's. None where there is no such tree, and none is to be made.
pub(crate) fn alone(volume: &Volume, taking: &Taking, monitor: &Monitor) -> Result<Option<Lock>> {
    if taking.take.is_empty() && !volume.store().join(RECORD).is_there() {
        return Ok(None);
    }
    let file = volume.store().join(LOCK);
    loop {
        if let Some(lock) = file.try_lock().context("lock", file.show())? {
            return Ok(Some(lock));
        }
        monitor.check()?;
        std::thread::sleep(PAUSE);
    }
}

/// Takes away what a round that was killed has left, and says so. It is `alone`, or another one may be under
/// way.
pub(crate) fn release_what_was_cut(
    volume: &Volume,
    taking: &Taking,
    alone: Option<&Lock>,
    monitor: &Monitor,
) -> Result<Option<String>> {
    let (file, lock) = (volume.store().join(RECORD), volume.store().join(LOCK));
    if !file.is_there() || (alone.is_none() && lock.try_lock().context("lock", lock.show())?.is_none()) {
        return Ok(None);
    }
    let Some(text) = file.read_if_there().context("read", file.show())? else { return Ok(None) };
    let Ok(taken) = serde_json::from_slice::<Taken>(&text) else {
        return Err(Error::integrity(
            format!("cannot read {}", file.show().display()),
            "see whether a snapshot named snapsync-… is left, remove it, and then this file",
        ));
    };
    let name = taken.name.clone();
    if taking.release.is_empty() {
        monitor.note(format!(
            "{name}, which a round made to read from it, may still be there: one with --release takes it away"
        ));
        return Ok(None);
    }
    TakenTree::of(taken, volume, taking)?.release()?;
    Ok(Some(format!("released {name}, which an interrupted round had left")))
}

/// Makes a tree that stands still, and lets the volume be read from there.
pub(crate) fn take<'a>(
    volume: &mut LockedVolume,
    options: &'a Options,
    monitor: &Monitor,
) -> Result<Option<TakenTree<'a>>> {
    let taking = &options.taking;
    let Some(command) = Words::find("take", &taking.take)? else { return Ok(None) };
    // What only the tree has of older snapshots is looked for in the tree itself.
    volume.keep_what_is_only_in_tree(monitor)?;
    let id = Uuid::new_v4();
    let name = format!("snapsync-{}", &id.simple().to_string()[..12]);
    let mut tree = TakenTree::of(Taken { id, name, path: None }, volume, taking)?;
    tree.taken.path = taking.taken_at.as_ref().map(|at| filled(at, &tree.places()).into());
    tree.write()?;
    fault::point("taking.recorded");
    match tree.make(&command, volume, &options.hooks, monitor) {
        Ok(frozen) => {
            volume.read_in_place(Some(frozen));
            fault::point("taking.taken");
            Ok(Some(tree))
        }
        Err(error) => {
            // What failed half-way may have left something; the error is the one to be told.
            if let Err(also) = tree.release() {
                monitor.note(also.sentence());
            }
            Err(error)
        }
    }
}

impl TakenTree<'_> {
    fn of<'a>(taken: Taken, volume: &Volume, taking: &'a Taking) -> Result<TakenTree<'a>> {
        let release = Words::find("release", &taking.release)?;
        Ok(TakenTree { taken, volume: volume.path().to_path_buf(), store: volume.store(), taking, release })
    }

    fn write(&self) -> Result<()> {
        let text =
            serde_json::to_vec(&self.taken).map_err(|e| Error::failed(format!("cannot write: {e}"), ""))?;
        self.store.write_file(RECORD, &text).context("write", self.store.join(RECORD).show())
    }

    fn make(&mut self, command: &Words, volume: &Volume, hooks: &Hooks, monitor: &Monitor) -> Result<Frozen> {
        // What is written out now does not have to be written while everything stands still.
        sync_filesystem(volume.root().fd()).context("sync the file system of", volume.path())?;
        let scratch = snapsync_sys::scratch()?;
        let said = scratch.path().join("said");
        let record = Record { snapshot: self.taken.id, name: self.taken.name.clone() };
        hooks::around(volume, hooks, monitor)?.taking(&record, || {
            let output = match self.taken.path {
                Some(_) => None,
                None => Some(File::create(&said).context("create", &said)?),
            };
            command.run(Running { output, ..self.how("no snapshot was taken", monitor) })
        })?;
        fault::point("taking.made");
        if self.taken.path.is_none() {
            self.taken.path = Some(path_in(&said)?);
            self.write()?;
        }
        let path = self.taken.path.as_deref().unwrap_or(Path::new(""));
        if !path.is_absolute() {
            return Err(Error::usage(
                format!("the tree that `take` makes is said to be at {:?}, which is no whole path", path),
                "name it with --taken-at PATH, or let the command print it as its last line",
            ));
        }
        let root = Root::open(path).map_err(|error| not_there(path, &error))?;
        let by_path = self.taking.identity == KnownBy::Path;
        Frozen::of(root, volume.root(), by_path, self.taken.id)
    }

    /// Takes it away, also when the run was stopped.
    pub(crate) fn release(&self) -> Result<()> {
        if let Some(command) = &self.release {
            fault::point("taking.releasing");
            command.run(self.how("the next round tries to release it again", &Monitor::default()))?;
        }
        let file = self.store.join(RECORD);
        file.remove_file().context("remove", file.show())
    }

    fn places(&self) -> Vec<(&'static str, String)> {
        let mut places = vec![("name", self.taken.name.clone()), ("id", self.taken.id.to_string())];
        places.extend(self.taken.path.as_ref().map(|path| ("path", path.to_string_lossy().into_owned())));
        places
    }

    fn how<'a>(&self, then: &'static str, monitor: &'a Monitor) -> Running<'a> {
        let mut environment = vec![
            ("SNAPSYNC_VOLUME", self.volume.to_string_lossy().into_owned()),
            ("SNAPSYNC_TAKEN_NAME", self.taken.name.clone()),
            ("SNAPSYNC_TAKEN_ID", self.taken.id.to_string()),
        ];
        environment.extend(
            self.taken.path.as_ref().map(|path| ("SNAPSYNC_TAKEN_PATH", path.to_string_lossy().into_owned())),
        );
        Running {
            environment,
            places: self.places(),
            patience: self.taking.patience,
            option: "--take-timeout",
            then,
            output: None,
            monitor,
        }
    }
}

/// The last line that is not empty.
fn path_in(said: &Path) -> Result<PathBuf> {
    let text = std::fs::read(said).context("read", said)?;
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map(PathBuf::from).ok_or_else(|| {
        Error::usage(
            "`take` has printed no path of the tree that it made",
            "name it with --taken-at PATH, or let the command print it as its last line",
        )
    })
}

fn not_there(path: &Path, error: &Error) -> Error {
    Error::refused(
        format!("`take` ended well, and there is no tree at {}: {}", path.display(), error.sentence()),
        "see what the command makes, and say where that is with --taken-at PATH",
    )
}
