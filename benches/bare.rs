//! The limit for a first round of small files: what the bare system calls take that read each file, create it
//! elsewhere and give it mode and time, one after the other. `bare SOURCE TARGET`.

use std::fs::{self, File, FileTimes};
use std::io::{self, Error, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(source), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err(Error::other("name a source and a target"));
    };
    copy(source.as_ref(), target.as_ref())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, from, to) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        if entry.file_name() == ".snapsync" {
            continue;
        }
        if kind.is_dir() {
            copy(&from, &to)?;
        } else {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&to)?;
            file.write_all(&fs::read(&from)?)?;
            attributes(&file, &from)?;
        }
    }
    attributes(&File::open(to)?, from)
}

fn attributes(file: &File, from: &Path) -> io::Result<()> {
    let wanted = fs::metadata(from)?;
    file.set_permissions(fs::Permissions::from_mode(wanted.permissions().mode() & 0o7777))?;
    file.set_times(FileTimes::new().set_modified(wanted.modified()?))
}
