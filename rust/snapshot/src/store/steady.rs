//! What proves that a file of a tree that others write to still has the bytes of its row.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// A snapshot that this command has just taken of a light primary, and reads from its tree.
#[derive(Clone, Debug)]
pub(crate) struct TakenNow {
    pub(crate) snapshot: Uuid,
    pub(crate) steady: Steady,
}

/// What a file has to be to have the bytes of its row.
#[derive(Clone, Debug, Default)]
pub(crate) enum Steady {
    /// What it was when its row was made: the change time proves it.
    #[default]
    Settled,
    /// The same; or of the size and time of a row that was made of it while somebody had it open for writing,
    /// and as it was when it was first opened. The next snapshot reads such a file again.
    Fresh(Seen),
    /// The same file, and no shorter. What is not the same is noted.
    AsItIs(Arc<Mutex<BTreeSet<u64>>>, Seen),
}

/// The change times that files had when they were first opened.
pub(crate) type Seen = Arc<Mutex<HashMap<u64, i64>>>;
