//! What the receiver tells of its own copy of a file whose bytes the base has lost.

use snapsync_model::Layout;

/// Where the receiver's copy has data, and which windows of the target's data it has too. It is a claim: if
/// it is wrong, so is the receiver's next copy, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub(crate) layout: Layout,
    window: u64,
    /// A bit for each window.
    same: Vec<u64>,
}

impl Told {
    pub fn new(layout: Layout, window: u64) -> Told {
        Told { layout, window: window.max(1), same: Vec::new() }
    }

    /// Notes that both have the same bytes in the window at this offset.
    pub fn has_window_at(&mut self, offset: u64) {
        let (word, bit) = self.place_of(offset);
        if word >= self.same.len() {
            self.same.resize(word + 1, 0);
        }
        self.same[word] |= bit;
    }

    fn place_of(&self, offset: u64) -> (usize, u64) {
        let window = offset / self.window;
        ((window / 64) as usize, 1 << (window % 64))
    }

    fn has(&self, offset: u64) -> bool {
        let (word, bit) = self.place_of(offset);
        self.same.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The parts of a range in windows that may differ.
    pub(crate) fn others(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut at = from;
        let parts = std::iter::from_fn(move || {
            let from = at;
            at = ((from / self.window + 1) * self.window).min(to);
            (from < to).then_some((from, at))
        });
        parts.filter(|(from, _)| !self.has(*from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_other_windows_are_told_and_end_with_the_range() {
        let mut told = Told::new(Layout::default(), 64);
        [0, 192, 64 * 64].into_iter().for_each(|at| told.has_window_at(at));
        let others = |from, to| told.others(from, to).collect::<Vec<_>>();
        assert_eq!(others(0, 64), []);
        assert_eq!(others(10, 70), [(64, 70)]);
        assert_eq!(others(100, 260), [(100, 128), (128, 192), (256, 260)]);
        assert_eq!(others(64 * 64, 64 * 65), []);
        assert_eq!(others(64 * 65 - 1, 64 * 65 + 1), [(64 * 65, 64 * 65 + 1)]);
        assert_eq!(others(1 << 40, (1 << 40) + 1), [(1 << 40, (1 << 40) + 1)]);
        assert_eq!(others(5, 5), []);
    }
}
