//! Serves clients over ssh, and answers what they ask of the verbs.

use crate::delta::selected::Select;
use crate::keep::Keep;
use crate::location::beneath::Admission;
use crate::location::place::Place;
use crate::log::window::Window;
use crate::remote::answered::Asked;
use crate::remote::gate::Gate;
use crate::remote::question::Question;
use crate::remote::server;
use crate::report::snapshots::{Hold, Named};
use crate::verbs::diff::diff_of;
use crate::verbs::find::find_at;
use crate::verbs::list::list_in;
use crate::verbs::prune::prune_in;
use crate::verbs::status::status_in;
use crate::verbs::versions::versions_in;
use serde::Serialize;
use snapsync_model::{Error, Monitor, RelPath, Result};
use snapsync_snapshot::Volume;
use snapsync_walk::Matcher;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Serves one client until it is done or gone, and returns the exit code.
pub fn serve(gate: &Gate, monitor: &Monitor) -> Result<i32> {
    server::serve(gate, answer, monitor)
}

/// The report on what a client asked, in JSON.
pub(crate) fn answer(asked: Asked<'_>, monitor: &Monitor) -> Result<String> {
    let Asked { admission, place, question, is_narrow, manifest } = asked;
    let volume = || admission.directory(place).and_then(Volume::open_in);
    match question {
        Question::Status { history } => {
            let mut report = status_in(&volume()?, history)?;
            if is_narrow {
                report.standbys.clear();
                report.replaced = None;
                by_hand(&mut report.holds);
            }
            json(&report)
        }
        Question::List { alone } => {
            let mut report = list_in(&volume()?, alone)?;
            if is_narrow {
                report.clones.clear();
                by_hand(&mut report.holds);
            }
            json(&report)
        }
        Question::Find { select, deleted, since, until } => {
            json(&find(admission, place, (&select, deleted), (since, until), monitor)?)
        }
        Question::Versions { part, diff } => {
            let (volume, path) = file(admission, place)?;
            if is_narrow && is_left_out(&volume, &path)? {
                return Err(in_no_volume(path_of(place)));
            }
            json(&versions_in(volume, &path, part.as_deref(), diff.as_deref(), monitor)?)
        }
        Question::Diff { target, manifest: wants_it } => {
            let (old, new) = (admission.place(place)?, admission.place(&target)?);
            let (base, target) = (path_of(place), path_of(&target));
            json(&diff_of((&old, base), (&new, target), wants_it.then_some(manifest), monitor)?)
        }
        Question::Prune { keep, dry_run } => prune(&volume()?, keep, dry_run, is_narrow, monitor),
        Question::Snapshot => match admission.place(place)? {
            Place::Snapshot(named) => json(&Named { volume: named.0.info(), snapshot: named.1 }),
            _ => Err(Error::usage(
                format!("{} is a directory, not a snapshot", path_of(place).display()),
                "write VOLUME@SNAP; `snapsync list` shows the snapshots",
            )),
        },
    }
}

fn find(
    admission: &Admission,
    place: &[u8],
    (select, deleted): (&Select, bool),
    (since, until): (Option<String>, Option<String>),
    monitor: &Monitor,
) -> Result<crate::report::history::Sought> {
    let window = Window::parse(since.as_deref(), until.as_deref())?;
    find_at(&admission.directory(place)?, &select.selection()?, deleted, &window, monitor)
}

fn prune(
    volume: &Volume,
    keep: std::collections::BTreeMap<String, i64>,
    dry_run: bool,
    is_narrow: bool,
    monitor: &Monitor,
) -> Result<String> {
    let mut report = prune_in(volume, &Keep::by_name(keep)?, dry_run, monitor)?;
    if is_narrow {
        report.kept.iter_mut().for_each(|kept| kept.why.retain(|why| !names_standby(why)));
        report.notes.retain(|note| !note.contains("base of the standby "));
    }
    json(&report)
}

/// The volume of a present or past file that a client names, and its path there. What leads to the volume is
/// admitted as any other place; nothing of the rest is a link or a way out.
fn file(admission: &Admission, place: &[u8]) -> Result<(Volume, RelPath)> {
    let file = path_of(place);
    for above in file.ancestors().skip(1) {
        let named = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let Ok(root) = admission.directory(named.as_os_str().as_bytes()) else { continue };
        let Some(volume) = Volume::find_in(root)? else { continue };
        let rest = file.strip_prefix(above).unwrap_or(file);
        let mut path = RelPath::root();
        for part in rest.components() {
            match part {
                Component::CurDir => {}
                Component::Normal(name) if name != snapsync_walk::STORE => {
                    path = path.join(name.as_bytes())?;
                }
                _ => return Err(in_no_volume(file)),
            }
        }
        if !path.is_root() {
            return Ok((volume, path));
        }
    }
    Err(in_no_volume(file))
}

/// Whether patterns leave a path out, now or in any snapshot: what is not replicated is nobody's who may only
/// read what is.
fn is_left_out(volume: &Volume, path: &RelPath) -> Result<bool> {
    let snapshots = volume.snapshots()?;
    let mut subsets = snapshots.iter().map(|snapshot| &snapshot.subset).chain([volume.subset()]);
    subsets.try_fold(false, |is_out, subset| {
        Ok(is_out || Matcher::new(subset)?.left_out_on(path, false)?.is_some())
    })
}

fn in_no_volume(file: &Path) -> Error {
    Error::usage(
        format!("{} is in no volume that this server may tell of", file.display()),
        "name a file beneath a directory that has snapshots",
    )
}

/// Not everybody who may read a volume may know its standbys.
fn by_hand(holds: &mut Vec<Hold>) {
    holds.retain(|hold| hold.standby.is_none());
}

fn names_standby(why: &str) -> bool {
    why.starts_with("base of the standby ")
}

fn path_of(place: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(place))
}

fn json(report: &impl Serialize) -> Result<String> {
    serde_json::to_string(report).map_err(|e| Error::failed(format!("cannot tell the answer: {e}"), ""))
}
