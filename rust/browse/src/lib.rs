//! A snapshot as a read-only file system, mounted on a directory.
//!
//! One that is a subvolume is there already, and only gets a second place. Any other is served through FUSE, by this process
//! for as long as it is mounted.

mod filesystem;
mod index;

use filesystem::Served;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use index::Index;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use snapsync_model::{Context, Monitor, Result, Side};
use std::path::{Path, PathBuf};

/// What is mounted on a directory; it is unmounted when this goes.
pub struct Mount {
    path: PathBuf,
    session: Option<BackgroundSession>,
    is_left: bool,
}

impl Mount {
    /// Shows the directory `tree` at `path` as well. None without the privilege.
    pub fn bind(tree: &Path, path: &Path) -> Result<Option<Mount>> {
        match mount_bind(tree, path) {
            Err(rustix::io::Errno::PERM) => return Ok(None),
            other => other.context("mount a snapshot on", path)?,
        }
        let mount = Mount { path: path.to_path_buf(), session: None, is_left: false };
        let guarded = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        mount_remount(path, guarded, c"").context("mount read-only", path)?;
        Ok(Some(mount))
    }

    /// Serves `side` at `path`.
    pub fn serve(side: Box<dyn Side>, path: &Path, monitor: &Monitor) -> Result<Mount> {
        let index = Index::new(&*side, monitor)?;
        let session = fuser::spawn_mount(Served::new(side, index), path, &config())
            .context("mount a snapshot on", path)?;
        Ok(Mount { path: path.to_path_buf(), session: Some(session), is_left: false })
    }

    /// Whether it goes away with this process.
    pub fn is_served(&self) -> bool {
        self.session.is_some()
    }

    /// Whether somebody has unmounted what is served.
    pub fn has_ended(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.guard.is_finished())
    }

    /// Leaves it mounted when this goes; what is served ends with the process all the same.
    pub fn leave(&mut self) {
        self.is_left = true;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A session unmounts itself where this may not. Whoever still reads there may finish.
        if !self.is_left && !self.has_ended() {
            let _ = unmount(&self.path, UnmountFlags::DETACH);
        }
    }
}

fn config() -> Config {
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
    // The kernel judges by owner and mode; only root may let others in.
    config.acl = if rustix::process::geteuid().is_root() { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(std::thread::available_parallelism().map_or(1, |n| n.get().min(4)));
    config
}
