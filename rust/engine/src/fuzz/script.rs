//! The fuzzer's bytes as what a peer does: four of them a move. Whoever has none left tells the truth.

/// Moves of one conversation; after those it is true to the end.
const MOST: usize = 24;

pub(super) struct Script<'b> {
    bytes: &'b [u8],
    moves: usize,
}

/// How a message is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    True,
    /// The message has another value in it.
    Altered,
    /// The next one is altered as well.
    AlteredAndMore,
    Twice,
    /// Not at all, and what follows is said instead.
    Skipped,
    /// Then nothing more.
    Cut,
    /// It says that it is longer than it is, shorter, or longer than any may be.
    Long,
    Short,
    Endless,
    Garbage,
    Failed,
    HungUp,
    Silent,
    /// Something in the delta behind the message is changed.
    Delta,
    /// Signs of life before it.
    Alive,
}

const MANNERS: [Manner; 32] = {
    use Manner::{
        Alive, Altered, AlteredAndMore, Cut, Delta, Endless, Failed, Garbage, HungUp, Long, Short, Silent,
        Skipped, True, Twice,
    };
    [
        True,
        Altered,
        AlteredAndMore,
        Twice,
        Skipped,
        Cut,
        Long,
        Short,
        Endless,
        Garbage,
        Failed,
        HungUp,
        Silent,
        Delta,
        Alive,
        True,
        Altered,
        Altered,
        Altered,
        AlteredAndMore,
        AlteredAndMore,
        Delta,
        Delta,
        Delta,
        Twice,
        Skipped,
        True,
        True,
        Altered,
        Altered,
        Delta,
        Failed,
    ]
};

/// One message of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// Which of all messages; 0 for the one whose turn it is.
    pub(super) turn: u8,
    pub(super) manner: Manner,
    /// The place of the lie in the message, and its kind.
    pub(super) place: u8,
    pub(super) value: u8,
}

impl<'b> Script<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Script<'b> {
        Script { bytes, moves: 0 }
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    /// Another conversation begins.
    pub(super) fn again(&mut self) {
        self.moves = 0;
    }

    pub(super) fn next(&mut self) -> Move {
        self.moves += 1;
        if self.moves > MOST {
            return Move { turn: 0, manner: Manner::True, place: 0, value: 0 };
        }
        let [turn, manner, place, value] = std::array::from_fn(|_| self.byte());
        Move { turn, manner: MANNERS[usize::from(manner) % MANNERS.len()], place, value }
    }
}
