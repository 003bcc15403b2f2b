//! `[redis]` and `[redis.breaker]`

use super::super::{read::Section, values};
use std::time::Duration;
use weaver_pool::{BreakerConfig, Credentials, Protocol, RedisPoolConfig, TlsConfig, Topology};

const LEAST: Duration = Duration::from_millis(1);
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// `[redis] mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RedisMode {
    /// No Redis.
    Off,
    /// One server.
    Standalone,
    /// A primary watched by Sentinels.
    Sentinel,
    /// A cluster.
    Cluster,
}

/// How to reach Redis, and how long a node that starts waits for it.
pub(super) fn read(mut section: Section<'_>) -> (Option<RedisPoolConfig>, Duration) {
    let defaults = RedisPoolConfig::default();
    let mode = section.choice(
        "mode",
        RedisMode::Off,
        &[
            ("off", RedisMode::Off),
            ("standalone", RedisMode::Standalone),
            ("sentinel", RedisMode::Sentinel),
            ("cluster", RedisMode::Cluster),
        ],
    );
    let topology = topology(&mut section, mode);
    let tls = tls(&mut section);
    let username = section.text("username");
    let password = section.secret("password");
    let credentials = section
        .text("password_file")
        .map(|path| Credentials::file(username.clone(), path));
    if password.is_some() && credentials.is_some() {
        section.fault("password_file", "goes not with password, which it replaces");
    }
    let breaker = breaker(section.section("breaker"));
    let max_connections = section.number("max_connections", defaults.max_connections, 1..=10_000);
    let second = Duration::from_secs(1);
    let config = RedisPoolConfig {
        host: section.text("host").unwrap_or(defaults.host),
        port: section.number("port", defaults.port, 1..=u16::MAX),
        db: section.number("db", 0, 0..=255),
        username,
        password: password.filter(|_| credentials.is_none()),
        credentials,
        tls,
        protocol: section.choice(
            "protocol",
            Protocol::Resp2,
            &[("resp2", Protocol::Resp2), ("resp3", Protocol::Resp3)],
        ),
        topology,
        min_connections: section.number(
            "min_connections",
            defaults.min_connections,
            1..=max_connections,
        ),
        max_connections,
        max_in_flight: section.number("max_in_flight", defaults.max_in_flight, 1..=100_000),
        max_waiting: section.number("max_waiting", defaults.max_waiting, 0..=1_000_000),
        max_dedicated: section.number("max_dedicated", defaults.max_dedicated, 1..=10_000),
        acquire_timeout: section.duration("acquire_timeout", defaults.acquire_timeout, LEAST),
        socket_timeout: section.duration("socket_timeout", defaults.socket_timeout, LEAST),
        socket_connect_timeout: section.duration(
            "socket_connect_timeout",
            defaults.socket_connect_timeout,
            LEAST,
        ),
        socket_keepalive: section.flag("socket_keepalive", true),
        keepalive_time: section.duration("keepalive_time", defaults.keepalive_time, second),
        keepalive_interval: section.duration(
            "keepalive_interval",
            defaults.keepalive_interval,
            second,
        ),
        health_check_interval: section.duration(
            "health_check_interval",
            defaults.health_check_interval,
            Duration::ZERO,
        ),
        retry_on_timeout: section.flag("retry_on_timeout", true),
        retry_on_error: section.flag("retry_on_error", true),
        retries: section.number("retries", defaults.retries, 0..=10),
        breaker,
        max_idle_time: section.duration("max_idle_time", defaults.max_idle_time, LEAST),
    };
    if mode != RedisMode::Off
        && let Err(error) = config.validate()
    {
        section.fault("mode", &error.to_string());
    }
    let ready_timeout = section.duration("ready_timeout", READY_TIMEOUT, Duration::ZERO);
    section.finish();
    ((mode != RedisMode::Off).then_some(config), ready_timeout)
}

fn topology(section: &mut Section<'_>, mode: RedisMode) -> Topology {
    let port = if mode == RedisMode::Sentinel {
        26_379
    } else {
        6379
    };
    let nodes = section
        .parsed_list("nodes", |text| values::host_and_port(text, port))
        .unwrap_or_default();
    let service = section
        .text("sentinel_service")
        .unwrap_or_else(|| "mymaster".to_owned());
    let username = section.text("sentinel_username");
    let password = section.secret("sentinel_password");
    let socket = section.text("unix_socket");
    if socket.is_some() && matches!(mode, RedisMode::Sentinel | RedisMode::Cluster) {
        section.fault("unix_socket", "goes with mode \"standalone\" alone");
    }
    match (mode, socket) {
        (RedisMode::Sentinel, _) => Topology::Sentinel {
            nodes,
            service,
            username,
            password,
        },
        (RedisMode::Cluster, _) => Topology::Cluster {
            nodes,
            replicas: false,
        },
        (_, Some(path)) => Topology::Unix { path: path.into() },
        (_, None) => Topology::Standalone,
    }
}

fn tls(section: &mut Section<'_>) -> Option<TlsConfig> {
    let on = section.flag("tls", false);
    let ca = section.text("tls_ca");
    let cert = section.text("tls_cert");
    let key = section.text("tls_key");
    let server_name = section.text("tls_server_name");
    for (name, given) in [
        ("tls_ca", &ca),
        ("tls_cert", &cert),
        ("tls_key", &key),
        ("tls_server_name", &server_name),
    ] {
        if given.is_some() && !on {
            section.fault(name, "has no effect without tls = true");
        }
    }
    if cert.is_some() != key.is_some() {
        section.fault("tls_cert", "and tls_key go together");
    }
    on.then(|| TlsConfig {
        ca: ca.map(Into::into),
        identity: cert.zip(key).map(|(cert, key)| (cert.into(), key.into())),
        server_name,
    })
}

fn breaker(mut section: Section<'_>) -> BreakerConfig {
    let defaults = BreakerConfig::default();
    let config = BreakerConfig {
        enabled: section.flag("enabled", defaults.enabled),
        failure_rate: section.number("failure_rate", defaults.failure_rate, 0.01..=1.0),
        slow_call: section.duration("slow_call", defaults.slow_call, LEAST),
        slow_call_rate: section.number("slow_call_rate", defaults.slow_call_rate, 0.01..=1.0),
        window: section.duration("window", defaults.window, LEAST),
        min_calls: section.number("min_calls", defaults.min_calls, 1..=1_000_000),
        open_for: section.duration("open_for", defaults.open_for, LEAST),
        probes: section.number("probes", defaults.probes, 1..=1000),
    };
    section.finish();
    config
}
