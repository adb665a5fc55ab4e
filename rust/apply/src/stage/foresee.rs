//! What staging and commit of a manifest would meet, found without a trace.

use crate::check::drift::Check;
use crate::check::rehearsal::trial::Rehearsal;
use crate::check::space::Need;
use crate::limits::{Limits, Loss};
use crate::names::Places;
use crate::vet::manifest::vet;
use snapsync_manifest::ManifestReader;
use snapsync_model::{Context, Monitor, Result};
use snapsync_sys::{Named, Root, Spot, supports_reflinks};
use std::os::fd::OwnedFd;

/// The place that a manifest would be applied to.
#[derive(Clone, Default)]
pub struct Ground {
    /// The store of the standby that is there; none yet if all comes anew.
    pub store: Option<Spot>,
    /// Whether its tree will be its base again first, so that it need not be that now.
    pub is_rewound: bool,
    pub copies: bool,
    pub displaces: bool,
    pub unlisted: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Foreseen {
    pub losses: Vec<Loss>,
    /// Whether what the target holds could be tried.
    pub is_tried: bool,
    need: Need,
}

impl Foreseen {
    pub fn bytes(&self) -> u64 {
        self.need.bytes
    }

    pub fn inodes(&self) -> u64 {
        self.need.inodes
    }

    /// Refuses as staging would if there is not enough space.
    pub fn has_room(&self, root: &Root, monitor: &Monitor) -> Result<()> {
        self.need.check(root, 0, true, monitor)
    }
}

/// Refuses what the target cannot hold at all, and what is not the base of `manifest`; returns what it would
/// go without. `root` is that of the standby, or a directory of its file system if there is none yet.
pub fn foresee(root: &Root, manifest: &dyn Named, ground: &Ground, monitor: &Monitor) -> Result<Foreseen> {
    let places = vet(manifest, monitor)?;
    let root = &root.again()?.knowing_ways();
    let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", root.path())?;
    let need = Need {
        copies: ground.copies,
        saves: !supports_reflinks(root.fd()),
        displaces: ground.displaces,
        by_range: true,
        block: filesystem.block_size,
        ..Need::default()
    };
    let Some(mut rehearsal) = Rehearsal::unseen(root, directory(root, ground)?)? else {
        return Ok(Foreseen { need: all_anew(need, manifest, monitor)?, ..Foreseen::default() });
    };
    for change in ManifestReader::open(manifest)? {
        monitor.check()?;
        rehearsal.row(&change?)?;
    }
    let need = match &ground.store {
        Some(store) if !ground.is_rewound => {
            check(root, &places, manifest, (store, ground.unlisted), &mut rehearsal, need)?
        }
        _ => {
            for change in ManifestReader::open(manifest)? {
                rehearsal.count_names(&change?, None);
            }
            rehearsal.links()?;
            all_anew(need, manifest, monitor)?
        }
    };
    let (_, losses) = rehearsal.finish();
    Ok(Foreseen { losses, is_tried: true, need })
}

/// Where files without a name are made: nothing is inherited in the store.
fn directory(root: &Root, ground: &Ground) -> Result<OwnedFd> {
    match &ground.store {
        Some(store) => store.directory().context("open", store.show()),
        None => root.fd().try_clone_to_owned().context("open", root.path()),
    }
}

fn check<'a>(
    root: &'a Root,
    places: &'a Places,
    manifest: &dyn Named,
    (store, unlisted): (&Spot, bool),
    rehearsal: &mut Rehearsal<'a>,
    need: Need,
) -> Result<Need> {
    let lost = rehearsal.limits().clone().and(Limits::remembered(store)?);
    let mut check = Check::new(root, places, lost, !unlisted, (rehearsal, need))?;
    check.tree(manifest, None, false)?;
    Ok(check.need)
}

fn all_anew(mut need: Need, manifest: &dyn Named, monitor: &Monitor) -> Result<Need> {
    for change in ManifestReader::open(manifest)? {
        monitor.check()?;
        need.add(&change?, None);
    }
    Ok(need)
}
