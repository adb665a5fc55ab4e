//! Where the objects of a pool lie.

/// An object's number is its round and its place in it.
pub const ROUND_SHIFT: u32 = 40;
pub const OBJECTS_PER_DIRECTORY: u64 = 4096;

/// The path of an object's file beneath its pool.
pub fn object_path(object: u64) -> String {
    let (round, number) = (object >> ROUND_SHIFT, object & ((1 << ROUND_SHIFT) - 1));
    format!("{round}/{}/{number}", number / OBJECTS_PER_DIRECTORY)
}
