//! The end that lies. It speaks by the product's own wire, and says on it what its script wants.

use crate::fuzz::lies::{Seen, alter};
use crate::fuzz::script::{Manner, Move, Script};
use crate::remote::messages::Message;
use crate::remote::wire::Wire;
use serde::Deserialize;
use serde_json::{Value, json};
use snapsync_model::Monitor;
use snapsync_stream::{Connection, Fate};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// How long either end waits for the other: both are in one process, and have little to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// After that a peer that does not answer is not asked again.
const MOMENT: Duration = Duration::from_millis(500);
/// The patience of an end that is told nothing more.
const IMPATIENCE: Duration = Duration::from_millis(10);

/// Whatever is said.
#[derive(Deserialize)]
#[serde(transparent)]
struct Heard(Value);

impl Message for Heard {}

pub(super) struct Peer<'p, 'b, 'a> {
    pub(super) wire: Wire<'a>,
    pub(super) script: &'p mut Script<'b>,
    pub(super) seen: &'p mut Seen,
    /// All that the other end told: text, and what files hold.
    pub(super) heard: &'p mut Vec<u8>,
    /// The other end, to make it impatient while it exists.
    other: &'p OnceLock<Weak<Connection>>,
    /// What was said last.
    pub(super) told: Value,
    /// Values that the next message has otherwise.
    lies: Vec<(u8, u8)>,
    /// The lie in the next delta.
    pub(super) in_delta: Option<Move>,
}

/// The result of a message.
pub(super) enum Said {
    /// It was said, and this is its kind.
    As(String),
    /// Something else was, or nothing: no answer is waited for.
    Otherwise,
    /// The conversation is over.
    Over,
}

/// The two ends of a conversation: `lie` here, and the product in a thread of its own.
pub(super) fn between<T: Send>(
    product: impl for<'m> FnOnce(Wire<'m>, &'m Monitor) -> T + Send,
    script: &mut Script<'_>,
    seen: &mut Seen,
    heard: &mut Vec<u8>,
    lie: impl FnOnce(&mut Peer<'_, '_, '_>),
) -> T {
    let ((their_from, to), (from, their_to)) = (pipe(), pipe());
    let (monitor, other) = (Monitor::default(), OnceLock::new());
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let monitor = Monitor::default();
            let wire = wire(their_from, their_to, &monitor);
            let _ = other.set(Arc::downgrade(wire.link()));
            product(wire, &monitor)
        });
        let wire = wire(from, to, &monitor);
        let mut peer = Peer {
            wire,
            script,
            seen,
            heard,
            other: &other,
            told: Value::Null,
            lies: Vec::new(),
            in_delta: None,
        };
        lie(&mut peer);
        drop(peer);
        there.join().expect("it does not panic")
    })
}

fn pipe() -> (PipeReader, PipeWriter) {
    io::pipe().expect("there are descriptors")
}

fn wire<'a>(from: PipeReader, to: PipeWriter, monitor: &'a Monitor) -> Wire<'a> {
    Wire::new(from, to, PathBuf::from("peer"), PATIENCE, Fate::default(), monitor)
        .expect("there is a channel")
}

pub(super) fn kind_of(message: &Value) -> String {
    let kind = message.as_str().or_else(|| message.as_object()?.keys().next().map(String::as_str));
    kind.unwrap_or_default().to_owned()
}

impl Peer<'_, '_, '_> {
    /// Says what is in turn, or one of `all`, in the manner that the script wants.
    pub(super) fn say(&mut self, in_turn: &Value, all: &[Value]) -> Said {
        loop {
            let step = self.script.next();
            let chosen = usize::from(step.turn).checked_sub(1).map(|at| &all[at % all.len()]);
            let message = chosen.unwrap_or(in_turn);
            match step.manner {
                Manner::AlteredAndMore => self.lies.push((step.place, step.value)),
                Manner::Alive => _ = self.put_raw(&[0, 0]),
                Manner::Delta => {
                    self.in_delta = Some(step);
                    return self.said(message, step);
                }
                _ => return self.said(message, step),
            }
        }
    }

    fn said(&mut self, message: &Value, step: Move) -> Said {
        let mut told = message.clone();
        if step.manner == Manner::Altered {
            self.lies.push((step.place, step.value));
        }
        for (place, value) in std::mem::take(&mut self.lies) {
            alter(&mut told, place, value, self.seen);
        }
        let text = serde_json::to_vec(&told).expect("it is JSON");
        let length = text.len() as u32;
        let cut = usize::from(step.place) * text.len() / 256;
        let (length, text) = match step.manner {
            Manner::Skipped => return Said::Otherwise,
            Manner::HungUp => return Said::Over,
            Manner::Silent => return self.keep_silent(),
            Manner::Cut => (length, &text[..cut]),
            Manner::Long => (length + 1 + u32::from(step.value), &text[..]),
            Manner::Short => (cut as u32, &text[..]),
            Manner::Endless => (u32::MAX - u32::from(step.value), &text[..]),
            Manner::Garbage => return self.garbage(step),
            Manner::Failed => return self.fail(step),
            _ => (length, &text[..]),
        };
        for _ in 0..if step.manner == Manner::Twice { 2 } else { 1 } {
            self.put(&length.to_le_bytes());
            self.put(text);
        }
        match step.manner {
            Manner::Cut => Said::Over,
            Manner::Long | Manner::Short | Manner::Endless => Said::Otherwise,
            _ => {
                self.told = told;
                Said::As(kind_of(message))
            }
        }
    }

    fn fail(&mut self, step: Move) -> Said {
        let failure = json!({
            "exit_code": i32::from(step.place) - 100,
            "what": "no\u{1b}[2J",
            "advice": "",
            "needed": step.value % 2 == 1,
        });
        let text = serde_json::to_vec(&json!({ "failed": failure })).expect("it is JSON");
        self.put(&(text.len() as u32).to_le_bytes());
        self.put(&text);
        Said::Otherwise
    }

    fn garbage(&mut self, step: Move) -> Said {
        let bytes: Vec<u8> = (0..step.place).map(|at| at.wrapping_mul(step.value)).collect();
        if step.value % 2 == 0 {
            self.put(&bytes);
        } else {
            self.put_raw(&bytes);
        }
        Said::Otherwise
    }

    /// Until the other end gives up.
    fn keep_silent(&mut self) -> Said {
        let link = self.other.get().and_then(Weak::upgrade);
        link.iter().for_each(|link| link.set_patience(IMPATIENCE));
        drop(link);
        while self.hear().is_some() {}
        Said::Over
    }

    /// Whatever goes into packets; whether it went.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.wire.to.get_mut().hurry(MOMENT);
        // An end that is gone hears nothing.
        let _ = self.wire.to.write_all(bytes).and_then(|()| self.wire.to.flush());
    }

    /// Whatever goes between packets.
    fn put_raw(&mut self, bytes: &[u8]) {
        let _ = self.wire.link().put(bytes);
    }

    /// None where nothing comes that is a message.
    pub(super) fn hear(&mut self) -> Option<Value> {
        self.wire.from.get_mut().hurry(MOMENT);
        let Heard(message) = self.wire.hear().ok()?;
        self.heard.extend(message.to_string().bytes());
        self.seen.note(&message);
        Some(message)
    }

    /// All that still comes.
    pub(super) fn hear_all(&mut self) {
        self.wire.from.get_mut().hurry(MOMENT);
        let _ = (&mut self.wire.from).take(1 << 24).read_to_end(self.heard);
    }
}
