//! Agents, and what may be said of them.

use crate::RegistryError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fmt};

/// Characters of an agent's id.
pub const MAX_ID: usize = 255;
/// Characters of an agent's type and of each capability.
pub const MAX_WORD: usize = 100;
/// Capabilities of one agent.
pub const MAX_CAPABILITIES: usize = 100;
/// Bytes of an agent's metadata, as JSON.
pub const MAX_METADATA: usize = 16 << 10;

/// What an agent says of itself, and whether it lives.
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentStatus {
    /// It takes work.
    #[default]
    Online,
    /// It takes work if nobody else does.
    Busy,
    /// It takes no new work: it is about to end.
    Draining,
    /// Its heartbeat is late. No agent says this of itself.
    Offline,
}

impl AgentStatus {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Offline => "offline",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Online, Self::Busy, Self::Draining, Self::Offline]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An agent that is registered.
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// 1 to 255 characters, none of them a control character.
    pub agent_id: String,
    /// 1 to 100 characters.
    pub agent_type: String,
    /// Sorted, each once; `:` has become `_`.
    pub capabilities: Vec<String>,
    /// [`AgentStatus::Offline`] if its heartbeat is late, otherwise what it last said.
    pub status: AgentStatus,
    /// When it last registered, in milliseconds since the Unix epoch, by the clock of the backend.
    pub registered_at: u64,
    /// When it last sent a heartbeat or registered, likewise.
    pub last_heartbeat: u64,
    /// What it says besides, such as its `url`.
    #[cfg_attr(feature = "utoipa", schema(value_type = Object))]
    pub metadata: Map<String, Value>,
}

impl AgentInfo {
    /// Whether its heartbeat is not late.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.status != AgentStatus::Offline
    }
}

/// What an agent registers with.
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// 1 to 255 characters, none of them a control character.
    #[cfg_attr(
        feature = "utoipa",
        schema(
            min_length = 1,
            max_length = 255,
            pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$"
        )
    )]
    pub agent_id: String,
    /// 1 to 100 characters, none of them a control character.
    #[cfg_attr(
        feature = "utoipa",
        schema(
            min_length = 1,
            max_length = 100,
            pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$"
        )
    )]
    pub agent_type: String,
    /// Up to 100, each of 1 to 100 characters, none of them a control character; `:` becomes `_`.
    #[serde(default)]
    #[cfg_attr(feature = "utoipa", schema(max_items = 100))]
    pub capabilities: Vec<String>,
    /// Not offline.
    #[serde(default)]
    pub status: AgentStatus,
    /// Up to 16 KiB as JSON.
    #[serde(default)]
    #[cfg_attr(feature = "utoipa", schema(value_type = Object))]
    pub metadata: Map<String, Value>,
}

impl Registration {
    /// One without capabilities or metadata.
    pub fn new(agent_id: impl Into<String>, agent_type: impl Into<String>) -> Self {
        Self {
            agent_id: agent_id.into(),
            agent_type: agent_type.into(),
            capabilities: Vec::new(),
            status: AgentStatus::Online,
            metadata: Map::new(),
        }
    }

    /// With one capability more.
    #[must_use]
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.capabilities.push(capability.into());
        self
    }

    /// With one more value in its metadata.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// The same in the form in which it is stored.
    pub(crate) fn checked(mut self) -> Result<Self, RegistryError> {
        check_id(&self.agent_id)?;
        check("agent_type", &self.agent_type, MAX_WORD)?;
        check_status(self.status)?;
        if self.capabilities.len() > MAX_CAPABILITIES {
            let why = format!(
                "are {}; at most {MAX_CAPABILITIES} are allowed",
                self.capabilities.len()
            );
            return Err(RegistryError::invalid("capabilities", why));
        }
        let distinct: BTreeSet<String> = self
            .capabilities
            .iter()
            .map(|capability| capability_name(capability))
            .collect::<Result<_, _>>()?;
        self.capabilities = distinct.into_iter().collect();
        // A map of strings and values always has a JSON form.
        let bytes = serde_json::to_string(&self.metadata).map_or(0, |json| json.len());
        if bytes > MAX_METADATA {
            let why = format!("has {bytes} bytes as JSON; at most {MAX_METADATA} are allowed");
            return Err(RegistryError::invalid("metadata", why));
        }
        Ok(self)
    }
}

/// A capability as it is stored: the colon separates it from the agent in the index.
pub(crate) fn capability_name(given: &str) -> Result<String, RegistryError> {
    check("capability", given, MAX_WORD)?;
    Ok(given.replace(':', "_"))
}

pub(crate) fn check_id(id: &str) -> Result<(), RegistryError> {
    check("agent_id", id, MAX_ID)
}

pub(crate) fn check_status(status: AgentStatus) -> Result<(), RegistryError> {
    if status == AgentStatus::Offline {
        let why = "is offline, which no agent says of itself: it unregisters, or is silent";
        return Err(RegistryError::invalid("status", why));
    }
    Ok(())
}

fn check(what: &'static str, text: &str, most: usize) -> Result<(), RegistryError> {
    let length = text.chars().count();
    if length == 0 || length > most {
        let why = format!("has {length} characters; 1 to {most} are allowed");
        return Err(RegistryError::invalid(what, why));
    }
    if text.chars().any(char::is_control) {
        return Err(RegistryError::invalid(what, "has a control character"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_counted_in_characters_and_colons_become_underscores() {
        let good = Registration::new("ä".repeat(MAX_ID), "worker")
            .capability("b:c:d")
            .capability("a")
            .capability("b_c_d");
        let good = good.checked().unwrap();
        assert_eq!(good.capabilities, ["a", "b_c_d"]);
        for bad in [
            Registration::new("", "worker"),
            Registration::new("ä".repeat(MAX_ID + 1), "worker"),
            Registration::new("a\n", "worker"),
            Registration::new("a", ""),
            Registration::new("a", "t").capability(""),
            Registration::new("a", "t").capability("x".repeat(MAX_WORD + 1)),
            Registration::new("a", "t").metadata("m", "x".repeat(MAX_METADATA)),
            Registration {
                status: AgentStatus::Offline,
                ..Registration::new("a", "t")
            },
            Registration {
                capabilities: (0..=MAX_CAPABILITIES).map(|at| at.to_string()).collect(),
                ..Registration::new("a", "t")
            },
        ] {
            let checked = bad.clone().checked();
            assert!(
                matches!(checked, Err(RegistryError::Invalid { .. })),
                "{bad:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(id in ".*", capability in ".*") {
            let _ = Registration::new(id, "t").capability(capability).checked();
        }
    }
}
