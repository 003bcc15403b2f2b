//! What all workers share.

use crate::{
    access::AccessLog,
    agents::AddressPolicy,
    auth::{Authenticator, FailureBudget},
    body::Bodies,
    config::Config,
    ingress::Mark,
    limit::Limiter,
    model::{ModelRoute, Models},
    proxy::{Names, Upstreams},
    routes::{Route, Routes},
    warm::Warmer,
};
use parking_lot::RwLock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Semaphore;
use weaver_cache::CacheHandle;
use weaver_metrics::{
    AgentMetrics, CacheMetrics, ModelCacheSnapshot, RedisPoolSnapshot, Registry, UpstreamSnapshot,
    report::{CircuitBreakerReport, MetricsReport, Status},
};
use weaver_model_cache::ModelCache;
use weaver_pool::{BreakerReason, BreakerStats, RedisPool};
use weaver_registry::AgentRegistry;

pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) routes: Routes,
    /// By which requests that come back are known.
    pub(crate) mark: Mark,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) auth: Authenticator,
    /// Wrong admin tokens, by the address that they came from.
    pub(crate) admin_failures: Option<FailureBudget>,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) cache: RwLock<Option<CacheHandle>>,
    pub(crate) cache_metrics: CacheMetrics,
    pub(crate) registry: Arc<Registry>,
    pub(crate) redis: Option<RedisPool>,
    /// What bodies that are read here may hold together.
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) models: Models,
    pub(crate) agents: AgentRegistry,
    /// Where agents may listen.
    pub(crate) agent_addresses: Arc<AddressPolicy>,
    /// Who resolves the names of upstreams.
    pub(crate) names: Names,
    pub(crate) agent_metrics: AgentMetrics,
    /// Places for those who follow the agents' events.
    pub(crate) event_streams: Arc<Semaphore>,
    pub(crate) draining: AtomicBool,
    /// Whether the Redis tier is not open yet, and still waited for.
    pub(crate) awaits_redis: AtomicBool,
    pub(crate) warmer: Warmer,
    /// Whether what is to be warmed on start is not warm yet.
    pub(crate) warming: AtomicBool,
}

impl State {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn status(&self) -> Status {
        match &self.redis {
            Some(pool) if !pool.is_connected() => Status::Degraded,
            _ => Status::Healthy,
        }
    }

    pub(crate) fn report(&self) -> MetricsReport {
        MetricsReport {
            service: self.config.server.service_name.clone(),
            status: self.status(),
            http_cache: self.cache_metrics.report(),
            redis_pool: self.redis.as_ref().map(|pool| snapshot(pool).report()),
            model_cache: self
                .models
                .cache
                .as_ref()
                .map(|cache| model_snapshot(cache).report()),
        }
    }

    pub(crate) fn cache(&self) -> Option<CacheHandle> {
        self.cache.read().clone()
    }
}

pub(crate) fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

pub(crate) fn model_snapshot(cache: &ModelCache) -> ModelCacheSnapshot {
    let stats = cache.stats();
    ModelCacheSnapshot {
        hits: stats.hits,
        misses: stats.misses,
        bypassed: stats.not_deterministic + stats.tools + stats.no_store,
        shared: stats.shared,
        errors: stats.errors,
        stored: stats.stored,
        tokens_saved: stats.tokens_saved,
        cost_saved: stats.money_saved,
        seconds_saved: stats.seconds_saved,
    }
}

pub(crate) fn snapshot(pool: &RedisPool) -> RedisPoolSnapshot {
    let stats = pool.stats();
    RedisPoolSnapshot {
        server: (pool.config().host.clone(), pool.config().port),
        initialized_at: stats.pool_initialized_at,
        last_health_check: stats.last_health_check,
        now: unix_seconds(),
        max: stats.max_connections,
        open: stats.open_connections,
        in_use: stats.in_use_connections,
        waiting: stats.waiting,
        commands: stats.total_commands_executed,
        errors: stats.total_errors,
        repeated: stats.repeated,
        opened: stats.connections_opened,
        closed: stats.connections_closed,
        replaced: stats.connections_replaced,
        reconnects: stats.reconnects,
        dedicated: stats.dedicated_connections,
        breaker: breaker(&stats.breaker),
        nodes: stats
            .nodes
            .iter()
            .map(|(node, stats)| (node.clone(), breaker(stats)))
            .collect(),
        latency: stats.latency.buckets.iter().map(seconds).collect(),
        latency_sum: stats.latency.sum.as_secs_f64(),
    }
}

/// What the upstreams of all routes have to do.
pub(crate) fn loads(routes: &[Arc<Route>], models: &[Arc<ModelRoute>]) -> Vec<UpstreamSnapshot> {
    let routes = routes
        .iter()
        .map(|route| (&route.config.name, &route.upstreams));
    let models = models
        .iter()
        .map(|route| (&route.config.name, &route.upstreams));
    let snapshot = |(name, upstreams): (&String, &Upstreams)| {
        let load = upstreams.load();
        UpstreamSnapshot {
            route: name.clone(),
            in_flight: load.in_flight as u64,
            queued: load.queued as u64,
            limit: load.limit as u64,
            refused: load.refused,
        }
    };
    let mut loads: Vec<_> = routes.chain(models).map(snapshot).collect();
    // A name is a label, and must not stand twice.
    loads.sort_by(|one, other| one.route.cmp(&other.route));
    loads.dedup_by(|next, first| {
        let is_same = next.route == first.route;
        if is_same {
            first.in_flight += next.in_flight;
            first.queued += next.queued;
            first.limit += next.limit;
            first.refused += next.refused;
        }
        is_same
    });
    loads
}

fn breaker(stats: &BreakerStats) -> CircuitBreakerReport {
    CircuitBreakerReport {
        state: stats.state.as_str(),
        opened: stats.opened,
        refused: stats.refused,
        reason: stats.reason.map(BreakerReason::as_str),
    }
}

/// A bucket's bound in seconds; the metrics' own infinity is the largest number.
fn seconds((bound, count): &(Duration, u64)) -> (f64, u64) {
    if *bound == Duration::MAX {
        (f64::MAX, *count)
    } else {
        (bound.as_secs_f64(), *count)
    }
}
