//! The Arrow files: the change manifest, the inode table of a pool snapshot, and the index of frames in a
//! log. Nothing else in the engine knows Arrow.
//!
//! All are Arrow IPC files of compressed record batches, sorted by inode.

mod changes;
mod column;
mod file;
mod frames;
mod table;
mod vet;

pub use changes::lookup::ChangeRows;
pub use changes::read::{Brief, ManifestReader};
pub use changes::schema::ManifestHeader;
pub use changes::write::ManifestWriter;
pub use frames::{FrameRow, read_frames, write_frames};
pub use table::file::{TableBatch, TableInfo, TableReader, TableView};
pub use table::find::Finder;
pub use table::layers::{Entries, FILES, NextTable, Table, TableRows, gone, identity, is_gone, same_table};
pub use table::objects::{ObjectTable, Turnover, turnovers};
pub use table::path::PathFinder;
pub use vet::vet;
