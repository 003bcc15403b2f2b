use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Bounds of the duration histogram, in seconds: from a memory hit to a slow model.
const BOUNDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    route: Arc<str>,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests and how long they took, by route. A handle; clones share the counters.
#[derive(Clone)]
pub struct HttpMetrics {
    inner: Arc<Inner>,
}

struct Inner {
    requests: Family<StatusLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    routes: RwLock<BTreeMap<Arc<str>, RouteHttpMetrics>>,
}

/// The counters of one route, looked up once.
#[derive(Clone, Debug)]
pub struct RouteHttpMetrics(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    by_class: [Counter; CLASSES.len()],
    duration: Histogram,
}

impl HttpMetrics {
    /// Registers `weaver_http_requests_total` and `weaver_http_request_duration_seconds`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let inner = Inner {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            routes: RwLock::default(),
        };
        registry.register(
            "weaver_http_requests",
            "Requests by route and class of status",
            inner.requests.clone(),
        );
        registry.register_with_unit(
            "weaver_http_request_duration",
            "From the request's head to the response's head",
            Unit::Seconds,
            inner.durations.clone(),
        );
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The counters of a route.
    #[must_use]
    pub fn route(&self, name: &str) -> RouteHttpMetrics {
        let mut routes = self.inner.routes.write();
        if let Some(known) = routes.get(name) {
            return known.clone();
        }
        let name: Arc<str> = if routes.len() < crate::MAX_ROUTES {
            name.into()
        } else {
            "other".into()
        };
        let counters = RouteHttpMetrics(Arc::new(Counted {
            by_class: CLASSES.map(|status| {
                self.inner.requests.get_or_create_owned(&StatusLabels {
                    route: Arc::clone(&name),
                    status,
                })
            }),
            duration: self.inner.durations.get_or_create_owned(&RouteLabels {
                route: Arc::clone(&name),
            }),
        }));
        routes.entry(name).or_insert(counters).clone()
    }
}

impl RouteHttpMetrics {
    /// Counts a response with that status.
    pub fn count(&self, status: u16, took: Duration) {
        let class = usize::from((status / 100).clamp(1, 5)) - 1;
        self.0.by_class[class].inc();
        self.0.duration.observe(took.as_secs_f64());
    }
}
