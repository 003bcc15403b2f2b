//! What is asked for, and what comes back.

use crate::{AgentInfo, RegistryError, agent::capability_name};
use serde::Serialize;
use std::collections::BTreeMap;

/// Agents of one answer.
pub const MAX_PAGE: usize = 1000;

/// Which agents are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub(crate) capabilities: Vec<String>,
    pub(crate) require_all: bool,
    pub(crate) only_online: bool,
    pub(crate) limit: usize,
}

impl Query {
    /// Those that have at least one of these capabilities, online or not.
    pub fn any<T: Into<String>>(capabilities: impl IntoIterator<Item = T>) -> Self {
        Self {
            capabilities: capabilities.into_iter().map(Into::into).collect(),
            require_all: false,
            only_online: false,
            limit: MAX_PAGE,
        }
    }

    /// Those that have all of these capabilities, online or not.
    pub fn all<T: Into<String>>(capabilities: impl IntoIterator<Item = T>) -> Self {
        Self {
            require_all: true,
            ..Self::any(capabilities)
        }
    }

    /// Whether only those that are online are wanted.
    #[must_use]
    pub fn only_online(mut self, only: bool) -> Self {
        self.only_online = only;
        self
    }

    /// How many at most; up to [`MAX_PAGE`].
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The same with capabilities as they are stored.
    pub(crate) fn checked(&self) -> Result<Self, RegistryError> {
        check_limit(self.limit)?;
        if self.capabilities.is_empty() || self.capabilities.len() > crate::MAX_CAPABILITIES {
            let why = format!("are not 1 to {}", crate::MAX_CAPABILITIES);
            return Err(RegistryError::invalid("capabilities", why));
        }
        let names = self.capabilities.iter().map(|name| capability_name(name));
        let mut capabilities = names.collect::<Result<Vec<_>, _>>()?;
        capabilities.sort();
        capabilities.dedup();
        Ok(Self {
            capabilities,
            ..self.clone()
        })
    }
}

pub(crate) fn check_limit(limit: usize) -> Result<(), RegistryError> {
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(());
    }
    let why = format!("is {limit}; 1 to {MAX_PAGE} are allowed");
    Err(RegistryError::invalid("limit", why))
}

/// Some agents, by id.
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentPage {
    /// In the order of their ids.
    pub agents: Vec<AgentInfo>,
    /// What to ask for to get those that follow; `None` if these are the last.
    pub next: Option<String>,
}

/// How many agents there are.
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegistryStats {
    /// All that are registered.
    pub total: u64,
    /// Whose heartbeat is not late.
    pub online: u64,
    /// Whose is.
    pub offline: u64,
    /// By type, online or not.
    pub by_type: BTreeMap<String, u64>,
    /// By capability, online or not.
    pub by_capability: BTreeMap<String, u64>,
}
