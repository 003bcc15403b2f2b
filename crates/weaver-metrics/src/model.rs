//! Calls of language models, and the cache of their answers.

use crate::report::{ModelCacheReport, two_places};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
    },
    registry::{Registry, Unit},
};
use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    endpoint: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    kind: &'static str,
}

/// Calls of models, and what they cost. A handle; clones share the counters.
///
/// Labels are the endpoints and outcomes of the program, never names of models or users.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    calls: Family<CallLabels, Counter>,
    prompt: Counter,
    completion: Counter,
    cost: Counter<f64, AtomicU64>,
    seconds: Counter<f64, AtomicU64>,
}

impl ModelMetrics {
    /// Registers `weaver_model_requests_total`, `weaver_model_tokens_total`, `weaver_model_cost_total`
    /// and `weaver_model_fetch_seconds_total`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let calls = Family::<CallLabels, Counter>::default();
        registry.register(
            "weaver_model_requests",
            "Calls of models by endpoint, and how they were answered",
            calls.clone(),
        );
        let tokens = Family::<TokenLabels, Counter>::default();
        registry.register(
            "weaver_model_tokens",
            "Tokens that upstreams were paid for",
            tokens.clone(),
        );
        let of = |kind| tokens.get_or_create_owned(&TokenLabels { kind });
        let metrics = Self {
            calls,
            prompt: of("prompt"),
            completion: of("completion"),
            cost: Counter::default(),
            seconds: Counter::default(),
        };
        registry.register(
            "weaver_model_cost",
            "What those tokens cost, where the price is known, in the currency of the prices",
            metrics.cost.clone(),
        );
        registry.register_with_unit(
            "weaver_model_fetch",
            "How long upstreams took to answer",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        metrics
    }

    /// Counts a call.
    pub fn call(&self, endpoint: &'static str, outcome: &'static str) {
        let labels = CallLabels { endpoint, outcome };
        self.calls.get_or_create_owned(&labels).inc();
    }

    /// Counts what an upstream's answer cost.
    pub fn spent(&self, prompt: u64, completion: u64, cost: f64, took: Duration) {
        self.prompt.inc_by(prompt);
        self.completion.inc_by(completion);
        self.cost.inc_by(cost);
        self.seconds.inc_by(took.as_secs_f64());
    }
}

/// What the cache's own counters stand at.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelCacheSnapshot {
    /// Answers from the cache.
    pub hits: u64,
    /// Calls that were looked for and not there.
    pub misses: u64,
    /// Calls past the cache.
    pub bypassed: u64,
    /// Calls that shared another's fetch.
    pub shared: u64,
    /// Failures of the cache, each of which was answered past it.
    pub errors: u64,
    /// Answers that were kept.
    pub stored: u64,
    /// Tokens of the answers from the cache.
    pub tokens_saved: u64,
    /// What they would have cost.
    pub cost_saved: f64,
    /// The time that fetching them took once.
    pub seconds_saved: f64,
}

impl ModelCacheSnapshot {
    /// The cache's part of the JSON report.
    #[must_use]
    pub fn report(&self) -> ModelCacheReport {
        let total = self.hits + self.misses;
        ModelCacheReport {
            hits: self.hits,
            misses: self.misses,
            bypassed: self.bypassed,
            shared: self.shared,
            errors: self.errors,
            stored: self.stored,
            total_requests: total,
            hit_rate_percent: if total == 0 {
                0.0
            } else {
                two_places(self.hits as f64 * 100.0 / total as f64)
            },
            tokens_saved: self.tokens_saved,
            cost_saved: self.cost_saved,
            total_latency_saved_ms: two_places(self.seconds_saved * 1000.0),
        }
    }
}

/// Registers the cache's counters, read when they are scraped.
#[derive(Clone)]
pub struct ModelCacheMetrics(Arc<dyn Fn() -> ModelCacheSnapshot + Send + Sync>);

impl fmt::Debug for ModelCacheMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelCacheMetrics")
    }
}

impl ModelCacheMetrics {
    /// Registers the families `weaver_model_cache_…`.
    pub fn register(
        registry: &mut Registry,
        read: impl Fn() -> ModelCacheSnapshot + Send + Sync + 'static,
    ) {
        registry.register_collector(Box::new(Self(Arc::new(read))));
    }
}

impl Collector for ModelCacheMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = (self.0)();
        let mut family = encoder.encode_descriptor(
            "weaver_model_cache_requests",
            "Calls of models by what the cache did",
            None,
            MetricType::Counter,
        )?;
        let outcomes = [
            ("hit", now.hits),
            ("miss", now.misses),
            ("bypass", now.bypassed),
            ("shared", now.shared),
        ];
        for (outcome, count) in outcomes {
            let sample = ConstCounter::new(count);
            sample.encode(family.encode_family(&[("outcome", outcome)])?)?;
        }
        let counts = [
            (
                "weaver_model_cache_errors",
                "Failures of the cache",
                now.errors,
            ),
            (
                "weaver_model_cache_stored",
                "Answers that were kept",
                now.stored,
            ),
            (
                "weaver_model_cache_tokens_saved",
                "Tokens of answers from the cache",
                now.tokens_saved,
            ),
        ];
        for (name, help, count) in counts {
            let sample = ConstCounter::new(count);
            sample.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let cost = ConstCounter::new(now.cost_saved);
        cost.encode(encoder.encode_descriptor(
            "weaver_model_cache_cost_saved",
            "What those tokens would have cost, where the price is known",
            None,
            MetricType::Counter,
        )?)?;
        let seconds = ConstCounter::new(now.seconds_saved);
        seconds.encode(encoder.encode_descriptor(
            "weaver_model_cache_latency_saved",
            "How long fetching what came from the cache took once",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?)
    }
}
