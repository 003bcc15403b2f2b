//! What unsafe requests have invalidated and the journal has not yet: a queue that one task empties.
//!
//! A URL stands in it once: until its item is written, that item is later than every request that asked
//! for it. If more come than Redis takes, one item for everything stands for them all.

use super::{Purge, append::Writer, item::Item, stream::Standing};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;

/// URLs that wait, and their bytes.
const MAX_URLS: usize = 65_536;
const MAX_BYTES: usize = 16 << 20;
/// Items that are taken at once, and that are on their way to Redis at once.
const BATCH: usize = 512;
const AT_ONCE: usize = 32;

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Notify,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    order: VecDeque<Arc<Purge>>,
    waiting: HashSet<Arc<Purge>>,
    bytes: usize,
}

impl Queue {
    pub(super) fn push(&self, purge: Purge) {
        let mut state = self.state.lock();
        state.push(Arc::new(purge));
        if state.order.len() > MAX_URLS || state.bytes > MAX_BYTES {
            *state = State::default();
            state.push(Arc::new(Purge::All));
        }
        drop(state);
        self.filled.notify_one();
    }

    fn take(&self) -> Vec<Arc<Purge>> {
        let mut state = self.state.lock();
        let count = state.order.len().min(BATCH);
        let taken: Vec<_> = state.order.drain(..count).collect();
        for purge in &taken {
            state.waiting.remove(purge);
            state.bytes -= bytes(purge);
        }
        taken
    }

    /// Lets [`run`](Self::run) end once the queue is empty.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.filled.notify_one();
    }

    /// Writes what comes into the journal. What cannot be written now is owed.
    pub(super) async fn run(
        self: Arc<Self>,
        writer: Writer,
        standing: Arc<Standing>,
        failed: Arc<dyn Fn() + Send + Sync>,
    ) {
        loop {
            let taken = self.take();
            if taken.is_empty() {
                if self.closed.load(Ordering::Acquire) {
                    return;
                }
                self.filled.notified().await;
                continue;
            }
            let is_reached = standing.current.load(Ordering::Acquire);
            let (writer, failed) = (&writer, &failed);
            stream::iter(taken)
                .for_each_concurrent(AT_ONCE, |purge| async move {
                    let item = Item::write(&purge);
                    if !is_reached || writer.write(item.clone()).await.is_err() {
                        failed();
                        writer.owed.push(item);
                    }
                })
                .await;
        }
    }
}

impl State {
    fn push(&mut self, purge: Arc<Purge>) {
        if self.waiting.insert(Arc::clone(&purge)) {
            self.bytes += bytes(&purge);
            self.order.push_back(purge);
        }
    }
}

fn bytes(purge: &Purge) -> usize {
    match purge {
        Purge::Url { host, target: text } | Purge::Prefix { host, prefix: text } => {
            host.as_ref().map_or(0, String::len) + text.len()
        }
        Purge::Tag(tag) => tag.len(),
        Purge::All => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(number: usize) -> Purge {
        Purge::Url {
            host: Some("h".to_owned()),
            target: format!("/{number}"),
        }
    }

    #[test]
    fn a_url_waits_once_and_again_after_it_was_taken() {
        let queue = Queue::default();
        for number in [1, 2, 1] {
            queue.push(url(number));
        }
        let taken: Vec<_> = queue.take().iter().map(|one| Purge::clone(one)).collect();
        assert_eq!(taken, [url(1), url(2)]);
        queue.push(url(1));
        assert_eq!(queue.take().len(), 1);
        assert_eq!(queue.state.lock().bytes, 0);
    }

    #[test]
    fn too_many_are_one_for_everything() {
        let queue = Queue::default();
        (0..=MAX_URLS).for_each(|number| queue.push(url(number)));
        let taken = queue.take();
        assert_eq!((taken.len(), &*taken[0]), (1, &Purge::All));
        assert!(queue.take().is_empty() && queue.state.lock().waiting.is_empty());
    }
}
