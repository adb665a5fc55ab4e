//! The manifests of a line: what changed from each snapshot to the next, also where the snapshots are gone.

use crate::at_once::{REQUESTS, at_once};
use crate::commit::{Commit, LogHistory, Published};
use crate::fold::fold;
use crate::log::Log;
use jiff::{SignedDuration, Timestamp};
use snapsync_model::{Context, Error, Monitor, Result, SnapshotInfo};
use snapsync_sys::Named;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How long the manifests of a line are kept when its snapshots are gone: 400 days.
const KEPT: SignedDuration = SignedDuration::from_hours(400 * 24);

/// The manifest of a snapshot in a file.
pub struct PastStep {
    pub snapshot: SnapshotInfo,
    pub manifest: PathBuf,
}

impl Log {
    /// Brings the manifests that lead to `newest` to a directory, as many as there are: they follow each
    /// other, and the first creates everything if nothing is missing.
    pub fn past(
        &self,
        newest: &Commit,
        history: &LogHistory,
        dir: &Path,
        monitor: &Monitor,
    ) -> Result<Vec<PastStep>> {
        let line = self.line(newest.clone(), |_| false)?;
        let line: Vec<(u64, &Published)> =
            line.iter().filter_map(|commit| commit.published().map(|it| (commit.sequence, it))).collect();
        let file = |number: usize| dir.join(format!("{number}.arrow"));
        let bring = |number: usize| {
            monitor.check()?;
            self.download(&line[number].1.manifest, &file(number))
        };
        let mut there = 0;
        for (number, brought) in at_once(line.len(), REQUESTS, bring).into_iter().enumerate() {
            match brought {
                Err(Error::Integrity { .. }) => there = number + 1,
                other => other?,
            }
        }
        let step = |number: usize| PastStep {
            snapshot: line[number].1.delta.snapshot.clone(),
            manifest: file(number),
        };
        if there == 0 {
            return Ok((0..line.len()).map(step).collect());
        }
        // Before that manifests are gone: a checkpoint tells all that there was.
        let last_gone = line[there - 1].0;
        let Some(at) = history.checkpoints.iter().find(|at| at.sequence >= last_gone) else {
            return Ok((there..line.len()).map(step).collect());
        };
        let checkpoint = self.checkpoint(at)?;
        let first = line.iter().position(|(sequence, _)| *sequence > at.sequence).unwrap_or(line.len());
        let snapshot = checkpoint.published.delta.snapshot.clone();
        let whole = fold(self, std::slice::from_ref(&checkpoint.published), monitor)?;
        let begin = PastStep { snapshot, manifest: dir.join("whole.arrow") };
        std::fs::rename(whole.manifest(), &begin.manifest).context("name", &begin.manifest)?;
        Ok(std::iter::once(begin).chain((first..line.len()).map(step)).collect())
    }

    /// The manifests that are kept for those who ask what changed.
    pub(crate) fn kept_manifests(&self, head: &Commit) -> Result<BTreeSet<String>> {
        let is_kept = |published: &Published| {
            let taken = published.delta.snapshot.created.parse::<Timestamp>();
            taken.is_ok_and(|taken| Timestamp::now().duration_since(taken) < KEPT)
        };
        let line = self.line(head.clone(), |_| false)?;
        let kept = line.iter().filter_map(Commit::published).filter(|published| is_kept(published));
        Ok(kept.map(|published| published.manifest.key.clone()).collect())
    }
}

impl PastStep {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.manifest.open().and_then(|file| file.metadata()).map_or(0, |found| found.len())
    }
}
