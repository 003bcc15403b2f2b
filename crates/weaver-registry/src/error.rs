use weaver_pool::PoolError;

/// Why the registry could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// An agent id, type, capability or metadata is not one: which, and why.
    #[error("{what} {why}")]
    Invalid {
        /// `agent_id`, `agent_type`, `capability`, `capabilities`, `metadata`, `limit`, …
        what: &'static str,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// The configuration is not valid.
    #[error("agent registry configuration: {0}")]
    Config(String),
    /// No agent has that id: it never registered, unregistered, or was forgotten. It has to register
    /// again.
    #[error("agent {0:?} is not registered")]
    NotRegistered(String),
    /// There are as many agents as `max_agents` allows.
    #[error("the registry is full: {0} agents")]
    Full(usize),
    /// Redis was not reached, or did not answer in time.
    #[error(transparent)]
    Redis(#[from] PoolError),
    /// Redis answered with something that this crate did not write.
    #[error("the registry in Redis has something unreadable: {0}")]
    Unreadable(String),
}

impl RegistryError {
    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid {
            what,
            why: why.into(),
        }
    }
}
