//! What has to be true of the commands of a round: hooks, and those that make the tree that is read.

use crate::options::Options;
use crate::process::{hooks, taking};
use snapsync_model::{Error, Result};
use snapsync_snapshot::Volume;

/// Checks that the commands are given together that belong together.
pub(super) fn fit(options: &Options) -> Result<()> {
    let (hooks, taking) = (&options.hooks, &options.taking);
    if options.snap.is_some() && !(hooks.is_empty() && taking.is_empty()) {
        return Err(Error::usage(
            "hooks and --take are for the moment of a snapshot, and --snap takes none",
            "leave out the commands, or --snap",
        ));
    }
    if taking.take.is_empty() && taking.taken_at.is_some() {
        return Err(Error::usage("--taken-at says where --take makes a tree", "give --take too, or neither"));
    }
    Ok(())
}

/// Checks that they can be run for this primary.
pub(super) fn can_run(primary: &Volume, options: &Options) -> Result<()> {
    taking::can_be_taken(primary, &options.taking)?;
    if options.taking.take.is_empty() { hooks::can_be_around(primary, &options.hooks) } else { Ok(()) }
}
