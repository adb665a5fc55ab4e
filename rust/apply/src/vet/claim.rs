//! What a manifest says, and how much of it is remembered while it is looked at.

use snapsync_manifest::ManifestReader;
use snapsync_model::{Change, Error, Monitor, Result};
use snapsync_sys::Named;

/// What the paths and ranges that are kept in memory may take, whatever the manifest, and for each of its
/// bytes. Text that is like itself is packed ten times as small, hardly more.
pub(super) const MEMORY: u64 = 256 << 20;
pub(super) const MEMORY_FOR_BYTE: u64 = 64;
/// Of a map's entry.
const ENTRY: u64 = 64;
/// Names that are held against each other at a time.
pub(super) const NAMES: u64 = 2 << 20;

pub(crate) type Attempt<T = ()> = std::result::Result<T, &'static str>;

pub(super) fn lie(what: &str, why: &str) -> Error {
    Error::integrity(
        format!("the manifest makes no sense for {what}: {why}"),
        "it is damaged or hostile, and nothing was changed: make the delta again from its snapshots",
    )
}

pub(super) struct Rows<'a> {
    pub(super) manifest: &'a dyn Named,
    pub(super) monitor: &'a Monitor,
}

impl Rows<'_> {
    pub(super) fn each(&self, mut act: impl FnMut(&Change) -> Attempt) -> Result<()> {
        for change in ManifestReader::open(self.manifest)? {
            self.monitor.check()?;
            let change = change?;
            act(&change).map_err(|why| lie(&format!("{:?}", change.display_path()), why))?;
        }
        Ok(())
    }
}

/// Counts down what may be kept.
pub(super) struct Memory(pub(super) u64);

impl Memory {
    pub(super) fn take(&mut self, bytes: usize) -> Attempt {
        let bytes = ENTRY + bytes as u64;
        self.0 =
            self.0.checked_sub(bytes).ok_or("its directories and names are longer than any manifest's")?;
        Ok(())
    }
}
