//! Owners that are left as they come.

use snapsync_model::Monitor;
use snapsync_stream::wire::DeltaHead;
use std::path::Path;

/// Tells of them where other numbers may be meant than those of this machine.
pub(crate) fn tell_left(head: &DeltaHead, path: &Path, monitor: &Monitor) {
    if head.by_name {
        monitor.note(format!(
            "owners in {} have the numbers of the first primary, which may be other people's here: \
             docs/owners.md tells which are whose",
            path.display()
        ));
    }
}
