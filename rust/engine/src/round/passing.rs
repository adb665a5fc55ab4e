//! A round whose primary is a standby itself: it passes on what it gets.

use crate::options::Options;
use snapsync_model::{Error, Result};
use snapsync_snapshot::Volume;

/// A standby that feeds others takes no snapshots: it passes on the newest that it has.
pub(super) fn passing_on(standby: &Volume, options: &Options) -> Result<Options> {
    let show = standby.path().display();
    let asks = options.name.is_some() || options.history.is_some() || options.everything;
    if asks || !options.exclude.is_empty() || !options.include.is_empty() {
        return Err(Error::usage(
            format!("{show} is a standby, and passes on the snapshots of its primary as they are"),
            "leave out --name, --history and the patterns, or give them where the primary is",
        ));
    }
    let newest = standby.line()?.pop().ok_or_else(|| {
        Error::refused(
            format!("{show} is a standby that has no snapshot yet"),
            "sync its primary to it first",
        )
    })?;
    Ok(Options { snap: options.snap.clone().or(Some(newest.id.to_string())), ..options.clone() })
}
