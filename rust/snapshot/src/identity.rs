//! Who a snapshot is that no store knows.

use snapsync_model::{Context, Identity, Origin, Result};
use snapsync_sys::{Root, btrfs};
use std::path::Path;
use uuid::Uuid;

/// None for what can change.
pub fn identity_of(path: &Path) -> Result<Option<Identity>> {
    let root = Root::open(path)?;
    if !btrfs::is_subvolume(root.fd()).context("read the subvolume of", path)? {
        return Ok(None);
    }
    let info = btrfs::subvolume(root.fd()).context("read the subvolume of", path)?;
    let uuid = Uuid::from_bytes(info.uuid);
    Ok(info.read_only.then_some(Identity { id: uuid, origin: Some(Origin { uuid, transid: info.changed }) }))
}
