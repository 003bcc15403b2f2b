//! A flight: one fetch that is under way for a key, and all who wait for it.
//!
//! The fill task writes its body into a [`Relay`], from which any number of clients read while it
//! comes in. While the response may still be stored all of it is kept; once it turns out that it
//! will not be (too large, no room) the relay becomes a window.

use crate::{
    Position,
    entry::{Entry, Head},
    key::KeyBytes,
};
use actix_http::body::{BodySize, MessageBody};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::sync::watch;
use weaver_cache_policy::{Outcome, reuse::Failure};
use weaver_metrics::Tier;
pub(crate) use weaver_relay::Broken;
use weaver_relay::Relay;

/// Who asks, as far as others may have to get something else: with credentials that are not in the
/// key (Authorization, a principal, cookies) an origin often answers for one user alone.
///
/// Requests without credentials do not wait for one with them, and what such a request finds out
/// says nothing about the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requester {
    Anonymous,
    Credentialed,
}

impl Requester {
    /// A key of which each kind of requester has its own.
    pub(crate) fn own(self, key: &[u8]) -> KeyBytes {
        let mut own = KeyBytes::from_slice(key);
        if self == Self::Credentialed {
            // No key goes on with this byte.
            own.push(b'a');
        }
        own
    }
}

/// By what right a response answers its leader, which a follower has to have too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grounds {
    /// The origin was asked: it sent or confirmed the response.
    Fetched,
    /// It was stored, and the leader's directives allow it.
    Stored,
    /// It replaces an error, as the leader's directives allow.
    Failed(Failure),
}

/// What the fetch came to, as far as followers can use it.
#[derive(Clone)]
pub(crate) enum Landing {
    /// The origin has not answered yet.
    Airborne,
    /// A stored response answers: it was in Redis, the origin confirmed it, or it replaces an error.
    Entry(Arc<Entry>, Tier, Outcome, Grounds),
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
    body: Relay,
    /// Set by a purge that came while the fetch was under way.
    doomed: AtomicBool,
    /// The place in the purge journal from before the fetch began.
    position: Position,
}

impl Flight {
    pub(crate) fn new(position: Position) -> Arc<Self> {
        Arc::new(Self {
            landing: watch::Sender::new(Landing::Airborne),
            body: Relay::new(),
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
    pub(crate) fn reader(&self, length: Option<u64>) -> Option<Reader> {
        let inner = self.body.reader()?;
        Some(Reader { inner, length })
    }

    pub(crate) fn body(&self) -> &Relay {
        &self.body
    }
}

/// One client's place in a flight's body.
pub(crate) struct Reader {
    inner: weaver_relay::Reader,
    length: Option<u64>,
}

impl MessageBody for Reader {
    type Error = Broken;

    fn size(&self) -> BodySize {
        self.length.map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.inner.poll_chunk(cx)
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

    /// The flight under way for a key.
    pub(crate) fn find(&self, key: &[u8]) -> Option<Arc<Flight>> {
        self.shard(key).lock().get(key).map(Arc::clone)
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
        self.flight.body.end(Err(Broken));
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
