//! Makes one manifest of several steps: all that there was after the last of them.

use crate::directories::{Node, STILL, TOP};
use crate::looks::SeenAs;
use crate::step::Step;
use crate::timeline::Timeline;
use snapsync_manifest::{ManifestHeader, ManifestWriter};
use snapsync_model::{
    Attributes, Change, ChangeFlags, Counts, Error, Kind, Link, Monitor, ROOT, RelPath, Result,
};
use snapsync_sys::Named;
use std::collections::BTreeMap;

/// Writes the manifest that creates what the steps have led to. Its inode numbers are its own, and it has no
/// extents.
pub fn fold(steps: &[Step], to: &dyn Named, monitor: &Monitor) -> Result<Counts> {
    let Some(last) = steps.last() else {
        return Err(Error::failed("there is nothing to fold", "report this"));
    };
    let timeline = Timeline::play(steps, |_| true, monitor)?;
    let header = ManifestHeader { base: String::new(), ..last.header.clone() };
    let mut writer = ManifestWriter::create(to, &header)?;
    let paths = timeline.paths_now()?;
    let root = timeline.directory_seen(TOP).map_or_else(Attributes::default, |seen| seen.attributes);
    let seen = SeenAs { kind: Kind::Directory, attributes: root };
    writer.write(&created(ROOT, seen, RelPath::root(), Vec::new(), None))?;
    for (node, path) in &paths {
        monitor.check()?;
        let Some((seen, stay)) = timeline.directory_seen(*node).zip(timeline.directories.stays(*node).last())
        else {
            continue;
        };
        let link = Link { parent: number(stay.parent), name: stay.name.clone() };
        writer.write(&created(number(*node), seen, path.clone(), vec![link], None))?;
    }
    let first = u64::from(timeline.directories.len());
    for (file, entries) in timeline.entries_now() {
        monitor.check()?;
        let mut links: Vec<Link> = Vec::new();
        let mut path = None;
        for entry in entries {
            let above = if entry.stay.parent == TOP { Some(&RelPath::default()) } else { None };
            let Some(above) = above.or_else(|| paths.get(&entry.stay.parent)) else { continue };
            path.get_or_insert(above.join(&entry.stay.name)?);
            links.push(Link { parent: number(entry.stay.parent), name: entry.stay.name.clone() });
        }
        links.sort_unstable();
        let Some(path) = path else { continue };
        let target = timeline.target_of(file);
        writer.write(&created(first + u64::from(file), timeline.file_seen(file), path, links, target))?;
    }
    writer.finish()
}

fn number(node: Node) -> u64 {
    if node == TOP { ROOT } else { u64::from(node) }
}

fn created(ino: u64, seen: SeenAs, path: RelPath, links: Vec<Link>, target: Option<Box<[u8]>>) -> Change {
    let is_link = seen.kind == Kind::Symlink;
    Change {
        ino,
        generation: 0,
        kind: seen.kind,
        flags: ChangeFlags { created: true, ..ChangeFlags::default() },
        path: Some(path),
        old_path: None,
        nlink: (links.len() as u32).max(1),
        nlink_old: 0,
        links_added: links,
        links_removed: Vec::new(),
        new: Some(seen.attributes),
        old: None,
        symlink_target: is_link.then(|| target.unwrap_or_default()),
        xattrs: None,
        extents: Vec::new(),
    }
}

impl Timeline {
    /// The directories that are there, but for the root.
    fn paths_now(&self) -> Result<BTreeMap<Node, RelPath>> {
        let mut found = BTreeMap::new();
        for node in TOP + 1..self.directories.len() {
            let lays = self.directories.lays(node, self.steps.saturating_sub(1), STILL)?;
            found.extend(lays.into_iter().next_back().map(|lay| (node, lay.path)));
        }
        Ok(found)
    }
}
