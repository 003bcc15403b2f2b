use crate::RegistryError;
use std::time::Duration;

/// How a registry behaves. Nodes that share one should have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// What every Redis key begins with, `<prefix>:{<prefix>}:`; they are in one hash slot.
    /// `weaver:agents`; no braces.
    pub prefix: String,
    /// How long an agent is online after a heartbeat; 30 s. At least 50 ms, at most a day.
    pub heartbeat_ttl: Duration,
    /// How long an agent that is offline is remembered; 1 h. At most 30 days.
    pub retention: Duration,
    /// Agents that may be registered at once, online or not; 10 000. 1 to 1 000 000.
    pub max_agents: usize,
    /// Events that are kept for those who were away; 10 000. 1 to 1 000 000. Redis may keep a few
    /// more.
    pub max_events: usize,
    /// Between two looks for agents whose heartbeat is late; 1 s. At least 10 ms.
    pub sweep_interval: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            prefix: "weaver:agents".to_owned(),
            heartbeat_ttl: Duration::from_secs(30),
            retention: Duration::from_secs(3600),
            max_agents: 10_000,
            max_events: 10_000,
            sweep_interval: Duration::from_secs(1),
        }
    }
}

const DAY: Duration = Duration::from_secs(86_400);

impl RegistryConfig {
    /// Whether every field is in its range.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Config`], which names the field.
    pub fn validate(&self) -> Result<(), RegistryError> {
        let faults = [
            (
                self.prefix.is_empty() || self.prefix.contains(['{', '}']),
                "prefix is empty or has braces",
            ),
            (
                !(Duration::from_millis(50)..=DAY).contains(&self.heartbeat_ttl),
                "heartbeat_ttl is not 50 ms to 1 day",
            ),
            (self.retention > 30 * DAY, "retention is more than 30 days"),
            (
                !(1..=1_000_000).contains(&self.max_agents),
                "max_agents is not 1 to 1000000",
            ),
            (
                !(1..=1_000_000).contains(&self.max_events),
                "max_events is not 1 to 1000000",
            ),
            (
                self.sweep_interval < Duration::from_millis(10),
                "sweep_interval is less than 10 ms",
            ),
        ];
        match faults.iter().find(|(is_fault, _)| *is_fault) {
            Some((_, fault)) => Err(RegistryError::Config((*fault).to_owned())),
            None => Ok(()),
        }
    }
}
