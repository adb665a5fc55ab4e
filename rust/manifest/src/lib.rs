//! The two Arrow files: the change manifest, and the inode table of a pool snapshot. Nothing else in the
//! engine knows Arrow.
//!
//! Both are Arrow IPC files of record batches compressed with Zstandard, one row an inode, sorted by inode.

mod changes;
mod column;
mod file;
mod table;
mod vet;

pub use changes::lookup::ChangeRows;
pub use changes::read::{Brief, ManifestReader};
pub use changes::schema::ManifestHeader;
pub use changes::write::ManifestWriter;
pub use table::file::{TableBatch, TableInfo, TableReader, TableView};
pub use table::find::Finder;
pub use table::layers::{Entries, FILES, NextTable, Table, TableRows, gone, identity, is_gone, same_table};
pub use table::objects::{ObjectTable, Turnover, turnovers};
pub use table::path::PathFinder;
pub use vet::vet;
