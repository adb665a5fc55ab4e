//! Puts the small files of a round into packs.

use crate::pool::pack::{Writer, clear_entry, create, digest, open_pack};
use snapsync_model::{OBJECTS_PER_PACK, Pack, locked};
use snapsync_sys::Spot;
use std::io;
use std::sync::Mutex;

pub(crate) struct Packer {
    pool: Spot,
    round: u64,
    now: Mutex<Now>,
}

/// The pack that is being written.
struct Now {
    number: u64,
    writer: Option<Writer>,
}

impl Packer {
    pub(crate) fn new(pool: Spot, round: u64) -> Packer {
        Packer { pool, round, now: Mutex::new(Now { number: 0, writer: None }) }
    }

    /// Makes an object of some bytes, at least one, and returns its number.
    pub(crate) fn put(&self, bytes: &[u8]) -> io::Result<u64> {
        let digest = digest(bytes);
        let mut now = locked(&self.now);
        if now.writer.as_ref().is_some_and(|writer| writer.entries.len() as u64 == OBJECTS_PER_PACK) {
            self.close(&mut now)?;
        }
        let pack = Pack::new(self.round, now.number);
        let writer = match &mut now.writer {
            Some(writer) => writer,
            none => none.insert(Writer::new(create(&self.pool.join(pack.path()))?)),
        };
        writer.put(bytes, digest).map(|place| pack.object(place))
    }

    /// Writes what is still in memory; to be called before the objects are used.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.close(&mut locked(&self.now))
    }

    fn close(&self, now: &mut Now) -> io::Result<()> {
        let Some(writer) = now.writer.take() else { return Ok(()) };
        let pack = Pack::new(self.round, now.number);
        now.number += 1;
        if !writer.entries.iter().any(|entry| entry.is_there()) {
            return self.pool.join(pack.path()).remove_file();
        }
        writer.finish(pack).map(drop)
    }

    /// Drops an object of this round.
    pub(crate) fn forget(&self, pack: Pack, place: u64) -> io::Result<()> {
        let mut now = locked(&self.now);
        if pack == Pack::new(self.round, now.number)
            && let Some(writer) = &mut now.writer
        {
            writer.entries[place as usize] = Default::default();
            return Ok(());
        }
        match open_pack(&self.pool, pack, Spot::open_to_write)? {
            Some(pack) => clear_entry(&pack, place),
            None => Ok(()),
        }
    }
}
