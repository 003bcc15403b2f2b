//! The upstreams of a route: which one is asked next, which ones are left out, and when none has room.
//!
//! They are fixed by the configuration, or they are the addresses of a name, or agents, which come and
//! go ([`Upstreams::replace`]).

use super::{
    connector,
    gate::{Gate, Permit},
};
use crate::config::{Destination, GateConfig};
use arc_swap::ArcSwap;
use std::{
    net::IpAddr,
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

/// Looks for an upstream with room before one is waited for.
const LOOKS: usize = 3;
/// The longest Retry-After in seconds of a request that found no room.
const MAX_RETRY_AFTER: u64 = 3;

/// Whether it was tried, whether it is ejected, whether it is full, whether it is busy, how much it has
/// to do: the least is the best.
type Rank = (bool, bool, bool, bool, usize);

pub(crate) struct Upstreams {
    all: ArcSwap<Vec<Arc<Upstream>>>,
    turn: AtomicUsize,
    budget: AtomicI64,
    eject_after: u32,
    eject_for: Duration,
    gate: GateConfig,
    refused: AtomicU64,
    epoch: Instant,
}

/// Why there is no upstream for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// The active checks rule all of them out, or there are none.
    NoneHealthy,
    /// They have as much to do as they can. The client is told to come again after so many seconds.
    Full { retry_after: u64 },
}

/// What the upstreams of a route have to do, for the metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Requests whose response has not ended.
    pub(crate) in_flight: usize,
    /// Requests that wait for an upstream.
    pub(crate) queued: usize,
    /// Requests that may be unanswered at once.
    pub(crate) limit: usize,
    /// Requests that were refused because nothing had room.
    pub(crate) refused: u64,
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its URL as configured.
    base: String,
    /// The same, with the address that is connected to.
    dialled: String,
}

impl Endpoint {
    /// One whose name, if it has one, is resolved at each connection.
    pub(crate) fn of(base: &str) -> Self {
        Self {
            base: base.to_owned(),
            dialled: base.to_owned(),
        }
    }

    /// One address of a name.
    pub(super) fn at(base: &str, address: IpAddr) -> Self {
        Self {
            base: base.to_owned(),
            dialled: connector::put(base, address),
        }
    }

    /// The URL that requests begin with.
    pub(crate) fn dialled(&self) -> &str {
        &self.dialled
    }

    /// Name and port as configured, for Host.
    pub(super) fn host(&self) -> &str {
        let (_, rest) = self.base.split_once("://").unwrap_or_default();
        rest.split('/').next().unwrap_or_default()
    }
}

pub(crate) struct Upstream {
    pub(crate) endpoint: Endpoint,
    in_flight: AtomicUsize,
    gate: Arc<Gate>,
    failures: AtomicU32,
    /// Milliseconds after the epoch until which it is left out; 0 is not at all.
    ejected_until: AtomicU64,
    /// What the active check last said.
    unhealthy: AtomicBool,
    /// It takes work if nobody else does, by its own word.
    busy: AtomicBool,
}

impl Upstream {
    fn new(endpoint: Endpoint, gate: GateConfig) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            in_flight: AtomicUsize::new(0),
            gate: Gate::new(gate),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            unhealthy: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        })
    }
}

/// A request on its way to an upstream, counted until its response's end. The upstream's limit counts
/// it until the response's head.
pub(crate) struct InFlight {
    upstream: Option<Arc<Upstream>>,
    permit: Option<Permit>,
}

impl InFlight {
    fn new(upstream: &Arc<Upstream>, permit: Option<Permit>) -> Self {
        upstream.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            upstream: Some(Arc::clone(upstream)),
            permit,
        }
    }

    /// One that is not counted.
    pub(crate) fn uncounted() -> Self {
        Self {
            upstream: None,
            permit: None,
        }
    }

    /// Its scheme and authority.
    pub(super) fn upstream(&self) -> Option<&str> {
        self.upstream
            .as_ref()
            .map(|upstream| upstream.endpoint.dialled())
    }

    /// The upstream has answered, or was not heard of in time: how long that took since `sent`, when it
    /// had the whole request, tells how loaded it is.
    pub(crate) fn answered(&mut self, sent: Instant) {
        if let Some(permit) = self.permit.take() {
            permit.answered(sent);
        }
    }

    /// Gives the room in the upstream's limit back, and tells nothing of its load.
    pub(crate) fn stop_counting(&mut self) {
        self.permit = None;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(upstream) = &self.upstream {
            upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Upstreams {
    /// Those of a configuration; agents are yet to be found.
    pub(crate) fn new(
        to: &Destination,
        eject_after: u32,
        eject_for: Duration,
        gate: GateConfig,
    ) -> Self {
        let all = match to {
            Destination::Upstreams(bases) => {
                let bases = bases.iter();
                let upstream = |base: &String| Upstream::new(Endpoint::of(base), gate);
                bases.map(upstream).collect()
            }
            Destination::Agent(_) => Vec::new(),
        };
        Self {
            all: ArcSwap::from_pointee(all),
            turn: AtomicUsize::new(0),
            budget: AtomicI64::new(INITIAL),
            eject_after,
            eject_for,
            gate,
            refused: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    /// Makes these the upstreams, each with whether it is busy; what is known of those that stay
    /// stays known.
    pub(crate) fn replace(&self, endpoints: &[(Endpoint, bool)]) {
        let known = self.all.load();
        let upstream = |(endpoint, busy): &(Endpoint, bool)| {
            let same = known.iter().find(|known| known.endpoint == *endpoint);
            let new = || Upstream::new(endpoint.clone(), self.gate);
            let upstream = same.map_or_else(new, Arc::clone);
            upstream.busy.store(*busy, Ordering::Relaxed);
            upstream
        };
        self.all
            .store(Arc::new(endpoints.iter().map(upstream).collect()));
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// An upstream with room for a request, as [`best`](Self::best) ranks them. Where none has room, the
    /// best is waited for in its queue, if the request may `wait`.
    pub(crate) async fn acquire(
        &self,
        tried: &[Arc<Upstream>],
        wait: bool,
    ) -> Result<(Arc<Upstream>, InFlight), Unavailable> {
        let mut best = self.best(tried).ok_or(Unavailable::NoneHealthy)?;
        // Another worker may take the last room between our look and our taking.
        for _ in 0..LOOKS {
            if let Some(permit) = best.gate.try_enter() {
                let in_flight = InFlight::new(&best, Some(permit));
                return Ok((best, in_flight));
            }
            let next = self.best(tried).ok_or(Unavailable::NoneHealthy)?;
            let is_same = Arc::ptr_eq(&next, &best);
            best = next;
            if is_same || best.gate.is_full() {
                break;
            }
        }
        if wait && let Some(permit) = best.gate.enter().await {
            let in_flight = InFlight::new(&best, Some(permit));
            return Ok((best, in_flight));
        }
        let refused = self.refused.fetch_add(1, Ordering::Relaxed);
        Err(Unavailable::Full {
            // Those who are refused together must not come again together.
            retry_after: 1 + refused % MAX_RETRY_AFTER,
        })
    }

    /// All that are neither ejected nor unhealthy, for a question of the gateway's own to each of them; the
    /// ejected ones where there are no others.
    pub(crate) fn live(&self) -> Vec<Arc<Upstream>> {
        let (now, all) = (self.now(), self.all.load());
        let healthy = all
            .iter()
            .filter(|upstream| !upstream.unhealthy.load(Ordering::Relaxed));
        let (live, ejected): (Vec<_>, Vec<_>) = healthy
            .cloned()
            .partition(|upstream| upstream.ejected_until.load(Ordering::Relaxed) <= now);
        if live.is_empty() { ejected } else { live }
    }

    /// The least loaded upstream that is neither ejected, unhealthy nor already `tried`; an ejected
    /// one if there is no other, because ejection is a guess. `None` if the active checks rule all
    /// of them out. One with room goes before one that is full.
    fn best(&self, tried: &[Arc<Upstream>]) -> Option<Arc<Upstream>> {
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
                upstream.gate.is_full(),
                upstream.busy.load(Ordering::Relaxed),
                upstream.in_flight.load(Ordering::Relaxed),
            );
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, upstream));
            }
        }
        best.map(|(_, best)| Arc::clone(best))
    }

    /// What they have to do.
    pub(crate) fn load(&self) -> Load {
        let mut load = Load {
            refused: self.refused.load(Ordering::Relaxed),
            ..Load::default()
        };
        for upstream in self.all.load().iter() {
            load.in_flight += upstream.in_flight.load(Ordering::Relaxed);
            load.queued += upstream.gate.waiting();
            load.limit += upstream.gate.limit();
        }
        load
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
                tracing::warn!(
                    upstream = upstream.endpoint.dialled(),
                    failures,
                    "upstream ejected"
                );
            }
        }
    }

    pub(super) fn set_healthy(&self, upstream: &Upstream, healthy: bool) {
        let was_unhealthy = upstream.unhealthy.swap(!healthy, Ordering::Relaxed);
        if was_unhealthy == healthy {
            tracing::info!(
                upstream = upstream.endpoint.dialled(),
                healthy,
                "upstream health changed"
            );
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
