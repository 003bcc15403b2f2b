use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{fmt, sync::Arc};

/// What the upstreams of a route have to do.
#[derive(Clone, Debug, Default)]
pub struct UpstreamSnapshot {
    /// The route, by its configured name.
    pub route: String,
    /// Requests whose response has not ended.
    pub in_flight: u64,
    /// Requests that wait for an upstream.
    pub queued: u64,
    /// Requests that may be unanswered at once.
    pub limit: u64,
    /// Requests that were refused because no upstream had room.
    pub refused: u64,
}

/// Registers what upstreams have to do, read when it is scraped.
#[derive(Clone)]
pub struct UpstreamMetrics(Arc<dyn Fn() -> Vec<UpstreamSnapshot> + Send + Sync>);

impl fmt::Debug for UpstreamMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpstreamMetrics")
    }
}

impl UpstreamMetrics {
    /// Registers `weaver_upstream_in_flight`, `weaver_upstream_queued`, `weaver_upstream_limit` and
    /// `weaver_upstream_refused_total`. Routes beyond [`MAX_ROUTES`](crate::MAX_ROUTES) are left out.
    pub fn register(
        registry: &mut Registry,
        read: impl Fn() -> Vec<UpstreamSnapshot> + Send + Sync + 'static,
    ) {
        registry.register_collector(Box::new(Self(Arc::new(read))));
    }
}

type Gauge = (&'static str, &'static str, fn(&UpstreamSnapshot) -> u64);

const GAUGES: [Gauge; 3] = [
    (
        "weaver_upstream_in_flight",
        "Requests to upstreams whose response has not ended",
        |load| load.in_flight,
    ),
    (
        "weaver_upstream_queued",
        "Requests that wait for an upstream with room",
        |load| load.queued,
    ),
    (
        "weaver_upstream_limit",
        "Requests that upstreams may leave unanswered at once",
        |load| load.limit,
    ),
];

impl Collector for UpstreamMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut routes = (self.0)();
        routes.truncate(crate::MAX_ROUTES);
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for load in &routes {
                let sample = ConstGauge::new(i64::try_from(value(load)).unwrap_or(i64::MAX));
                let labels = [("route", load.route.as_str())];
                sample.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Requests that were refused because no upstream had room";
        let mut family = encoder.encode_descriptor(
            "weaver_upstream_refused",
            help,
            None,
            MetricType::Counter,
        )?;
        for load in &routes {
            let sample = ConstCounter::new(load.refused);
            let labels = [("route", load.route.as_str())];
            sample.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_has_its_load() {
        let mut registry = Registry::default();
        UpstreamMetrics::register(&mut registry, || {
            vec![UpstreamSnapshot {
                route: "/api".to_owned(),
                in_flight: 3,
                queued: 2,
                limit: 40,
                refused: 7,
            }]
        });
        let text = crate::encode(&registry);
        for line in [
            r#"weaver_upstream_in_flight{route="/api"} 3"#,
            r#"weaver_upstream_queued{route="/api"} 2"#,
            r#"weaver_upstream_limit{route="/api"} 40"#,
            r#"weaver_upstream_refused_total{route="/api"} 7"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
