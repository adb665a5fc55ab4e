//! Answers a client's question by the code of the verb itself, and sends what it reports.

use crate::location::beneath::Admission;
use crate::remote::gate::{Gate, forbidden};
use crate::remote::messages::Answer;
use crate::remote::question::Question;
use crate::remote::wire::Wire;
use snapsync_model::{Error, Monitor, Result};
use snapsync_stream::wire::lift;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// The approximate number of bytes in one message.
const BLOCK: usize = 1 << 20;
/// The most bytes of a report.
pub(super) const MOST: usize = 64 << 20;

/// A question, what its client may name, and how much it may be told.
pub(crate) struct Asked<'a> {
    pub(crate) admission: &'a Admission,
    pub(crate) place: &'a [u8],
    pub(crate) question: Question,
    /// Whether its client must not hear of other machines and other places than it may name.
    pub(crate) is_narrow: bool,
    /// Where the changes are written, if they are asked for.
    pub(crate) manifest: &'a Path,
}

/// The verbs, which lie above: they return a report in JSON.
pub(crate) type Verbs = fn(Asked<'_>, &Monitor) -> Result<String>;

/// Whether a client may ask this.
pub(super) fn admit(question: &Question, gate: &Gate) -> Result<()> {
    if gate.receive_only {
        return Err(forbidden("tells nothing of its volumes", "--receive-only"));
    }
    if question.deletes() && !gate.prunes() {
        return Err(Error::refused(
            "this server lets its clients delete no snapshots: it was started with restrictions",
            "run `snapsync prune` on that machine, or ask its administrator for --allow-prune; --dry-run \
             only tells",
        ));
    }
    Ok(())
}

/// Sends the changes, if there are any, and then the report.
pub(super) fn tell(wire: &mut Wire<'_>, report: &str, manifest: &Path) -> Result<()> {
    if report.len() > MOST {
        return Err(Error::refused(
            format!(
                "the answer has {}, more than is told at a time",
                snapsync_model::size(report.len() as u64)
            ),
            "ask for less, as with other patterns or --since",
        ));
    }
    if let Ok(mut file) = File::open(manifest) {
        let mut block = vec![0; BLOCK];
        loop {
            let count = file.read(&mut block).map_err(|e| lift(e, "read", manifest))?;
            if count == 0 {
                break;
            }
            tell_block(wire, &block[..count], |length| Answer::Records { length })?;
        }
    }
    for block in report.as_bytes().chunks(BLOCK) {
        tell_block(wire, block, |length| Answer::Report { length })?;
    }
    wire.tell(&Answer::Told)
}

fn tell_block(wire: &mut Wire<'_>, block: &[u8], announced: impl Fn(u32) -> Answer) -> Result<()> {
    wire.tell(&announced(block.len() as u32))?;
    let mut put = || wire.to.write_all(block).and_then(|()| wire.to.flush());
    put().map_err(|e| lift(e, "write to", &wire.peer))
}
