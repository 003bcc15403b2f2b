//! Purges that the journal did not take: they hold in this node, and the others are owed them.
//!
//! They are written once Redis is reached again, before this node uses it as a tier: what lies there
//! is older than the purge by no place that this node could give it. A purge whose deadline passed
//! may be in the journal already; twice does no harm.

use super::{Purge, item::Item};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
};

/// Purges that are remembered, and their bytes. One more, and everything is owed.
const MAX_ITEMS: usize = 4096;
const MAX_BYTES: usize = 4 << 20;

#[derive(Default)]
pub(super) struct Owed {
    /// Whether there are any, for those who look often.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Owed {
    pub(super) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    pub(super) fn push(&self, item: Item) {
        let mut state = self.state.lock();
        if !state.items.contains(&item) {
            state.bytes += item.bytes();
            state.items.push_back(item);
        }
        if state.items.len() > MAX_ITEMS || state.bytes > MAX_BYTES {
            let all = Item::new(&Purge::All, false, false);
            state.bytes = all.bytes();
            state.items = VecDeque::from([all]);
        }
        self.any.store(true, Ordering::Release);
    }

    /// The oldest; it stays until it is [`settled`](Self::settle).
    pub(super) fn first(&self) -> Option<Item> {
        self.state.lock().items.front().cloned()
    }

    pub(super) fn settle(&self, item: &Item) {
        let mut state = self.state.lock();
        // It is another where everything has come to be owed meanwhile.
        if state.items.front() == Some(item) {
            state.items.pop_front();
            state.bytes -= item.bytes();
        }
        self.any.store(!state.items.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: usize) -> Item {
        Item::new(&Purge::Tag(format!("t{number}")), false, false)
    }

    #[test]
    fn what_is_owed_is_settled_in_order_and_once() {
        let owed = Owed::default();
        assert!(owed.is_empty());
        for number in [1, 2, 1] {
            owed.push(tag(number));
        }
        for number in [1, 2] {
            assert_eq!(owed.first(), Some(tag(number)));
            owed.settle(&tag(number));
        }
        assert!(owed.is_empty() && owed.first().is_none());
        assert_eq!(owed.state.lock().bytes, 0);
    }

    #[test]
    fn too_many_are_one_for_everything() {
        let owed = Owed::default();
        (0..=MAX_ITEMS).for_each(|number| owed.push(tag(number)));
        let all = Item::new(&Purge::All, false, false);
        assert_eq!(owed.first(), Some(all.clone()));
        owed.settle(&tag(0));
        owed.settle(&all);
        assert!(owed.is_empty());
    }
}
