//! Mounts snapshots on a directory.

use crate::answers::Answers;
use crate::filesystem::Served;
use crate::point::{Attached, Point};
use crate::slots::Slots;
use crate::source::Snapshots;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, unmount,
};
use rustix::process::{getegid, geteuid};
use snapsync_model::{Context, Error, Monitor, Result};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often something is done that nobody asks for.
const TICK: Duration = Duration::from_secs(1);

/// How snapshots are served.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// All that there are, each as a directory; otherwise the only one.
    pub all: bool,
    /// Other users may look at what they may read.
    pub allow_other: bool,
}

/// A mount on a directory, which is unmounted when this is dropped.
pub struct Mount {
    place: Place,
    session: Option<BackgroundSession>,
    is_left: bool,
}

enum Place {
    /// Mounted by this process, on the directory that it has opened.
    Own(Attached),
    /// Mounted by fusermount, which takes a path and checks its owner.
    Helped(std::path::PathBuf),
}

impl Mount {
    /// Mounts the directory `tree` at `point` as well. None without the privilege.
    pub fn bind(tree: impl AsFd, point: &Point) -> Result<Option<Mount>> {
        let view = match snapsync_sys::read_only_view(tree) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::PERM) => return Ok(None),
            other => other.context("mount a snapshot on", point.path())?,
        };
        let attached = point.attach(&view).context("mount a snapshot on", point.path())?;
        Ok(Some(Mount { place: Place::Own(attached), session: None, is_left: false }))
    }

    /// Serves what `snapshots` has at `point`. The only one of them is read before, so that whoever mounts it
    /// hears of what is wrong; any other when somebody asks for it.
    pub fn serve(
        snapshots: Box<dyn Snapshots>,
        how: Serving,
        point: &Point,
        monitor: &Monitor,
    ) -> Result<Mount> {
        let slots = Arc::new(Slots::new(snapshots, u64::from(how.all))?);
        if let Some(only) = slots.get(0).filter(|_| !how.all) {
            slots.loaded(&only, monitor)?;
        }
        let (served, errands) = Served::new(Answers::new(slots.clone(), how.all));
        let others = how.allow_other;
        let path = point.path();
        let (session, place) = match made(others).context("mount a snapshot on", path)? {
            Some((device, mount)) => {
                let session = Session::from_fd(served, device, config(others).acl, config(others));
                let session = session.and_then(Session::spawn).context("mount a snapshot on", path)?;
                let attached = point.attach(&mount).context("mount a snapshot on", path)?;
                (session, Place::Own(attached))
            }
            None => {
                let session = fuser::spawn_mount(served, path, &config(others));
                let session = session.context("mount a snapshot on", path);
                (session.map_err(|e| for_others(others, e))?, Place::Helped(path.to_path_buf()))
            }
        };
        let notifier = session.notifier();
        let read = move || errands.run(&notifier);
        let read = std::thread::Builder::new().name("ahead".into()).spawn(read);
        read.and(tidy(Arc::downgrade(&slots))).context("mount a snapshot on", path)?;
        Ok(Mount { place, session: Some(session), is_left: false })
    }

    /// Whether the mount ends with this process.
    pub fn is_served(&self) -> bool {
        self.session.is_some()
    }

    /// Whether somebody has unmounted a served file system.
    pub fn has_ended(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.guard.is_finished())
    }

    /// Keeps the mount when this is dropped. A served file system still ends with the process.
    pub fn leave(&mut self) {
        self.is_left = true;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_left || self.has_ended() {
            return;
        }
        // If this process may not unmount, the session does. Readers may finish.
        let _ = match &self.place {
            Place::Own(attached) => attached.detach(),
            Place::Helped(path) => unmount(path, UnmountFlags::DETACH).map_err(io::Error::from),
        };
    }
}

/// Keeps them tidy for as long as they are served.
fn tidy(slots: Weak<Slots>) -> io::Result<()> {
    let keep = move || {
        while let Some(slots) = slots.upgrade() {
            slots.tidy();
            drop(slots);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("tidy".into()).spawn(keep).map(drop)
}

/// Only root decides whether ordinary users may let others in.
fn for_others(others: bool, error: Error) -> Error {
    let may = || {
        let said = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
        said.lines().any(|line| line.trim() == "user_allow_other")
    };
    if !others || geteuid().is_root() || may() {
        return error;
    }
    Error::refused(
        format!("{} for other users: /etc/fuse.conf does not allow it", error.sentence()),
        "ask root to write the line `user_allow_other` into it, or leave --allow-other out",
    )
}

/// A new FUSE mount that is not attached yet, and its device. None without the privilege.
fn made(others: bool) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let context = match fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::PERM) => return Ok(None),
        other => other?,
    };
    let device = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let number = device.as_raw_fd().to_string();
    let options = [("source", "snapsync"), ("subtype", "snapsync"), ("fd", &number), ("rootmode", "40000")];
    let (user, group) = (geteuid().as_raw().to_string(), getegid().as_raw().to_string());
    for (key, value) in options.into_iter().chain([("user_id", &*user), ("group_id", &*group)]) {
        fsconfig_set_string(&context, key, value)?;
    }
    // The kernel checks owner and mode.
    for flag in ["ro", "default_permissions"].into_iter().chain(others.then_some("allow_other")) {
        fsconfig_set_flag(&context, flag)?;
    }
    fsconfig_create(&context)?;
    let guarded = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    Ok(Some((device, fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, guarded)?)))
}

fn config(others: bool) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("snapsync".to_owned()),
        MountOption::Subtype("snapsync".to_owned()),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = if others { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(std::thread::available_parallelism().map_or(1, |n| n.get().min(4)));
    config
}
