//! Numbers for the packs of a log, by which the addresses of bytes name them.

use crate::commit::StoredObject;
use snapsync_model::locked;
use std::collections::HashMap;
use std::sync::Mutex;

/// Gives each pack a number.
#[derive(Default)]
pub(crate) struct PackNumbers(Mutex<HashMap<String, u64>>);

impl PackNumbers {
    pub(crate) fn of(&self, pack: &StoredObject) -> u64 {
        let mut numbers = locked(&self.0);
        let next = numbers.len() as u64 + 1;
        *numbers.entry(pack.key.clone()).or_insert(next)
    }
}
