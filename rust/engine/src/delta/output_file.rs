//! A file that is written beside its final name and renamed when it is complete.

use rustix::fs::CWD;
use snapsync_model::{Context, Error, Kind, Result};
use snapsync_sys::{Stat, is_own, stat_at};
use std::path::{Path, PathBuf};

/// The file to be replaced or created; None for a device, a pipe or anything else that is only written to.
pub(crate) fn file_of(output: &Path) -> Result<Option<PathBuf>> {
    let leads_on = |stat: &Stat| matches!(stat.kind, Kind::Symlink | Kind::Fifo);
    let named = stat_at(CWD, output.as_os_str()).ok();
    if let Some(stat) = named.filter(|stat| leads_on(stat) && !is_own(stat)) {
        let (show, kind, uid) = (output.display(), stat.kind.name(), stat.attributes.uid);
        return Err(Error::refused(
            format!("{show} is a {kind} of user {uid}, who decides where the output goes"),
            "remove it, or name another file",
        ));
    }
    match output.metadata() {
        Ok(found) if found.is_file() => output.canonicalize().map(Some).context("find", output),
        Ok(_) => Ok(None),
        Err(_) if output.is_symlink() => {
            let what = format!("{} is a link to nothing", output.display());
            Err(Error::usage(what, "remove it, or name a file"))
        }
        // Problems with its directory show when it is created.
        Err(_) => Ok(Some(output.to_path_buf())),
    }
}

/// The path where a file is written before it gets its name.
pub(crate) fn temporary_beside(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    output.with_file_name(name)
}

pub(crate) fn keep(temporary: &Path, output: &Path) -> Result<()> {
    std::fs::rename(temporary, output).context("write", output)
}
