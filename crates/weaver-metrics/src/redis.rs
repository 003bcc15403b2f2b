use crate::report::{
    CircuitBreakerReport, RedisPoolConfigReport, RedisPoolInfo, RedisPoolReport, two_places,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use std::{fmt, sync::Arc};

/// What a circuit breaker may be doing.
const STATES: [&str; 3] = ["closed", "open", "half_open"];

/// What a pool's own counters stand at.
#[derive(Clone, Debug)]
pub struct RedisPoolSnapshot {
    /// Host and port, as configured.
    pub server: (String, u16),
    /// Seconds since the Unix epoch.
    pub initialized_at: f64,
    /// Seconds since the Unix epoch.
    pub last_health_check: Option<f64>,
    /// Now, likewise.
    pub now: f64,
    /// The most connections.
    pub max: usize,
    /// Connections open.
    pub open: usize,
    /// Connections with a command outstanding.
    pub in_use: usize,
    /// Callers that wait.
    pub waiting: usize,
    /// Commands answered or failed.
    pub commands: u64,
    /// Commands failed.
    pub errors: u64,
    /// Commands sent again.
    pub repeated: u64,
    /// Connections opened by growth.
    pub opened: u64,
    /// Connections closed by shrinking.
    pub closed: u64,
    /// Connections that fell silent and were replaced.
    pub replaced: u64,
    /// Connections that were lost and came back.
    pub reconnects: u64,
    /// Connections beside the pool's, for exclusive use and subscriptions.
    pub dedicated: usize,
    /// The circuit breaker.
    pub breaker: CircuitBreakerReport,
    /// Those of a cluster's nodes, by host and port.
    pub nodes: Vec<(String, CircuitBreakerReport)>,
    /// How long commands took: upper bounds in seconds, the last of them infinite, and the commands
    /// in each bucket.
    pub latency: Vec<(f64, u64)>,
    /// What all commands took together, in seconds.
    pub latency_sum: f64,
}

impl RedisPoolSnapshot {
    /// The pool's part of the JSON report.
    #[must_use]
    pub fn report(&self) -> RedisPoolReport {
        let uptime = (self.now - self.initialized_at).max(0.0);
        RedisPoolReport {
            pool_initialized_at: self.initialized_at,
            last_health_check: self.last_health_check,
            config: RedisPoolConfigReport {
                max_connections: self.max,
                host: self.server.0.clone(),
                port: self.server.1,
            },
            pool_info: RedisPoolInfo {
                max_connections: self.max,
                available_connections: self.max.saturating_sub(self.in_use),
                in_use_connections: self.in_use,
                open_connections: self.open,
                waiting: self.waiting,
                dedicated_connections: self.dedicated,
            },
            uptime_seconds: two_places(uptime),
            uptime_hours: two_places(uptime / 3600.0),
            seconds_since_last_health_check: self
                .last_health_check
                .map(|checked| two_places((self.now - checked).max(0.0))),
            total_commands_executed: self.commands,
            total_errors: self.errors,
            total_repeated: self.repeated,
            connections_opened: self.opened,
            connections_closed: self.closed,
            connections_replaced: self.replaced,
            reconnects: self.reconnects,
            circuit_breaker: self.breaker,
        }
    }
}

/// Registers a pool's counters, read when they are scraped.
#[derive(Clone)]
pub struct RedisPoolMetrics(Arc<dyn Fn() -> RedisPoolSnapshot + Send + Sync>);

impl fmt::Debug for RedisPoolMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisPoolMetrics")
    }
}

impl RedisPoolMetrics {
    /// Registers the families `weaver_redis_pool_…`.
    pub fn register(
        registry: &mut Registry,
        read: impl Fn() -> RedisPoolSnapshot + Send + Sync + 'static,
    ) {
        registry.register_collector(Box::new(Self(Arc::new(read))));
    }
}

impl Collector for RedisPoolMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = (self.0)();
        let mut family = encoder.encode_descriptor(
            "weaver_redis_pool_connections",
            "Connections by state",
            None,
            MetricType::Gauge,
        )?;
        let states = [
            ("in_use", now.in_use),
            ("idle", now.open.saturating_sub(now.in_use)),
            ("available", now.max.saturating_sub(now.in_use)),
            ("max", now.max),
            ("dedicated", now.dedicated),
        ];
        for (state, count) in states {
            let sample = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            sample.encode(family.encode_family(&[("state", state)])?)?;
        }
        let waiting = ConstGauge::new(i64::try_from(now.waiting).unwrap_or(i64::MAX));
        let family = encoder.encode_descriptor(
            "weaver_redis_pool_waiting",
            "Callers that wait for a place on a connection",
            None,
            MetricType::Gauge,
        )?;
        waiting.encode(family)?;
        let mut family = encoder.encode_descriptor(
            "weaver_redis_pool_commands",
            "Commands by outcome",
            None,
            MetricType::Counter,
        )?;
        for (outcome, count) in [
            ("ok", now.commands.saturating_sub(now.errors)),
            ("error", now.errors),
        ] {
            ConstCounter::new(count).encode(family.encode_family(&[("outcome", outcome)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "weaver_redis_pool_circuit_breaker",
            "What the circuit breaker does: 1 for the state that it is in",
            None,
            MetricType::Gauge,
        )?;
        for state in STATES {
            let sample = ConstGauge::new(i64::from(state == now.breaker.state));
            sample.encode(family.encode_family(&[("state", state)])?)?;
        }
        for (name, help, count) in [
            (
                "weaver_redis_pool_circuit_breaker_opened",
                "How often the circuit breaker opened",
                now.breaker.opened,
            ),
            (
                "weaver_redis_pool_circuit_breaker_refused",
                "Calls that the circuit breaker refused",
                now.breaker.refused,
            ),
            (
                "weaver_redis_pool_commands_repeated",
                "Commands that were sent again",
                now.repeated,
            ),
            (
                "weaver_redis_pool_connections_opened",
                "Connections opened by growth",
                now.opened,
            ),
            (
                "weaver_redis_pool_connections_closed",
                "Connections closed by shrinking",
                now.closed,
            ),
            (
                "weaver_redis_pool_connections_replaced",
                "Connections that fell silent and were replaced",
                now.replaced,
            ),
            (
                "weaver_redis_pool_reconnects",
                "Connections that were lost and came back",
                now.reconnects,
            ),
        ] {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(family)?;
        }
        let mut histogram = encoder.encode_descriptor(
            "weaver_redis_pool_command_duration",
            "How long commands took, those that failed too",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let count = now.latency.iter().map(|(_, count)| count).sum();
        histogram.encode_histogram::<NoLabelSet>(now.latency_sum, count, &now.latency, None)?;
        let mut nodes = encoder.encode_descriptor(
            "weaver_redis_pool_node_circuit_breaker",
            "What the circuit breaker of each node of a cluster does: 1 for the state it is in",
            None,
            MetricType::Gauge,
        )?;
        for (node, breaker) in &now.nodes {
            for state in STATES {
                let sample = ConstGauge::new(i64::from(state == breaker.state));
                let labels = [("node", node.as_str()), ("state", state)];
                sample.encode(nodes.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
