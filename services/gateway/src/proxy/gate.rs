//! What stands before an upstream: a limit of the requests that it has not answered yet, and a short
//! queue for those beyond it.
//!
//! A request holds its permit until the head of its response has come. Bodies are not counted: a
//! download, an event stream or a WebSocket may last for hours and needs little of the upstream, and a
//! body that does slow the upstream down makes its heads late, which the limit then sees. A request
//! whose own body is slow gives its permit back after a second ([`Permit`] is dropped by the sender):
//! there the upstream waits for the client.
//!
//! The limit is a number, or it is learnt ([`Meter`]). All workers share it. A request that finds
//! room, and every response, touch atomics only; the queue has a lock, which is taken only while somebody
//! waits, and never over an await.
//!
//! The queue is short in length and in time. As long as it becomes empty now and then it is in order of
//! arrival. When it does not, the newest goes first (adaptive LIFO), because those who have waited long
//! will have left by the time that they would be answered.

use super::{adaptive::INITIAL_LIMIT, meter::Meter};
use crate::config::GateConfig;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::{sync::oneshot, time::timeout};

pub(super) struct Gate {
    config: GateConfig,
    limit: AtomicUsize,
    used: AtomicUsize,
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    meter: Meter,
}

struct Queue {
    waiters: VecDeque<(u64, oneshot::Sender<Permit>)>,
    next: u64,
    last_empty: Instant,
}

impl Gate {
    pub(super) fn new(config: GateConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            limit: AtomicUsize::new(config.max_in_flight.unwrap_or(INITIAL_LIMIT)),
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(Queue {
                waiters: VecDeque::new(),
                next: 0,
                last_empty: Instant::now(),
            }),
            meter: Meter::new(),
        })
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether a request would have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.used() >= self.limit()
    }

    /// A permit, if there is room.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        if self.take() {
            return Some(Permit::new(self));
        }
        if self.config.max_in_flight.is_none() {
            self.meter.limit_was_reached();
            if let Some(limit) = self.meter.limit_after_silence() {
                self.limit.store(limit, Ordering::SeqCst);
                return self.take().then(|| Permit::new(self));
            }
        }
        None
    }

    /// A permit, if one comes free within the queue's bounds.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Permit> {
        if let Some(permit) = self.try_enter() {
            return Some(permit);
        }
        let (sender, granted) = oneshot::channel();
        let _place = {
            let mut queue = self.queue.lock();
            if queue.waiters.len() >= self.config.max_queue {
                return None;
            }
            let number = queue.next;
            queue.next += 1;
            queue.waiters.push_back((number, sender));
            self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
            Place { gate: self, number }
        };
        // Room may have come between the look and the queueing.
        self.wake();
        timeout(self.config.queue_timeout, granted).await.ok()?.ok()
    }

    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        let more = |used: usize| (used < limit).then_some(used + 1);
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .is_ok()
    }

    fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::SeqCst);
    }

    /// Gives the room that there is to those who wait.
    fn wake(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        while !queue.waiters.is_empty() && self.take() {
            let overloaded = queue.last_empty.elapsed() > self.config.queue_timeout;
            let next = if overloaded {
                queue.waiters.pop_back()
            } else {
                queue.waiters.pop_front()
            };
            let refused = match next {
                Some((_, waiter)) => waiter.send(Permit::new(self)).err(),
                None => None,
            };
            if let Some(mut permit) = refused {
                // It has left. Its drop would come here again, and wait for our lock.
                permit.gate = None;
                self.give_back();
            }
        }
        self.settle(&mut queue);
    }

    fn settle(&self, queue: &mut Queue) {
        if queue.waiters.is_empty() {
            queue.last_empty = Instant::now();
        }
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
    }

    fn leave(self: &Arc<Self>) {
        self.give_back();
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }
}

/// A place in the queue, which ends with the request that waits.
struct Place<'a> {
    gate: &'a Arc<Gate>,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = self.gate.queue.lock();
        let found = queue
            .waiters
            .iter()
            .position(|(number, _)| *number == self.number);
        if let Some(at) = found {
            queue.waiters.remove(at);
            self.gate.settle(&mut queue);
        }
    }
}

/// The right to ask an upstream. Room comes free when it ends, however it ends.
pub(super) struct Permit {
    /// `None` once it is given back.
    gate: Option<Arc<Gate>>,
    began: Instant,
    window: u32,
}

impl Permit {
    fn new(gate: &Arc<Gate>) -> Self {
        Self {
            window: gate.meter.window(),
            gate: Some(Arc::clone(gate)),
            began: Instant::now(),
        }
    }

    /// Ends it with an answer, or a time-out: how long that took since `sent`, when the upstream had
    /// the whole request, says how loaded the upstream is.
    pub(super) fn answered(self, sent: Instant) {
        let Some(gate) = &self.gate else { return };
        if gate.config.max_in_flight.is_some() {
            return;
        }
        let took = sent.max(self.began).elapsed();
        let limit = gate.limit();
        if let Some(limit) = gate.meter.note(self.window, took, limit) {
            gate.limit.store(limit, Ordering::SeqCst);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::meter::SILENCE, *};
    use std::time::Duration;

    fn gate(max_in_flight: usize, max_queue: usize, queue_timeout: Duration) -> Arc<Gate> {
        Gate::new(GateConfig {
            max_in_flight: Some(max_in_flight),
            max_queue,
            queue_timeout,
        })
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_comes_beyond_the_queue_is_refused_at_once() {
        let gate = gate(1, 1, LONG);
        let first = gate.enter().await.unwrap();
        let waiter = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.is_some() }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.waiting(), 1);
        assert!(gate.enter().await.is_none());
        drop(first);
        assert!(waiter.await.unwrap());
        assert_eq!((gate.used(), gate.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn a_request_waits_for_the_timeout_and_leaves_nothing_behind() {
        let gate = gate(1, 8, Duration::from_millis(100));
        let _first = gate.enter().await.unwrap();
        assert!(gate.enter().await.is_none());
        assert_eq!((gate.used(), gate.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn a_client_that_leaves_the_queue_gives_its_place_back() {
        let gate = gate(1, 1, LONG);
        let first = gate.enter().await.unwrap();
        let left = timeout(Duration::from_millis(1), gate.enter()).await;
        assert!(left.is_err());
        assert_eq!(gate.waiting(), 0);
        drop(first);
        assert!(gate.enter().await.is_some());
    }

    #[tokio::test]
    async fn the_newest_goes_first_once_the_queue_does_not_become_empty() {
        for (timeout, newest_first) in [(Duration::ZERO, true), (LONG, false)] {
            let gate = gate(1, 8, timeout);
            let first = gate.enter().await.unwrap();
            let mut waiters = Vec::new();
            for number in 0..3 {
                let (sender, granted) = oneshot::channel();
                gate.queue.lock().waiters.push_back((number, sender));
                waiters.push(granted);
            }
            gate.waiting.store(3, Ordering::SeqCst);
            let long_ago = Instant::now() - Duration::from_millis(2);
            gate.queue.lock().last_empty = long_ago;
            drop(first);
            // Taking a permit out drops it, and the next in order gets it.
            let granted = waiters.iter_mut().map(|waiter| waiter.try_recv().is_ok());
            let granted: Vec<_> = granted.collect();
            let expected = if newest_first {
                [false, false, true]
            } else {
                [true, true, true]
            };
            assert_eq!(granted, expected);
        }
    }

    #[tokio::test]
    async fn an_upstream_that_says_nothing_yet_is_not_taken_for_an_overloaded_one() {
        let gate = Gate::new(GateConfig {
            max_in_flight: None,
            max_queue: 0,
            queue_timeout: LONG,
        });
        let mut held: Vec<_> = std::iter::from_fn(|| gate.try_enter()).collect();
        assert_eq!(held.len(), INITIAL_LIMIT);
        tokio::time::sleep(SILENCE + Duration::from_millis(10)).await;
        held.extend(std::iter::from_fn(|| gate.try_enter()));
        assert_eq!(held.len(), INITIAL_LIMIT * 3 / 2);
        drop(held);
        assert_eq!(gate.used(), 0);
    }

    #[test]
    fn permits_are_never_more_than_the_limit_whatever_threads_do() {
        let gate = gate(5, 0, LONG);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let permit = gate.try_enter();
                        assert!(gate.used() <= 5);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(gate.used(), 0);
    }
}
