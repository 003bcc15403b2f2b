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
use std::io::IsTerminal as _;
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The pool tells of outages of Redis, so that fred's own lines about each connection would be told twice.
/// Actix logs at level error what is a client's or an upstream's doing, such as a body that broke
/// off; we say these things ourselves, with the upstream's name.
const DEFAULT_FILTER: &str = "info,actix_http=off,actix_server=warn,fred=error";

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
    let filter = filter(std::env::var(EnvFilter::DEFAULT_ENV).ok().as_deref());
    let logs = match config.log_format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .boxed(),
        LogFormat::Pretty => tracing_subscriber::fmt::layer()
            .compact()
            .with_ansi(is_coloured())
            .boxed(),
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

/// What is asked for, in addition to the default: a level for one crate must not silence the others. A
/// level without a crate takes the place of the default one.
fn filter(asked: Option<&str>) -> EnvFilter {
    let Some(asked) = asked.map(str::trim).filter(|asked| !asked.is_empty()) else {
        return EnvFilter::new(DEFAULT_FILTER);
    };
    EnvFilter::try_new(format!("{DEFAULT_FILTER},{asked}")).unwrap_or_else(|error| {
        eprintln!("weaver-gateway: RUST_LOG is not used: {asked:?}: {error}");
        EnvFilter::new(DEFAULT_FILTER)
    })
}

/// Colours are for people who look at a terminal, and want them (<https://no-color.org>).
fn is_coloured() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_for_one_crate_adds_to_the_default() {
        let of = |asked| filter(asked).to_string();
        let default = of(None);
        let with_debug = of(Some("weaver_cache=debug"));
        for part in default.split(',') {
            assert!(
                with_debug.split(',').any(|other| other == part),
                "{with_debug}"
            );
        }
        assert!(with_debug.contains("weaver_cache=debug"));
        assert_eq!(of(Some(" ")), default);
        assert!(of(Some("warn")).split(',').any(|part| part == "warn"));
        assert!(!of(Some("warn")).split(',').any(|part| part == "info"));
        assert_eq!(of(Some("===")), default);
    }
}
