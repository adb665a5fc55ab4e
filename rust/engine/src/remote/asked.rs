//! Asks the snapsync on another machine about a volume there.

use crate::delta::incoming::nonsense;
use crate::delta::output_file::{file_of, keep, temporary_beside};
use crate::location::text::{Address, Location};
use crate::options::SshOptions;
use crate::remote::answered::MOST;
use crate::remote::messages::{Answer, LONGEST, Request};
use crate::remote::question::{QUESTION, Question};
use crate::remote::screen::screened_report;
use crate::remote::ssh::Peer;
use crate::remote::wire::{Wire, out_of_turn};
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_stream::wire::fill;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The report of a verb about `place`, which is on another machine, in JSON. Nobody has proven that it is one
/// of that verb. The changes that come along are written to `output`.
pub fn ask(
    place: &Path,
    question: Question,
    output: Option<&Path>,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<String> {
    let address = Location::parse(place)?.there().ok_or_else(|| {
        Error::usage(format!("{} is on this machine", place.display()), "ask for it without --rsh")
    })?;
    let output = output.map(named).transpose()?;
    ask_at(&address, question, output.as_deref(), ssh, monitor)
}

fn named(output: &Path) -> Result<PathBuf> {
    file_of(output)?.ok_or_else(|| {
        let what = format!("{} is no file", output.display());
        Error::usage(what, "a manifest is written in more than one place: name a file")
    })
}

pub(super) fn ask_at(
    address: &Address,
    question: Question,
    output: Option<&Path>,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<String> {
    let verb = question.verb();
    let mut peer = Peer::start(address, ssh, monitor)?;
    peer.expect(QUESTION, &format!("answer `snapsync {verb}` for another machine"))?;
    let temporary = output.map(temporary_beside);
    let told =
        over(&mut peer.wire, &address.path, question, temporary.as_deref()).map_err(|error| match error {
            Error::Cut { .. } => Error::Cut {
                what: format!("{} was gone before it had answered", address.host),
                advice: "run the same command again".to_owned(),
            },
            other => other,
        });
    let whole = told.and_then(|text| match (&temporary, output) {
        (Some(temporary), Some(output)) => {
            snapsync_manifest::vet(&**temporary)?;
            keep(temporary, output).map(|()| text)
        }
        _ => Ok(text),
    });
    if whole.is_err() {
        temporary.iter().for_each(|file| drop(std::fs::remove_file(file)));
    }
    let text = whole?;
    peer.end(monitor);
    Ok(text)
}

/// The report, over a channel whose other end was greeted; what comes before it goes to a file.
pub(crate) fn over(
    wire: &mut Wire<'_>,
    place: &[u8],
    question: Question,
    to: Option<&Path>,
) -> Result<String> {
    wire.tell(&Request::Question { place: place.to_vec(), question })?;
    let mut file = to.map(|to| File::create(to).context("write", to).map(|file| (file, to))).transpose()?;
    let mut report = Vec::new();
    loop {
        let (length, is_report) = match wire.hear_answer()? {
            Answer::Records { length } if file.is_some() && report.is_empty() => (length, false),
            Answer::Report { length } => (length, true),
            Answer::Told if !report.is_empty() => break,
            _ => return Err(out_of_turn(wire)),
        };
        let is_sound = (1..=LONGEST).contains(&length);
        if !is_sound || (is_report && report.len() + length as usize > MOST) {
            return Err(nonsense(&wire.peer, "a report that is too long"));
        }
        let mut block = vec![0; length as usize];
        fill(&mut wire.from, &mut block, &wire.peer)?;
        match &mut file {
            Some((file, path)) if !is_report => file.write_all(&block).context("write", path)?,
            _ => report.append(&mut block),
        }
    }
    if let Some((file, path)) = file {
        file.sync_all().context("write", path)?;
    }
    screened_report(report).map_err(|what| nonsense(&wire.peer, what))
}
