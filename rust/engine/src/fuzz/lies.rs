//! Other values in messages: those of other fields, of what was heard before, and such as nobody means well
//! by.

use serde_json::{Value, json};
use uuid::Uuid;

/// The paths that a client may name: allowed ones, those of others, outside ones, and impossible ones.
pub(super) const PATHS: [&str; 24] = [
    "primary",
    "standby",
    "fresh",
    "other",
    "hidden",
    "plain",
    "link",
    "../outside",
    "../outside/volume",
    "primary/.snapsync",
    "standby/.snapsync/fresh",
    ".snapsync",
    "primary/inner",
    "plain/fresh",
    "primary@first",
    "other@hidden-snapshot",
    "fresh/deep/er",
    "",
    ".",
    "/",
    "~",
    "link/volume",
    "a\u{1b}[2J\n\u{202e}",
    "standby/../other",
];
/// Values that are remembered of what was heard.
const MOST: usize = 64;

/// What was heard so far.
#[derive(Debug, Default)]
pub(super) struct Seen(Vec<Value>);

impl Seen {
    pub(super) fn note(&mut self, message: &Value) {
        match message {
            Value::Object(fields) => fields.values().for_each(|value| self.note(value)),
            Value::Array(values) if !is_path(message) => values.iter().for_each(|value| self.note(value)),
            Value::Null | Value::Bool(_) => {}
            value if self.0.len() < MOST && !self.0.contains(value) => self.0.push(value.clone()),
            _ => {}
        }
    }
}

/// Paths and secrets are lists of bytes.
fn is_path(value: &Value) -> bool {
    value.as_array().is_some_and(|list| {
        list.len() > 3 && list.iter().all(|byte| byte.as_u64().is_some_and(|byte| byte < 256))
    })
}

/// Makes one value of a message another, the `place`th from its start.
pub(super) fn alter(message: &mut Value, place: u8, value: u8, seen: &Seen) {
    let count = count(message);
    let mut at = usize::from(place) % count;
    if let Some(node) = find(message, &mut at) {
        change(node, value, seen);
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        Value::Array(values) if !is_path(value) => values.iter().map(count).sum(),
        _ => 0,
    }
}

fn find<'v>(value: &'v mut Value, at: &mut usize) -> Option<&'v mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    let is_path = is_path(value);
    match value {
        Value::Object(fields) => fields.values_mut().find_map(|value| find(value, at)),
        Value::Array(values) if !is_path => values.iter_mut().find_map(|value| find(value, at)),
        _ => None,
    }
}

fn change(node: &mut Value, value: u8, seen: &Seen) {
    let number = node.as_u64();
    match value {
        0 => *node = Value::Null,
        1 => *node = json!(0),
        2 => *node = json!(number.map_or(1, |number| number.wrapping_add(1))),
        3 => *node = json!(number.map_or(1 << 48, |number| number.wrapping_sub(1))),
        4 => *node = json!(u64::MAX),
        5 => *node = json!(-1),
        6 => *node = json!(i64::MAX),
        7 => *node = json!(true),
        8 => *node = json!(false),
        9 => *node = json!("../../outside\u{1b}]0;x\u{7}\u{202e}"),
        10 => *node = json!("-rf"),
        11 => *node = json!("x".repeat(70_000)),
        12 => *node = json!("x".repeat(300)),
        13 => *node = json!(Uuid::nil()),
        14 => *node = json!([]),
        15 => *node = json!({}),
        16 => *node = (0..30).fold(json!([]), |deep, _| json!([deep])),
        17 => *node = json!(vec![b'/'; 5000]),
        18..=23 => change_list(node, value),
        24..=63 => {
            let path = PATHS[usize::from(value) % PATHS.len()];
            *node = if node.is_array() { json!(path.as_bytes()) } else { json!(path) };
        }
        _ if !seen.0.is_empty() => *node = seen.0[usize::from(value - 64) % seen.0.len()].clone(),
        _ => *node = json!(1.5),
    }
}

/// Changes a list or an object: more parts, fewer, or other ones.
fn change_list(node: &mut Value, value: u8) {
    match (node, value) {
        (Value::Array(list), 18) => _ = list.pop(),
        (Value::Array(list), 19) if !list.is_empty() => _ = list.remove(0),
        (Value::Array(list), 20) => list.extend(list.last().cloned()),
        (Value::Array(list), 21) => list.reverse(),
        (Value::Array(list), _) => *list = list.iter().cycle().take(5000).cloned().collect(),
        (Value::Object(fields), 18..=20) => {
            let first = fields.keys().nth(usize::from(value - 18)).cloned();
            first.map(|first| fields.remove(&first));
        }
        (Value::Object(fields), _) => _ = fields.insert("more".to_owned(), json!([[], {}])),
        (node, 18) => *node = json!([node.clone()]),
        (node, _) => *node = json!({ "it": node.clone() }),
    }
}
