//! Checks an existing stage before anybody works on it.

use crate::journal::Journal;
use crate::layout::{INCOMING, MANIFEST};
use crate::stage::received::{ENTRY, FILE};
use snapsync_model::{Context, Result};
use snapsync_sys::{Root, Spot};
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// Whether the stage of a snapshot claims to have any data.
pub fn has_received(root: &Arc<Root>, snapshot: Uuid) -> bool {
    let log = Spot::top(root.clone()).join(format!("{INCOMING}/{snapshot}/{FILE}"));
    log.stat().is_ok_and(|log| log.attributes.size >= ENTRY as u64)
}

/// Whether the manifest in the stage still is the one in the journal; it is read only then.
pub fn is_intact(root: &Arc<Root>, journal: &Journal) -> Result<bool> {
    let own = journal.own.as_ref().map(|own| &own.digest);
    let Some(digest) = own.or(journal.manifest.as_ref()) else { return Ok(true) };
    let manifest = Spot::top(root.clone()).join(format!("{INCOMING}/{}/{MANIFEST}", journal.snapshot.id));
    let mut hasher = blake3::Hasher::new();
    match manifest.open().and_then(|mut file| io::copy(&mut file, &mut hasher)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        read => read.map(|_| hasher.finalize().to_hex().as_str() == digest).context("read", manifest.show()),
    }
}
