//! A standby's half of a round that is not what it says.

use crate::fuzz::peer::{Peer, Said, kind_of};
use crate::fuzz::world::{Round, World};
use serde_json::{Value, json};
use snapsync_stream::wire::{ManifestHead, Record, read_head};
use std::io::{self, Read};
use std::path::Path;
use uuid::Uuid;

pub(super) struct Standby<'w> {
    world: &'w World,
    /// It is the one that is known, or says that it is new.
    is_known: bool,
    pub(super) round: Round,
    /// The snapshot that is on its way.
    snapshot: Option<Value>,
    is_whole: bool,
}

impl<'w> Standby<'w> {
    pub(super) fn new(world: &'w World, is_known: bool) -> Standby<'w> {
        Standby { world, is_known, round: Round::default(), snapshot: None, is_whole: false }
    }

    /// Answers until one end has enough.
    pub(super) fn act(&mut self, peer: &mut Peer<'_, '_, '_>) {
        while let Some(ask) = peer.hear() {
            let kind = kind_of(&ask);
            match kind.as_str() {
                "begin" => _ = self.take_head(peer),
                "commit" => self.round.asked.extend(self.id().filter(|_| self.is_whole)),
                "done" | "failed" => return,
                _ => {}
            }
            let (in_turn, all) = (self.answer(&kind, &ask), self.all());
            match peer.say(&in_turn, &all) {
                Said::Over => return,
                Said::As(kind) if kind == "begun" => self.is_whole = take_frames(peer).is_some(),
                Said::As(kind) if kind == "committed" => {
                    let told = peer.told["committed"]["snapshot"]["id"].as_str().map(str::to_lowercase);
                    self.round.is_committed |= self.is_whole && told == self.id().map(|id| id.to_string());
                }
                Said::As(kind) if kind == "opened" => {
                    self.round.has_shown |= peer.told["opened"]["secret"] == json!(self.world.secret);
                }
                Said::As(_) | Said::Otherwise => {}
            }
        }
    }

    fn id(&self) -> Option<Uuid> {
        self.snapshot.as_ref()?.get("id")?.as_str()?.parse().ok()
    }

    fn take_head(&mut self, peer: &mut Peer<'_, '_, '_>) -> Option<()> {
        (self.snapshot, self.is_whole) = (None, false);
        let (name, from) = (Path::new("delta"), &mut peer.wire.from);
        let (header, _) = read_head(from, name).ok()?;
        let manifest = ManifestHead::read(from, name).ok()?;
        io::copy(&mut from.take(manifest.length), &mut io::sink()).ok()?;
        self.snapshot = serde_json::to_value(&header.snapshot).ok();
        Some(())
    }

    fn answer(&self, kind: &str, ask: &Value) -> Value {
        let World { lineage, .. } = self.world;
        let (id, secret) = self.who();
        match kind {
            "look" => json!({ "looked": {
                "path": self.world.place_of(id),
                "lineage": lineage,
                "role": "standby",
                "epoch": 1,
                "promotions": [],
                "pending": null,
                "volume": id,
                "filesystem": null,
                "lacks": null,
            } }),
            "open" => self.opened(id, &secret),
            "copies" => {
                let count = ask["copies"]["stretches"].as_array().map_or(1, Vec::len);
                let laid = json!({ "data": [[0, 4096]], "unwritten": [] });
                json!({ "copied": vec![json!({ "holds": { "laid": laid, "digests": "--" } }); count] })
            }
            "begin" => {
                let held = json!({ "runs": [], "parts": {} });
                json!({ "begun": { "losses": [], "held": held, "kept": 0, "pruned": [] } })
            }
            "commit" => json!({ "committed": { "snapshot": self.snapshot, "notes": ["so"] } }),
            "secret" => json!("kept"),
            "scrub" => {
                let count = ask["scrub"]["pieces"].as_array().map_or(0, Vec::len);
                json!({ "scrubbed": vec![json!({ "lacks": "it is gone" }); count] })
            }
            _ => json!({ "pruned": [] }),
        }
    }

    fn who(&self) -> (Uuid, Value) {
        if self.is_known {
            (self.world.standby, json!(self.world.secret))
        } else {
            (self.world.stranger, Value::Null)
        }
    }

    fn opened(&self, id: Uuid, secret: &Value) -> Value {
        let newest = if self.is_known { json!(self.world.first) } else { Value::Null };
        json!({ "opened": {
            "volume": {
                "path": self.world.place_of(id),
                "id": id,
                "lineage": self.world.lineage,
                "epoch": 1,
                "role": "standby",
                "provider": "pool",
                "filesystem": "tmpfs",
                "subset": { "exclude": [], "include": [] },
            },
            "newest": newest,
            "pending": null,
            "recovered": [],
            "set_aside": null,
            "join": null,
            "secret": secret,
        } })
    }

    /// All that either end may say.
    fn all(&self) -> Vec<Value> {
        let World { first, second, standby, .. } = self.world;
        let nothing = Value::Null;
        let mut all: Vec<Value> = ["look", "open", "copies", "begin", "commit", "secret", "scrub", "prune"]
            .map(|kind| self.answer(kind, &nothing))
            .into();
        let cut = json!({ "snapshot": second.id, "base": first.id, "manifest": "00" });
        let mut opened = self.opened(*standby, &json!(self.world.secret));
        opened["opened"]["pending"] = cut;
        let promotion = json!({
            "id": standby,
            "epoch": 2,
            "before": null,
            "volume": standby,
            "after": first.id,
            "at": "2026-01-01T00:00:00Z",
        });
        let mut looked = self.answer("look", &nothing);
        looked["looked"]["epoch"] = json!(2);
        looked["looked"]["promotions"] = json!([promotion]);
        let committed = json!({ "committed": { "snapshot": second, "notes": [] } });
        let mut adopted = self.opened(self.world.stranger, &nothing);
        adopted["opened"]["newest"] = nothing.clone();
        adopted["opened"]["adopted"] = json!(second);
        all.extend([
            adopted,
            json!({ "records": { "length": 8 } }),
            json!({ "digested": { "entries": 1, "notes": [] } }),
            opened,
            looked,
            committed,
            json!("ready"),
            json!("commit"),
            json!({ "done": { "report": {} } }),
        ]);
        all
    }
}

/// To their end; None where they are cut.
fn take_frames(peer: &mut Peer<'_, '_, '_>) -> Option<()> {
    let name = Path::new("delta");
    loop {
        match Record::read(&mut peer.wire.from, name).ok()? {
            Record::Frame(head) => {
                (&mut peer.wire.from).take(head.stored.into()).read_to_end(peer.heard).ok()?;
            }
            Record::End(_) => return Some(()),
        }
    }
}
