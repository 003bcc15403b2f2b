use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// How many agents the registry has. A handle; clones share the gauges.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    online: Gauge,
    offline: Gauge,
}

impl AgentMetrics {
    /// Registers `weaver_agents`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let agents = Family::<StateLabels, Gauge>::default();
        let of = |state| agents.get_or_create_owned(&StateLabels { state });
        let metrics = Self {
            online: of("online"),
            offline: of("offline"),
        };
        let help = "Agents of the registry by state, as they were a few seconds ago";
        registry.register("weaver_agents", help, agents);
        metrics
    }

    /// Sets how many there are.
    pub fn set(&self, online: u64, offline: u64) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.online.set(number(online));
        self.offline.set(number(offline));
    }
}
