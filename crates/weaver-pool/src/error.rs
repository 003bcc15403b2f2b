use fred::error::{Error as RedisError, ErrorKind};
use std::time::Duration;

/// Why the pool could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// The process-wide pool was used before it was made.
    #[error("Redis pool not initialized. Call init_redis_pool() first.")]
    NotInitialized,
    /// The process-wide pool exists, with another configuration.
    #[error(
        "Redis pool already initialized with another configuration. Call close_redis_pool() first."
    )]
    AlreadyInitialized,
    /// A field of the configuration is out of its range.
    #[error("Redis pool configuration: {0}")]
    Config(String),
    /// No connection to the server, or it broke while the command was on its way.
    #[error("Redis connection: {0}")]
    Connection(String),
    /// Every place was taken for longer than `acquire_timeout`, or too many callers wait.
    #[error("Too many connections")]
    Exhausted,
    /// The deadline passed. The command may have run, or may yet run.
    #[error("Redis command timed out after {0:?}")]
    Timeout(Duration),
    /// The circuit breaker refuses calls, because many of the last ones failed or were slow.
    #[error("Redis circuit breaker is open")]
    CircuitOpen,
    /// The pool is closed or closing.
    #[error("Redis pool is closed")]
    Closed,
    /// The server answered with an error, or with something else than was expected.
    #[error("Redis command: {0}")]
    Command(RedisError),
}

impl PoolError {
    /// Whether the same command may succeed a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::Exhausted | Self::Timeout(_) | Self::CircuitOpen
        ) || self.is_server_state()
    }

    /// Whether the server answered that it is in no state to run commands now: it loads its data,
    /// is a replica that takes no writes or has lost its primary, moves a slot, or runs a script.
    /// The command has not run.
    #[must_use]
    pub fn is_server_state(&self) -> bool {
        const STATES: [&str; 7] = [
            "LOADING",
            "READONLY",
            "MASTERDOWN",
            "CLUSTERDOWN",
            "TRYAGAIN",
            "BUSY ",
            "NOREPLICAS",
        ];
        let Self::Command(error) = self else {
            return false;
        };
        STATES
            .iter()
            .any(|state| error.details().starts_with(state))
    }

    pub(crate) fn from_redis(error: RedisError, deadline: Duration) -> Self {
        match error.kind() {
            ErrorKind::Timeout => Self::Timeout(deadline),
            ErrorKind::IO
            | ErrorKind::Canceled
            | ErrorKind::Auth
            | ErrorKind::Routing
            | ErrorKind::Sentinel
            | ErrorKind::Cluster => Self::Connection(error.to_string()),
            _ => Self::Command(error),
        }
    }
}
