mod breaker;
mod credentials;
mod tls;
mod topology;

pub use breaker::BreakerConfig;
pub use credentials::Credentials;
pub use tls::TlsConfig;
pub use topology::{Protocol, Topology};

use crate::PoolError;
use std::{fmt, time::Duration};

/// How to reach Redis and how much to ask of it.
///
/// Durations may be anything from a millisecond to a day unless it says otherwise;
/// [`RedisPoolConfig::validate`] names the
/// first field that is out of its range.
#[derive(Clone, PartialEq)]
pub struct RedisPoolConfig {
    /// Host name or address of a standalone server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database to select, 0 to 15 by default of the server. Must be 0 in a cluster.
    pub db: u8,
    /// The ACL user; `None` is `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// Where user and password come from if they change while the pool runs, instead of the two
    /// above.
    pub credentials: Option<Credentials>,
    /// TLS, where it is spoken. Needs the feature `tls`.
    pub tls: Option<TlsConfig>,
    /// The version of the protocol.
    pub protocol: Protocol,
    /// Which servers there are.
    pub topology: Topology,
    /// Connections that are always kept open, 1 to `max_connections`.
    pub min_connections: usize,
    /// The most connections, 1 to 10 000. Over the original's meaning, a ceiling for all components
    /// together, nothing changes.
    pub max_connections: usize,
    /// Commands that may be outstanding on one connection, 1 to 100 000.
    pub max_in_flight: u32,
    /// Callers that may wait for a place at once; the next one is refused.
    pub max_waiting: usize,
    /// Connections beside those, for exclusive use, subscriptions and streams, 0 to 10 000. The
    /// server sees at most the two maxima together.
    pub max_dedicated: usize,
    /// How long a caller waits for a place.
    pub acquire_timeout: Duration,
    /// The deadline of a command, and of a pool's closing.
    pub socket_timeout: Duration,
    /// The deadline of a connection attempt.
    pub socket_connect_timeout: Duration,
    /// Whether TCP keepalive probes find a peer that is gone.
    pub socket_keepalive: bool,
    /// How long a connection is silent before the first probe, at least a second.
    pub keepalive_time: Duration,
    /// The time between probes, at least a second. The kernel's count of probes stays.
    pub keepalive_interval: Duration,
    /// Time between the health checks of the background task; zero switches them off.
    pub health_check_interval: Duration,
    /// Whether a repeatable command is sent again when its deadline passed or its connection broke.
    pub retry_on_timeout: bool,
    /// Whether a repeatable command is sent again when the server was in no state to run it: it
    /// loads its data, is a replica, has lost its primary, moves a slot.
    pub retry_on_error: bool,
    /// How often a repeatable command is sent again, 0 to 10. Over all calls one in ten may be, and
    /// ten at once.
    pub retries: u32,
    /// When calls are refused because Redis fails or crawls.
    pub breaker: BreakerConfig,
    /// After this long without a command a connection above the minimum is closed.
    pub max_idle_time: Duration,
}

impl Default for RedisPoolConfig {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 6379,
            db: 0,
            username: None,
            password: None,
            credentials: None,
            tls: None,
            protocol: Protocol::Resp2,
            topology: Topology::Standalone,
            min_connections: 1,
            max_connections: 100,
            max_in_flight: 256,
            max_waiting: 10_000,
            max_dedicated: 16,
            acquire_timeout: Duration::from_secs(1),
            socket_timeout: Duration::from_secs(5),
            socket_connect_timeout: Duration::from_secs(5),
            socket_keepalive: true,
            keepalive_time: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            health_check_interval: Duration::from_secs(30),
            retry_on_timeout: true,
            retry_on_error: true,
            retries: 2,
            breaker: BreakerConfig::default(),
            max_idle_time: Duration::from_secs(300),
        }
    }
}

/// The password is left out.
impl fmt::Debug for RedisPoolConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisPoolConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("db", &self.db)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("tls", &self.tls)
            .field("topology", &self.topology)
            .field("min_connections", &self.min_connections)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

impl RedisPoolConfig {
    /// Checks every range.
    ///
    /// # Errors
    ///
    /// [`PoolError::Config`] names the first field that is out of its range, and the range.
    pub fn validate(&self) -> Result<(), PoolError> {
        let ranges = [
            ("max_connections", self.max_connections, 1, 10_000),
            (
                "min_connections",
                self.min_connections,
                1,
                self.max_connections,
            ),
            ("max_in_flight", self.max_in_flight as usize, 1, 100_000),
            ("max_dedicated", self.max_dedicated, 0, 10_000),
            ("retries", self.retries as usize, 0, 10),
            (
                "breaker.min_calls",
                self.breaker.min_calls as usize,
                1,
                1_000_000,
            ),
            ("breaker.probes", self.breaker.probes as usize, 1, 1000),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(PoolError::Config(format!(
                    "{field} is {value}, not {low} to {high}"
                )));
            }
        }
        let deadlines = [
            ("socket_timeout", self.socket_timeout),
            ("socket_connect_timeout", self.socket_connect_timeout),
            ("acquire_timeout", self.acquire_timeout),
            ("breaker.window", self.breaker.window),
            ("breaker.open_for", self.breaker.open_for),
            ("breaker.slow_call", self.breaker.slow_call),
        ];
        for (field, value) in deadlines {
            if value < Duration::from_millis(1) || value > Duration::from_secs(86_400) {
                return Err(PoolError::Config(format!(
                    "{field} is {value:?}, not 1 ms to 1 day"
                )));
            }
        }
        let second = Duration::from_secs(1);
        if self.socket_keepalive && self.keepalive_time.min(self.keepalive_interval) < second {
            return Err(PoolError::Config(
                "keepalive_time and keepalive_interval are at least 1 s".to_owned(),
            ));
        }
        let shares = [
            ("breaker.failure_rate", self.breaker.failure_rate),
            ("breaker.slow_call_rate", self.breaker.slow_call_rate),
        ];
        for (field, value) in shares {
            if !(value > 0.0 && value <= 1.0) {
                return Err(PoolError::Config(format!(
                    "{field} is {value}, not above 0 and up to 1"
                )));
            }
        }
        match &self.topology {
            Topology::Cluster { .. } if self.db != 0 => Err(PoolError::Config(format!(
                "db is {}, and a cluster has only 0",
                self.db
            ))),
            Topology::Cluster { nodes, .. } | Topology::Sentinel { nodes, .. }
                if nodes.is_empty() =>
            {
                Err(PoolError::Config("nodes is empty".to_owned()))
            }
            _ if self.credentials.is_some() && self.password.is_some() => Err(PoolError::Config(
                "password and credentials are two sources of one password".to_owned(),
            )),
            _ if self.tls.is_some() && !cfg!(feature = "tls") => Err(PoolError::Config(
                "tls needs the crate's feature `tls`".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}
