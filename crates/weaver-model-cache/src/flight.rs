//! Fetches under way, and those who share them.
//!
//! Of those who ask for the same key at the same time the first leads: it fetches, says what it got
//! ([`Lead::land`]) and passes the body on as it comes ([`Lead::push`]). The others follow, and read
//! from the beginning. What they share is bounded: an answer that grows beyond its limit, or for
//! which there is no room, is shared with those who read it already and with nobody else, at the pace
//! of the slowest.

use crate::Key;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::timeout};
use weaver_relay::{Broken, Relay};

/// Fetches that can be joined at once; further ones are each for themselves.
const MOST: usize = 10_000;
/// How long a reader may keep the others from moving.
const STALL: Duration = Duration::from_secs(30);

/// The fetches under way, by key. `H` is what is known of an answer before its body.
pub struct Flights<H> {
    inner: Arc<Inner<H>>,
}

struct Inner<H> {
    map: Mutex<HashMap<Key, Arc<Flight<H>>>>,
    max_answer: u64,
    max_filling: u64,
    filling: AtomicU64,
}

struct Flight<H> {
    state: watch::Sender<State<H>>,
    body: Relay,
    /// What its chunks take of the limit for all.
    reserved: AtomicU64,
    all: Arc<Inner<H>>,
}

#[derive(Clone)]
enum State<H> {
    Airborne,
    Landed(H),
    Alone,
    Abandoned,
}

impl<H> Drop for Flight<H> {
    fn drop(&mut self) {
        let reserved = *self.reserved.get_mut();
        self.all.filling.fetch_sub(reserved, Ordering::Relaxed);
    }
}

impl<H> fmt::Debug for Flights<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights")
            .field("under_way", &self.inner.map.lock().len())
            .finish_non_exhaustive()
    }
}

impl<H> Clone for Flights<H> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

/// What joining made of a call.
#[derive(Debug)]
pub enum Joined<H> {
    /// It leads, and must fetch.
    Leads(Lead<H>),
    /// It waits for another's fetch.
    Follows(Follower<H>),
}

/// What became of the fetch that was waited for.
#[derive(Debug)]
pub enum Landed<H> {
    /// An answer comes in.
    Shared(H, Shared<H>),
    /// It is for who fetched it alone: fetch for yourself.
    Alone,
    /// It came to nothing: join again, one of those who do leads.
    Abandoned,
}

impl<H: Clone> Flights<H> {
    /// With limits: bytes of one answer, and of all that are on their way in.
    #[must_use]
    pub fn new(max_answer: usize, max_filling: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                map: Mutex::default(),
                max_answer: max_answer as u64,
                max_filling,
                filling: AtomicU64::new(0),
            }),
        }
    }

    /// Joins the fetch for a key, or begins it.
    #[must_use]
    pub fn join(&self, key: Key) -> Joined<H> {
        let mut map = self.inner.map.lock();
        if let Some(flight) = map.get(&key) {
            return Joined::Follows(Follower {
                flight: Arc::clone(flight),
            });
        }
        let flight = self.flight();
        let place = (map.len() < MOST).then(|| {
            map.insert(key, Arc::clone(&flight));
            key
        });
        Joined::Leads(Lead {
            flight,
            place,
            kept: true,
            total: 0,
        })
    }

    /// A fetch that nobody can join.
    #[must_use]
    pub fn alone(&self) -> Lead<H> {
        Lead {
            flight: self.flight(),
            place: None,
            kept: true,
            total: 0,
        }
    }

    /// A fetch that nobody can join, and whose answer is not kept: it goes on while its own client
    /// reads.
    #[must_use]
    pub fn passing(&self) -> Lead<H> {
        let flight = self.flight();
        flight.body.stop_keeping();
        Lead {
            flight,
            place: None,
            kept: false,
            total: 0,
        }
    }

    fn flight(&self) -> Arc<Flight<H>> {
        Arc::new(Flight {
            state: watch::Sender::new(State::Airborne),
            body: Relay::new(),
            reserved: AtomicU64::new(0),
            all: Arc::clone(&self.inner),
        })
    }
}

/// The right and duty to fetch. Dropped before it has landed, one of the followers takes over;
/// dropped before its end, readers find the answer broken.
pub struct Lead<H> {
    flight: Arc<Flight<H>>,
    place: Option<Key>,
    kept: bool,
    total: u64,
}

impl<H> fmt::Debug for Lead<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").finish_non_exhaustive()
    }
}

impl<H> Lead<H> {
    /// Says what the answer is, before its body.
    pub fn land(&self, head: H) {
        self.flight.state.send_replace(State::Landed(head));
    }

    /// Says that the answer is for the leader alone.
    pub fn alone(&mut self) {
        self.close();
        self.flight.state.send_replace(State::Alone);
    }

    /// Passes on the next piece. `false` once the answer is not kept any more and nobody reads it:
    /// there is no use in going on.
    pub async fn push(&mut self, chunk: Bytes) -> bool {
        let bytes = chunk.len() as u64;
        self.total += bytes;
        if self.kept && !self.reserve(bytes) {
            self.kept = false;
            self.close();
            self.flight.body.stop_keeping();
        }
        if !self.kept {
            match timeout(STALL, self.flight.body.room()).await {
                Ok(true) => {}
                Ok(false) => return false,
                Err(_) => self.flight.body.cut_off_stalled(),
            }
        }
        self.flight.body.push(chunk);
        true
    }

    fn reserve(&self, bytes: u64) -> bool {
        let all = &self.flight.all;
        if self.total > all.max_answer {
            return false;
        }
        let more = |filling: u64| {
            let filling = filling.checked_add(bytes)?;
            (filling <= all.max_filling).then_some(filling)
        };
        let order = Ordering::Relaxed;
        let reserved = all.filling.fetch_update(order, order, more).is_ok();
        if reserved {
            self.flight.reserved.fetch_add(bytes, order);
        }
        reserved
    }

    /// Whether all of it is kept so far.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// The whole answer so far, if all of it was kept.
    #[must_use]
    pub fn whole(&self) -> Option<Bytes> {
        self.kept.then(|| self.flight.body.whole())
    }

    /// A reader for the leader's own client; before anything is pushed.
    #[must_use]
    pub fn reader(&self) -> Option<Shared<H>> {
        Shared::of(&self.flight)
    }

    /// The answer has come whole. It can be joined until it is [finished](Self::finish), so that
    /// there is time to keep it.
    pub fn end(&self) {
        self.flight.body.end(Ok(()));
    }

    /// The answer has come whole, and whoever asks from now on begins another fetch.
    pub fn finish(self) {
        self.end();
    }

    fn close(&mut self) {
        if let Some(key) = self.place.take() {
            self.flight.all.map.lock().remove(&key);
        }
    }
}

impl<H> Drop for Lead<H> {
    fn drop(&mut self) {
        self.close();
        self.flight.state.send_if_modified(|state| {
            let airborne = matches!(state, State::Airborne);
            if airborne {
                *state = State::Abandoned;
            }
            airborne
        });
        // The first end counts.
        self.flight.body.end(Err(Broken));
    }
}

/// Somebody who waits for another's fetch.
pub struct Follower<H> {
    flight: Arc<Flight<H>>,
}

impl<H> fmt::Debug for Follower<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

impl<H: Clone> Follower<H> {
    /// Waits until it is known what the fetch came to.
    pub async fn landed(self) -> Landed<H> {
        let mut state = self.flight.state.subscribe();
        let landed = state.wait_for(|state| !matches!(state, State::Airborne));
        // The sender is the flight's, which is held.
        let landed = landed.await.map(|state| state.clone());
        match landed.unwrap_or(State::Abandoned) {
            State::Landed(head) => match Shared::of(&self.flight) {
                Some(body) => Landed::Shared(head, body),
                // It has outgrown what is kept.
                None => Landed::Alone,
            },
            State::Alone => Landed::Alone,
            State::Airborne | State::Abandoned => Landed::Abandoned,
        }
    }
}

/// One reader's place in a body that is shared.
pub struct Shared<H> {
    reader: weaver_relay::Reader,
    /// Holds what the chunks take of the limit for as long as they may be here.
    _flight: Arc<Flight<H>>,
}

impl<H> fmt::Debug for Shared<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<H> Shared<H> {
    fn of(flight: &Arc<Flight<H>>) -> Option<Self> {
        Some(Self {
            reader: flight.body.reader()?,
            _flight: Arc::clone(flight),
        })
    }

    /// Waits for the next chunk; `None` is the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        self.reader.next().await
    }
}

impl<H> futures_util::Stream for Shared<H> {
    type Item = Result<Bytes, Broken>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.reader.poll_chunk(cx)
    }
}

#[cfg(test)]
mod tests;
