//! Checks a message before it is parsed: its depth, its length, and that its text can be shown. A peer's
//! words end up in errors, notes, reports and stores, and none of those need to check them again.

use snapsync_model::{is_printable, printable};

/// The deepest nesting, and the most bytes of one string.
const DEEPEST: usize = 24;
const LONGEST: usize = 64 << 10;
/// The most values in one message: each takes more memory than it has bytes.
const MOST: usize = 1 << 19;
/// The same of a report.
const MOST_REPORTED: usize = 1 << 23;

/// Why a message is refused.
pub(crate) type Refusal = &'static str;

/// The same message with printable text; with `exact` it is only checked.
pub(crate) fn screened(message: Vec<u8>, exact: bool) -> Result<String, Refusal> {
    let text = String::from_utf8(message).map_err(|_| "a message that is no text")?;
    let needs_none = bounded(&text, MOST)?;
    if exact || needs_none {
        return Ok(text);
    }
    let text = shown(&text);
    bounded(&text, MOST).map(|_| text)
}

/// A report is only checked: its strings are paths and patches with any bytes, and whoever prints one shows
/// it by `render.name`, as of a report that was made here. It may have more in it than a message.
pub(crate) fn screened_report(report: Vec<u8>) -> Result<String, Refusal> {
    let text = String::from_utf8(report).map_err(|_| "a report that is no text")?;
    bounded(&text, MOST_REPORTED).map(|_| text)
}

/// Whether it contains nothing that could be unprintable. JSON does not allow such characters outside
/// strings.
/// characters.
fn bounded(text: &str, most: usize) -> Result<bool, Refusal> {
    let (mut depth, mut values, mut length) = (0_usize, 1_usize, None);
    let (mut is_escaped, mut is_plain) = (false, true);
    for byte in text.bytes() {
        is_plain &= byte.is_ascii() && byte != 0x7f && byte != b'\\';
        match (&mut length, byte) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), b'\\') => is_escaped = true,
            (Some(_), b'"') => length = None,
            (Some(length), _) => *length += 1,
            (None, b'"') => length = Some(0),
            (None, b'[' | b'{') => depth += 1,
            (None, b']' | b'}') => depth = depth.saturating_sub(1),
            (None, b',' | b':') => values += 1,
            (None, _) => {}
        }
        if depth > DEEPEST {
            return Err("a message that is too deep");
        }
        if values > most || length.is_some_and(|length| length > LONGEST) {
            return Err("a message that has too much in it");
        }
    }
    Ok(is_plain)
}

fn shown(text: &str) -> String {
    let mut to = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find(|character: char| character == '\\' || !is_printable(character)) {
        let (plain, from) = rest.split_at(at);
        to.push_str(plain);
        let (character, length) = unescaped(from);
        match character {
            // White space between the values of a message is not part of their text.
            Some('\n' | '\r' | '\t') if length == 1 => to.push_str(&from[..1]),
            Some(character) if !is_printable(character) => {
                let mut buffer = [0; 4];
                to.push_str(&printable(character.encode_utf8(&mut buffer)).replace('\\', "\\\\"));
            }
            _ => to.push_str(&from[..length]),
        }
        rest = &from[length..];
    }
    to.push_str(rest);
    to
}

/// The first character, and the number of bytes it is written in. None for an invalid escape, which is left
/// as it is.
fn unescaped(text: &str) -> (Option<char>, usize) {
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some('\\'), Some('u')) => escaped_by_number(text),
        (Some('\\'), Some(letter)) => {
            let meant = match letter {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'b' => '\u{8}',
                'f' => '\u{c}',
                other => other,
            };
            (Some(meant), 1 + letter.len_utf8())
        }
        (Some(character), _) => (Some(character), character.len_utf8()),
        (None, _) => (None, 0),
    }
}

fn escaped_by_number(text: &str) -> (Option<char>, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
    };
    let Some(first) = unit(0) else { return (None, 2) };
    match (char::decode_utf16([Some(first), unit(6)].into_iter().flatten()).next(), first) {
        (Some(Ok(character)), 0xd800..=0xdbff) => (Some(character), 12),
        (Some(Ok(character)), _) => (Some(character), 6),
        _ => (None, 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn text(message: &str) -> String {
        screened(message.as_bytes().to_vec(), false).unwrap()
    }

    #[test]
    fn what_text_means_is_printable_however_it_is_written() {
        for written in
            ["\"a\\u001b[2J\\n\u{202e}\\u202e\u{7f}\\udb40\\udc41\\\\\\\"b\"", "\"\\u009b\u{9b}\\b\\f\\/\""]
        {
            let heard: String = serde_json::from_str(&text(written)).unwrap();
            let meant: String = serde_json::from_str(written).unwrap();
            assert_eq!(heard, printable(&meant), "{written}");
        }
    }

    #[test]
    fn what_is_printable_stays_as_it_is() {
        for message in
            ["{\"a\\\\b\": [1, \"\\u00fc\\ud83d\\ude00\u{1f600}\"],\n\t\"\\\"\": null}", "\"\"", "7"]
        {
            assert_eq!(text(message), message);
        }
        let exact = "\"\\u001b\u{202e}\"";
        assert_eq!(screened(exact.as_bytes().to_vec(), true).unwrap(), exact);
    }

    #[test]
    fn what_makes_no_sense_is_left_to_those_who_know() {
        for message in [
            "\"\\",
            "\"\\u12",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\uzzzz\"",
            "\"\\\u{fc}\"",
            "\"\\udc00x",
        ] {
            let heard = text(message);
            assert_eq!(
                serde_json::from_str::<Value>(&heard).is_err(),
                serde_json::from_str::<Value>(message).is_err(),
                "{message}: {heard}"
            );
        }
    }

    #[test]
    fn messages_are_bounded() {
        let screen = |message: String| screened(message.into_bytes(), false).is_ok();
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(screen(nested(DEEPEST)) && !screen(nested(DEEPEST + 1)));
        let long = |length: usize| format!("\"{}\"", "x".repeat(length));
        assert!(screen(long(LONGEST)) && !screen(long(LONGEST + 1)));
        let many = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(screen(many(MOST)) && !screen(many(MOST + 1)));
        assert!(screened(b"\"\xff\"".to_vec(), false).is_err());
        assert!(screen("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[\"".into()));
    }
}
