//! A client that lies, at a server that is none: it may ask for anything, in any turn, and is one half of a
//! round.

use crate::fuzz::lies::{PATHS, Seen};
use crate::fuzz::peer::{Peer, Said, between, kind_of};
use crate::fuzz::primary::Primary;
use crate::fuzz::script::Script;
use crate::fuzz::standby::Standby;
use crate::fuzz::world::{BEYOND, Facts, HIDDEN, World, within};
use crate::location::beneath::Admission;
use crate::options::{Options, TransferOptions};
use crate::remote::gate::Gate;
use crate::remote::server::serve_over;
use crate::verbs::serve::answer;
use serde_json::{Value, json};

/// Rounds of one run: what the first leaves behind is for the next.
const MOST: usize = 3;

/// The script says what the server lets its clients do, what it is asked for first, and how that goes on.
pub fn client(bytes: &[u8]) {
    within(|world| {
        let mut script = Script::new(bytes);
        let gate = gate(world, script.byte());
        let rounds = 1 + usize::from(script.byte()) % MOST;
        let (mut seen, mut heard) = (Seen::default(), Vec::new());
        for _ in 0..rounds {
            script.again();
            let first = script.byte();
            let lie = |peer: &mut Peer<'_, '_, '_>| speak(world, peer, first);
            // Without restrictions, too, nothing else of this machine is reached.
            let admission = Admission::new(Some(&world.inside()));
            let _ = between(
                |wire, monitor| serve_over(wire, &gate, admission, answer, monitor),
                &mut script,
                &mut seen,
                &mut heard,
                lie,
            );
        }
        expect(world, &gate, rounds, &heard)
    });
}

fn gate(world: &World, byte: u8) -> Gate {
    Gate {
        restrict_to: (byte % 4 == 3).then(|| world.inside()),
        read_only: byte % 4 == 1,
        receive_only: byte % 4 == 2,
        allow_prune: byte & 4 != 0,
        allow_adopt: byte & 8 != 0,
    }
}

fn speak(world: &World, peer: &mut Peer<'_, '_, '_>, first: u8) {
    if peer.wire.greet().is_err() {
        return;
    }
    let all = requests(world);
    loop {
        let kind = match peer.say(&all[usize::from(first) % all.len()], &all) {
            Said::Over => return,
            Said::Otherwise => continue,
            Said::As(kind) => kind,
        };
        if peer.hear().is_none_or(|answer| kind_of(&answer) == "failed") {
            return;
        }
        return match kind.as_str() {
            "push" => Primary::new(world).act(peer),
            "pull" => Standby::new(world, first % 2 == 1).act(peer),
            _ => peer.hear_all(),
        };
    }
}

fn requests(world: &World) -> Vec<Value> {
    let World { lineage, standby, first, second, .. } = world;
    let push = |target: &str| json!({ "push": { "target": target.as_bytes(), "channels": 1 } });
    let transfer = TransferOptions { compression: snapsync_stream::Compression::None, limit: None };
    let pull = json!({ "pull": {
        "source": b"primary".as_slice(),
        "options": Options::default(),
        "travel": transfer,
        "channels": 1,
    } });
    let role = |volume: &str, role: Value| json!({ "do": { "volume": volume.as_bytes(), "deed": role } });
    let digest = |place: &str| {
        let place = place.as_bytes();
        json!({ "digest": { "place": place, "reading": "all", "lineage": lineage } })
    };
    let follow = json!({ "follow": { "epoch": 2, "promotions": [], "line": [first.id, second.id] } });
    let promote = json!({ "promote": { "name": "mine", "on_drift": "discard", "standbys": {} } });
    let mut all = vec![
        push("standby"),
        pull.clone(),
        push("fresh"),
        pull.clone(),
        digest("primary"),
        digest("standby"),
        role("primary", json!("describe")),
        role("primary", json!({ "demote": { "newest": second.id } })),
        role("primary", follow),
        role("standby", promote),
        json!({ "join": { "volume": b"primary".as_slice(), "token": standby } }),
    ];
    let question = |place: &str, question: Value| {
        let place = place.as_bytes();
        json!({ "question": { "place": place, "question": question } })
    };
    let versions = json!({ "versions": { "part": null, "diff": [] } });
    let find = json!({ "select": { "match": ["*"] }, "deleted": false, "since": null, "until": null });
    let prune = |dry_run: bool| json!({ "prune": { "keep": { "last": 1 }, "dry_run": dry_run } });
    let (first, second) = (format!("primary@{}", first.id), format!("primary@{}", second.id));
    let diff = json!({ "diff": { "target": second.as_bytes(), "manifest": true } });
    all.extend([
        question("primary", json!({ "status": { "history": true } })),
        question("primary", json!({ "list": { "alone": true } })),
        question("primary", json!({ "find": find })),
        question("primary", prune(true)),
        question("primary", prune(false)),
        question("standby", prune(false)),
        question("primary/big", versions.clone()),
        question(&first, diff.clone()),
        question(&first, json!("snapshot")),
    ]);
    all.extend(PATHS.iter().flat_map(|path| {
        let beneath = format!("{path}/big");
        [question(path, json!({ "list": { "alone": false } })), question(&beneath, versions.clone())]
    }));
    all.extend(PATHS.iter().flat_map(|path| [push(path), digest(path), role(path, json!("describe"))]));
    let mut more = pull;
    more["pull"]["options"]["exclude"] = json!(["/big"]);
    more["pull"]["options"]["name"] = json!("mine");
    more["pull"]["options"]["keep"]["last"] = json!(1);
    more["pull"]["options"]["new_standby"] = json!(true);
    all.push(more);
    all
}

fn expect(world: &World, gate: &Gate, rounds: usize, heard: &[u8]) -> Facts {
    let now = world.facts();
    let is_narrow = gate.restrict_to.is_some() || gate.read_only || gate.receive_only;
    world.expect_sound(&now, !is_narrow);
    expect_untold(heard, BEYOND);
    if gate.read_only {
        world.expect_untouched(&now, &["standby", "other", "hidden", "plain", "fresh"]);
        world.expect_same_tree(&now, "primary");
        world.expect_only_read(&now, rounds);
    }
    if gate.receive_only {
        world.expect_untouched(&now, &["primary", "other", "hidden"]);
        // It may send to any place that is free, and that is `plain/fresh`.
        if !gate.allow_adopt {
            world.expect_kept(&now, "plain");
        }
        expect_untold(heard, HIDDEN);
        world.strangers().iter().for_each(|stranger| expect_untold(heard, stranger));
    }
    if is_narrow && !gate.allow_prune {
        assert!(world.has(&now, &[world.first.clone(), world.second.clone()], "primary"));
        assert!(world.has(&now, &[world.first.clone()], "standby"));
    }
    now
}

fn expect_untold(heard: &[u8], secret: &str) {
    let told = heard.windows(secret.len()).any(|bytes| bytes == secret.as_bytes());
    assert!(!told, "{secret:?} was told");
}
