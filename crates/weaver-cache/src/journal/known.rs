//! The newest items that this node has seen or written, against what the stream has.
//!
//! A primary that fails over takes with it what it had not replicated. Whoever has seen such an item
//! writes it again. This says which: all decisions are here, the talking to Redis is in
//! [`super::follow`].

use super::{Position, item::Item};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// Items that are remembered, and their bytes.
const MAX_ITEMS: usize = 4096;
const MAX_BYTES: usize = 4 << 20;
/// An own item that has not come back through the stream after this long is taken for lost.
const OVERDUE: Duration = Duration::from_secs(2);

/// A suffix of what was applied, purges from further back than writes, and the own items that have not come back yet.
#[derive(Clone, Default)]
pub(super) struct Known {
    items: BTreeMap<Position, Arc<Item>>,
    /// Those that unsafe requests have caused: they make room first.
    writes: BTreeSet<Position>,
    /// Up to here some are not remembered that were applied.
    gap: Position,
    bytes: usize,
    /// Own items that are written but not read back, and since when.
    awaited: BTreeMap<Position, Instant>,
}

/// What to do after a look at the stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Nothing of what was known is there.
    pub(super) is_other: bool,
    /// Items that are known and not there.
    pub(super) missing: Vec<(Position, Arc<Item>)>,
    /// Items of the stream that are not known, in the midst of what is: written by a server whose
    /// clock is behind, after it lost some. Entries may carry later positions.
    pub(super) belated: Vec<(Position, Item)>,
}

impl Known {
    /// An item was written by this node.
    pub(super) fn written(&mut self, at: Position, item: Item) {
        if !self.items.contains_key(&at) {
            self.awaited.insert(at, Instant::now());
            self.insert(at, item);
        }
    }

    /// An item was read from the stream.
    pub(super) fn read(&mut self, at: Position, item: Item) {
        self.awaited.remove(&at);
        if !self.items.contains_key(&at) {
            self.insert(at, item);
        }
    }

    fn insert(&mut self, at: Position, item: Item) {
        self.bytes += item.bytes();
        if item.is_write() {
            self.writes.insert(at);
        }
        self.items.insert(at, Arc::new(item));
        while self.items.len() > MAX_ITEMS || self.bytes > MAX_BYTES {
            let oldest = || self.items.keys().next();
            let Some(&at) = self.writes.first().or_else(oldest) else {
                break;
            };
            self.forget(at);
            self.gap = self.gap.max(at);
        }
    }

    fn has(&self, at: Position, item: &Item) -> bool {
        self.items.get(&at).is_some_and(|known| **known == *item)
    }

    /// The oldest and the newest that is known.
    pub(super) fn range(&self) -> Option<(Position, Position)> {
        let mut places = self.items.keys().copied();
        let first = places.next()?;
        Some((first, places.next_back().unwrap_or(first)))
    }

    /// Takes the own items that should have come back: what comes after them has, or it is long ago.
    pub(super) fn overdue(&mut self, last: Position, now: Instant) -> Vec<(Position, Arc<Item>)> {
        let overdue = |at: &Position, since: &Instant| {
            *at <= last || now.saturating_duration_since(*since) > OVERDUE
        };
        let mut lost = Vec::new();
        self.awaited.retain(|at, since| {
            let is_overdue = overdue(at, since);
            if is_overdue && let Some(item) = self.items.get(at) {
                lost.push((*at, Arc::clone(item)));
            }
            !is_overdue
        });
        for (at, _) in &lost {
            self.forget(*at);
        }
        lost
    }

    /// An item has been written again, at another place.
    pub(super) fn forget(&mut self, at: Position) {
        self.awaited.remove(&at);
        self.writes.remove(&at);
        if let Some(item) = self.items.remove(&at) {
            self.bytes -= item.bytes();
        }
    }

    /// Items up to here were trimmed: it is right that they are missing.
    pub(super) fn forget_before(&mut self, oldest: Position) {
        while let Some((&at, _)) = self.items.first_key_value()
            && at < oldest
        {
            self.forget(at);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Compares what is known with what the stream has in [`Self::range`], and with the first places
    /// of what was written again after it.
    pub(super) fn compare(
        &self,
        stream: &[(Position, Item)],
        again: &BTreeSet<Position>,
    ) -> Difference {
        let there: BTreeMap<Position, &Item> =
            stream.iter().map(|(at, item)| (*at, item)).collect();
        let again: BTreeSet<Position> = stream
            .iter()
            .filter_map(|(_, item)| item.original())
            .chain(again.iter().copied())
            .collect();
        let is_there = |at: &Position, item: &Item| {
            there.get(at).is_some_and(|there| *there == item)
                || again.contains(at)
                || item.original().is_some_and(|first| again.contains(&first))
        };
        let missing: Vec<_> = self
            .items
            .iter()
            .filter(|(at, item)| !is_there(at, item))
            .map(|(at, item)| (*at, Arc::clone(item)))
            .collect();
        let belated = match self.items.keys().next_back() {
            Some(newest) if !missing.is_empty() => stream
                .iter()
                .filter(|(at, item)| *at > self.gap && at <= newest && !self.has(*at, item))
                .cloned()
                .collect(),
            _ => Vec::new(),
        };
        Difference {
            is_other: !missing.is_empty() && missing.len() == self.items.len(),
            missing,
            belated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Purge;
    use proptest::prelude::*;

    fn at(sequence: u64) -> Position {
        Position { time: 7, sequence }
    }

    fn item(name: u64) -> Item {
        Item::new(&Purge::Tag(name.to_string()), false, false)
    }

    fn known(items: impl IntoIterator<Item = u64>) -> Known {
        let mut known = Known::default();
        for number in items {
            known.read(at(number), item(number));
        }
        known
    }

    fn stream(items: impl IntoIterator<Item = u64>) -> Vec<(Position, Item)> {
        items
            .into_iter()
            .map(|number| (at(number), item(number)))
            .collect()
    }

    fn none() -> BTreeSet<Position> {
        BTreeSet::new()
    }

    fn places<T>(items: &[(Position, T)]) -> Vec<u64> {
        items.iter().map(|(at, _)| at.sequence).collect()
    }

    #[test]
    fn what_a_primary_took_with_it_is_missing() {
        let difference = known(1..=5).compare(&stream([1, 2, 3, 6]), &none());
        assert_eq!(places(&difference.missing), [4, 5]);
        assert!(!difference.is_other);
        assert!(difference.belated.is_empty());
    }

    #[test]
    fn what_others_wrote_again_is_not_missing() {
        let mut there = stream([1, 2, 3]);
        there.push((at(9), item(4).again(at(4))));
        let known = known(1..=5);
        assert_eq!(places(&known.compare(&there, &none()).missing), [5]);
        // Written again once more after a second loss, it is still the same item.
        let mut later = self::known([1, 2, 3]);
        later.read(at(9), item(4).again(at(4)));
        let mut there = stream([1, 2, 3]);
        there.push((at(12), item(4).again(at(4)).again(at(9))));
        assert_eq!(later.compare(&there, &none()), Difference::default());
    }

    #[test]
    fn a_clock_that_is_behind_is_noticed() {
        let mut there = stream([1, 2]);
        there.push((at(4), item(40)));
        let mut known = known([1, 2, 3]);
        known.written(at(5), item(5));
        let difference = known.compare(&there, &none());
        assert_eq!(places(&difference.missing), [3, 5]);
        assert_eq!(places(&difference.belated), [4]);
    }

    #[test]
    fn another_item_at_the_same_place_is_another_item() {
        let difference = known([1, 2]).compare(&[(at(1), item(1)), (at(2), item(20))], &none());
        assert_eq!(places(&difference.missing), [2]);
        assert_eq!(difference.belated, [(at(2), item(20))]);
    }

    #[test]
    fn another_stream_is_noticed_and_the_same_is_not() {
        assert!(known(1..=3).compare(&[], &none()).is_other);
        assert!(known(1..=3).compare(&stream(8..=9), &none()).is_other);
        assert_eq!(
            known(1..=3).compare(&stream(1..=9), &none()),
            Difference::default()
        );
        assert_eq!(
            known([]).compare(&stream(1..=9), &none()),
            Difference::default()
        );
    }

    #[test]
    fn an_own_item_that_does_not_come_back_is_overdue() {
        let mut known = known([1]);
        known.written(at(3), item(3));
        known.written(at(6), item(6));
        let now = Instant::now();
        assert!(known.overdue(at(2), now).is_empty());
        known.read(at(3), item(3));
        assert!(known.overdue(at(3), now).is_empty());
        assert_eq!(places(&known.overdue(at(7), now)), [6]);
        assert!(known.overdue(at(7), now).is_empty());
        known.written(at(9), item(9));
        assert_eq!(places(&known.overdue(at(7), now + OVERDUE * 2)), [9]);
    }

    #[test]
    fn it_is_bounded() {
        let mut known = Known::default();
        for number in 0..2 * MAX_ITEMS as u64 {
            known.written(at(number), item(number));
        }
        assert_eq!(known.items.len(), MAX_ITEMS);
        assert!(known.awaited.len() <= MAX_ITEMS);
        let long = Item::new(&Purge::Tag("x".repeat(1 << 20)), false, false);
        for number in 0..20 {
            known.written(at(1 << 40 | number), long.clone());
        }
        assert!(known.bytes <= MAX_BYTES);
        let sum: usize = known.items.values().map(|item| item.bytes()).sum();
        assert_eq!(known.bytes, sum);
    }

    proptest! {
        /// Whatever a failover loses: what is there afterwards and what is written again are all.
        #[test]
        fn nothing_is_lost(
            seen in proptest::collection::btree_set(0_u64..60, 0..40),
            lost_from in 0_u64..60,
            new in proptest::collection::btree_set(0_u64..90, 0..20),
        ) {
            let known = known(seen.clone());
            let kept = seen.iter().copied().filter(|number| *number < lost_from);
            let later = new.iter().copied().filter(|number| *number >= lost_from);
            let there: BTreeSet<u64> = kept.chain(later).collect();
            let difference = known.compare(&stream(there.clone()), &none());
            let mut all = places(&difference.missing);
            all.extend(&there);
            for number in &seen {
                prop_assert!(all.contains(number));
            }
        }
    }
}
