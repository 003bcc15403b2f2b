//! `[agents]`

use super::{Section, host_name};
use crate::network::Network;
use std::{net::IpAddr, time::Duration};
use weaver_registry::RegistryConfig;

/// `agents.allow`: where agents may listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAllow {
    /// Networks that hold their addresses.
    pub networks: Vec<Network>,
    /// Names that may resolve to any unicast address; `*.` and a name is every name below it.
    pub hosts: Vec<String>,
}

/// Private networks (RFC 1918, RFC 4193) and loopback.
const PRIVATE: [&str; 6] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "127.0.0.0/8",
    "fc00::/7",
    "::1",
];

fn allow(section: &mut Section<'_>) -> AgentAllow {
    let given = section.list("allow");
    let given = given.unwrap_or_else(|| PRIVATE.map(str::to_owned).to_vec());
    let (mut networks, mut hosts) = (Vec::new(), Vec::new());
    for entry in &given {
        let is_network = entry.contains('/') || entry.parse::<IpAddr>().is_ok();
        let read = if is_network {
            let network = entry.parse::<Network>().map_err(|error| error.to_string());
            network.map(|network| networks.push(network))
        } else if entry == "*" {
            Err(
                "\"*\" allows every address; list \"0.0.0.0/0\" and \"::/0\" if you want that"
                    .into(),
            )
        } else {
            host_name(entry).map(|host| hosts.push(host))
        };
        if let Err(what) = read {
            section.fault("allow", &what);
        }
    }
    AgentAllow { networks, hosts }
}

pub(super) fn read(mut section: Section<'_>) -> (RegistryConfig, AgentAllow) {
    let allow = allow(&mut section);
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
    (config, allow)
}
