//! The claims of a manifest, and the memory for remembering them.

use snapsync_manifest::ManifestReader;
use snapsync_model::{Change, Error, Monitor, Result};
use snapsync_sys::Named;

/// The memory for paths and ranges of any manifest, and for each of its bytes: repetitive text is hardly ever
/// compressed more than ten times.
pub(super) const MEMORY: u64 = 256 << 20;
pub(super) const MEMORY_FOR_BYTE: u64 = 64;
/// The overhead of a map's entry.
const ENTRY: u64 = 64;
/// The number of names that are compared at a time.
pub(super) const NAMES: u64 = 2 << 20;

pub(crate) type Attempt<T = ()> = std::result::Result<T, &'static str>;

pub(super) fn lie(what: &str, why: &str) -> Error {
    Error::integrity(
        format!("the manifest makes no sense for {what}: {why}"),
        "it is damaged or hostile, and nothing was changed: make the delta again from its snapshots",
    )
}

pub(super) fn of_row(change: &Change, attempt: Attempt) -> Result<()> {
    attempt.map_err(|why| lie(&format!("{:?}", change.display_path()), why))
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
            of_row(&change, act(&change))?;
        }
        Ok(())
    }
}

/// Counts down the memory that is left.
pub(super) struct Memory(pub(super) u64);

impl Memory {
    pub(super) fn take(&mut self, bytes: usize) -> Attempt {
        let bytes = ENTRY + bytes as u64;
        self.0 =
            self.0.checked_sub(bytes).ok_or("its directories and names are longer than any manifest's")?;
        Ok(())
    }
}
