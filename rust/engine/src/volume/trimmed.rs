//! How long a volume keeps its history: manifests that are too old, or too many bytes, become one that tells
//! what there was after them. History reaches back to the oldest snapshot that is there, however old it is:
//! nobody would find what that has.

use crate::volume::kept::{Link, chain, kept_files, make, open_named};
use jiff::Timestamp;
use snapsync_history::{Step, fold};
use snapsync_model::{Context, Monitor, Result};
use snapsync_snapshot::LockedVolume;
use snapsync_sys::fault;
use std::collections::BTreeSet;
use uuid::Uuid;

/// How long manifests are kept where nobody says so.
const DAYS: i64 = 400;
/// How many bytes of them are kept; what they take may be half as much again before it pays to fold them.
const MOST_BYTES: u64 = 1 << 30;
/// So many are folded, however small they are.
const MANY: usize = 64;

/// Folds what is older than so many days, once it pays.
pub(crate) fn trim(volume: &LockedVolume, days: Option<usize>, monitor: &Monitor) -> Result<()> {
    let days = days.and_then(|days| i64::try_from(days).ok()).unwrap_or(DAYS);
    if !is_due(volume, days)? {
        return Ok(());
    }
    let links = chain(volume, monitor)?;
    let step = |link| if let Link::Kept(step) = link { Some(step) } else { None };
    let steps: Vec<Step> = links.into_iter().map_while(step).collect();
    let there: BTreeSet<Uuid> = volume.line()?.iter().map(|snapshot| snapshot.id).collect();
    let oldest = steps.iter().position(|step| of(step).is_some_and(|id| there.contains(&id)));
    let going = going(&steps, oldest.unwrap_or(steps.len()), days);
    if let Some((last, before)) = going.split_last().filter(|(_, before)| pays(going) && !before.is_empty()) {
        make(volume, of(last).unwrap_or_default(), |part| fold(going, part, monitor).map(drop))?;
        fault::point("history.folded");
        return remove_folded(volume, last, &steps[before.len() + 1..]);
    }
    steps.split_first().map_or(Ok(()), |(first, others)| remove_folded(volume, first, others))
}

/// Removes the manifests that lead to what the first step tells: those that it was folded from, also if that
/// was cut short.
fn remove_folded(volume: &LockedVolume, first: &Step, others: &[Step]) -> Result<()> {
    let needed: BTreeSet<Option<Uuid>> = others.iter().map(of).collect();
    for (id, file) in kept_files(volume)?.into_iter().filter(|(id, _)| !needed.contains(&Some(*id))) {
        // What cannot be read is named whenever somebody asks.
        let Ok(step) = open_named(&file) else { continue };
        let leads_there = step.header.sequence <= first.header.sequence;
        if leads_there && (of(first) != Some(id) || !step.header.base.is_empty()) {
            file.remove_file().context("remove", file.show())?;
        }
    }
    Ok(())
}

/// Whether anything may have to be folded, without a look into the manifests: each was written when its
/// snapshot was new, or later.
fn is_due(volume: &LockedVolume, days: i64) -> Result<bool> {
    let then = Timestamp::now().as_nanosecond() - i128::from(days) * 24 * 3600 * 1_000_000_000;
    let (mut bytes, mut is_old) = (0, false);
    for (_, file) in kept_files(volume)? {
        let found = file.stat().context("read the attributes of", file.show())?.attributes;
        bytes = u64::saturating_add(bytes, found.size);
        is_old |= found.time() < then;
    }
    Ok(is_old || bytes > MOST_BYTES)
}

/// The first steps, as many as are too old, up to that of the oldest snapshot; or too many bytes.
fn going(steps: &[Step], oldest: usize, days: i64) -> &[Step] {
    let mut over = steps.iter().map(|step| step.bytes).sum::<u64>().saturating_sub(MOST_BYTES);
    let is_old = |step: &Step| {
        let taken = step.header.created.parse::<Timestamp>();
        taken.is_ok_and(|taken| Timestamp::now().duration_since(taken).as_hours() > days.saturating_mul(24))
    };
    let mut goes = |(at, step): &(usize, &Step)| {
        let goes = (*at <= oldest && is_old(step)) || over > 0;
        over = over.saturating_sub(step.bytes);
        goes
    };
    &steps[..steps.iter().enumerate().take_while(&mut goes).count()]
}

/// The first one is written anew each time, which tells all that there was.
fn pays(gone: &[Step]) -> bool {
    let bytes = |steps: &[Step]| steps.iter().map(|step| step.bytes).sum::<u64>();
    let (first, others) = gone.split_at(gone.len().min(1));
    others.len() >= MANY || bytes(others) >= bytes(first) / 2
}

fn of(step: &Step) -> Option<Uuid> {
    Uuid::parse_str(&step.header.target).ok()
}
