//! Volumes and snapshots as their stores describe them.

use crate::subset::Subset;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Btrfs,
    Pool,
}

impl Provider {
    pub fn name(self) -> &'static str {
        match self {
            Provider::Btrfs => "btrfs",
            Provider::Pool => "pool",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Primary,
    Standby,
}

/// What a primary without subvolumes keeps of its older snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum History {
    /// All that they hold.
    Full,
    /// Their tables: bytes that the tree has no more are on its standbys.
    Light,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    #[serde(serialize_with = "path_as_json")]
    pub path: PathBuf,
    pub id: Uuid,
    pub lineage: Uuid,
    pub epoch: u64,
    pub role: Role,
    pub provider: Provider,
    pub filesystem: String,
    /// The subset that the next snapshot holds.
    pub subset: Subset,
    /// Of a pool volume; None where nobody has chosen yet, which means all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
}

/// The standby's snapshot n has the id, name, sequence and parent of the primary's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    pub id: Uuid,
    pub name: String,
    pub sequence: u64,
    pub parent: Option<Uuid>,
    /// RFC 3339, UTC.
    pub created: String,
    pub provider: Provider,
    /// The number of inodes and the sum of the files' sizes, if they were counted.
    pub entries: Option<u64>,
    pub bytes: Option<u64>,
    /// The part of the volume that the snapshot holds. On Btrfs its directory holds the rest too.
    #[serde(default, skip_serializing_if = "Subset::is_everything")]
    pub subset: Subset,
    /// Whether it was kept aside when the volume went back to an older one: no later snapshot follows it, and
    /// no delta leads to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aside: bool,
}

/// Writes a path as a JSON string from which Python gets its bytes back: a byte that is not UTF-8 becomes the
/// lone surrogate U+DC80 to U+DCFF that `os.fsdecode` makes of it (PEP 383). Works with `serde_json` only.
pub fn path_as_json<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::from("\"");
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        let quoted = serde_json::to_string(chunk.valid()).map_err(serde::ser::Error::custom)?;
        text.push_str(&quoted[1..quoted.len() - 1]);
        text.extend(chunk.invalid().iter().map(|byte| format!("\\udc{byte:02x}")));
    }
    text.push('"');
    RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_path_in_json_keeps_every_byte() {
        let json = |bytes: &[u8]| {
            let mut text = Vec::new();
            path_as_json(Path::new(OsStr::from_bytes(bytes)), &mut serde_json::Serializer::new(&mut text))
                .unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(json("/a \"ü\"\n".as_bytes()), r#""/a \"ü\"\n""#);
        assert_eq!(json(b"/\xff\xfe/b"), r#""/\udcff\udcfe/b""#);
    }
}
