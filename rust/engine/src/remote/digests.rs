//! Compares with a tree on another machine: only the records of its names are sent, never the content of
//! files.

use crate::accounts::translated::{Of, Translated};
use crate::delta::incoming::nonsense;
use crate::digest::{Near, Reading, Record};
use crate::location::place::Place;
use crate::location::text::Address;
use crate::names::Names;
use crate::options::SshOptions;
use crate::remote::messages::{Answer, DIGEST, LONGEST, Request};
use crate::remote::ssh::Peer;
use crate::remote::wire::{Wire, out_of_turn};
use snapsync_model::{Error, Monitor, RelPath, Result, Side};
use snapsync_stream::wire::{fill, lift};
use std::io::Write;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The approximate number of bytes of records in one message.
const BLOCK: usize = 1 << 18;

/// Sends a client the records of a tree that it may read.
pub(crate) fn tell(
    wire: &mut Wire<'_>,
    place: &Place,
    lineage: Option<Uuid>,
    reading: Reading,
    monitor: &Monitor,
) -> Result<()> {
    let accounts = lineage.map_or(Ok(None), |lineage| place.accounts(lineage))?;
    let side = Translated::by(accounts.as_ref(), Of::Lineage, place.open(monitor)?.into_side());
    tell_side(wire, &*side, reading, monitor)
}

/// The same of a side.
pub(crate) fn tell_side(
    wire: &mut Wire<'_>,
    side: &dyn Side,
    reading: Reading,
    monitor: &Monitor,
) -> Result<()> {
    let names = Names::of(side)?;
    let mut near = Near::new(&names, reading, false, monitor)?;
    let mut block = Vec::new();
    loop {
        let records = near.more()?;
        for record in &records {
            record.write(&mut block);
            if block.len() >= BLOCK {
                tell_block(wire, &mut block)?;
            }
        }
        tell_block(wire, &mut block)?;
        if records.is_empty() {
            return wire.tell(&Answer::Digested { entries: names.len(), notes: monitor.take_notes() });
        }
    }
}

fn tell_block(wire: &mut Wire<'_>, block: &mut Vec<u8>) -> Result<()> {
    if block.is_empty() {
        return Ok(());
    }
    let length = u32::try_from(block.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| Error::failed("the path of an entry is too long to be told", ""))?;
    wire.tell(&Answer::Records { length })?;
    let mut put = || wire.to.write_all(block).and_then(|()| wire.to.flush());
    put().map_err(|e| lift(e, "write to", &wire.peer))?;
    block.clear();
    Ok(())
}

/// The records that another machine sends. They may be nonsense.
pub(crate) struct Records {
    reading: Reading,
    /// The name of that machine for messages.
    name: PathBuf,
    last: Option<RelPath>,
    entries: u64,
}

impl Records {
    pub(crate) fn new(reading: Reading, name: PathBuf) -> Records {
        Records { reading, name, last: None, entries: 0 }
    }

    /// The next ones; None at the end.
    pub(crate) fn next(&mut self, wire: &mut Wire<'_>, monitor: &Monitor) -> Result<Option<Vec<Record>>> {
        match wire.hear_answer()? {
            Answer::Records { length } if (1..=LONGEST).contains(&length) => {
                let mut block = vec![0; length as usize];
                fill(&mut wire.from, &mut block, &wire.peer)?;
                self.read(&block).map(Some)
            }
            Answer::Digested { entries, notes } if entries == self.entries && entries > 0 => {
                let host = self.name.display();
                notes.into_iter().take(100).for_each(|note| monitor.note(format!("{host}: {note}")));
                Ok(None)
            }
            Answer::Digested { .. } => Err(self.strange("another number of records than it says")),
            _ => Err(out_of_turn(wire)),
        }
    }

    fn read(&mut self, mut block: &[u8]) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        while !block.is_empty() {
            let Some((record, rest)) = Record::read(block, self.reading) else {
                return Err(self.strange("a record of its tree that makes no sense"));
            };
            if self.last.as_ref().is_some_and(|last| *last >= record.path) {
                return Err(self.strange("its tree out of order"));
            }
            self.last = Some(record.path.clone());
            records.push(record);
            block = rest;
        }
        self.entries += records.len() as u64;
        Ok(records)
    }

    fn strange(&self, what: &str) -> Error {
        nonsense(&self.name, what)
    }
}

/// A side on another machine.
pub(crate) struct RemoteDigests<'a> {
    /// None once it has sent everything.
    peer: Option<Peer<'a>>,
    records: Records,
    monitor: &'a Monitor,
}

impl<'a> RemoteDigests<'a> {
    pub(crate) fn ask(
        address: &Address,
        ssh: &SshOptions,
        reading: Reading,
        lineage: Option<Uuid>,
        monitor: &'a Monitor,
    ) -> Result<RemoteDigests<'a>> {
        let mut peer = Peer::start(address, ssh, monitor)?;
        peer.expect(DIGEST, "verify a tree")?;
        let name = peer.wire.peer.clone();
        let place = address.path.clone();
        peer.ask(&Request::Digest { place, reading, lineage })
            .map_err(|error| told_of_a_cut(error, &name))?;
        Ok(RemoteDigests { peer: Some(peer), records: Records::new(reading, name), monitor })
    }

    /// The next records; empty at the end.
    pub(crate) fn more(&mut self) -> Result<Vec<Record>> {
        let Some(peer) = &mut self.peer else { return Ok(Vec::new()) };
        let more = self.records.next(&mut peer.wire, self.monitor);
        let more = more.map_err(|error| told_of_a_cut(error, &self.records.name))?;
        if more.is_none() {
            self.peer.take().into_iter().for_each(|peer| peer.end(self.monitor));
        }
        Ok(more.unwrap_or_default())
    }
}

fn told_of_a_cut(error: Error, name: &Path) -> Error {
    match error {
        Error::Cut { .. } => Error::Cut {
            what: format!("{} was gone before it had told all of its tree", name.display()),
            advice: "nothing is left behind there or here: run the same command again".to_owned(),
        },
        other => other,
    }
}
