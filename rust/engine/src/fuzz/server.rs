//! A server that lies, or the host of a standby or a primary: the product is the client, and its volumes are
//! its own.

use crate::digest::Reading;
use crate::fuzz::lies::Seen;
use crate::fuzz::peer::{Peer, between};
use crate::fuzz::primary::Primary;
use crate::fuzz::script::Script;
use crate::fuzz::standby::Standby;
use crate::fuzz::world::within;
use crate::keep::Keep;
use crate::location::directory;
use crate::options::{Options, Scrubbing, TransferOptions};
use crate::remote::asked::over;
use crate::remote::channels::Channels;
use crate::remote::messages::{Answer, Request};
use crate::remote::pulled::Pulled;
use crate::remote::question::Question;
use crate::remote::standby_client::Remote;
use crate::remote::standby_server::{RoundOptions, serve_standby};
use crate::remote::wire::Wire;
use crate::report::rounds::Synced;
use crate::round::primary::drive;
use crate::round::rights::Rights;
use crate::round::standby::Local;
use serde_json::json;
use snapsync_model::{Error, Monitor, Naming, Result};
use std::path::Path;
use std::time::Instant;

/// The script says which half of a round the server is, what is asked of it, and how it answers.
pub fn server(bytes: &[u8]) {
    within(|world| {
        let mut script = Script::new(bytes);
        let (half, options) = (script.byte(), options(script.byte()));
        let (mut seen, mut heard) = (Seen::default(), Vec::new());
        if half >= ASKS {
            let lie = |peer: &mut Peer<'_, '_, '_>| begin(peer, |peer| tell(peer));
            let to = world.at("plain").with_file_name("told.arrow");
            let _ = between(|w, _| ask_for_changes(&to, w), &mut script, &mut seen, &mut heard, lie);
            let now = world.facts();
            world.expect_untouched(&now, &["primary", "standby", "other", "hidden", "plain", "fresh"]);
            now
        } else if half % 2 == 0 {
            let mut standby = Standby::new(world, half & 2 == 0);
            let lie = |peer: &mut Peer<'_, '_, '_>| begin(peer, |peer| standby.act(peer));
            let source = world.at("primary");
            let done = between(|w, m| push(&source, w, &options, m), &mut script, &mut seen, &mut heard, lie);
            let (now, round) = (world.facts(), standby.round);
            world.expect_sound(&now, false);
            world.expect_untouched(&now, &["standby", "other", "hidden", "plain", "fresh"]);
            world.expect_same_tree(&now, "primary");
            world.expect_only_seen(&now, &round);
            assert!(done.is_err() || round.is_committed, "a round is done that nobody committed");
            if options.keep.is_empty() {
                assert!(world.has(&now, &[world.first.clone(), world.second.clone()], "primary"));
            }
            now
        } else {
            let target = world.at(if half & 2 == 0 { "standby" } else { "fresh" });
            let lie = |peer: &mut Peer<'_, '_, '_>| begin(peer, |peer| Primary::new(world).act(peer));
            let _ = between(|w, m| pull(&target, w, &options, m), &mut script, &mut seen, &mut heard, lie);
            let now = world.facts();
            world.expect_sound(&now, false);
            world.expect_untouched(&now, &["primary", "other", "hidden", "plain"]);
            if options.keep.is_empty() {
                assert!(world.has(&now, &[world.first.clone()], "standby"));
            }
            now
        }
    });
}

/// From this byte on the client only asks.
const ASKS: u8 = 240;

/// Changes, a report and its end, and whatever else the script makes of them.
fn tell(peer: &mut Peer<'_, '_, '_>) {
    let all = [json!({ "records": { "length": 4 } }), json!({ "report": { "length": 2 } }), json!("told")];
    for message in &all {
        peer.say(message, &all);
    }
}

fn ask_for_changes(to: &Path, mut wire: Wire<'_>) -> Result<String> {
    wire.greet()?;
    let question = Question::Diff { target: b"primary".to_vec(), manifest: true };
    let told = over(&mut wire, b"primary", question, Some(to));
    let _ = std::fs::remove_file(to);
    told
}

fn begin(peer: &mut Peer<'_, '_, '_>, act: impl FnOnce(&mut Peer<'_, '_, '_>)) {
    if peer.wire.greet_back().is_ok() && peer.hear().is_some() {
        peer.say(&json!("ready"), &[json!("ready"), json!("kept"), json!({ "pruned": [] })]);
        act(peer);
    }
}

fn options(byte: u8) -> Options {
    let is = |bit: u8| byte & 1 << bit != 0;
    let last = |count| Keep { last: Some(count), ..Keep::default() };
    Options {
        name: is(0).then(|| "mine".to_owned()),
        keep: if is(1) { last(1) } else { Keep::default() },
        strict: is(2),
        scrub: if is(3) { Scrubbing { period: 1, limit: 1 << 20 } } else { Scrubbing::default() },
        new_standby: is(4),
        owners: (is(2) && is(6)).then(Naming::default),
        adopt: (is(4) && is(5)).then_some(Reading::All),
        drift: crate::options::DriftOptions { check: is(5), discard_drift: is(6), read_only: None },
        snap: (is(7) && !is(0)).then(|| "second".to_owned()),
        ..Options::default()
    }
}

fn ask(wire: &mut Wire<'_>, request: &Request) -> Result<()> {
    wire.greet()?;
    wire.tell(request)?;
    match wire.hear_answer()? {
        Answer::Ready => Ok(()),
        _ => Err(Error::failed("it is not ready", "")),
    }
}

fn push<'a>(source: &Path, mut wire: Wire<'a>, options: &Options, monitor: &'a Monitor) -> Result<Synced> {
    let source = directory::open_directory(source)?;
    ask(&mut wire, &Request::Push { target: b"standby".to_vec(), channels: 1 })?;
    let transfer = transfer();
    let mut standby = Remote::new(&mut wire, &transfer, Channels::wait(1), monitor);
    let report = drive(source, &mut standby, options, Rights::OWNER, monitor)?;
    standby.done(&report)?;
    Ok(report)
}

fn pull<'a>(target: &Path, mut wire: Wire<'a>, options: &Options, monitor: &'a Monitor) -> Result<Synced> {
    let started = Instant::now();
    let mut standby = Local::new(target, None, monitor)?;
    let request = Request::Pull {
        source: b"primary".to_vec(),
        options: Box::new(options.clone()),
        transfer: transfer(),
        channels: 1,
    };
    ask(&mut wire, &request)?;
    let served =
        serve_standby(&mut wire, &mut standby, Channels::wait(1), RoundOptions::Own(options), monitor);
    let (seen, report) = served?;
    let (host, source) = (Path::new("peer"), "peer:primary".to_owned());
    Pulled { seen, report: &report, source, host, options, named: None, started }.report(monitor)
}

fn transfer() -> TransferOptions {
    TransferOptions { compression: snapsync_stream::Compression::None, limit: None }
}
