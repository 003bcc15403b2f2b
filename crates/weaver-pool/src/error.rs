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
    /// There is no connection to the server. Nothing was sent.
    #[error("Redis connection: {0}")]
    NotConnected(String),
    /// The connection to the server broke. The command may have run.
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

/// Another node of a cluster, as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// From now on.
    Moved { slot: u16, server: String },
    /// This once.
    Ask { server: String },
}

impl PoolError {
    /// Whether the same command may succeed a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::NotConnected(_)
                | Self::Connection(_)
                | Self::Exhausted
                | Self::Timeout(_)
                | Self::CircuitOpen
        ) || self.is_server_state()
    }

    /// Whether the server answered that it is in no state to run commands now: it loads its data,
    /// is a replica that takes no writes or has lost its primary, moves a slot, or runs a script.
    /// The command has not run.
    #[must_use]
    pub fn is_server_state(&self) -> bool {
        const STATES: [&str; 6] = [
            "LOADING",
            "READONLY",
            "MASTERDOWN",
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

    /// Whether it is certain that no command ran.
    #[must_use]
    pub fn has_not_run(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Connection(_) => false,
            Self::Command(_) => self.is_server_state() || self.redirect().is_some(),
            _ => true,
        }
    }

    /// Where a node of a cluster says to go instead.
    pub(crate) fn redirect(&self) -> Option<Redirect> {
        let Self::Command(error) = self else {
            return None;
        };
        let mut words = error.details().split(' ');
        let (kind, slot, server) = (words.next()?, words.next()?, words.next()?);
        match kind {
            "MOVED" => Some(Redirect::Moved {
                slot: slot.parse().ok()?,
                server: server.to_owned(),
            }),
            "ASK" => Some(Redirect::Ask {
                server: server.to_owned(),
            }),
            _ => None,
        }
    }

    /// A word for it, as it stands in traces.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::NotInitialized => "not_initialized",
            Self::AlreadyInitialized => "already_initialized",
            Self::Config(_) => "config",
            Self::NotConnected(_) => "not_connected",
            Self::Connection(_) => "connection",
            Self::Exhausted => "exhausted",
            Self::Timeout(_) => "timeout",
            Self::CircuitOpen => "circuit_open",
            Self::Closed => "closed",
            Self::Command(_) => "command",
        }
    }

    /// The code that a server's error begins with, such as `WRONGTYPE`.
    pub(crate) fn code(&self) -> Option<&str> {
        let Self::Command(error) = self else {
            return None;
        };
        let code = error.details().split(' ').next()?;
        let is_code = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_uppercase());
        is_code.then_some(code)
    }

    pub(crate) fn from_redis(error: RedisError, deadline: Duration) -> Self {
        match error.kind() {
            ErrorKind::Timeout => Self::Timeout(deadline),
            // fred drops the connection over this one, and gives it to all that were outstanding.
            ErrorKind::Cluster if error.details().starts_with("CLUSTERDOWN") => {
                Self::Connection(error.to_string())
            }
            ErrorKind::IO
            | ErrorKind::Canceled
            | ErrorKind::Auth
            | ErrorKind::Routing
            | ErrorKind::Sentinel => Self::Connection(error.to_string()),
            _ => Self::Command(error),
        }
    }
}
