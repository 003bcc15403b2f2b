//! The sections, with their keys, defaults and ranges.

use super::{Config, read::Section};
use crate::{ingress::fields, network::Network};
use actix_web::http::header::{AUTHORIZATION, HeaderName};
use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};
use weaver_cache::{CacheConfig, IdentitySource, Pattern, QueryRule, policy::url};

mod agents;
mod auth;
mod cache;
mod memory;
mod models;
mod redis;
mod routes;
mod upstream_tls;
mod warm;

pub use agents::AgentAllow;
pub use auth::{ApiKey, AuthConfig, AuthMode, JwtConfig, JwtKey};
pub use models::{AskConfig, ModelKey, ModelLimitsConfig, ModelRouteConfig};
pub(crate) use routes::origin as routes_origin;
pub use routes::{Destination, GateConfig, HealthCheckConfig, RouteCache, RouteConfig};
pub use upstream_tls::UpstreamTls;
pub use warm::WarmConfig;

/// `[server]`
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What the service calls itself in `/health` and `/metrics`.
    pub service_name: String,
    /// Where requests are answered.
    pub listen: SocketAddr,
    /// Where probes, metrics and purges are answered.
    pub admin_listen: SocketAddr,
    /// Worker threads; at least 1.
    pub workers: usize,
    /// Hosts that are served, in normal form; empty is any.
    pub trusted_hosts: Vec<String>,
    /// Request fields that are let through although a client may pass for another with them; they
    /// are part of every key.
    pub trusted_fields: Vec<HeaderName>,
    /// What becomes of requests whose path readers resolve differently.
    pub ambiguous_paths: AmbiguousPaths,
    /// Addresses and networks whose Forwarded and X-Forwarded-* count.
    pub trusted_proxies: Vec<Network>,
    /// How long new connections are still accepted after SIGTERM, while `/readyz` says 503.
    pub drain_delay: Duration,
    /// How long running requests may take after that.
    pub shutdown_grace: Duration,
    /// How long an idle connection is kept; zero closes after each response.
    pub keep_alive: Duration,
    /// How long the head of a request may take; zero is no limit.
    pub request_timeout: Duration,
    /// How long the body of a request may stand still; zero is no limit.
    pub body_timeout: Duration,
    /// How long a client may read nothing of a response; zero is no limit.
    pub write_timeout: Duration,
    /// The largest head of a request, in bytes.
    pub max_head: u64,
    /// The largest body of a request, in bytes.
    pub max_body: u64,
    /// What bodies that the gateway parses itself may take together, in bytes.
    pub max_parsed_bodies: u64,
    /// The largest head of an upstream's response, in bytes.
    pub max_upstream_head: u64,
    /// Connections at once, over all workers.
    pub max_connections: usize,
    /// What all connections together may hold in buffers, in bytes.
    pub max_buffers: u64,
    /// Which responses get the security headers.
    pub security_headers: SecurityHeaders,
    /// Name servers for the names of upstreams; empty is the system's.
    pub dns: Vec<SocketAddr>,
    /// Whether TRACE is forwarded.
    pub trace: bool,
    /// What becomes of requests whose client has closed its side of the connection.
    pub half_close: HalfClose,
}

/// What becomes of requests whose client has closed its side of the connection, where the response is
/// for that client alone. One that has left looks the same as one that still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// The client is taken for one that has left.
    Abort,
    /// It is answered.
    Serve,
}

/// What becomes of requests whose path readers resolve differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmbiguousPaths {
    /// 400.
    Refuse,
    /// They go past the cache, if all readings lead to the same route.
    Bypass,
}

/// Which responses get `X-Content-Type-Options`, `X-Frame-Options` and `Referrer-Policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityHeaders {
    /// None.
    Off,
    /// Those that the gateway makes itself.
    Own,
    /// All that do not have them.
    All,
}

/// `[cors]`
#[derive(Clone, Debug, Default)]
pub struct CorsConfig {
    /// Origins that may read responses; empty switches CORS off, `*` is any, without credentials.
    pub allowed_origins: Vec<String>,
    /// Methods of a preflight answer.
    pub allowed_methods: Vec<String>,
    /// Headers of a preflight answer; empty allows what is asked for.
    pub allowed_headers: Vec<String>,
    /// Whether requests may carry credentials.
    pub allow_credentials: bool,
    /// How long a preflight answer may be kept.
    pub max_age: Duration,
}

/// `[rate_limit]`
#[derive(Clone, Copy, Debug)]
pub struct RateLimitConfig {
    /// Requests a second for each identity or address; 0 is off.
    pub requests_per_second: f64,
    /// Requests that may come at once; 0 is as many as in a second.
    pub burst: u32,
}

/// `[admin]`
#[derive(Clone)]
pub struct AdminConfig {
    /// The bearer token of operators; empty needs none, on loopback only.
    pub token: String,
    /// Host names that are served besides loopback names and the port's own address; `*` is any.
    pub hosts: Vec<String>,
}

impl fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminConfig")
            .field("token", &"***")
            .field("hosts", &self.hosts)
            .finish()
    }
}

/// `[telemetry]`
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether each request is logged.
    pub access_log: bool,
    /// How its line looks.
    pub access_log_format: AccessLogFormat,
    /// Where traces go, by OTLP over HTTP; `None` is nowhere.
    pub otlp_endpoint: Option<String>,
    /// The share of traces begun here that are kept, 0 to 1.
    pub sample_ratio: f64,
}

/// How the line of a request looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object.
    Json,
    /// Apache's combined format.
    Combined,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object each.
    Json,
    /// For people.
    Pretty,
}

pub(super) fn read(root: &mut Section<'_>) -> Config {
    let server = server(root.section("server"));
    let admin_section = root.section("admin");
    // What is wrong with the file is told where it is read.
    let is_token_named = admin_section.has("token_file");
    let admin = admin(admin_section);
    let is_open = admin.token.is_empty() && !is_token_named;
    if is_open && !server.admin_listen.ip().is_loopback() {
        root.fault_at(
            "admin.token",
            &format!(
                "is empty, and admin_listen {} is not loopback",
                server.admin_listen
            ),
        );
    }
    let auth = auth::read(root.section("auth"));
    let (agents, agent_allow) = agents::read(root.section("agents"));
    let shared_tls = upstream_tls::shared(root.section("upstream_tls"));
    let redis_section = root.section("redis");
    let (mut redis, redis_ready_timeout) = redis::read(redis_section);
    // One trust store for all, unless Redis has its own.
    if let Some(tls) = redis.as_mut().and_then(|redis| redis.tls.as_mut())
        && tls.ca.is_none()
    {
        tls.ca = shared_tls.ca().map(Into::into);
    }
    let mut cache = cache::read(root.section("cache"), &auth, redis.as_ref());
    cache.key_headers = key_headers(&server, &auth);
    cache.generated_fields = fields::GENERATED.map(str::to_owned).into();
    let routes = routes::read(root.tables("routes"), root, &shared_tls);
    let models = models::models(root.tables("models"), &shared_tls, !admin.token.is_empty());
    let ask = models::ask(root.section("ask"));
    let mut warnings = warnings(&auth, &cache, &routes);
    if routes.is_empty() && models.is_empty() && ask.upstream.is_none() {
        warnings.push(
            "no [[routes]] and no [[models]] are configured: every path but the gateway's own (/health, \
             /whoami, /metrics) gets 404"
                .to_owned(),
        );
    }
    Config {
        warnings,
        cors: cors(root.section("cors")),
        rate_limit: rate_limit(root.section("rate_limit")),
        warm: warm::read(root.section("warm")),
        ask,
        models,
        model_cache: models::cache(root.section("model_cache"), cache.identity_secret),
        model_limits: models::limits(root.section("model_limits")),
        upstream_tls: shared_tls.tls(),
        agents,
        agent_allow,
        telemetry: telemetry(root.section("telemetry")),
        routes,
        server,
        auth,
        redis,
        redis_ready_timeout,
        cache,
        admin,
    }
}

/// What is part of every key: what is let through, and credentials that nobody reads here.
fn key_headers(server: &ServerConfig, auth: &AuthConfig) -> Vec<HeaderName> {
    let mut headers = server.trusted_fields.clone();
    let own = fields::OWN_CREDENTIALS.map(HeaderName::from_static);
    let unread = match auth.mode {
        AuthMode::None => &own[..],
        // x-user-id must be the token's.
        AuthMode::Jwt(_) => &own[..1],
        AuthMode::ApiKey(_) => &[],
    };
    let unread = unread
        .iter()
        .filter(|name| !server.trusted_fields.contains(name));
    headers.extend(unread.cloned());
    headers
}

/// What is allowed, and hardly meant.
fn warnings(auth: &AuthConfig, cache: &CacheConfig, routes: &[RouteConfig]) -> Vec<String> {
    let nobody = matches!(auth.mode, AuthMode::None);
    let unknown =
        |per_user: bool, identity: &[IdentitySource]| nobody && per_user && identity.is_empty();
    let patterns = cache.cache_patterns.iter().filter(|pattern| {
        // What the gateway itself answers is the same for all where nobody is known.
        pattern.path.as_str() != "/whoami" && unknown(pattern.per_user, &pattern.identity)
    });
    let patterns = patterns.map(|pattern| format!("cache.patterns.{:?}", pattern.path.as_str()));
    let routes = routes
        .iter()
        .filter(|route| unknown(route.per_user, &route.identity))
        .map(|route| format!("route {:?}", route.name));
    patterns
        .chain(routes)
        .map(|place| {
            format!(
                "{place}: per_user is on, auth.mode is none and no identity is listed, so that only \
                 requests with Authorization are cached; list what tells users apart, such as \
                 identity = [\"cookie:session\"]"
            )
        })
        .collect()
}

fn address(section: &mut Section<'_>, key: &str, default: SocketAddr) -> SocketAddr {
    section
        .parsed(key, |text| {
            text.parse()
                .map_err(|_| format!("{text:?} is not an address and port such as {default}"))
        })
        .unwrap_or(default)
}

fn server(mut section: Section<'_>) -> ServerConfig {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = section.number("workers", 0, 0..=1024);
    let hosts = section.list("trusted_hosts").unwrap_or_default();
    let server = ServerConfig {
        service_name: section
            .parsed("service_name", service_name)
            .unwrap_or_else(|| "weaver-ai".to_owned()),
        listen: address(
            &mut section,
            "listen",
            SocketAddr::from(([0, 0, 0, 0], 8000)),
        ),
        admin_listen: address(
            &mut section,
            "admin_listen",
            SocketAddr::from(([127, 0, 0, 1], 8001)),
        ),
        workers: if workers == 0 { cores } else { workers },
        trusted_hosts: if hosts.iter().any(|host| host == "*") {
            Vec::new()
        } else {
            let normal = |host: &String| {
                let read = trusted_host(host);
                read.map_err(|what| section.fault("trusted_hosts", &what))
                    .ok()
            };
            hosts.iter().filter_map(normal).collect()
        },
        trusted_fields: section
            .parsed_list("trusted_fields", trusted_field)
            .unwrap_or_default(),
        ambiguous_paths: section.choice(
            "ambiguous_paths",
            AmbiguousPaths::Refuse,
            &[
                ("refuse", AmbiguousPaths::Refuse),
                ("bypass", AmbiguousPaths::Bypass),
            ],
        ),
        trusted_proxies: section
            .parsed_list("trusted_proxies", |text| {
                text.parse::<Network>().map_err(|error| error.to_string())
            })
            .unwrap_or_default(),
        drain_delay: section.duration("drain_delay", Duration::ZERO, Duration::ZERO),
        shutdown_grace: section.duration("shutdown_grace", Duration::from_secs(30), Duration::ZERO),
        keep_alive: section.duration("keep_alive", Duration::from_secs(75), Duration::ZERO),
        request_timeout: section.duration(
            "request_timeout",
            Duration::from_secs(10),
            Duration::ZERO,
        ),
        body_timeout: section.duration("body_timeout", Duration::from_secs(30), Duration::ZERO),
        write_timeout: section.duration("write_timeout", Duration::from_secs(60), Duration::ZERO),
        max_head: section.size("max_head", 32 << 10, 1024..=128 << 10),
        max_body: section.size("max_body", 100 << 20, 0..=1 << 40),
        max_parsed_bodies: section.size("max_parsed_bodies", 256 << 20, 1 << 20..=1 << 40),
        // hyper reads a head in a buffer of at least 8 KiB.
        max_upstream_head: section.size("max_upstream_head", 64 << 10, 8 << 10..=1 << 20),
        max_connections: section.number("max_connections", 25_000, 1..=1_000_000),
        max_buffers: section.size("max_buffers", memory::default_buffers(), 1 << 20..=1 << 50),
        security_headers: section.choice(
            "security_headers",
            SecurityHeaders::Own,
            &[
                ("off", SecurityHeaders::Off),
                ("own", SecurityHeaders::Own),
                ("all", SecurityHeaders::All),
            ],
        ),
        dns: section.parsed_list("dns", name_server).unwrap_or_default(),
        trace: section.flag("trace", false),
        half_close: section.choice(
            "half_close",
            HalfClose::Abort,
            &[("abort", HalfClose::Abort), ("serve", HalfClose::Serve)],
        ),
    };
    if server.listen.port() != 0 && server.listen == server.admin_listen {
        section.fault(
            "admin_listen",
            "is the address of listen; each needs its own",
        );
    }
    section.finish();
    server
}

/// An address of a name server, whose port is 53 unless it is said.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    let at_53 = |address: std::net::IpAddr| SocketAddr::new(address, 53);
    text.parse()
        .or_else(|_| text.parse().map(at_53))
        .map_err(|_| format!("{text:?} is not an address such as 10.0.0.2 or 10.0.0.2:53"))
}

/// A name that a report can carry.
fn service_name(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if (1..=64).contains(&text.len()) && is_plain {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a name of 1 to 64 printable ASCII characters"
        ))
    }
}

fn cors(mut section: Section<'_>) -> CorsConfig {
    let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let cors = CorsConfig {
        allowed_origins: section.list("allowed_origins").unwrap_or_default(),
        allowed_methods: section
            .list("allowed_methods")
            .unwrap_or_else(|| list(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])),
        allowed_headers: section.list("allowed_headers").unwrap_or_default(),
        allow_credentials: section.flag("allow_credentials", false),
        max_age: section.duration("max_age", Duration::from_secs(600), Duration::ZERO),
    };
    if cors.allow_credentials && cors.allowed_origins.iter().any(|origin| origin == "*") {
        section.fault(
            "allow_credentials",
            "goes with listed origins only, not with \"*\"",
        );
    }
    section.finish();
    cors
}

fn rate_limit(mut section: Section<'_>) -> RateLimitConfig {
    let limit = RateLimitConfig {
        requests_per_second: section.number("requests_per_second", 0.0, 0.0..=1e6),
        burst: section.number("burst", 0, 0..=1_000_000),
    };
    section.finish();
    limit
}

fn admin(mut section: Section<'_>) -> AdminConfig {
    let admin = AdminConfig {
        token: section
            .field_secret("token", "token_file")
            .unwrap_or_default(),
        hosts: section.parsed_list("hosts", host_name).unwrap_or_default(),
    };
    section.finish();
    admin
}

/// `*`, an address, a host name, or `*.` and one: in lower case, without scheme and port.
fn host_name(text: &str) -> Result<String, String> {
    let is_name = |name: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !name.is_empty() && name.bytes().all(is_allowed)
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    if text == "*" || text.parse::<std::net::IpAddr>().is_ok() || is_name(name) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!(
            "{text:?} is not a host name such as \"admin.example.com\", without scheme and port"
        ))
    }
}

fn telemetry(mut section: Section<'_>) -> TelemetryConfig {
    let telemetry = TelemetryConfig {
        log_format: section.choice(
            "log_format",
            LogFormat::Json,
            &[("json", LogFormat::Json), ("pretty", LogFormat::Pretty)],
        ),
        access_log: section.flag("access_log", false),
        access_log_format: section.choice(
            "access_log_format",
            AccessLogFormat::Json,
            &[
                ("json", AccessLogFormat::Json),
                ("combined", AccessLogFormat::Combined),
            ],
        ),
        otlp_endpoint: section.parsed("otlp_endpoint", routes::upstream),
        sample_ratio: section.number("sample_ratio", 1.0, 0.0..=1.0),
    };
    section.finish();
    telemetry
}

/// A host that is served, or `*.` and a domain: in normal form, and without a port, since the port is not
/// compared.
fn trusted_host(text: &str) -> Result<String, String> {
    let (wildcard, name) = match text.strip_prefix("*.") {
        Some(name) => ("*.", name),
        None => ("", text),
    };
    let form = "it is a host such as example.com, or *.example.com";
    let normal = url::host(name).map_err(|error| format!("{text:?}: {error}; {form}"))?;
    if normal
        .rsplit(']')
        .next()
        .is_some_and(|end| end.contains(':'))
    {
        return Err(format!(
            "{text:?} has a port, which is not compared; {form}"
        ));
    }
    Ok(format!("{wildcard}{normal}"))
}

/// A field that can be let through as a client sends it.
fn trusted_field(text: &str) -> Result<HeaderName, String> {
    let name = header(text)?;
    if fields::is_not_keyable(&name) {
        return Err(format!(
            "{text:?} is written by the gateway, or is of one connection"
        ));
    }
    Ok(name)
}

/// A field that can be part of a key: one that goes upstream as the client sends it.
fn keyed_field(text: &str) -> Result<HeaderName, String> {
    let name = header(text)?;
    if fields::is_not_keyable(&name) {
        return Err(format!(
            "{text:?} cannot be part of a key: it is written by the gateway, or is of one connection"
        ));
    }
    Ok(name)
}

/// A header name in any case.
fn header(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_str(text).map_err(|_| format!("{text:?} is no header name"))
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|what| format!("{text:?}: {what}"))
}

/// The keys about caching that patterns and routes share.
struct Keying {
    per_user: bool,
    identity: Vec<IdentitySource>,
    vary_on: Option<Vec<HeaderName>>,
    query: Option<QueryRule>,
    sort_query: bool,
}

fn keying(section: &mut Section<'_>, per_user: bool) -> Keying {
    let ignore = section
        .has("ignore_query")
        .then(|| section.flag("ignore_query", false));
    let only = section.list("query_only");
    let except = section.list("query_except");
    let given = usize::from(ignore == Some(true))
        + usize::from(only.is_some())
        + usize::from(except.is_some());
    if given > 1 {
        section.fault(
            "ignore_query",
            "goes with neither query_only nor query_except, nor they together",
        );
    }
    Keying {
        per_user: section.flag("per_user", per_user),
        identity: section
            .parsed_list("identity", |text| {
                text.parse()
                    .map_err(|error: &str| format!("{text:?}: {error}"))
            })
            .unwrap_or_default(),
        sort_query: section.flag("sort_query", false),
        vary_on: section.parsed_list("vary_on", keyed_field),
        query: match (ignore, only, except) {
            (Some(true), ..) => Some(QueryRule::Ignore),
            (_, Some(names), _) => Some(QueryRule::Only(names)),
            (_, _, Some(names)) => Some(QueryRule::Except(names)),
            (Some(false), ..) => Some(QueryRule::Keep),
            _ => None,
        },
    }
}

fn default_vary_on() -> Vec<HeaderName> {
    vec![AUTHORIZATION]
}
