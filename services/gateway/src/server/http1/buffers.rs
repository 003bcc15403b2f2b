//! Read and write buffers: a few for each worker, lent to the connection that is at work, and a
//! budget for what all connections hold.
//!
//! A connection holds a buffer only while there is something in it. An idle one holds none, and
//! those that take turns use the same few, which stay in the processor's cache.

use bytes::BytesMut;
use std::{
    cell::RefCell,
    sync::atomic::{AtomicUsize, Ordering},
};

/// What a buffer has room for when it is lent.
pub(super) const BUFFER: usize = 8 << 10;
/// A buffer with less room than this is made larger, or new, before it is lent.
const LEAST: usize = 2 << 10;
/// A buffer that has grown beyond this is not kept.
const MOST: usize = 64 << 10;
/// Buffers that a worker keeps.
const KEPT: usize = 16;

/// A worker's buffers.
#[derive(Debug, Default)]
pub(super) struct Pool(RefCell<Vec<BytesMut>>);

impl Pool {
    pub(super) fn take(&self) -> BytesMut {
        let mut buffer = self.0.borrow_mut().pop().unwrap_or_default();
        if buffer.capacity() < LEAST {
            buffer.reserve(BUFFER);
        }
        buffer
    }

    pub(super) fn give(&self, mut buffer: BytesMut) {
        let mut kept = self.0.borrow_mut();
        if buffer.capacity() > 0 && buffer.capacity() <= MOST && kept.len() < KEPT {
            buffer.clear();
            kept.push(buffer);
        }
    }
}

/// How much all connections may hold in buffers.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicUsize,
    most: usize,
}

impl Budget {
    pub(crate) fn new(most: u64) -> Self {
        Self {
            held: AtomicUsize::new(0),
            most: usize::try_from(most).unwrap_or(usize::MAX),
        }
    }

    /// Whether nothing more is to be let in.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.most
    }

    /// Counts that a connection which held `before` now holds `after`.
    pub(super) fn change(&self, before: usize, after: usize) {
        if after > before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_room() {
        let pool = Pool::default();
        let mut buffer = pool.take();
        buffer.extend_from_slice(&[0; BUFFER]);
        let head = buffer.split_to(BUFFER - 10).freeze();
        pool.give(buffer);
        let other = pool.take();
        assert!(other.is_empty() && other.capacity() >= LEAST);
        drop(head);
        pool.give(other);
        assert!(pool.take().capacity() >= LEAST);
    }

    #[test]
    fn a_budget_is_exhausted_at_its_limit_and_free_again_below() {
        let budget = Budget::new(100);
        budget.change(0, 99);
        assert!(!budget.is_exhausted());
        budget.change(99, 100);
        assert!(budget.is_exhausted());
        budget.change(100, 0);
        assert!(!budget.is_exhausted());
    }
}
