//! fred clients, configured so that none of fred's defaults can hang a caller.

use crate::{RedisPoolConfig, Topology};
use fred::{
    clients::Client,
    error::Error as RedisError,
    types::{
        Builder,
        config::{
            Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, ServerConfig, TcpConfig,
            UnresponsiveConfig,
        },
    },
};
use std::time::Duration;

/// Backoff of reconnection attempts: forever, from 50 ms to 2 s, doubling, with fred's jitter.
const RECONNECT: (u32, u32, u32, u32) = (0, 50, 2000, 2);

/// Makes a client whose commands get no answer for at most `deadline`; zero for one whose callers
/// set a deadline for each call, so that a call pays for one timer and not for two.
pub(crate) fn build(config: &RedisPoolConfig, deadline: Duration) -> Result<Client, RedisError> {
    let server = match &config.topology {
        Topology::Standalone => ServerConfig::new_centralized(config.host.clone(), config.port),
        Topology::Sentinel { nodes, service } => {
            ServerConfig::new_sentinel(nodes.clone(), service.clone())
        }
        Topology::Cluster { nodes } => ServerConfig::new_clustered(nodes.clone()),
    };
    let database = (config.db != 0).then_some(config.db);
    let redis = Config {
        server,
        database,
        username: config.username.clone(),
        password: config.password.clone(),
        // A first attempt that fails is repeated like any later one: Redis may start after us.
        fail_fast: false,
        #[cfg(feature = "tls")]
        tls: if config.tls {
            Some(fred::types::config::TlsConnector::default_rustls()?.into())
        } else {
            None
        },
        ..Config::default()
    };
    let (attempts, min, max, base) = RECONNECT;
    Builder::from_config(redis)
        .with_connection_config(|connection: &mut ConnectionConfig| {
            connection.connection_timeout = config.socket_connect_timeout;
            connection.internal_command_timeout = config.socket_timeout;
            // What was written may have run; whether to send it again is the caller's to say.
            connection.max_command_attempts = 1;
            // fred 10.1 counts a refused command as queued for ever once this is above 0, and then
            // never flushes again. Our own places bound the queue instead.
            connection.max_command_buffer_len = 0;
            connection.reconnect_on_auth_error = true;
            // A peer that vanished without closing is found by the first command that gets no
            // answer, instead of by the kernel after a quarter of an hour.
            connection.unresponsive = UnresponsiveConfig {
                max_timeout: Some(config.socket_timeout.saturating_mul(2)),
                interval: Duration::from_millis(500),
            };
            connection.tcp = TcpConfig {
                nodelay: Some(true),
                keepalive: config.socket_keepalive.then(|| {
                    socket2::TcpKeepalive::new()
                        .with_time(Duration::from_secs(30))
                        .with_interval(Duration::from_secs(10))
                }),
                ..TcpConfig::default()
            };
        })
        .with_performance_config(|performance: &mut PerformanceConfig| {
            performance.default_command_timeout = deadline;
        })
        .set_policy(ReconnectPolicy::new_exponential(attempts, min, max, base))
        .build()
}
