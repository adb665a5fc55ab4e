//! Which names a snapshot may have.

use crate::printable::is_printable;

/// Whether `name` may name a directory: it is printable, and cannot be taken for a path or an option.
pub fn can_name_directory(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name.chars().all(|character| character != '/' && is_printable(character))
}

/// Whether `name` may name a snapshot of a volume, where numbers and words after an `@` mean snapshots too.
pub fn can_name_snapshot(name: &str) -> bool {
    can_name_directory(name)
        && name.len() <= 200
        && !name.contains('@')
        && name != "latest"
        && !name.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_seen_as_what_it_is() {
        for good in ["monday", "2026-11-26 before", "Größe", "日本語", "a.b-c", "v1", "😀", "x'\"$(y)"]
        {
            assert!(can_name_snapshot(good), "{good}");
        }
        let tricks =
            ["a\nb", "a\x1b[2J", "a\u{202e}b", "a\u{200b}", "\u{2028}", "a\u{feff}", "\u{e0041}", "\u{85}"];
        for bad in ["", "-1", "--help", ".", "..", ".hidden", "a/b", "a\0b"].into_iter().chain(tricks) {
            assert!(!can_name_directory(bad) && !can_name_snapshot(bad), "{bad:?}");
        }
        for bad in ["latest", "12", "a@b"] {
            assert!(can_name_directory(bad) && !can_name_snapshot(bad), "{bad:?}");
        }
        assert!(can_name_snapshot(&"x".repeat(200)) && !can_name_snapshot(&"x".repeat(201)));
        assert!(can_name_directory(&"x".repeat(255)) && !can_name_directory(&"x".repeat(256)));
    }
}
