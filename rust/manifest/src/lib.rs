//! The two Arrow files: the change manifest, and the inode table of a pool snapshot. Nothing else in the
//! engine knows Arrow.
//!
//! Both are Arrow IPC files of record batches compressed with Zstandard, one row an inode, sorted by inode.

mod changes;
mod column;
mod file;
mod layers;
mod rows;
mod table;
mod vet;

pub use changes::{Brief, Header, ManifestReader, ManifestWriter};
pub use layers::{Entries, FILES, NextTable, Rows as TableRows, Table, gone, identity, is_gone, same_table};
pub use rows::Rows;
use table::TableWriter;
pub use table::{TableBatch, TableInfo, TableReader, TableView};
pub use vet::vet;

/// Rows of a record batch, and list items after which a batch ends early: what bounds memory.
const BATCH_ROWS: usize = 8192;
const BATCH_ITEMS: usize = 65_536;
/// Likewise the bytes of its names, paths and values.
const BATCH_BYTES: usize = 32 << 20;
