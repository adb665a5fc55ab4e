//! What a target cannot hold: found by a rehearsal, and remembered in the store.

use serde::{Deserialize, Serialize};
use snapsync_model::{Context, Error, Rare, Result, Xattr};
use snapsync_sys::{COW_EXTENT_SIZE, EXTENT_SIZE, Spot};
use std::collections::BTreeSet;

const FILE: &str = "limits.json";

impl Limits {
    /// The remembered limits; none before the first round.
    pub fn remembered(store: &Spot) -> Result<Limits> {
        let file = store.join(FILE);
        let text = file.read_if_there().context("read", file.show())?;
        text.map_or_else(|| Ok(Limits::default()), |text| serde_json::from_slice(&text))
            .map_err(|e| damaged(&file, &e))
    }

    /// Adds these to the remembered limits.
    pub fn remember(&self, store: &Spot) -> Result<()> {
        let before = Limits::remembered(store)?;
        let all = self.clone().and(before.clone());
        if all == before {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&all).map_err(|e| damaged(store, &e))?;
        store.write_file(FILE, &text).context("write what cannot be held to", store.show())
    }

    /// The limits of both together.
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
        "delete that file: the limits of the volume are found again, and may be reported once as changes by \
         hand",
    )
}

/// Parts that a target may hold independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RarePart {
    Project,
    ExtentSize,
    CowExtentSize,
    OtherFlags,
}

impl RarePart {
    pub(crate) const ALL: [RarePart; 4] =
        [RarePart::Project, RarePart::ExtentSize, RarePart::CowExtentSize, RarePart::OtherFlags];

    pub(crate) fn name(self) -> &'static str {
        match self {
            RarePart::Project => "project",
            RarePart::ExtentSize => "extent size",
            RarePart::CowExtentSize => "extent size of copies of shared data",
            RarePart::OtherFlags => "XFS flags",
        }
    }

    /// `now`, with this part from `wanted`.
    pub(crate) fn of(self, wanted: Rare, now: Rare) -> Rare {
        let flags = |which: u32| (now.xflags & !which) | (wanted.xflags & which);
        match self {
            RarePart::Project => Rare { project: wanted.project, ..now },
            RarePart::ExtentSize => {
                Rare { xflags: flags(EXTENT_SIZE), extent_size: wanted.extent_size, ..now }
            }
            RarePart::CowExtentSize => {
                let cow_extent_size = wanted.cow_extent_size;
                Rare { xflags: flags(COW_EXTENT_SIZE), cow_extent_size, ..now }
            }
            RarePart::OtherFlags => Rare { xflags: flags(!(EXTENT_SIZE | COW_EXTENT_SIZE)), ..now },
        }
    }
}

/// The kinds of information that are left out on this target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Owners cannot be changed.
    pub owner: bool,
    /// Mode bits that it does not keep.
    #[serde(default)]
    pub mode: u32,
    /// Times outside its range, or with finer fractions, are changed.
    pub mtime: bool,
    /// It has no access lists, so modes are narrowed to what these allow.
    #[serde(default)]
    pub access_lists: bool,
    /// Projects and hints of which at least some values are not held.
    #[serde(default)]
    pub rare: BTreeSet<RarePart>,
    /// Inode flags that it does not know.
    pub flags: u32,
    /// Namespaces of extended attributes that it refuses, or single names if the system decides by name.
    pub xattrs: BTreeSet<String>,
    /// Extended attributes of some files are too large.
    pub large_xattrs: bool,
}

/// One kind of lost information, the number of files that lose it, and one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    pub what: String,
    pub count: u64,
    pub example: String,
    /// The capability that would keep it and that the process at the target lacks.
    #[serde(default)]
    pub right: Option<String>,
}

/// More bytes of extended attributes than this on one inode, with the overhead of each, may not fit
/// everywhere.
const LARGE: usize = 256;
const KEPT_BY: usize = 16;

/// Whether they may not fit.
pub(crate) fn are_large(xattrs: &[Xattr]) -> bool {
    xattrs.iter().map(|x| KEPT_BY + x.name.len() + x.value.len()).sum::<usize>() > LARGE
}

/// The class of names for which a file system or a privilege decides.
pub(crate) fn xattr_class(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match name.split_once('.') {
        // These are access lists on XFS.
        Some(("trusted", rest)) if rest.starts_with("SGI_ACL_") => name.into_owned(),
        Some((space @ ("user" | "trusted"), _)) => format!("{space}.*"),
        _ => name.into_owned(),
    }
}
