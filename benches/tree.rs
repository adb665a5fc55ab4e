//! What the stages are measured on.

use std::io;
use std::path::Path;

/// Makes files of 100 to 4,000 bytes, a hundred a directory. Each byte depends on the file alone.
pub fn grow(root: &Path, files: u32) -> io::Result<()> {
    for number in 0..files {
        let directory = root.join(format!("{:04}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir(&directory)?;
        }
        let length = 100 + number.wrapping_mul(2_654_435_761) % 3_900;
        let bytes: Vec<u8> =
            (0..length).map(|at| (number.wrapping_add(at).wrapping_mul(97) >> 3) as u8).collect();
        std::fs::write(directory.join(format!("{number:06}")), bytes)?;
    }
    Ok(())
}
