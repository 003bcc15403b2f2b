//! Logs and traces.

use crate::config::{LogFormat, TelemetryConfig};
use anyhow::Context;
use opentelemetry::{global, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Actix logs at level error what is a client's or an upstream's doing, such as a body that broke
/// off; we say these things ourselves, with the upstream's name.
const DEFAULT_FILTER: &str = "info,actix_http=off,actix_server=warn,fred=warn";

/// Holds what has to be flushed at the end.
pub(crate) struct Guard(Option<SdkTracerProvider>);

impl Guard {
    /// Sends what is left. Blocks; called after the system has stopped.
    pub(crate) fn shutdown(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown()
        {
            eprintln!("weaver-gateway: the last traces were not sent: {error}");
        }
    }
}

/// Installs the process's logger and, where an endpoint is configured, its tracer. `RUST_LOG` sets
/// levels by crate: `weaver_pool=debug,weaver_cache=debug`.
pub(crate) fn install(config: &TelemetryConfig) -> anyhow::Result<Guard> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let logs = match config.log_format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .boxed(),
        LogFormat::Pretty => tracing_subscriber::fmt::layer().compact().boxed(),
    };
    let provider = config
        .otlp_endpoint
        .as_deref()
        .map(|to| provider(to, config.sample_ratio))
        .transpose()?;
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("weaver-gateway"))
    });
    global::set_text_map_propagator(TraceContextPropagator::new());
    tracing_subscriber::registry()
        .with(filter)
        .with(traces)
        .with(logs)
        .try_init()
        .context("a logger is installed already")?;
    Ok(Guard(provider))
}

fn provider(endpoint: &str, ratio: f64) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .build()
        .context("telemetry.otlp_endpoint")?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(
            Resource::builder()
                .with_service_name("weaver-gateway")
                .build(),
        )
        .build())
}
