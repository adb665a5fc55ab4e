//! The snapshot of a round, and the room that it takes on the primary.

use crate::delta::room::Room;
use crate::options::Hooks;
use crate::process::hooks;
use crate::round::held::LONG;
use crate::round::passed_over;
use crate::round::primary::{Driver, bases};
use crate::round::steps::State;
use crate::volume::recovery::recover;
use crate::volume::retention;
use snapsync_model::{Result, SnapshotInfo};
use snapsync_snapshot::Request;
use std::cell::RefCell;

impl Driver<'_> {
    /// Takes it. Where a full disk has no room for that, old snapshots go first that would go afterwards.
    pub(super) fn snapshot(&mut self, state: &State, request: &Request) -> Result<SnapshotInfo> {
        // They were run around a tree that was taken.
        let none = Hooks::default();
        let (options, rights, monitor) = (self.options, self.rights, self.monitor);
        let hooks = if self.taken.is_some() { &none } else { &options.hooks };
        let primary = self.primary.hold(LONG, monitor)?;
        let around = hooks::around(primary, hooks, monitor)?;
        let (root, needed, primary) = (primary.root().clone(), bases(primary), RefCell::new(primary));
        let may_go = rights.prunes && !options.keep.is_empty() && !options.no_space_check;
        let mut free = || {
            let mut primary = primary.borrow_mut();
            if !may_go {
                return Ok(Vec::new());
            }
            // What the first attempt has left takes space too.
            recover(&mut primary, monitor)?;
            Ok(retention::apply(&mut primary, &options.keep, &needed, monitor)?.0)
        };
        let take = || rights.take(&mut primary.borrow_mut(), state, request.clone(), &around, monitor);
        let mut room = Room::made_by(&mut free, &root, monitor);
        let taken = room.take(|| monitor.passing_over(passed_over::may_be(options), take));
        self.pruned.append(&mut room.pruned);
        taken.map_err(|error| passed_over::refused_if_strict(options, error))
    }
}
