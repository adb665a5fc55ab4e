//! System calls, and the only place for `unsafe`: it covers what established crates lack.
//!
//! `Root` opens paths beneath a directory and nowhere else. `Entry` holds one inode found there by a
//! descriptor, and reads and sets its attributes without following a link.
#![allow(unsafe_code)]

pub mod acl;
mod attributes;
mod batches;
pub mod btrfs;
mod data;
mod directory;
mod encryption;
mod entry;
pub mod ext4;
pub mod fault;
mod files;
mod flags;
mod fs;
mod holder;
mod ioctl;
mod items;
mod memory;
mod mounts;
mod place;
mod private;
mod rights;
mod root;
mod scratch;
mod sharing;
mod spot;
mod step;
mod subvolumes;
mod times;
mod trust;
mod ways;
pub mod xfs;

pub use batches::each_batch;
pub use data::{
    clone_file, clone_range, copy_range, discard_range, layout, layout_of_ranges, next_data, next_data_in,
    preallocate, read_ahead, shared_bytes,
};
pub use directory::{Traits, fold_names_in, inherit_from, tell_names_apart_in, traits_of};
pub use encryption::is_locked;
pub use entry::{Entry, Part, Stat, is_own, make_node, stat_at, stat_of, tolerate, xattrs_of};
pub use files::{
    DirEntry, Lock, make_dir_durable, read_dir, reclaim, remove_all_in, remove_tree, sync_filesystem,
    write_file,
};
pub use flags::{
    APPEND, COW_EXTENT_SIZE, EXTENT_SIZE, IMMUTABLE, NOCOW, PROJECT_INHERIT, PROTECTIVE, REPLICATED_FLAGS,
    SET_FLAGS, XFLAGS, clear_flags_of, flag_names, flags_and_rare_of, flags_of, rare_of, set_flags_of,
    set_rare_of,
};
pub use fs::{FileSystem, filesystem, filesystem_uuid, identity};
pub use memory::PageAligned;
pub use mounts::{mounts_beneath, read_only_view};
pub use place::Place;
pub use private::{create_private_dir, create_private_file};
pub use rights::{Right, open_many_files};
pub use root::{Parents, Root, is_leased};
pub use scratch::scratch;
pub use sharing::{can_share, compresses, supports_reflinks, swap_files, swap_names};
pub use spot::{Named, Spot};
pub use subvolumes::{subvolumes_beneath, subvolumes_known_as};
pub use times::{
    Lease, Times, has_lasting_identity, has_stable_numbers, hold_still, may_be_written, mounting,
};
pub use trust::{Cause, Doubt, open_trusted};

pub use rustix::fs::Access;
