//! Weaver's metrics: every event is counted once, and both renderings read the same counter.
//!
//! - [`report`] is the JSON document of `GET /metrics`: its shape, as plain serde types.
//! - [`CacheMetrics`] counts what a response cache does, by route, tier and outcome.
//! - [`HttpMetrics`] counts requests and times them.
//! - [`ModelMetrics`] counts calls of language models, and [`ModelCacheMetrics`] reads the counters of
//!   the cache of their answers.
//! - [`RedisPoolMetrics`] reads a pool's own counters when it is scraped.
//! - [`UpstreamMetrics`] reads how much the upstreams of each route have to do.
//!
//! Labels are few and fixed by configuration: routes and patterns, never raw paths, so that a scan
//! of random URLs does not grow memory. What would go past [`MAX_ROUTES`] is counted as `other`.
//!
//! # Example
//!
//! ```
//! use weaver_metrics::{CacheMetrics, Registry, Tier, encode};
//!
//! let mut registry = Registry::default();
//! let metrics = CacheMetrics::new(&mut registry);
//! let route = metrics.route("/health");
//! route.count(Tier::Memory, "hit");
//! route.saved(0.025);
//! route.count(Tier::None, "miss");
//!
//! let report = metrics.report();
//! assert_eq!((report.hits, report.misses), (1, 1));
//! assert_eq!(report.hit_rate_percent, 50.0);
//! let text = encode(&registry);
//! assert!(text.contains(r#"weaver_http_cache_requests_total{tier="memory",outcome="hit",route="/health"} 1"#));
//! ```

mod agents;
mod cache;
mod http;
mod model;
mod redis;
pub mod report;
mod text;
mod upstream;

pub use agents::AgentMetrics;
pub use cache::{CacheMetrics, RouteCacheMetrics, Tier};
pub use http::{HttpMetrics, RouteHttpMetrics};
pub use model::{ModelCacheMetrics, ModelCacheSnapshot, ModelMetrics};
pub use prometheus_client::registry::Registry;
pub use redis::{RedisPoolMetrics, RedisPoolSnapshot};
pub use text::{OPENMETRICS, PROMETHEUS, encode, encode_prometheus};
pub use upstream::{UpstreamMetrics, UpstreamSnapshot};

/// Routes and patterns that are told apart; further ones are counted together as `other`.
pub const MAX_ROUTES: usize = 1000;
