//! What a log keeps: by rules, by hand, and for its standbys.

use crate::keep::Keep;
use crate::location::logs;
use crate::log::checkpoint::with_checkpoint;
use crate::report::snapshots::{Deleted, HeldSnapshot, Kept, Pruned, Released};
use snapsync_log::{Appended, Commit, Deed, Log, LogAddress, LogHistory, LogReader, Unneeded};
use snapsync_model::{Error, Monitor, Result, Role, SnapshotInfo, count, size};
use snapsync_snapshot::find_among;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// How often it is tried again where others append to the log meanwhile.
const TRIES: usize = 10;

/// Appends what `decide` makes of the newest state of a log: the commit that it is to continue, and a deed.
/// None if there is nothing to append.
fn append<T>(
    log: &Log,
    mut decide: impl FnMut(&Commit, &LogHistory) -> Result<(Option<(Commit, Deed)>, T)>,
) -> Result<(Commit, T)> {
    for _ in 0..TRIES {
        let (head, digest) = log.head()?.ok_or_else(|| empty(log))?;
        let (deed, made) = decide(&head, &log.history(&head)?)?;
        let Some((head, deed)) = deed else { return Ok((head, made)) };
        let own = head.next(digest, deed);
        if let Appended::Done { .. } = log.append(&own)? {
            return Ok((own, made));
        }
    }
    Err(Error::failed(format!("others write to {} again and again", log.address()), "run it again later"))
}

fn empty(log: &Log) -> Error {
    Error::usage(format!("{} has no snapshot", log.address()), "sync its primary to it first")
}

/// Lets go what no rule keeps, and nobody holds or needs, or only tells what that is.
pub(crate) fn prune(address: &LogAddress, keep: &Keep, dry_run: bool, monitor: &Monitor) -> Result<Pruned> {
    let log = Arc::new(logs::open(address)?);
    log.expect_open()?;
    let (head, (pruned, kept)) = let_go(&log, dry_run, monitor, &mut |history| Ok(plan(history, keep)))?;
    for stays in kept.iter().filter(|kept| !dry_run && !kept.by_rule) {
        monitor.note(format!("snapshot {} stays: {}", stays.snapshot.name, stays.why.join("; ")));
    }
    let volume = logs::info(&log, Some(&head), Role::Standby);
    Ok(Pruned { verb: "prune", volume, dry_run, pruned, kept, notes: monitor.take_notes() })
}

/// Lets go of one snapshot.
pub(crate) fn delete(address: &LogAddress, name: &str, monitor: &Monitor) -> Result<Deleted> {
    let log = Arc::new(logs::open(address)?);
    log.expect_open()?;
    let (head, deleted) = let_go(&log, false, monitor, &mut |history| {
        let found = find_among(history.infos(), name, &address.to_string())?;
        if let Some(reason) = history.holds.get(&found.id) {
            return Err(Error::refused(
                because(&format!("snapshot {} of {address} is held", found.name), reason),
                format!("`snapsync release {address}@{}` lets it go", found.name),
            ));
        }
        if history.snapshots.last().is_some_and(|(_, newest)| newest.id == found.id) {
            return Err(Error::refused(
                format!(
                    "snapshot {} is the newest of {address}, and the next one starts from it",
                    found.name
                ),
                "sync first, so that a newer one takes its place",
            ));
        }
        Ok((vec![found], Vec::new()))
    })
    .map(|(head, (pruned, _))| (head, pruned))?;
    let deleted = deleted.into_iter().next().ok_or_else(|| empty(&log))?;
    Ok(Deleted { verb: "delete", volume: logs::info(&log, Some(&head), Role::Standby), deleted })
}

type Plan = (Vec<SnapshotInfo>, Vec<Kept>);

fn let_go(
    log: &Arc<Log>,
    dry_run: bool,
    monitor: &Monitor,
    plan: &mut dyn FnMut(&LogHistory) -> Result<Plan>,
) -> Result<(Commit, Plan)> {
    let (head, (unneeded, plan)) = append(log, |head, history| {
        let (pruned, kept) = plan(history)?;
        let goes: BTreeSet<Uuid> = pruned.iter().map(|info| info.id).collect();
        let stay = history.snapshots.iter().filter(|(_, info)| !goes.contains(&info.id));
        let unneeded = log.unneeded((head, history), &stay.map(|(at, _)| *at).collect(), monitor)?;
        let has_some = !goes.is_empty() || !unneeded.is_empty();
        // The primary of an encrypted log may be unable to make checkpoints.
        let makes_one = log.is_encrypted() && head.since.is_due();
        if dry_run || !(has_some || makes_one) {
            return Ok((None, (unneeded, (pruned, kept))));
        }
        let head = head.clone();
        let head = if makes_one { with_checkpoint(log, head, None, monitor)? } else { head };
        let deed = Deed::Pruned { snapshots: goes.into_iter().collect() };
        Ok((Some((head, deed)), (unneeded, (pruned, kept))))
    })?;
    let told = |objects: &[&Unneeded]| {
        let bytes = size(objects.iter().map(|object| object.size).sum());
        format!("{bytes} in {}", count(objects.len() as u64, "object", "objects"))
    };
    if dry_run {
        monitor.note(format!("{} would go", told(&unneeded.iter().collect::<Vec<_>>())));
        return Ok((head, plan));
    }
    let (kept, why) = log.delete(&unneeded)?;
    let gone: Vec<_> = unneeded.iter().filter(|object| !kept.contains(object)).collect();
    monitor.note(format!("deleted {}", told(&gone)));
    if !kept.is_empty() {
        monitor.note(format!(
            "the store does not let go of {} ({why}): the next prune tries again, once they are not retained \
             any more, or the right to delete is there",
            told(&kept)
        ));
    }
    Ok((head, plan))
}

fn plan(history: &LogHistory, keep: &Keep) -> Plan {
    let snapshots = history.infos();
    let (mut pruned, mut kept) = (Vec::new(), Vec::new());
    for (snapshot, mut why) in snapshots.iter().cloned().zip(keep.reasons(&snapshots)) {
        let by_rule = !why.is_empty();
        why.extend(history.holds.get(&snapshot.id).map(|reason| because("it is held", reason)));
        if why.is_empty() { pruned.push(snapshot) } else { kept.push(Kept { snapshot, why, by_rule }) }
    }
    (pruned, kept)
}

fn because(held: &str, reason: &str) -> String {
    if reason.is_empty() { held.to_owned() } else { format!("{held}: {reason}") }
}

/// Keeps a snapshot from being deleted or pruned until it is released.
pub(crate) fn hold(address: &LogAddress, name: &str, reason: &str) -> Result<HeldSnapshot> {
    let log = logs::open(address)?;
    let (head, snapshot) = append(&log, |head, history| {
        let snapshot = find_among(history.infos(), name, &address.to_string())?;
        let held = Deed::Held { snapshot: snapshot.id, reason: reason.to_owned() };
        Ok((Some((head.clone(), held)), snapshot))
    })?;
    let volume = logs::info(&log, Some(&head), Role::Standby);
    Ok(HeldSnapshot { verb: "hold", volume, snapshot, reason: reason.to_owned() })
}

pub(crate) fn release(address: &LogAddress, name: &str) -> Result<Released> {
    let log = logs::open(address)?;
    let (head, (snapshot, reason)) = append(&log, |head, history| {
        let snapshot = find_among(history.infos(), name, &address.to_string())?;
        let reason = history.holds.get(&snapshot.id).cloned().ok_or_else(|| {
            Error::usage(
                format!("snapshot {} of {address} is not held by hand", snapshot.name),
                format!("`snapsync list {address}` shows what is held, and why"),
            )
        })?;
        let released = Deed::Released { snapshot: snapshot.id };
        Ok((Some((head.clone(), released)), (snapshot, reason)))
    })?;
    let volume = logs::info(&log, Some(&head), Role::Standby);
    Ok(Released { verb: "release", volume, snapshot: Some(snapshot), reason, standby: None })
}

/// Forgets a standby by its path or id: it needs nothing of the log any more. By its id also one of which
/// nothing else can be read.
pub(crate) fn forget_standby(address: &LogAddress, standby: &str) -> Result<Released> {
    let (log, head, history) = logs::read(address)?;
    let by_id = log.reader_ids()?.into_iter().find(|id| id.to_string() == standby);
    let is_meant = |reader: &LogReader| by_id.map_or(reader.path == standby, |id| reader.volume == id);
    let reader = match (log.readers(), by_id) {
        (Err(_), Some(id)) => {
            log.forget_reader(id)?;
            let volume = logs::info(&log, head.as_ref(), Role::Standby);
            let (snapshot, reason) = Default::default();
            return Ok(Released { verb: "release", volume, snapshot, reason, standby: Some(id.to_string()) });
        }
        (readers, _) => readers?.into_iter().find(is_meant),
    };
    let reader = reader.ok_or_else(|| {
        Error::usage(
            format!("{address} knows no standby {standby:?}"),
            format!("`snapsync status {address}` shows those it knows"),
        )
    })?;
    log.forget_reader(reader.volume)?;
    let snapshot = history.infos().into_iter().find(|info| info.id == reader.snapshot);
    let volume = logs::info(&log, head.as_ref(), Role::Standby);
    Ok(Released { verb: "release", volume, snapshot, reason: String::new(), standby: Some(reader.path) })
}
