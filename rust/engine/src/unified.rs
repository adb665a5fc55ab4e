//! Writes what changed in one file as a unified diff in the form of git, which `patch` and `git apply` take.

use imara_diff::{Algorithm, Diff, Hunk, InternedInput, Token};
use std::ops::Range;

/// How many lines that stay are shown around those that change.
const CONTEXT: u32 = 3;

/// Lines that are there more often do not help to find what stayed. With so many of them on both sides, and
/// one change from the first line that differs to the last, the patch is longer and as right.
const OFTEN: u32 = 64;
const MOST_REPEATED: usize = 30_000;

/// What an empty file is to git. `patch` deletes one only where it is named.
const EMPTY: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";

/// A file as it was at one time. Nothing is there where `what` is None.
pub(crate) struct OneSide<'a> {
    pub path: &'a [u8],
    /// What people know it by, for example "version 3".
    pub label: String,
    pub what: Option<What>,
}

pub(crate) enum What {
    Text {
        executable: bool,
        bytes: Vec<u8>,
    },
    Binary,
    /// Text that is too large to be compared.
    Large,
    Link(Box<[u8]>),
    /// What has no content, by the name of its kind.
    Other(&'static str),
}

/// What a section of a patch says of one side: the path as it is written, the mode, and the bytes.
struct Entry<'a> {
    side: &'a OneSide<'a>,
    mode: u32,
    bytes: &'a [u8],
}

/// The patch that leads from one side to another. A link that changes is one that goes and one that comes: so
/// `patch` does it without a digest of either.
pub(crate) fn unified(old: &OneSide<'_>, new: &OneSide<'_>) -> Vec<u8> {
    let mut patch = Vec::new();
    if matches!((&old.what, &new.what), (Some(What::Binary), _) | (_, Some(What::Binary))) {
        begin(&mut patch, old, new);
        patch.extend([b"Binary files ", &*shown(old, b"a/"), b" and ", &*shown(new, b"b/")].concat());
        patch.extend_from_slice(b" differ\n");
        return patch;
    }
    if matches!((&old.what, &new.what), (Some(What::Other(_)), _) | (_, Some(What::Other(_)))) {
        let kinds = (kind(old), kind(new));
        let parts = [b"File ", &*name(old, b"a/"), b" is ", kinds.0, b" while file ", &*name(new, b"b/")];
        patch.extend([&parts.concat(), &b" is "[..], kinds.1, b"\n"].concat());
        return patch;
    }
    match (entry(old), entry(new)) {
        (Some(from), Some(to)) if is_text(old) && is_text(new) => change(&mut patch, &from, &to),
        (from, to) => {
            from.iter().for_each(|from| deletion(&mut patch, from));
            to.iter().for_each(|to| creation(&mut patch, to));
        }
    }
    patch
}

fn is_text(side: &OneSide<'_>) -> bool {
    matches!(side.what, Some(What::Text { .. }))
}

fn kind<'a>(side: &OneSide<'a>) -> &'a [u8] {
    match &side.what {
        None => b"not there",
        Some(What::Text { .. } | What::Binary | What::Large) => b"a regular file",
        Some(What::Link(_)) => b"a symbolic link",
        Some(What::Other(kind)) => kind.as_bytes(),
    }
}

fn entry<'a>(side: &'a OneSide<'a>) -> Option<Entry<'a>> {
    let (mode, bytes) = match side.what.as_ref()? {
        What::Text { executable, bytes } => (if *executable { 0o100_755 } else { 0o100_644 }, &bytes[..]),
        What::Link(target) => (0o120_000, &target[..]),
        What::Binary | What::Large | What::Other(_) => return None,
    };
    Some(Entry { side, mode, bytes })
}

fn change(patch: &mut Vec<u8>, old: &Entry<'_>, new: &Entry<'_>) {
    let is_moved = old.side.path != new.side.path;
    if old.bytes == new.bytes && old.mode == new.mode && !is_moved {
        return;
    }
    begin(patch, old.side, new.side);
    if old.mode != new.mode {
        patch.extend(format!("old mode {:o}\nnew mode {:o}\n", old.mode, new.mode).bytes());
    }
    if is_moved {
        let (from, to) = (name(old.side, b""), name(new.side, b""));
        patch.extend([b"rename from ", &*from, b"\nrename to ", &*to, b"\n"].concat());
    }
    hunks(patch, old.bytes, new.bytes, (marked(old.side, b"a/"), marked(new.side, b"b/")));
}

fn deletion(patch: &mut Vec<u8>, old: &Entry<'_>) {
    begin(patch, old.side, old.side);
    patch.extend(format!("deleted file mode {:o}\n", old.mode).bytes());
    if old.bytes.is_empty() {
        patch.extend(format!("index {EMPTY}..{:040}\n", 0).bytes());
    }
    hunks(patch, old.bytes, b"", (marked(old.side, b"a/"), b"/dev/null".to_vec()));
}

fn creation(patch: &mut Vec<u8>, new: &Entry<'_>) {
    begin(patch, new.side, new.side);
    patch.extend(format!("new file mode {:o}\n", new.mode).bytes());
    if new.bytes.is_empty() {
        patch.extend(format!("index {:040}..{EMPTY}\n", 0).bytes());
    }
    hunks(patch, b"", new.bytes, (b"/dev/null".to_vec(), marked(new.side, b"b/")));
}

fn begin(patch: &mut Vec<u8>, old: &OneSide<'_>, new: &OneSide<'_>) {
    patch.extend([b"diff --git ", &*name(old, b"a/"), b" ", &*name(new, b"b/"), b"\n"].concat());
}

/// What stands behind `---` or `+++`. A name ends at the tab, whatever is in it.
fn marked(side: &OneSide<'_>, prefix: &[u8]) -> Vec<u8> {
    [&*name(side, prefix), b"\t", side.label.as_bytes()].concat()
}

fn shown(side: &OneSide<'_>, prefix: &[u8]) -> Vec<u8> {
    if side.what.is_some() { name(side, prefix) } else { b"/dev/null".to_vec() }
}

/// The path behind `a/` or `b/`, in quotes like a string of C where `patch` would not read it as it is.
fn name(side: &OneSide<'_>, prefix: &[u8]) -> Vec<u8> {
    let is_utf8 = std::str::from_utf8(side.path).is_ok();
    let is_odd = |byte: u8| !(byte.is_ascii_graphic() || is_utf8 && !byte.is_ascii());
    let path = [prefix, side.path].concat();
    if !path.iter().any(|byte| is_odd(*byte) || matches!(byte, b'"' | b'\\')) {
        return path;
    }
    let mut quoted = b"\"".to_vec();
    for byte in path {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', byte]),
            b' ' => quoted.push(byte),
            _ if is_odd(byte) => quoted.extend(format!("\\{byte:03o}").bytes()),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'"');
    quoted
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n')
}

/// What changed, behind the line of each side; nothing where both have the same lines.
fn hunks(patch: &mut Vec<u8>, old: &[u8], new: &[u8], (from, to): (Vec<u8>, Vec<u8>)) {
    // Without an estimate of how many lines there are, which a few short ones at the start make too high.
    let mut input = InternedInput::default();
    input.update_before(lines(old));
    input.update_after(lines(new));
    let found = if is_tedious(&input) {
        Vec::from([between_ends(&input)])
    } else {
        let mut diff = Diff::compute(Algorithm::Histogram, &input);
        diff.postprocess_lines(&input);
        diff.hunks().collect::<Vec<Hunk>>()
    };
    if found.is_empty() {
        return;
    }
    patch.extend([b"--- ", &*from, b"\n+++ ", &*to, b"\n"].concat());
    for group in found.chunk_by(|a, b| b.before.start - a.before.end <= 2 * CONTEXT) {
        write_group(patch, group, &input);
    }
}

/// Whether so many lines are there many times that finding the shortest patch would take minutes.
fn is_tedious(input: &InternedInput<&[u8]>) -> bool {
    let changed = between_ends(input);
    let (before, after) = (part(&input.before, &changed.before), part(&input.after, &changed.after));
    let mut times = vec![0_u32; input.interner.num_tokens() as usize];
    for token in before.iter().chain(after) {
        times[token.0 as usize] += 1;
    }
    let repeated = |tokens: &[Token]| tokens.iter().filter(|t| times[t.0 as usize] > OFTEN).count();
    repeated(before).min(repeated(after)) > MOST_REPEATED
}

/// From the first line that differs to the last one, as one change.
fn between_ends(input: &InternedInput<&[u8]>) -> Hunk {
    let (before, after) = (&input.before, &input.after);
    let above = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (old, new) = (&before[above..], &after[above..]);
    let below = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let range = |tokens: &[Token]| above as u32..(tokens.len() - below) as u32;
    Hunk { before: range(before), after: range(after) }
}

fn part<'a>(tokens: &'a [Token], range: &Range<u32>) -> &'a [Token] {
    &tokens[range.start as usize..range.end as usize]
}

/// Changes that are so near to each other that the lines around them meet.
fn write_group(patch: &mut Vec<u8>, group: &[Hunk], input: &InternedInput<&[u8]>) {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
    let above = first.before.start.min(CONTEXT);
    let below = (input.before.len() as u32 - last.before.end).min(CONTEXT);
    let before = first.before.start - above..last.before.end + below;
    let after = first.after.start - above..last.after.end + below;
    let mut at = before.start;
    patch.extend(format!("@@ -{} +{} @@\n", extent(&before), extent(&after)).bytes());
    let mut write = |sign: u8, range: Range<u32>, tokens: &[Token]| {
        for token in part(tokens, &range) {
            let line = input.interner[*token];
            patch.push(sign);
            patch.extend_from_slice(line);
            if line.last() != Some(&b'\n') {
                patch.extend_from_slice(b"\n\\ No newline at end of file\n");
            }
        }
    };
    for hunk in group {
        write(b' ', at..hunk.before.start, &input.before);
        write(b'-', hunk.before.clone(), &input.before);
        write(b'+', hunk.after.clone(), &input.after);
        at = hunk.before.end;
    }
    write(b' ', at..before.end, &input.before);
}

/// The first line and how many there are; where there are none, the line before.
fn extent(lines: &Range<u32>) -> String {
    match lines.end - lines.start {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        count => format!("{},{count}", lines.start + 1),
    }
}
