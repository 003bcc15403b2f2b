//! The JSON document of `GET /metrics`. Keys may be added; none is renamed.

use serde::Serialize;
use std::collections::BTreeMap;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub struct MetricsReport {
    /// The name of the service, `weaver-ai` unless it is configured.
    pub service: String,
    /// How the service is.
    pub status: Status,
    /// What the response cache did.
    pub http_cache: HttpCacheReport,
    /// What the Redis pool does; null where Redis is off.
    pub redis_pool: Option<RedisPoolReport>,
    /// What the cache of models' answers did; null where it is off.
    pub model_cache: Option<ModelCacheReport>,
}

/// What the cache of models' answers did since its start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ModelCacheReport {
    /// Answers from the cache.
    pub hits: u64,
    /// Calls that were looked for and not there.
    pub misses: u64,
    /// Calls past the cache.
    pub bypassed: u64,
    /// Calls that shared another's fetch.
    pub shared: u64,
    /// Failures of the cache.
    pub errors: u64,
    /// Answers that were kept.
    pub stored: u64,
    /// `hits + misses`.
    pub total_requests: u64,
    /// `hits / total_requests * 100`, to two places; 0 before the first request.
    pub hit_rate_percent: f64,
    /// Tokens of the answers from the cache.
    pub tokens_saved: u64,
    /// What they would have cost, where the price is known.
    pub cost_saved: f64,
    /// How long fetching them took once.
    pub total_latency_saved_ms: f64,
}

/// How the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything that is configured works.
    Healthy,
    /// Redis is configured and not reachable; requests are served without it.
    Degraded,
    /// Requests cannot be served.
    Unhealthy,
}

/// What the response cache did since its start, or since its statistics were cleared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HttpCacheReport {
    /// Answers from a stored response, fresh or stale.
    pub hits: u64,
    /// Answers for which the origin was asked, by this request or by one that it joined.
    pub misses: u64,
    /// Failures of the cache, each of which was answered past it.
    pub errors: u64,
    /// `hits / total_requests * 100`, to two places; 0 before the first request.
    pub hit_rate_percent: f64,
    /// `hits + misses`.
    pub total_requests: u64,
    /// Measured: what filling each entry took, less what the hit took, summed over the hits.
    pub total_latency_saved_ms: f64,
    /// The same by hit.
    pub avg_latency_saved_ms: f64,
    /// By route or pattern.
    pub by_endpoint: BTreeMap<String, EndpointReport>,
}

/// Hits and misses of one route or pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EndpointReport {
    /// Answers from a stored response.
    pub hits: u64,
    /// Answers for which the origin was asked.
    pub misses: u64,
}

/// What the Redis pool does.
#[derive(Clone, Debug, Serialize)]
pub struct RedisPoolReport {
    /// Seconds since the Unix epoch.
    pub pool_initialized_at: f64,
    /// Seconds since the Unix epoch; null before the first success.
    pub last_health_check: Option<f64>,
    /// How it was configured.
    pub config: RedisPoolConfigReport,
    /// Its connections.
    pub pool_info: RedisPoolInfo,
    /// Seconds since the pool was made.
    pub uptime_seconds: f64,
    /// The same in hours, to two places.
    pub uptime_hours: f64,
    /// Seconds since the last health check that succeeded.
    pub seconds_since_last_health_check: Option<f64>,
    /// Commands answered or failed.
    pub total_commands_executed: u64,
    /// Commands failed.
    pub total_errors: u64,
    /// Commands sent again.
    pub total_repeated: u64,
    /// Connections opened by growth.
    pub connections_opened: u64,
    /// Connections closed by shrinking.
    pub connections_closed: u64,
    /// Connections that fell silent and were replaced.
    pub connections_replaced: u64,
    /// Connections that were lost and came back.
    pub reconnects: u64,
    /// The circuit breaker.
    pub circuit_breaker: CircuitBreakerReport,
}

/// The pool's circuit breaker.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CircuitBreakerReport {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// How often it opened.
    pub opened: u64,
    /// Calls it refused.
    pub refused: u64,
    /// Why it opened last: `failures`, `slow_calls` or `probe`; null if it never did.
    pub reason: Option<&'static str>,
}

/// The part of the pool's configuration that is no secret.
#[derive(Clone, Debug, Serialize)]
pub struct RedisPoolConfigReport {
    /// The most connections.
    pub max_connections: usize,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The pool's connections.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RedisPoolInfo {
    /// The most connections.
    pub max_connections: usize,
    /// `max_connections - in_use_connections`.
    pub available_connections: usize,
    /// Connections with a command outstanding.
    pub in_use_connections: usize,
    /// Connections that are open or being opened.
    pub open_connections: usize,
    /// Callers that wait for a place.
    pub waiting: usize,
    /// Connections beside the pool's, for exclusive use and subscriptions.
    pub dedicated_connections: usize,
}

/// Rounds to two places, as the report does.
pub(crate) fn two_places(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
