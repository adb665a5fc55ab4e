//! What a volume could not hold in earlier rounds, in its store: what was left out then is still not there, and that is no
//! change by hand.

use super::Limits;
use snapsync_model::{Context, Error, Result};
use snapsync_sys::Spot;

const FILE: &str = "limits.json";

impl Limits {
    /// None before the first round.
    pub fn remembered(store: &Spot) -> Result<Limits> {
        let file = store.join(FILE);
        let text = file.read_if_there().context("read", file.show())?;
        text.map_or_else(|| Ok(Limits::default()), |text| serde_json::from_slice(&text))
            .map_err(|e| damaged(&file, &e))
    }

    /// Adds these to what is remembered.
    pub fn remember(&self, store: &Spot) -> Result<()> {
        let before = Limits::remembered(store)?;
        let all = self.clone().and(before.clone());
        if all == before {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&all).map_err(|e| damaged(store, &e))?;
        store.write_file(FILE, &text).context("write what cannot be held to", store.show())
    }

    /// What either cannot hold.
    pub(crate) fn and(mut self, other: Limits) -> Limits {
        self.owner |= other.owner;
        self.mode |= other.mode;
        self.mtime |= other.mtime;
        self.access_lists |= other.access_lists;
        self.rare.extend(other.rare);
        self.flags |= other.flags;
        self.xattrs.extend(other.xattrs);
        self.large_xattrs |= other.large_xattrs;
        self
    }
}

fn damaged(file: &Spot, error: &serde_json::Error) -> Error {
    Error::integrity(
        format!("cannot understand {}: {error}", file.show().display()),
        "delete that file: what the volume cannot hold is found again, and may once be told as a change by hand",
    )
}
