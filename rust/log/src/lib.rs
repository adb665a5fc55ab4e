//! A log: one line of commits in an object store or a directory, and the packs of frames that they name.
//!
//! `store` asks the object store and waits for its answers; `commit` is the record that makes a snapshot part
//! of the log, `keys` and `keyring` are for its signature, `seals` for encryption; `log` opens one, `line`
//! finds, reads and appends commits; `pack` writes frames, and `fetch` and `objects` read them; `fold` puts
//! a snapshot together from what led to it, and `side` reads that as any other tree; `checkpoint` and `prune`
//! keep it short. docs/log.md has the layout and the protocol.

mod at_once;
mod checkpoint;
mod commit;
mod fetch;
mod fold;
mod footer;
mod format;
mod keyring;
mod keys;
mod line;
mod log;
mod numbers;
mod objects;
mod pack;
mod past;
mod probe;
mod profile;
mod prune;
mod renumber;
mod seals;
mod side;
mod store;
mod upload;

pub use commit::{CheckpointAt, Commit, Deed, LogHistory, Published, Since, StoredObject};
pub use fetch::{Fetch, Wanted};
pub use fold::{Whole, fold};
pub use keys::LogKey;
pub use line::Appended;
pub use log::Log;
pub use pack::{PACK, Packs};
pub use past::PastStep;
pub use prune::{LogReader, Unneeded};
pub use side::{LogFrames, LogSnapshot};
pub use store::{LogAddress, Objects};
pub use upload::{Upload, UploadFolder, Uploaded};
