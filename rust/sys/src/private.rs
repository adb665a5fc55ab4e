//! Files that are private to the user from the moment they are made, whatever the umask and their directory
//! say.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

pub fn create_private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

/// Fails if the name exists.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Runs `make` with umask 077. The umask belongs to the whole process, so a thread with a umask of its own
/// does it.
pub(crate) fn with_no_rights_for_others(make: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    let alone = || {
        // SAFETY: it takes a number. From here on this thread shares its umask with no other.
        if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        make()
    };
    let done = std::thread::scope(|scope| scope.spawn(alone).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_umask_opens_nothing_and_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mode = |name: &str| std::fs::metadata(at(name)).unwrap().mode() & 0o777;
        create_private_dir(&at("dir")).unwrap();
        create_private_file(&at("file")).unwrap();
        with_no_rights_for_others(|| std::fs::create_dir(at("any"))).unwrap();
        std::fs::create_dir(at("usual")).unwrap();
        assert_eq!([mode("dir"), mode("file"), mode("any")], [0o700, 0o600, 0o700]);
        assert_ne!(mode("usual"), 0o700);
        assert!(create_private_file(&at("file")).is_err());
    }
}
