//! Whether a store keeps its word: of all who write one new object at once, exactly one may have written it.
//! A store that answers several of them with success loses commits, and no log is begun there.

use crate::at_once::at_once;
use crate::store::{Objects, Put};
use snapsync_model::{Error, Result};
use uuid::Uuid;

/// Who races, and how often.
const RIVALS: usize = 8;
const RACES: usize = 4;

/// Races for throw-away objects; refuses a store that lets several win, or none.
pub(crate) fn probe(objects: &Objects) -> Result<()> {
    // All at once: there are stores where those who lose wait for seconds.
    at_once(RACES, RACES, |_| race(objects)).into_iter().collect()
}

fn race(objects: &Objects) -> Result<()> {
    let key = format!("probe/{}", Uuid::new_v4());
    let outcomes = at_once(RIVALS, RIVALS, |rival| objects.put_new(&key, vec![rival as u8]));
    let outcomes: Result<Vec<Put>> = outcomes.into_iter().collect();
    let held = outcomes.as_ref().map_or(Ok(None), |_| objects.get(&key, 1));
    objects.delete(&key)?;
    let made = outcomes?.into_iter().zip(0u8..).filter(|(put, _)| *put == Put::Made);
    let winners: Vec<u8> = made.map(|(_, rival)| rival).collect();
    if winners.is_empty() {
        // The answer to the winner got lost, and its next try found its own object.
        return Err(Error::failed(
            format!("cannot tell whether {} keeps what it promises: an answer got lost", objects.address()),
            "run the same command again",
        ));
    }
    if winners.len() == 1 && held? == Some(winners) {
        return Ok(());
    }
    Err(Error::refused(
        format!("{} lets several writers make the same object: it would lose snapshots", objects.address()),
        "use a store that honours `If-None-Match: *`, or a directory",
    ))
}
