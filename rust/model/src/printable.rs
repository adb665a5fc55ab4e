//! Makes text from anywhere safe to show: characters that could move a cursor, reverse the line or hide text
//! are shown by their numbers.

use std::borrow::Cow;
use std::fmt::Write;

/// Characters that look like something else or like nothing: they join, reverse or hide others, or end a
/// line.
const HIDDEN: [(u32, u32); 28] = [
    (0x00, 0x1f),
    (0x7f, 0x9f),
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x200b, 0x200f),
    (0x2028, 0x202e),
    (0x2060, 0x206f),
    (0x3164, 0x3164),
    (0xe000, 0xf8ff),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1345f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0x10_ffff),
];

/// Whether a character is shown as itself.
pub fn is_printable(character: char) -> bool {
    let number = u32::from(character);
    let at = HIDDEN.partition_point(|(_, last)| *last < number);
    HIDDEN.get(at).is_none_or(|(first, _)| number < *first)
}

/// The text as it can be shown on one line of a terminal or a journal, escaped like Python's
/// `unicode_escape`: `\n`, `\x1b`, `\u202e`. Printable text stays as it is.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    text.chars().for_each(|character| show(character, &mut shown));
    Cow::Owned(shown)
}

/// `printable`, cut to at most `most` bytes; the text may have any length.
pub fn printable_within(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        let before = shown.len();
        show(character, &mut shown);
        if shown.len() > most {
            shown.truncate(before);
            shown.push('…');
            break;
        }
    }
    shown
}

/// `printable` for bytes that may not be text.
pub fn printable_bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|character| show(character, &mut shown));
        chunk.invalid().iter().for_each(|byte| put(&mut shown, format_args!("\\x{byte:02x}")));
    }
    shown
}

fn show(character: char, to: &mut String) {
    match (character, u32::from(character)) {
        _ if is_printable(character) => to.push(character),
        ('\n', _) => to.push_str("\\n"),
        ('\r', _) => to.push_str("\\r"),
        ('\t', _) => to.push_str("\\t"),
        (_, number @ ..=0xff) => put(to, format_args!("\\x{number:02x}")),
        (_, number @ ..=0xffff) => put(to, format_args!("\\u{number:04x}")),
        (_, number) => put(to, format_args!("\\U{number:08x}")),
    }
}

fn put(to: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = to.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_fool_a_reader_is_shown_by_its_number() {
        let told = "a\x1b[2J\u{202e}b\u{9b}c\n\u{200d}\u{e0041}\x7f";
        assert_eq!(printable(told), "a\\x1b[2J\\u202eb\\x9bc\\n\\u200d\\U000e0041\\x7f");
        assert_eq!(printable(&printable(told)), printable(told));
    }

    #[test]
    fn names_of_all_countries_stay() {
        for name in ["Größe", "e\u{301}", "日本語", "ملف", "\\x", "100 %", "😀", ""] {
            assert!(matches!(printable(name), Cow::Borrowed(same) if same == name), "{name}");
        }
    }

    #[test]
    fn the_table_is_in_order() {
        let ends: Vec<u32> = HIDDEN.iter().flat_map(|(first, last)| [*first, *last + 1]).collect();
        assert!(ends.is_sorted());
    }

    #[test]
    fn bytes_and_lengths_are_no_matter() {
        assert_eq!(printable_bytes(b"\xff\xc3\xbc\x1b"), "\\xff\u{fc}\\x1b");
        assert_eq!(printable_within(&"\u{1b}".repeat(1 << 20), 10), "\\x1b\\x1b…");
        assert_eq!(printable_within("short", 10), "short");
    }
}
