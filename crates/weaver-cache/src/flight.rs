//! A flight: one fetch that is under way for a key, and all who wait for it.
//!
//! The fill task writes, any number of readers on any thread read; nobody copies. Chunks are kept
//! while the response may still be stored, so that a reader that comes late begins at the beginning.
//! Once it turns out that it will not be stored (too large, no room) the flight becomes a window: it
//! leaves the map, chunks go as soon as every reader has them, and the writer waits for the slowest.
//!
//! A flight ends whole, or broken: readers of a broken one get an error, never a clean end.

use crate::{
    Position,
    entry::{Entry, Head},
};
use actix_http::body::{BodySize, MessageBody};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::sync::watch;
use weaver_cache_policy::Outcome;
use weaver_metrics::Tier;

/// Bytes that a window holds for its slowest reader.
const WINDOW: u64 = 1 << 20;

/// What the fetch came to, as far as followers can use it.
#[derive(Clone)]
pub(crate) enum Landing {
    /// The origin has not answered yet.
    Airborne,
    /// A stored response answers: it was in Redis, the origin confirmed it, or it replaces an error.
    Entry(Arc<Entry>, Tier, Outcome),
    /// A response comes in, which will be in this node's memory.
    /// It is from the origin, or it is a stored one that comes from Redis, with what that counts as.
    Streaming(Arc<Head>, Option<u64>, Option<Outcome>),
    /// The origin was not reached; the status that the leader's client got.
    Failed(u16),
    /// A response that only the leader may have.
    Alone,
    /// The leader came to nothing; one of those who wait takes its place.
    Abandoned,
}

pub(crate) struct Flight {
    landing: watch::Sender<Landing>,
    body: Mutex<Body>,
    /// Set by a purge that came while the fetch was under way.
    doomed: AtomicBool,
    /// The place in the purge journal from before the fetch began.
    position: Position,
}

#[derive(Default)]
struct Body {
    chunks: VecDeque<Bytes>,
    /// The number of the first chunk that is kept.
    first: usize,
    held: u64,
    windowed: bool,
    end: Option<Result<(), Broken>>,
    readers: HashMap<u64, ReaderState>,
    next_reader: u64,
    writer: Option<Waker>,
}

struct ReaderState {
    next: usize,
    waker: Option<Waker>,
}

/// The response broke off before its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response broke off before its end")
    }
}

impl std::error::Error for Broken {}

impl Body {
    fn wake_readers(&mut self) {
        for reader in self.readers.values_mut() {
            if let Some(waker) = reader.waker.take() {
                waker.wake();
            }
        }
    }

    /// Drops what every reader has, in a window.
    fn trim(&mut self) {
        if !self.windowed {
            return;
        }
        let slowest = self
            .readers
            .values()
            .map(|reader| reader.next)
            .min()
            .unwrap_or(usize::MAX);
        while self.first < slowest {
            let Some(chunk) = self.chunks.pop_front() else {
                break;
            };
            self.held -= chunk.len() as u64;
            self.first += 1;
        }
        if self.held < WINDOW
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }
}

impl Flight {
    pub(crate) fn new(position: Position) -> Arc<Self> {
        Arc::new(Self {
            landing: watch::Sender::new(Landing::Airborne),
            body: Mutex::default(),
            doomed: AtomicBool::new(false),
            position,
        })
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn land(&self, landing: Landing) {
        self.landing.send_replace(landing);
    }

    /// Waits until the flight has landed.
    pub(crate) async fn landed(&self) -> Landing {
        let mut landing = self.landing.subscribe();
        match landing
            .wait_for(|landing| !matches!(landing, Landing::Airborne))
            .await
        {
            Ok(landing) => landing.clone(),
            // The sender is ours and we are alive.
            Err(_) => Landing::Abandoned,
        }
    }

    pub(crate) fn has_landed(&self) -> bool {
        !matches!(*self.landing.borrow(), Landing::Airborne)
    }

    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    /// A reader from the beginning; `None` if the beginning is gone.
    pub(crate) fn reader(self: &Arc<Self>, length: Option<u64>) -> Option<Reader> {
        let mut body = self.body.lock();
        if body.windowed && body.first > 0 {
            return None;
        }
        let id = body.next_reader;
        body.next_reader += 1;
        body.readers.insert(
            id,
            ReaderState {
                next: 0,
                waker: None,
            },
        );
        drop(body);
        Some(Reader {
            flight: Arc::clone(self),
            id,
            length,
        })
    }

    pub(crate) fn push(&self, chunk: Bytes) {
        let mut body = self.body.lock();
        body.held += chunk.len() as u64;
        body.chunks.push_back(chunk);
        body.trim();
        body.wake_readers();
    }

    /// Turns the flight into a window.
    pub(crate) fn stop_keeping(&self) {
        let mut body = self.body.lock();
        body.windowed = true;
        body.trim();
    }

    /// Waits until a window has room; `false` once nobody reads any more.
    pub(crate) async fn room(&self) -> bool {
        poll_fn(|cx| {
            let mut body = self.body.lock();
            if body.readers.is_empty() {
                return Poll::Ready(false);
            }
            if body.held < WINDOW {
                return Poll::Ready(true);
            }
            body.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Cuts off the readers that keep a full window from moving.
    pub(crate) fn cut_off_stalled(&self) {
        let mut body = self.body.lock();
        let first = body.first;
        for reader in body
            .readers
            .values_mut()
            .filter(|reader| reader.next == first)
        {
            // A number past every chunk: the reader finds that its place is gone.
            reader.next = usize::MAX;
            if let Some(waker) = reader.waker.take() {
                waker.wake();
            }
        }
        body.trim();
    }

    pub(crate) fn end(&self, how: Result<(), Broken>) {
        let mut body = self.body.lock();
        body.end.get_or_insert(how);
        body.wake_readers();
    }

    /// The whole body in one piece, with no more bytes behind it than it has.
    pub(crate) fn whole(&self) -> Bytes {
        let body = self.body.lock();
        let mut whole = Vec::with_capacity(usize::try_from(body.held).unwrap_or(0));
        for chunk in &body.chunks {
            whole.extend_from_slice(chunk);
        }
        whole.into()
    }
}

/// One client's place in a flight's body.
pub(crate) struct Reader {
    flight: Arc<Flight>,
    id: u64,
    length: Option<u64>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut body = self.flight.body.lock();
        body.readers.remove(&self.id);
        body.trim();
        if body.readers.is_empty()
            && let Some(writer) = body.writer.take()
        {
            writer.wake();
        }
    }
}

impl MessageBody for Reader {
    type Error = Broken;

    fn size(&self) -> BodySize {
        self.length.map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let mut guard = self.flight.body.lock();
        let body = &mut *guard;
        let (first, end) = (body.first, body.end);
        let Some(reader) = body.readers.get_mut(&self.id) else {
            return Poll::Ready(Some(Err(Broken)));
        };
        let Some(at) = reader
            .next
            .checked_sub(first)
            .filter(|_| reader.next != usize::MAX)
        else {
            return Poll::Ready(Some(Err(Broken)));
        };
        if let Some(chunk) = body.chunks.get(at) {
            reader.next += 1;
            let chunk = chunk.clone();
            body.trim();
            return Poll::Ready(Some(Ok(chunk)));
        }
        match end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                reader.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

type Shard = Mutex<HashMap<Arc<[u8]>, Arc<Flight>, ahash::RandomState>>;

/// The flights under way, by key.
pub(crate) struct Flights {
    shards: Box<[Shard]>,
    hasher: ahash::RandomState,
}

/// What joining a key's flight made of a request.
pub(crate) enum Joined {
    /// It leads, and must fetch.
    Leads(Lead),
    /// It waits for another's fetch.
    Follows(Arc<Flight>),
}

impl Flights {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: (0..64).map(|_| Mutex::default()).collect(),
            hasher: ahash::RandomState::new(),
        })
    }

    fn shard(&self, key: &[u8]) -> &Shard {
        let at = self.hasher.hash_one(key) as usize % self.shards.len();
        &self.shards[at]
    }

    /// `position` is where the purge journal stands.
    pub(crate) fn join(self: &Arc<Self>, key: &[u8], position: Position) -> Joined {
        let mut shard = self.shard(key).lock();
        if let Some(flight) = shard.get(key) {
            return Joined::Follows(Arc::clone(flight));
        }
        let key: Arc<[u8]> = key.into();
        let flight = Flight::new(position);
        shard.insert(Arc::clone(&key), Arc::clone(&flight));
        Joined::Leads(Lead {
            flight,
            place: Some((Arc::clone(self), key)),
        })
    }

    /// Takes a flight off the map, for nobody else to join; those who did go on with it.
    pub(crate) fn retire(&self, key: &[u8], flight: &Arc<Flight>) {
        let mut shard = self.shard(key).lock();
        if shard
            .get(key)
            .is_some_and(|known| Arc::ptr_eq(known, flight))
        {
            shard.remove(key);
        }
    }

    pub(crate) fn doom_all(&self) {
        for shard in &self.shards {
            shard.lock().values().for_each(|flight| flight.doom());
        }
    }
}

/// The right and duty to end a flight. Dropped before it has landed, one of the followers takes
/// over; dropped before the body's end, readers find it broken.
pub(crate) struct Lead {
    pub(crate) flight: Arc<Flight>,
    place: Option<(Arc<Flights>, Arc<[u8]>)>,
}

impl Lead {
    /// A fetch that nobody can join.
    pub(crate) fn solo() -> Self {
        Self {
            flight: Flight::new(Position::default()),
            place: None,
        }
    }

    pub(crate) fn is_solo(&self) -> bool {
        self.place.is_none()
    }

    /// Takes the flight off the map; whoever comes now begins another.
    pub(crate) fn close(&mut self) {
        if let Some((flights, key)) = self.place.take() {
            flights.retire(&key, &self.flight);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.close();
        if !self.flight.has_landed() {
            self.flight.land(Landing::Abandoned);
        }
        self.flight.end(Err(Broken));
    }
}

/// Bytes of bodies on their way into the cache, over all flights.
pub(crate) struct Budget {
    used: AtomicU64,
    limit: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            limit,
        })
    }

    pub(crate) fn reserve(self: &Arc<Self>) -> Reserved {
        Reserved {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }
}

/// A flight's share of the budget, given back when dropped.
pub(crate) struct Reserved {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reserved {
    /// Takes that many bytes more; `false` if they are not to be had.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        let limit = self.budget.limit;
        let taken = self
            .budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= limit)
            });
        if taken.is_ok() {
            self.bytes += bytes;
        }
        taken.is_ok()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
