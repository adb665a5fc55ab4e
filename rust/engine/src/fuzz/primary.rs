//! A primary's half of a round that is not what it says.

use crate::fuzz::delta::{Delta, Told};
use crate::fuzz::peer::{Peer, Said, kind_of};
use crate::fuzz::world::World;
use serde_json::{Value, json};

/// The questions, in this order.
const TURNS: [&str; 9] = ["look", "open", "copies", "begin", "commit", "secret", "scrub", "prune", "done"];

pub(super) struct Primary<'w> {
    world: &'w World,
    turn: usize,
    /// The newest snapshot of the standby, as it says.
    newest: Option<Value>,
}

impl<'w> Primary<'w> {
    pub(super) fn new(world: &'w World) -> Primary<'w> {
        Primary { world, turn: 0, newest: None }
    }

    /// Asks until one end has enough.
    pub(super) fn act(&mut self, peer: &mut Peer<'_, '_, '_>) {
        let all: Vec<Value> = TURNS.iter().map(|kind| self.ask(kind)).chain(self.answers()).collect();
        while let Some(kind) = TURNS.get(self.turn) {
            let in_turn = self.ask(kind);
            let said = peer.say(&in_turn, &all);
            self.turn += 1;
            let answer = match said {
                Said::Over => return,
                Said::Otherwise => continue,
                Said::As(kind) if kind == "done" => return peer.hear_all(),
                Said::As(kind) if kind == "begin" => self.begin(peer),
                Said::As(_) => peer.hear(),
            };
            match answer {
                Some(answer) if kind_of(&answer) != "failed" => self.note(&answer),
                _ => return,
            }
        }
    }

    /// The answers decide which delta is next.
    fn note(&mut self, answer: &Value) {
        if let Some(state) = answer.get("opened") {
            self.newest = state.get("newest").filter(|newest| !newest.is_null()).cloned();
            let is_last = self.id() == Some(&json!(self.world.second.id));
            if is_last {
                self.turn = TURNS.len() - 1;
            }
        }
    }

    fn id(&self) -> Option<&Value> {
        self.newest.as_ref().and_then(|newest| newest.get("id"))
    }

    fn delta(&self) -> &Delta {
        if self.newest.is_some() { self.world.next() } else { self.world.whole() }
    }

    fn begin(&self, peer: &mut Peer<'_, '_, '_>) -> Option<Value> {
        let lie = peer.in_delta.take();
        let Told { head, frames } = self.delta().told(lie, peer.seen, &self.world.scratch());
        peer.put(&head);
        let answer = peer.hear()?;
        if kind_of(&answer) == "begun" {
            peer.put(&frames);
        }
        Some(answer)
    }

    fn ask(&self, kind: &str) -> Value {
        let World { lineage, secret, first, .. } = self.world;
        match kind {
            "look" => json!({ "look": { "lineage": lineage } }),
            "open" => json!({ "open": {
                "lineage": lineage,
                "epoch": 1,
                "promotions": [],
                "join": null,
                "care": { "check": false, "discard_drift": false, "read_only": null },
            } }),
            "copies" => {
                let range = json!({ "offset": 0, "length": 5000 });
                let of = |path: &[u8]| json!({ "path": path, "size": 5000, "range": range, "window": 65536 });
                json!({ "copies": { "stretches": [of(b"a"), of(b"dir/../.snapsync/volume.json")] } })
            }
            "begin" => json!({ "begin": {
                "strict": false,
                "has_manifest": false,
                "no_space_check": false,
                "spare": { "keep": { "last": 1 }, "needed": [] },
                "again": { "from": self.delta().digest(), "unlike": [1_u64 << 40] },
            } }),
            "secret" => json!({ "secret": { "secret": secret } }),
            "scrub" => json!({ "scrub": { "pieces": [
                { "path": b"a".as_slice(), "size": 5000, "range": { "offset": 0, "length": 5000 } },
                {
                    "path": b"dir/../.snapsync/volume.json".as_slice(),
                    "size": 1,
                    "range": { "offset": 0, "length": 1 },
                },
            ] } }),
            "prune" => json!({ "prune": { "keep": { "last": 1 }, "needed": [first.id] } }),
            "done" => json!({ "done": { "report": { "verb": "sync", "primary": self.world.info() } } }),
            other => json!(other),
        }
    }

    /// Answers that only a standby gives, and those of the head of a promoted lineage.
    fn answers(&self) -> Vec<Value> {
        let World { lineage, standby, first, .. } = self.world;
        let promotion = json!({
            "id": standby,
            "epoch": 2,
            "before": null,
            "volume": standby,
            "after": first.id,
            "at": "2026-01-01T00:00:00Z",
        });
        let open = |epoch: u64| {
            let own = [&promotion];
            json!({ "open": { "lineage": lineage, "epoch": epoch, "promotions": own, "join": standby } })
        };
        let mut adopting = open(1);
        adopting["open"]["promotions"] = json!([]);
        adopting["open"]["adopt"] = json!({ "reading": "all" });
        let mut owning = open(1);
        owning["open"]["owners"] = json!({ "rules": [{ "account": "user", "there": 1, "here": "root" }] });
        let records = json!({ "records": { "reading": "nothing" } });
        let pruned = json!({ "pruned": [first] });
        vec![json!("ready"), json!("kept"), pruned, open(2), open(3), adopting, owning, records]
    }
}
