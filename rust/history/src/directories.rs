//! All directories of a history, and where each of them lay.

use snapsync_model::{Error, RelPath, Result};
use std::collections::HashMap;

/// The number of a directory in a history.
pub(crate) type Node = u32;

pub(crate) const TOP: Node = 0;

/// Has not ended.
pub(crate) const STILL: u32 = u32::MAX;

/// A name that something had in the snapshots of the steps `from..until`.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    pub(crate) parent: Node,
    pub(crate) name: Box<[u8]>,
    pub(crate) from: u32,
    pub(crate) until: u32,
}

/// A path in the snapshots of the steps `from..until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lay {
    pub(crate) path: RelPath,
    pub(crate) from: u32,
    pub(crate) until: u32,
}

#[derive(Default)]
pub(crate) struct Directories {
    /// The stays of each, oldest first.
    stays: Vec<Vec<Stay>>,
    /// Those that are there now, by their directory and name.
    now: HashMap<(Node, Box<[u8]>), Node>,
}

impl Directories {
    pub(crate) fn new() -> Directories {
        Directories { stays: vec![Vec::new()], now: HashMap::new() }
    }

    pub(crate) fn len(&self) -> u32 {
        self.stays.len() as u32
    }

    pub(crate) fn create(&mut self) -> Node {
        self.stays.push(Vec::new());
        self.len() - 1
    }

    pub(crate) fn stays(&self, node: Node) -> &[Stay] {
        &self.stays[node as usize]
    }

    /// The directory that has this path now. One that no step has told of, because a manifest is missing, is
    /// taken to have been there since the snapshot `before`.
    pub(crate) fn resolve(&mut self, path: &RelPath, before: u32) -> Node {
        if path.is_root() {
            return TOP;
        }
        let mut at = TOP;
        for name in path.as_bytes().split(|byte| *byte == b'/') {
            at = match self.now.get(&(at, name.into())) {
                Some(next) => *next,
                None => {
                    let made = self.create();
                    self.enter(made, at, name, before);
                    made
                }
            };
        }
        at
    }

    pub(crate) fn enter(&mut self, node: Node, parent: Node, name: &[u8], from: u32) {
        self.leave(node, from);
        self.stays[node as usize].push(Stay { parent, name: name.into(), from, until: STILL });
        self.now.insert((parent, name.into()), node);
    }

    /// Ends its stay, if it has one.
    pub(crate) fn leave(&mut self, node: Node, until: u32) {
        let Some(last) = self.stays[node as usize].last_mut().filter(|last| last.until == STILL) else {
            return;
        };
        last.until = until;
        let key = (last.parent, last.name.clone());
        if self.now.get(&key) == Some(&node) {
            self.now.remove(&key);
        }
    }

    /// Every path that a directory had in the snapshots `from..until`.
    pub(crate) fn lays(&self, node: Node, from: u32, until: u32) -> Result<Vec<Lay>> {
        if node == TOP {
            return Ok(vec![Lay { path: RelPath::root(), from, until }]);
        }
        let mut found = Vec::new();
        for stay in self.stays(node) {
            found.extend(self.lays_of(stay, from, until)?);
        }
        Ok(found)
    }

    /// The same of one stay of anything. Trees are as deep as paths are long: there is no recursion, and no
    /// path but a whole one.
    pub(crate) fn lays_of(&self, stay: &Stay, from: u32, until: u32) -> Result<Vec<Lay>> {
        let (mut found, mut names) = (Vec::new(), Vec::new());
        let mut ways = vec![(0, stay, from, until)];
        while let Some((depth, stay, from, until)) = ways.pop() {
            let (from, until) = (from.max(stay.from), until.min(stay.until));
            if from >= until {
                continue;
            }
            names.truncate(depth);
            names.push(&*stay.name);
            if stay.parent == TOP {
                found.push(Lay { path: joined(&names)?, from, until });
            } else if names.len() > self.stays.len() {
                return Err(beneath_itself(&stay.name));
            } else {
                ways.extend(
                    self.stays(stay.parent).iter().rev().map(|stay| (names.len(), stay, from, until)),
                );
            }
        }
        Ok(found)
    }
}

/// The path of names, of which the last comes first.
fn joined(names: &[&[u8]]) -> Result<RelPath> {
    if let Some(bad) = names.iter().find(|name| name.contains(&b'/')) {
        return RelPath::root().join(bad);
    }
    let names: Vec<&[u8]> = names.iter().rev().copied().collect();
    RelPath::new(&names.join(&b'/'))
}

fn beneath_itself(name: &[u8]) -> Error {
    Error::integrity(
        format!("the manifests say that the directory {} lies beneath itself", String::from_utf8_lossy(name)),
        "remove those in .snapsync/store/history: what its snapshots still tell is made again",
    )
}
