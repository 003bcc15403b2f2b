//! The connections, and the choice among them.
//!
//! A slot is empty or holds a client. Those that hold one form a prefix of the array: growth fills
//! the first empty slot, shrinking empties the last full one, both by the maintenance task alone.
//! Callers only count up and down, so that a command takes no lock.

use crate::connection::Connection;
use arc_swap::ArcSwapOption;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
use std::time::Instant;

pub(crate) struct Slots {
    slots: Box<[Slot]>,
    live: AtomicUsize,
    in_use: AtomicUsize,
    bound: u32,
    epoch: Instant,
}

#[derive(Default)]
struct Slot {
    client: ArcSwapOption<Connection>,
    in_flight: AtomicU32,
    /// Set before a client is taken away, so that a caller that has just counted itself in sees it
    /// and goes elsewhere.
    retiring: AtomicBool,
    /// Commands in a row that got no answer.
    unanswered: AtomicU32,
    /// When the last command ended, in milliseconds since the pool's start.
    used_at: AtomicU64,
}

/// A place on a connection; dropping it gives the place back.
pub(crate) struct Place<'a> {
    slots: &'a Slots,
    at: usize,
    pub(crate) client: Arc<Connection>,
    /// Commands that were outstanding on the connection before this one.
    pub(crate) load: u32,
    /// Whether the connection was up when it was chosen.
    pub(crate) connected: bool,
    /// When the command ended, for whoever has read the clock anyway.
    pub(crate) ended: Option<Instant>,
}

impl Slots {
    pub(crate) fn new(capacity: usize, bound: u32) -> Self {
        Self {
            slots: (0..capacity).map(|_| Slot::default()).collect(),
            live: AtomicUsize::new(0),
            in_use: AtomicUsize::new(0),
            bound,
            epoch: Instant::now(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Whether another connection may be opened.
    pub(crate) fn has_room(&self) -> bool {
        self.live() < self.capacity()
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    pub(crate) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// A place on the least loaded connected client, or `None` if every place is taken.
    ///
    /// If no client is connected the least loaded one is used all the same: its answer says why.
    pub(crate) fn take(&self) -> Option<Place<'_>> {
        // Another caller can take the last place of the choice; then the next best is tried.
        for _ in 0..4 {
            let (at, connected) = self.least_loaded()?;
            let slot = &self.slots[at];
            let before =
                slot.in_flight
                    .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
                        (count < self.bound).then_some(count + 1)
                    });
            let Ok(load) = before else { continue };
            if load == 0 {
                self.in_use.fetch_add(1, Ordering::Relaxed);
            }
            let client = slot.client.load_full();
            match client {
                Some(client) if !slot.retiring.load(Ordering::Acquire) => {
                    return Some(Place {
                        slots: self,
                        at,
                        client,
                        load,
                        connected,
                        ended: None,
                    });
                }
                _ => self.give_back(at, Instant::now()),
            }
        }
        None
    }

    /// By its index, and whether it is connected.
    fn least_loaded(&self) -> Option<(usize, bool)> {
        let mut best: Option<(bool, u32, usize)> = None;
        for (at, slot) in self.slots[..self.live()].iter().enumerate() {
            let load = slot.in_flight.load(Ordering::Relaxed);
            if load >= self.bound || slot.retiring.load(Ordering::Relaxed) {
                continue;
            }
            let connected = slot
                .client
                .load()
                .as_ref()
                .is_some_and(|client| client.is_connected());
            let candidate = (!connected, load, at);
            if candidate == (false, 0, at) {
                return Some((at, true));
            }
            if best.is_none_or(|best| candidate < best) {
                best = Some(candidate);
            }
        }
        best.map(|(gone, _, at)| (at, !gone))
    }

    fn give_back(&self, at: usize, now: Instant) {
        let slot = &self.slots[at];
        let since = now.saturating_duration_since(self.epoch);
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        slot.used_at.store(now, Ordering::Relaxed);
        if slot.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.in_use.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Adds a client; `false` if the pool is full. Called by the maintenance task alone.
    pub(crate) fn push(&self, client: Connection) -> bool {
        let at = self.live();
        let Some(slot) = self.slots.get(at) else {
            return false;
        };
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        slot.used_at.store(now, Ordering::Relaxed);
        slot.client.store(Some(Arc::new(client)));
        slot.retiring.store(false, Ordering::Release);
        self.live.store(at + 1, Ordering::Release);
        true
    }

    /// Takes the last client away if it has had no command for `idle` milliseconds and has none now.
    /// Called by the maintenance task alone.
    pub(crate) fn pop_idle(&self, idle: u64) -> Option<Arc<Connection>> {
        let at = self.live().checked_sub(1)?;
        let slot = &self.slots[at];
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(slot.used_at.load(Ordering::Relaxed)) < idle {
            return None;
        }
        slot.retiring.store(true, Ordering::SeqCst);
        if slot.in_flight.load(Ordering::SeqCst) != 0 {
            slot.retiring.store(false, Ordering::Release);
            return None;
        }
        self.live.store(at, Ordering::Release);
        slot.client.swap(None)
    }

    /// Counts how a command on a place ended; `true` once so many in a row got no answer that the
    /// connection is suspect.
    pub(crate) fn note(&self, place: &Place<'_>, answered: bool) -> bool {
        const SUSPECT: u32 = 3;
        let unanswered = &self.slots[place.at].unanswered;
        if answered {
            unanswered.store(0, Ordering::Relaxed);
            return false;
        }
        unanswered.fetch_add(1, Ordering::Relaxed) + 1 == SUSPECT
    }

    /// Puts another client in the place of one, and gives that back. Called by the maintenance task
    /// alone.
    pub(crate) fn replace(
        &self,
        old: &Arc<Connection>,
        new: Connection,
    ) -> Option<Arc<Connection>> {
        let slots = self.slots[..self.live()].iter();
        let mut same = slots.filter(|slot| {
            let client = slot.client.load();
            client
                .as_ref()
                .is_some_and(|client| Arc::ptr_eq(client, old))
        });
        let slot = same.next()?;
        slot.unanswered.store(0, Ordering::Relaxed);
        slot.client.swap(Some(Arc::new(new)))
    }

    pub(crate) fn clients(&self) -> Vec<Arc<Connection>> {
        self.slots[..self.live()]
            .iter()
            .filter_map(|slot| slot.client.load_full())
            .collect()
    }

    /// Takes every client away, whatever is outstanding.
    pub(crate) fn drain(&self) -> Vec<Arc<Connection>> {
        self.live.store(0, Ordering::Release);
        self.slots
            .iter()
            .filter_map(|slot| slot.client.swap(None))
            .collect()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or_else(Instant::now);
        self.slots.give_back(self.at, ended);
    }
}
