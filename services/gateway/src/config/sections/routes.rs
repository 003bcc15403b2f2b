//! `[[routes]]`

use super::{Keying, Section, UpstreamTls, keying, upstream_tls};
use crate::config::values;
use actix_web::http::header::HeaderName;
use std::{collections::BTreeSet, time::Duration};
use weaver_cache::{
    IdentitySource, QueryRule, Tiers,
    policy::{
        path::{Judged, judge},
        url::{Authority, Scheme},
    },
};

/// `[[routes]]`
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// The beginning of the paths it serves, whole segments.
    pub path: String,
    /// The name by which it is counted and named in problems.
    pub name: String,
    /// Where its requests go.
    pub to: Destination,
    /// How its responses are cached.
    pub cache: RouteCache,
    /// Whether that is said, so that it stands over wider patterns.
    pub cache_is_given: bool,
    /// Whether each user has a store of their own.
    pub per_user: bool,
    /// What tells users apart where nobody has authenticated them.
    pub identity: Vec<IdentitySource>,
    /// Request headers that join the key.
    pub vary_on: Option<Vec<HeaderName>>,
    /// What of the query joins the key.
    pub query: Option<QueryRule>,
    /// Whether the order of the query's parameters makes no difference.
    pub sort_query: bool,
    /// Where its responses are stored.
    pub tiers: Tiers,
    /// Whether requests for the same key wait for one fetch.
    pub collapse: bool,
    /// In place of the cache's.
    pub early_refresh: Option<f32>,
    /// Request headers whose presence sends a request past the cache.
    pub bypass_headers: Vec<HeaderName>,
    /// Cookies whose presence does.
    pub bypass_cookies: Vec<String>,
    /// Seconds of freshness of errors that say none, by status.
    pub negative_ttl: Vec<(u16, u64)>,
    /// Whether a request's Cache-Control may force a fetch.
    pub client_may_force: bool,
    /// `stale-while-revalidate` of responses that say none, in place of the cache's.
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` of responses that say none, in place of the cache's.
    pub stale_if_error: Option<Duration>,
    /// How long stale responses are served while all upstreams are ejected or unhealthy.
    pub grace: Duration,
    /// The most staleness that response, request or configuration may grant.
    pub max_stale: Option<Duration>,
    /// How its upstreams are spoken to by TLS.
    pub tls: UpstreamTls,
    /// The beginning of the path that is not sent on.
    pub strip_prefix: Option<String>,
    /// The Host sent on; `None` keeps the client's.
    pub host: Option<String>,
    /// The deadline of a connection attempt.
    pub connect_timeout: Duration,
    /// From the request's last byte to the response's first.
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body.
    pub between_bytes_timeout: Duration,
    /// How long a WebSocket may be silent in both directions.
    pub tunnel_idle_timeout: Duration,
    /// Further attempts for an idempotent request; 0 to 5.
    pub retries: u32,
    /// Failures in a row after which an upstream is left out.
    pub eject_after: u32,
    /// For how long.
    pub eject_for: Duration,
    /// What an upstream is given at once, and what waits for it.
    pub gate: GateConfig,
    /// The active health check, if there is one.
    pub health_check: Option<HealthCheckConfig>,
}

/// Where a route's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Base URLs, scheme and authority.
    Upstreams(Vec<String>),
    /// The online agents that have this capability, whose metadata has their `url`.
    Agent(String),
}

/// How a route's responses are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteCache {
    /// By the RFCs.
    Standard,
    /// For a fixed time.
    Pattern {
        /// Seconds.
        ttl: u64,
        /// Whether it stands over what the response says.
        overrides: bool,
    },
    /// Not at all.
    Off,
}

/// What an upstream is given at once, and what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateConfig {
    /// Requests that it has not answered yet; `None` is learnt.
    pub max_in_flight: Option<usize>,
    /// Requests that wait for it.
    pub max_queue: usize,
    /// How long each of them waits at most.
    pub queue_timeout: Duration,
}

/// An active health check.
#[derive(Clone, Debug)]
pub struct HealthCheckConfig {
    /// What is asked for.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

pub(super) fn read(
    tables: Vec<Section<'_>>,
    root: &Section<'_>,
    shared_tls: &upstream_tls::Shared,
) -> Vec<RouteConfig> {
    let route = |section| route(section, shared_tls);
    let mut routes: Vec<RouteConfig> = tables.into_iter().filter_map(route).collect();
    let distinct: BTreeSet<_> = routes.iter().map(|route| &route.path).collect();
    if distinct.len() < routes.len() {
        root.fault("routes", "has two routes with the same path");
    }
    routes.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
    routes
}

fn route(mut section: Section<'_>, shared_tls: &upstream_tls::Shared) -> Option<RouteConfig> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Standard,
        Pattern,
        Off,
    }
    if !section.has("path") {
        section.fault("path", "is missing");
    }
    let path = section.parsed("path", |text| {
        match judge(text) {
            // Paths are matched as a strict reader resolves them, so that it can only be such a one.
            Ok(Judged {
                path,
                has_dots: false,
                ..
            }) if text.starts_with('/') && !text.contains(['?', '#', '*']) => Ok(path.into_owned()),
            _ => Err(format!(
                "{text:?} is not the beginning of a path such as \"/api\""
            )),
        }
    });
    let to = destination(&mut section);
    let names = [
        ("standard", Kind::Standard),
        ("pattern", Kind::Pattern),
        ("off", Kind::Off),
    ];
    let cache_is_given = section.has("cache");
    let kind = section.choice("cache", Kind::Standard, &names);
    let least = Duration::from_millis(1);
    let ttl = section
        .duration("ttl", Duration::from_secs(60), Duration::from_secs(1))
        .as_secs();
    let overrides = section.flag("override", false);
    let Keying {
        per_user,
        identity,
        vary_on,
        query,
        sort_query,
    } = keying(&mut section, false);
    let health = section
        .has("health_check")
        .then(|| health_check(section.section("health_check")));
    let name = section.text("name");
    let route = RouteConfig {
        name: name.or_else(|| path.clone()).unwrap_or_default(),
        path: path.clone().unwrap_or_default(),
        cache: match kind {
            Kind::Standard => RouteCache::Standard,
            Kind::Pattern => RouteCache::Pattern { ttl, overrides },
            Kind::Off => RouteCache::Off,
        },
        cache_is_given,
        per_user,
        identity,
        vary_on,
        query,
        sort_query,
        tiers: section.choice(
            "tiers",
            Tiers::Both,
            &[
                ("both", Tiers::Both),
                ("memory", Tiers::Memory),
                ("redis", Tiers::Redis),
            ],
        ),
        collapse: section.flag("collapse", true),
        early_refresh: section
            .has("early_refresh")
            .then(|| section.number("early_refresh", 1.0, 0.0..=10.0)),
        bypass_headers: section
            .parsed_list("bypass_headers", super::header)
            .unwrap_or_default(),
        bypass_cookies: section.list("bypass_cookies").unwrap_or_default(),
        negative_ttl: negative_ttl(section.section("negative_ttl")),
        client_may_force: section.flag("client_may_force", true),
        stale_while_revalidate: section.parsed("stale_while_revalidate", values::duration),
        stale_if_error: section.parsed("stale_if_error", values::duration),
        grace: section.duration("grace", Duration::ZERO, Duration::ZERO),
        max_stale: section.parsed("max_stale", values::duration),
        tls: upstream_tls::of(&mut section, shared_tls),
        strip_prefix: section
            .parsed("strip_prefix", |text| {
                strip_prefix(text, path.as_deref().unwrap_or(text))
            })
            .flatten(),
        host: section.text("host"),
        connect_timeout: section.duration("connect_timeout", Duration::from_secs(5), least),
        first_byte_timeout: section.duration("first_byte_timeout", Duration::from_secs(60), least),
        between_bytes_timeout: section.duration(
            "between_bytes_timeout",
            Duration::from_secs(60),
            least,
        ),
        tunnel_idle_timeout: section.duration(
            "tunnel_idle_timeout",
            Duration::from_secs(3600),
            least,
        ),
        retries: section.number("retries", 1, 0..=5),
        eject_after: section.number("eject_after", 5, 1..=1000),
        eject_for: section.duration("eject_for", Duration::from_secs(10), least),
        gate: gate(&mut section),
        health_check: health,
        to,
    };
    section.finish();
    path.map(|_| route)
}

/// `max_in_flight`, `max_queue`, `queue_timeout`
pub(super) fn gate(section: &mut Section<'_>) -> GateConfig {
    let max_in_flight = section.number("max_in_flight", 0, 0..=1_000_000);
    GateConfig {
        max_in_flight: (max_in_flight > 0).then_some(max_in_flight),
        max_queue: section.number("max_queue", 64, 0..=10_000),
        queue_timeout: section.duration(
            "queue_timeout",
            Duration::from_millis(100),
            Duration::from_millis(1),
        ),
    }
}

/// `upstreams = ["http://…"]` or `agent = "capability"`
pub(super) fn destination(section: &mut Section<'_>) -> Destination {
    let (has_upstreams, has_agent) = (section.has("upstreams"), section.has("agent"));
    let given = section.list("upstreams");
    let upstreams = given.iter().flatten().filter_map(|text| {
        let read = upstream(text).map_err(|what| section.fault("upstreams", &what));
        read.ok()
    });
    let upstreams: Vec<String> = upstreams.collect();
    let agent = section.parsed("agent", |text| {
        if text.is_empty() || text.chars().count() > weaver_registry::MAX_WORD {
            return Err(format!(
                "{text:?} is no capability of 1 to {} characters",
                weaver_registry::MAX_WORD
            ));
        }
        Ok(text.to_owned())
    });
    match (has_upstreams, has_agent) {
        (false, false) => section.fault("upstreams", "is missing, and agent too"),
        (true, true) => section.fault("agent", "goes with no upstreams"),
        (true, false) if given.is_some_and(|given| given.is_empty()) => {
            section.fault("upstreams", "has no upstream");
        }
        _ => {}
    }
    match agent {
        Some(agent) => Destination::Agent(agent),
        None => Destination::Upstreams(upstreams),
    }
}

/// `negative_ttl = { 404 = "10s" }`
fn negative_ttl(mut section: Section<'_>) -> Vec<(u16, u64)> {
    let mut times = Vec::new();
    for (key, _) in section.remaining() {
        let ttl = section.parsed(&key, values::duration);
        match key.parse() {
            Ok(status @ 400..=599) => times.extend(ttl.map(|ttl| (status, ttl.as_secs()))),
            _ => section.fault(&key, "is not a status from 400 to 599"),
        }
    }
    section.finish();
    times
}

fn health_check(mut section: Section<'_>) -> HealthCheckConfig {
    let check = HealthCheckConfig {
        path: section.text("path").unwrap_or_else(|| "/health".to_owned()),
        interval: section.duration(
            "interval",
            Duration::from_secs(5),
            Duration::from_millis(10),
        ),
        timeout: section.duration("timeout", Duration::from_secs(2), Duration::from_millis(1)),
    };
    section.finish();
    check
}

/// The URL of an upstream: scheme, authority, and the path that is put before those of requests.
pub(crate) fn upstream(text: &str) -> Result<String, String> {
    let shown = values::shown(text);
    let bad = || format!("{shown:?} is not a URL such as \"http://127.0.0.1:9000\"");
    let uri: http::Uri = text.parse().map_err(|_| bad())?;
    let scheme = uri
        .scheme_str()
        .filter(|scheme| matches!(*scheme, "http" | "https"))
        .ok_or_else(bad)?;
    let authority = uri.authority().ok_or_else(bad)?;
    if authority.as_str().contains('@') {
        return Err("has user and password in a URL, where they would end up in logs".to_owned());
    }
    let known = Scheme::parse(scheme).unwrap_or_default();
    Authority::parse(authority.as_str(), known).map_err(|error| format!("{shown:?}: {error}"))?;
    if uri.query().is_some() || text.contains(['?', '#']) {
        return Err(format!(
            "{shown:?} has a query or a fragment; only a path is put before those of requests"
        ));
    }
    let path = uri.path().strip_suffix('/').unwrap_or(uri.path());
    let is_plain = path.is_empty()
        || judge(path).is_ok_and(|judged| {
            !judged.has_dots && judged.readings.is_empty() && judged.path == path
        });
    if !is_plain {
        return Err(format!(
            "{shown:?} has a path that can be read in several ways: write it without dot segments, \
             empty segments, `;` and needless escapes"
        ));
    }
    Ok(format!("{scheme}://{authority}{path}"))
}

/// The URL of an agent: scheme and authority, nothing behind.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    let base = upstream(text)?;
    if base
        .split_once("://")
        .is_some_and(|(_, rest)| rest.contains('/'))
    {
        return Err(format!("{text:?} has a path; an agent has none"));
    }
    Ok(base)
}

/// `strip_prefix = true`, or a prefix of the route's path.
fn strip_prefix(text: &str, path: &str) -> Result<Option<String>, String> {
    match text {
        "false" => return Ok(None),
        "true" => return Ok(Some(path.to_owned())),
        _ => {}
    }
    let rest = path.strip_prefix(text.trim_end_matches('/'));
    let is_prefix = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if text.starts_with('/') && is_prefix {
        Ok(Some(text.to_owned()))
    } else {
        Err(format!(
            "{text:?} is neither true nor the beginning of the route's path {path:?}, in whole segments"
        ))
    }
}
