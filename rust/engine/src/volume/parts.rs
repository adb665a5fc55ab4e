//! The parts of a volume's tree that have a lineage of their own.

use crate::location::directory::part_of;
use crate::report::snapshots::PartInfo;
use snapsync_model::Result;
use snapsync_snapshot::Volume;
use std::ffi::OsStr;

/// What each part is. One that cannot be read says why, and does not hide the others.
pub(crate) fn parts(volume: &Volume) -> Result<Vec<PartInfo>> {
    let names = if volume.root().part().is_some() { Vec::new() } else { volume.parts()? };
    let look = |name: &str| -> Result<Option<PartInfo>> {
        let part = part_of(volume.root().whole()?, OsStr::new(name))?;
        let Some(part) = Volume::find_in(part)? else { return Ok(None) };
        let line = part.line()?;
        Ok(Some(PartInfo {
            name: name.to_owned(),
            snapshots: line.len() as u64,
            latest: line.last().cloned(),
            volume: Some(part.info()),
            problem: None,
        }))
    };
    let found = names.iter().filter_map(|name| {
        look(name).unwrap_or_else(|error| {
            let problem = Some(error.sentence());
            Some(PartInfo { name: name.clone(), snapshots: 0, latest: None, volume: None, problem })
        })
    });
    Ok(found.collect())
}
