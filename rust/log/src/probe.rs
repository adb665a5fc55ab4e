//! Whether a store keeps its word: of all who write one new object at once, exactly one may have written it.
//! A store that answers several of them with success loses commits, and no log is begun there.

use crate::store::{Objects, Put};
use snapsync_model::{Error, Result};
use uuid::Uuid;

/// Who races, and how often.
const RIVALS: usize = 8;
const RACES: usize = 4;

/// Races for throw-away objects; refuses a store that lets several win, or none.
pub(crate) fn probe(objects: &Objects) -> Result<()> {
    for _ in 0..RACES {
        let key = format!("probe/{}", Uuid::new_v4());
        let outcomes: Vec<Result<Put>> = std::thread::scope(|scope| {
            let rivals: Vec<_> = (0..RIVALS)
                .map(|rival| {
                    scope.spawn({
                        let key = &key;
                        move || objects.put_new(key, vec![rival as u8])
                    })
                })
                .collect();
            let gone = || Err(Error::failed("a thread has ended", "try again"));
            rivals.into_iter().map(|rival| rival.join().unwrap_or_else(|_| gone())).collect()
        });
        let outcomes = outcomes.into_iter().collect::<Result<Vec<_>>>();
        let held = outcomes.as_ref().map(|_| objects.get(&key, 1)).unwrap_or(Ok(None));
        objects.delete(&key)?;
        let outcomes = outcomes?;
        let winners: Vec<u8> =
            (0..RIVALS).filter(|rival| outcomes[*rival] == Put::Made).map(|rival| rival as u8).collect();
        if winners.len() != 1 || held? != Some(winners) {
            return Err(Error::refused(
                format!(
                    "{} lets several writers make the same object: it would lose snapshots",
                    objects.address()
                ),
                "use a store that honours `If-None-Match: *`, or a directory",
            ));
        }
    }
    Ok(())
}
