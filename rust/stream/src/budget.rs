//! Bounds the memory of one end of a stream: whoever wants to hold more waits until something is released.

use snapsync_model::locked;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The default for the most bytes of data that one end holds.
pub const MEMORY: u64 = 64 << 20;

pub struct Budget {
    state: Mutex<State>,
    freed: Condvar,
    total: u64,
}

struct State {
    free: u64,
    /// How many threads wait for free memory.
    waiting: usize,
}

impl Budget {
    pub fn new(total: u64) -> Arc<Budget> {
        Arc::new(Budget {
            state: Mutex::new(State { free: total, waiting: 0 }),
            freed: Condvar::new(),
            total,
        })
    }

    /// Waits until this many bytes may be held. More than the whole budget counts as the whole budget.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Permit {
        let bytes = bytes.min(self.total);
        let mut state = locked(&self.state);
        while state.free < bytes {
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.free -= bytes;
        drop(state);
        Permit { budget: self.clone(), bytes }
    }
}

/// The right to hold some bytes, which is returned when this is dropped.
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Permit {
    /// Returns everything beyond `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.give_back(back);
    }

    fn give_back(&self, bytes: u64) {
        let mut state = locked(&self.budget.state);
        state.free += bytes;
        if state.waiting > 0 {
            self.budget.freed.notify_all();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_is_held_than_the_budget() {
        let budget = Budget::new(100);
        let held = Mutex::new((0_u64, 0_u64));
        std::thread::scope(|scope| {
            for worker in 0..8_u64 {
                let (budget, held) = (&budget, &held);
                scope.spawn(move || {
                    for turn in 0..200 {
                        let bytes = 1 + (worker * 31 + turn * 17) % 60;
                        let permit = budget.take(bytes);
                        let mut now = locked(held);
                        now.0 += bytes;
                        now.1 = now.1.max(now.0);
                        drop(now);
                        locked(held).0 -= bytes;
                        drop(permit);
                    }
                });
            }
        });
        let (left, most) = *locked(&held);
        assert!(left == 0 && most <= 100, "{left} {most}");
        assert_eq!(locked(&budget.state).free, 100);
    }
}
