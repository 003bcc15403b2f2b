use crate::{
    MAX_ROUTES,
    report::{EndpointReport, HttpCacheReport, two_places},
};
use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::{collections::BTreeMap, sync::Arc, sync::atomic::AtomicU64};

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The node's memory.
    Memory,
    /// Redis.
    Redis,
    /// Neither.
    None,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Memory, Self::Redis, Self::None];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::None => "none",
        }
    }
}

/// Outcomes that are answers from a stored response.
const HITS: [&str; 2] = ["hit", "stale"];
/// Outcomes for which the origin was asked.
const MISSES: [&str; 3] = ["miss", "revalidated", "collapsed"];
/// All outcomes that are counted; a name that is none of them is counted as `bypass`.
const OUTCOMES: [&str; 7] = [
    "hit",
    "stale",
    "revalidated",
    "miss",
    "collapsed",
    "bypass",
    "error",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    tier: &'static str,
    outcome: &'static str,
    route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

type Seconds = Counter<f64, AtomicU64>;

/// What a response cache counts. A handle; clones share the counters.
#[derive(Clone)]
pub struct CacheMetrics {
    inner: Arc<Inner>,
}

struct Inner {
    requests: Family<RequestLabels, Counter>,
    saved: Family<RouteLabels, Seconds>,
    errors: Counter,
    stored: Counter,
    stored_bytes: Counter,
    redis_open: Gauge,
    routes: RwLock<BTreeMap<Arc<str>, RouteCacheMetrics>>,
    cleared: RwLock<BTreeMap<Arc<str>, Totals>>,
    cleared_errors: RwLock<u64>,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    hits: u64,
    misses: u64,
    saved: f64,
}

/// The counters of one route, looked up once and counted without a lock.
#[derive(Clone, Debug)]
pub struct RouteCacheMetrics {
    /// By tier, then outcome, in the order of their `ALL` lists.
    requests: Arc<[[Counter; OUTCOMES.len()]; Tier::ALL.len()]>,
    saved: Seconds,
}

impl std::fmt::Debug for CacheMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheMetrics").finish_non_exhaustive()
    }
}

impl CacheMetrics {
    /// Whether the two are handles of the same counters.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Registers the families `weaver_http_cache_…`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let inner = Inner {
            requests: Family::default(),
            saved: Family::default(),
            errors: Counter::default(),
            stored: Counter::default(),
            stored_bytes: Counter::default(),
            redis_open: Gauge::default(),
            routes: RwLock::default(),
            cleared: RwLock::default(),
            cleared_errors: RwLock::default(),
        };
        registry.register(
            "weaver_http_cache_requests",
            "Requests by the tier that answered, by outcome and by route or pattern",
            inner.requests.clone(),
        );
        registry.register_with_unit(
            "weaver_http_cache_latency_saved",
            "What filling took, less what the hit took, summed over hits",
            Unit::Seconds,
            inner.saved.clone(),
        );
        registry.register(
            "weaver_http_cache_errors",
            "Failures of the cache that were answered past it",
            inner.errors.clone(),
        );
        registry.register(
            "weaver_http_cache_stored",
            "Responses stored",
            inner.stored.clone(),
        );
        registry.register_with_unit(
            "weaver_http_cache_stored",
            "Bytes of the bodies of the responses stored",
            Unit::Bytes,
            inner.stored_bytes.clone(),
        );
        registry.register(
            "weaver_http_cache_redis_open",
            "1 while the Redis tier is in use: reached, and with all purges applied",
            inner.redis_open.clone(),
        );
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The counters of a route or pattern.
    #[must_use]
    pub fn route(&self, name: &str) -> RouteCacheMetrics {
        let mut routes = self.inner.routes.write();
        if let Some(known) = routes.get(name) {
            return known.clone();
        }
        let name: Arc<str> = if routes.len() < MAX_ROUTES {
            name.into()
        } else {
            "other".into()
        };
        let counters = RouteCacheMetrics {
            requests: Arc::new(Tier::ALL.map(|tier| {
                OUTCOMES.map(|outcome| {
                    self.inner.requests.get_or_create_owned(&RequestLabels {
                        tier: tier.as_str(),
                        outcome,
                        route: Arc::clone(&name),
                    })
                })
            })),
            saved: self.inner.saved.get_or_create_owned(&RouteLabels {
                route: Arc::clone(&name),
            }),
        };
        routes.entry(name).or_insert(counters).clone()
    }

    /// Counts a failure of the cache.
    pub fn error(&self) {
        self.inner.errors.inc();
    }

    /// Counts a stored response with a body of that many bytes.
    pub fn stored(&self, bytes: u64) {
        self.inner.stored.inc();
        self.inner.stored_bytes.inc_by(bytes);
    }

    /// Sets whether the Redis tier is in use.
    pub fn redis_open(&self, open: bool) {
        self.inner.redis_open.set(i64::from(open));
    }

    /// The report, since the start or the last [`clear`](Self::clear).
    #[must_use]
    pub fn report(&self) -> HttpCacheReport {
        let cleared = self.inner.cleared.read();
        let mut report = HttpCacheReport {
            errors: self.inner.errors.get() - *self.inner.cleared_errors.read(),
            ..HttpCacheReport::default()
        };
        let mut saved = 0.0;
        for (name, counters) in &*self.inner.routes.read() {
            let now = counters.totals();
            let before = cleared.get(name).copied().unwrap_or_default();
            let endpoint = EndpointReport {
                hits: now.hits - before.hits,
                misses: now.misses - before.misses,
            };
            report.hits += endpoint.hits;
            report.misses += endpoint.misses;
            saved += now.saved - before.saved;
            if endpoint != EndpointReport::default() {
                report.by_endpoint.insert(name.to_string(), endpoint);
            }
        }
        report.total_requests = report.hits + report.misses;
        let share = |part: f64, whole: u64| if whole == 0 { 0.0 } else { part / whole as f64 };
        report.hit_rate_percent =
            two_places(share(report.hits as f64 * 100.0, report.total_requests));
        report.total_latency_saved_ms = two_places(saved * 1000.0);
        report.avg_latency_saved_ms = two_places(share(saved * 1000.0, report.hits));
        report
    }

    /// Begins the report anew. The counters of the text exposition only ever grow, as OpenMetrics
    /// wants; the report subtracts what they stood at.
    pub fn clear(&self) {
        let routes = self.inner.routes.read();
        *self.inner.cleared.write() = routes
            .iter()
            .map(|(name, counters)| (Arc::clone(name), counters.totals()))
            .collect();
        *self.inner.cleared_errors.write() = self.inner.errors.get();
    }
}

impl RouteCacheMetrics {
    /// Counts an answer.
    pub fn count(&self, tier: Tier, outcome: &str) {
        const BYPASS: usize = 5;
        let at = OUTCOMES
            .iter()
            .position(|known| *known == outcome)
            .unwrap_or(BYPASS);
        self.requests[tier as usize][at].inc();
    }

    /// Adds to the latency that hits saved.
    pub fn saved(&self, seconds: f64) {
        self.saved.inc_by(seconds.max(0.0));
    }

    fn sum(&self, outcomes: &[&str]) -> u64 {
        self.requests
            .iter()
            .flat_map(|tier| tier.iter().zip(OUTCOMES))
            .filter(|(_, outcome)| outcomes.contains(outcome))
            .map(|(counter, _)| counter.get())
            .sum()
    }

    fn totals(&self) -> Totals {
        Totals {
            hits: self.sum(&HITS),
            misses: self.sum(&MISSES),
            saved: self.saved.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clearing_begins_the_report_anew_and_leaves_the_counters_growing() {
        let mut registry = Registry::default();
        let metrics = CacheMetrics::new(&mut registry);
        let route = metrics.route("/a");
        route.count(Tier::Redis, "stale");
        route.saved(0.5);
        metrics.error();
        metrics.clear();
        route.count(Tier::Memory, "hit");
        route.saved(0.25);
        let report = metrics.report();
        assert_eq!((report.hits, report.misses, report.errors), (1, 0, 0));
        assert_eq!(report.total_latency_saved_ms, 250.0);
        let text = crate::encode(&registry);
        assert!(
            text.contains(r#"weaver_http_cache_latency_saved_seconds_total{route="/a"} 0.75"#),
            "{text}"
        );
    }

    #[test]
    fn a_bypass_is_neither_hit_nor_miss() {
        let metrics = CacheMetrics::new(&mut Registry::default());
        metrics.route("/a").count(Tier::None, "bypass");
        assert_eq!(metrics.report().total_requests, 0);
    }

    #[test]
    fn routes_beyond_the_limit_are_counted_together() {
        let metrics = CacheMetrics::new(&mut Registry::default());
        for at in 0..MAX_ROUTES + 10 {
            metrics.route(&format!("/{at}")).count(Tier::None, "miss");
        }
        let report = metrics.report();
        assert_eq!(report.by_endpoint.len(), MAX_ROUTES + 1);
        assert_eq!(report.by_endpoint["other"].misses, 10);
    }
}
