//! fred clients, configured so that none of fred's defaults can hang a caller.

use crate::{PoolError, Protocol, RedisPoolConfig, Topology, server::Server};
use fred::types::{
    Builder, RespVersion,
    config::{
        Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server as Address,
        ServerConfig, TcpConfig, UnresponsiveConfig,
    },
};
use std::time::Duration;

/// Backoff of reconnection attempts: forever, from 10 ms to half a second, doubling, and some of this
/// many milliseconds more. fred waits for it before the first attempt too.
const RECONNECT: (u32, u32, u32, u32) = (0, 10, 500, 2);
const JITTER: u32 = 20;
/// Messages and events of a connection that wait to be read; beyond, the oldest are lost, and the
/// reader learns how many.
const EVENTS: usize = 1024;

/// What becomes of an attempt to connect that fails, and of a connection that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Somebody waits for the first, and is told. Later ones are repeated.
    Once,
    /// There is one, and what is lost stays lost: another connection would not have its state, such
    /// as the keys that were watched, and its holder would not notice.
    Only,
    /// It is repeated, for Redis may start after us.
    Again,
}

/// How clients of a configuration are built. Their commands have no deadline of fred's: whoever
/// calls sets one for each call, so that a call pays for one timer and not for two.
///
/// They go to one node of a cluster where that is given.
pub(crate) fn builder(
    config: &RedisPoolConfig,
    node: Option<&Server>,
    attempt: Attempt,
) -> Result<Builder, PoolError> {
    let redis = Config {
        server: match node {
            Some(node) => centralized(config, &node.host, node.port),
            None => server(config),
        },
        database: (config.db != 0).then_some(config.db),
        username: config.username.clone(),
        password: config.password.clone(),
        credential_provider: config
            .credentials
            .as_ref()
            .map(|credentials| credentials.provider()),
        version: match config.protocol {
            Protocol::Resp2 => RespVersion::RESP2,
            Protocol::Resp3 => RespVersion::RESP3,
        },
        fail_fast: attempt != Attempt::Again,
        #[cfg(feature = "tls")]
        tls: match &config.tls {
            Some(tls) => Some(tls.connector()?.into()),
            None => None,
        },
        ..Config::default()
    };
    let mut builder = Builder::from_config(redis);
    builder
        .with_connection_config(|connection| shape(connection, config))
        .with_performance_config(|performance: &mut PerformanceConfig| {
            performance.default_command_timeout = Duration::ZERO;
            performance.broadcast_channel_capacity = EVENTS;
        });
    if attempt != Attempt::Only {
        let (attempts, min, max, base) = RECONNECT;
        let mut policy = ReconnectPolicy::new_exponential(attempts, min, max, base);
        policy.set_jitter(JITTER);
        builder.set_policy(policy);
    }
    Ok(builder)
}

fn shape(connection: &mut ConnectionConfig, config: &RedisPoolConfig) {
    connection.connection_timeout = config.socket_connect_timeout;
    connection.internal_command_timeout = config.socket_timeout;
    // What was written may have run; whether to send it again is the caller's to say.
    connection.max_command_attempts = 1;
    // fred 10.1 counts a refused command as queued for ever once this is above 0, and then
    // never flushes again. Our own places bound the queue instead.
    connection.max_command_buffer_len = 0;
    connection.reconnect_on_auth_error = true;
    // Our own PINGs find a peer that fell silent. fred's watch for that finds fewer, and makes every
    // command pay for another look at the clock and every turn of its loop for a timer.
    connection.unresponsive = UnresponsiveConfig {
        max_timeout: None,
        ..UnresponsiveConfig::default()
    };
    connection.tcp = TcpConfig {
        nodelay: Some(true),
        keepalive: config.socket_keepalive.then(|| {
            socket2::TcpKeepalive::new()
                .with_time(config.keepalive_time)
                .with_interval(config.keepalive_interval)
        }),
        ..TcpConfig::default()
    };
}

fn server(config: &RedisPoolConfig) -> ServerConfig {
    match &config.topology {
        Topology::Standalone => centralized(config, &config.host, config.port),
        Topology::Unix { path } => ServerConfig::new_unix_socket(path),
        Topology::Sentinel {
            nodes,
            service,
            username,
            password,
        } => ServerConfig::Sentinel {
            hosts: nodes
                .iter()
                .map(|(host, port)| Address::new(host.as_str(), *port))
                .collect(),
            service_name: service.clone(),
            username: username.clone(),
            password: password.clone(),
        },
        Topology::Cluster { nodes, .. } => ServerConfig::new_clustered(nodes.clone()),
    }
}

fn centralized(config: &RedisPoolConfig, host: &str, port: u16) -> ServerConfig {
    #[cfg(feature = "tls")]
    if let Some(name) = config.tls.as_ref().and_then(|tls| tls.server_name.clone()) {
        let server = Address::new_with_tls(host, port, Some(name));
        return ServerConfig::Centralized { server };
    }
    let _ = config;
    ServerConfig::new_centralized(host, port)
}
