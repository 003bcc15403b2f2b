//! The upstreams of a route: which one is asked next, and which ones are left out.
//!
//! They are fixed by the configuration, or they are agents, which come and go
//! ([`Upstreams::replace`]).

use crate::config::Destination;
use arc_swap::ArcSwap;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Retries that may be saved up.
const MAX_SAVED: i64 = 10_000;
/// What a request adds to the retry budget, in hundredths of a retry: a fifth of the traffic.
const PER_REQUEST: i64 = 20;
const PER_RETRY: i64 = 100;
/// The budget of a route that has had no traffic yet.
const INITIAL: i64 = 10 * PER_RETRY;

/// Whether it was tried, whether it is ejected, whether it is busy, how much it has to do: the least
/// is the best.
type Rank = (bool, bool, bool, usize);

pub(crate) struct Upstreams {
    all: ArcSwap<Vec<Arc<Upstream>>>,
    turn: AtomicUsize,
    budget: AtomicI64,
    eject_after: u32,
    eject_for: Duration,
    epoch: Instant,
}

pub(crate) struct Upstream {
    /// Scheme and authority, as configured.
    pub(crate) base: String,
    in_flight: AtomicUsize,
    failures: AtomicU32,
    /// Milliseconds after the epoch until which it is left out; 0 is not at all.
    ejected_until: AtomicU64,
    /// What the active check last said.
    unhealthy: AtomicBool,
    /// It takes work if nobody else does, by its own word.
    busy: AtomicBool,
}

impl Upstream {
    fn new(base: &str) -> Arc<Self> {
        Arc::new(Self {
            base: base.to_owned(),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            unhealthy: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        })
    }
}

/// A request on its way to an upstream, counted until its response's end.
pub(crate) struct InFlight(Option<Arc<Upstream>>);

impl InFlight {
    /// One that is not counted.
    pub(crate) fn uncounted() -> Self {
        Self(None)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(upstream) = &self.0 {
            upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Upstreams {
    /// Those of a configuration; agents are yet to be found.
    pub(crate) fn new(to: &Destination, eject_after: u32, eject_for: Duration) -> Self {
        let all = match to {
            Destination::Upstreams(bases) => bases.iter().map(|base| Upstream::new(base)).collect(),
            Destination::Agent(_) => Vec::new(),
        };
        Self {
            all: ArcSwap::from_pointee(all),
            turn: AtomicUsize::new(0),
            budget: AtomicI64::new(INITIAL),
            eject_after,
            eject_for,
            epoch: Instant::now(),
        }
    }

    /// Makes these the upstreams, each with whether it is busy; what is known of those that stay
    /// stays known.
    pub(crate) fn replace(&self, bases: &[(String, bool)]) {
        let known = self.all.load();
        let upstream = |(base, busy): &(String, bool)| {
            let same = known.iter().find(|upstream| upstream.base == *base);
            let upstream = same.map_or_else(|| Upstream::new(base), Arc::clone);
            upstream.busy.store(*busy, Ordering::Relaxed);
            upstream
        };
        self.all
            .store(Arc::new(bases.iter().map(upstream).collect()));
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The least loaded upstream that is neither ejected, unhealthy nor already `tried`; an ejected
    /// one if there is no other, because ejection is a guess. `None` if the active checks rule all
    /// of them out, or all were tried.
    pub(crate) fn choose(&self, tried: &[Arc<Upstream>]) -> Option<(Arc<Upstream>, InFlight)> {
        let now = self.now();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let all = self.all.load();
        let count = all.len();
        let mut best: Option<(Rank, &Arc<Upstream>)> = None;
        for at in 0..count {
            // Equally loaded ones take turns.
            let upstream = &all[(turn + at) % count];
            if upstream.unhealthy.load(Ordering::Relaxed) {
                continue;
            }
            let rank = (
                tried.iter().any(|tried| Arc::ptr_eq(tried, upstream)),
                upstream.ejected_until.load(Ordering::Relaxed) > now,
                upstream.busy.load(Ordering::Relaxed),
                upstream.in_flight.load(Ordering::Relaxed),
            );
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, upstream));
            }
        }
        let (_, chosen) = best?;
        chosen.in_flight.fetch_add(1, Ordering::Relaxed);
        Some((Arc::clone(chosen), InFlight(Some(Arc::clone(chosen)))))
    }

    /// Whether all of them are ejected or unhealthy.
    pub(super) fn are_all_out(&self) -> bool {
        let now = self.now();
        self.all.load().iter().all(|upstream| {
            upstream.unhealthy.load(Ordering::Relaxed)
                || upstream.ejected_until.load(Ordering::Relaxed) > now
        })
    }

    pub(crate) fn succeeded(&self, upstream: &Upstream) {
        upstream.failures.store(0, Ordering::Relaxed);
        upstream.ejected_until.store(0, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, upstream: &Upstream) {
        let failures = upstream.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures >= self.eject_after {
            let pause = u64::try_from(self.eject_for.as_millis()).unwrap_or(u64::MAX);
            upstream
                .ejected_until
                .store(self.now().saturating_add(pause), Ordering::Relaxed);
            if failures == self.eject_after {
                tracing::warn!(upstream = upstream.base, failures, "upstream ejected");
            }
        }
    }

    pub(super) fn set_healthy(&self, upstream: &Upstream, healthy: bool) {
        let was_unhealthy = upstream.unhealthy.swap(!healthy, Ordering::Relaxed);
        if was_unhealthy == healthy {
            tracing::info!(upstream = upstream.base, healthy, "upstream health changed");
        }
    }

    pub(super) fn all(&self) -> Arc<Vec<Arc<Upstream>>> {
        self.all.load_full()
    }

    /// Counts a request towards the retries that may be made.
    pub(super) fn earn(&self) {
        let earned = |saved: i64| Some((saved + PER_REQUEST).min(MAX_SAVED * PER_RETRY));
        let _ = self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    /// Takes a retry from the budget; `false` if it is spent. Then a failing upstream gets no more
    /// than a fifth on top of its load.
    pub(super) fn may_retry(&self) -> bool {
        let spent = |saved: i64| (saved >= PER_RETRY).then_some(saved - PER_RETRY);
        self.budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent)
            .is_ok()
    }
}
