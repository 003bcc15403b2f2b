use crate::{BreakerStats, LatencyHistogram, group::Group};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What a pool has done and is doing. Everything is counted; nothing is estimated.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolStats {
    /// When the pool was made, in seconds since the Unix epoch.
    pub pool_initialized_at: f64,
    /// When a health check last succeeded, likewise; `None` if none has yet.
    pub last_health_check: Option<f64>,
    /// Time since the pool was made.
    pub uptime: Duration,
    /// The most connections it may open; in a cluster, to all nodes together.
    pub max_connections: usize,
    /// Connections that are open or being opened.
    pub open_connections: usize,
    /// Connections with at least one command outstanding.
    pub in_use_connections: usize,
    /// `max_connections - in_use_connections`.
    pub available_connections: usize,
    /// Callers that wait for a place.
    pub waiting: usize,
    /// Commands that were answered, with success or with an error, or failed.
    pub total_commands_executed: u64,
    /// Those of them that failed in any way.
    pub total_errors: u64,
    /// Connections opened by growth.
    pub connections_opened: u64,
    /// Connections closed by shrinking.
    pub connections_closed: u64,
    /// Connections that fell silent and were replaced.
    pub connections_replaced: u64,
    /// Connections that were lost and came back; in a cluster, of each node.
    pub reconnects: u64,
    /// Connections beside the pool's: lent for exclusive use or kept for that, and of subscribers.
    pub dedicated_connections: usize,
    /// Commands that were sent again.
    pub repeated: u64,
    /// The circuit breaker; in a cluster those of its nodes together, and the worst of their states.
    pub breaker: BreakerStats,
    /// The nodes of a cluster, host and port, and the circuit breaker of each.
    pub nodes: Vec<(String, BreakerStats)>,
    /// How long calls took.
    pub latency: LatencyHistogram,
}

impl PoolStats {
    pub(crate) fn empty() -> Self {
        Self {
            pool_initialized_at: 0.0,
            last_health_check: None,
            uptime: Duration::ZERO,
            max_connections: 0,
            open_connections: 0,
            in_use_connections: 0,
            available_connections: 0,
            waiting: 0,
            total_commands_executed: 0,
            total_errors: 0,
            connections_opened: 0,
            connections_closed: 0,
            connections_replaced: 0,
            reconnects: 0,
            dedicated_connections: 0,
            repeated: 0,
            breaker: BreakerStats::new(),
            nodes: Vec::new(),
            latency: LatencyHistogram::default(),
        }
    }

    /// Adds the connections and the breaker of a group.
    pub(crate) fn add(&mut self, group: &Group) {
        self.max_connections += group.slots.capacity();
        self.open_connections += group.slots.live();
        self.in_use_connections += group.slots.in_use();
        self.waiting += group.waiting.load(Ordering::Relaxed);
        self.breaker.add(group.breaker.stats());
    }
}

pub(crate) struct Counters {
    started: Instant,
    started_at: f64,
    /// Milliseconds since the epoch, 0 for never.
    checked_at: AtomicU64,
    /// Whether somebody has made the first check, or makes it.
    first_check: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    repeated: AtomicU64,
    replaced: AtomicU64,
}

fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            started_at: unix_millis() as f64 / 1000.0,
            checked_at: AtomicU64::new(0),
            first_check: AtomicBool::new(false),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
        }
    }

    pub(crate) fn succeeded(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn checked(&self) {
        self.checked_at.store(unix_millis(), Ordering::Relaxed);
    }

    /// Whether the first check is the caller's to make.
    pub(crate) fn claim_first_check(&self) -> bool {
        !self.first_check.swap(true, Ordering::AcqRel)
    }

    /// It failed, and is to be made again.
    pub(crate) fn return_first_check(&self) {
        self.first_check.store(false, Ordering::Release);
    }

    pub(crate) fn replaced(&self) {
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn repeated(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    /// Milliseconds from when the pool was made.
    pub(crate) fn at(&self, instant: tokio::time::Instant) -> u64 {
        let since = instant.into_std().saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Fills in what is counted here.
    pub(crate) fn write_to(&self, stats: &mut PoolStats) {
        let checked = self.checked_at.load(Ordering::Relaxed);
        stats.pool_initialized_at = self.started_at;
        stats.last_health_check = (checked != 0).then(|| checked as f64 / 1000.0);
        stats.uptime = self.started.elapsed();
        stats.total_errors = self.failed.load(Ordering::Relaxed);
        stats.total_commands_executed = self.succeeded.load(Ordering::Relaxed) + stats.total_errors;
        stats.connections_opened = self.opened.load(Ordering::Relaxed);
        stats.connections_closed = self.closed.load(Ordering::Relaxed);
        stats.connections_replaced = self.replaced.load(Ordering::Relaxed);
        stats.repeated = self.repeated.load(Ordering::Relaxed);
    }
}
