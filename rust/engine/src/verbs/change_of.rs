//! Reads one version of a file, to say what changed in it.

use crate::unified::What;
use snapsync_model::{Context, Kind, Monitor, Result};
use snapsync_snapshot::Found;

/// The largest file that is compared line by line: two are in memory, with what is known of each line.
pub(crate) const MOST: u64 = 16 << 20;

/// How much of a larger file is looked at to tell whether it is text.
const GLANCE: usize = 64 << 10;

const STEP: usize = 1 << 20;

/// What a version is in a patch. A file with a zero byte is not text.
pub(crate) fn read_side(found: &Found, monitor: &Monitor) -> Result<What> {
    match (found.kind, &found.target) {
        (Kind::File, _) => read_file(found, monitor),
        (Kind::Symlink, Some(target)) => Ok(What::Link(target.clone())),
        (Kind::Directory, _) => Ok(What::Other("a directory")),
        (Kind::Fifo, _) => Ok(What::Other("a fifo")),
        (Kind::Socket, _) => Ok(What::Other("a socket")),
        _ => Ok(What::Other("a device")),
    }
}

fn read_file(found: &Found, monitor: &Monitor) -> Result<What> {
    let size = found.attributes.size;
    let is_large = size > MOST;
    let file = found.open()?;
    let mut bytes = vec![0; if is_large { GLANCE } else { size as usize }];
    for (step, at) in bytes.chunks_mut(STEP).zip((0..).step_by(STEP)) {
        monitor.check()?;
        file.read_exact_at(step, at).context("read", found.content())?;
        if step.contains(&0) {
            return Ok(What::Binary);
        }
    }
    found.holds_still(&file)?;
    if is_large {
        return Ok(What::Large);
    }
    Ok(What::Text { executable: found.attributes.mode & 0o100 != 0, bytes })
}
