//! `[agents]`

use super::Section;
use std::time::Duration;
use weaver_registry::RegistryConfig;

pub(super) fn read(mut section: Section<'_>) -> RegistryConfig {
    let defaults = RegistryConfig::default();
    let config = RegistryConfig {
        prefix: section.text("prefix").unwrap_or(defaults.prefix),
        heartbeat_ttl: section.duration(
            "heartbeat_ttl",
            defaults.heartbeat_ttl,
            Duration::from_millis(50),
        ),
        retention: section.duration("retention", defaults.retention, Duration::ZERO),
        max_agents: section.number("max_agents", defaults.max_agents, 1..=1_000_000),
        max_events: section.number("max_events", defaults.max_events, 1..=1_000_000),
        sweep_interval: section.duration(
            "sweep_interval",
            defaults.sweep_interval,
            Duration::from_millis(10),
        ),
    };
    if let Err(error) = config.validate() {
        section.fault("prefix", &error.to_string());
    }
    section.finish();
    config
}
