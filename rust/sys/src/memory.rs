//! Files that exist in memory alone.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file with these bytes, which nobody can change any more.
pub fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let make = |flags| memfd_create(c"snapsync", MemfdFlags::CLOEXEC | flags);
    let file = match make(MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => make(MemfdFlags::ALLOW_SEALING),
        other => other,
    };
    let file = File::from(file?);
    file.write_all_at(bytes, 0)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// Whether a file came from `in_memory`.
pub fn is_in_memory(file: &File) -> bool {
    fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_memory_stays_as_it_was_made() {
        let file = in_memory(b"bytes").unwrap();
        assert!(is_in_memory(&file) && !is_in_memory(&tempfile::tempfile().unwrap()));
        assert!(file.write_all_at(b"other", 0).is_err() && file.set_len(2).is_err());
        let mut found = [0; 5];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!((&found, file.metadata().unwrap().len()), (b"bytes", 5));
    }
}
