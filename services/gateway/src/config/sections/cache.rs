//! `[cache]`

use super::{AuthConfig, AuthMode, Keying, Section, keying, pattern};
use crate::config::values;
use actix_web::http::Method;
use std::time::Duration;
use weaver_cache::{CacheConfig, CachePattern};
use weaver_pool::RedisPoolConfig;

pub(super) fn read(
    mut section: Section<'_>,
    auth: &AuthConfig,
    redis: Option<&RedisPoolConfig>,
) -> CacheConfig {
    let defaults = CacheConfig::default();
    let secret = section.secret("identity_secret");
    if secret.as_ref().is_some_and(|secret| secret.len() < 16) {
        section.fault("identity_secret", "is shorter than 16 characters");
    }
    let config = CacheConfig {
        enabled: section.flag("enabled", true),
        cache_prefix: section.text("prefix").unwrap_or(defaults.cache_prefix),
        cache_methods: section
            .parsed_list("methods", |text| match text {
                "GET" => Ok(Method::GET),
                "HEAD" => Ok(Method::HEAD),
                _ => Err(format!(
                    "{text:?} is not GET or HEAD, the methods that a cache answers"
                )),
            })
            .unwrap_or(defaults.cache_methods),
        include_query_params: section.flag("include_query_params", true),
        include_headers: section
            .parsed_list("include_headers", super::keyed_field)
            .unwrap_or_else(super::default_vary_on),
        track_stats: section.flag("track_stats", true),
        memory: section.size("memory", defaults.memory, 0..=1 << 40),
        max_object: section.size("max_object", defaults.max_object, 0..=1 << 30),
        max_filling: section.size("max_filling", defaults.max_filling, 0..=1 << 40),
        redis_compress: section.size("redis_compress", defaults.redis_compress, 0..=1 << 30),
        redis_part: section.size("redis_part", defaults.redis_part, 4 << 10..=64 << 20),
        redis_deadline: section.duration(
            "redis_deadline",
            defaults.redis_deadline,
            Duration::from_millis(1),
        ),
        journal_length: section.number(
            "journal_length",
            defaults.journal_length,
            1000..=10_000_000,
        ),
        collapse_timeout: section.duration(
            "collapse_timeout",
            defaults.collapse_timeout,
            Duration::from_millis(1),
        ),
        lease: section.duration("lease", defaults.lease, Duration::ZERO),
        targeted_fields: section
            .parsed_list("targeted_fields", |text| {
                super::header(text).map(|name| name.as_str().to_owned())
            })
            .unwrap_or(defaults.targeted_fields),
        stale_while_revalidate: section.duration(
            "stale_while_revalidate",
            defaults.stale_while_revalidate,
            Duration::ZERO,
        ),
        stale_if_error: section.duration("stale_if_error", defaults.stale_if_error, Duration::ZERO),
        hit_for_miss: section.duration("hit_for_miss", defaults.hit_for_miss, Duration::ZERO),
        early_refresh: section.number("early_refresh", defaults.early_refresh, 0.0..=10.0),
        node: section.text("node").unwrap_or_else(host_name),
        cache_patterns: patterns(section.section("patterns"), defaults.cache_patterns),
        identity_secret: identity_secret(secret.as_deref(), auth, redis),
        ..defaults
    };
    section.finish();
    config
}

/// The machine's name, which in Kubernetes is the pod's.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "node".to_owned(),
        name => name.to_owned(),
    }
}

/// The built-in patterns, with what is configured over and beside them.
fn patterns(mut section: Section<'_>, built_in: Vec<CachePattern>) -> Vec<CachePattern> {
    let mut patterns: Vec<CachePattern> = Vec::new();
    for (key, is_table) in section.remaining() {
        let path = match pattern(&key) {
            Ok(path) => path,
            Err(what) => {
                section.fault(&key, &what);
                section.parsed(&key, |_| Ok(()));
                continue;
            }
        };
        let base = built_in.iter().find(|known| known.path == path).cloned();
        let mut made = base.unwrap_or_else(|| CachePattern::new(path, 60));
        if is_table {
            let mut own = section.section(&key);
            made.ttl = own
                .duration("ttl", Duration::from_secs(made.ttl), Duration::from_secs(1))
                .as_secs();
            made.overrides = own.flag("override", made.overrides);
            let Keying {
                per_user,
                identity,
                vary_on,
                query,
                sort_query,
            } = keying(&mut own, made.per_user);
            (made.per_user, made.vary_on, made.query) = (per_user, vary_on, query);
            made.identity = identity;
            made.sort_query = sort_query;
            own.finish();
        } else {
            let ttl = section.parsed(&key, values::duration);
            made.ttl = ttl.map_or(made.ttl, |ttl| ttl.as_secs());
        }
        // 0 switches a pattern off, and keeps wider ones from its paths.
        patterns.push(made);
    }
    for known in built_in {
        if !patterns.iter().any(|made| made.path == known.path) {
            patterns.push(known);
        }
    }
    // The more specific first: longer, and without an open end.
    patterns.sort_by_key(|made| {
        let text = made.path.as_str();
        (
            std::cmp::Reverse(text.matches('/').count()),
            text.ends_with('*'),
            text.to_owned(),
        )
    });
    section.finish();
    patterns
}

/// The key under which users are known in Redis: configured, or derived from the secrets that all
/// nodes are configured with alike. With none of them a node makes one up, and per-user entries are
/// its own.
fn identity_secret(
    configured: Option<&str>,
    auth: &AuthConfig,
    redis: Option<&RedisPoolConfig>,
) -> Option<[u8; 32]> {
    let mut material = Vec::new();
    match configured {
        Some(secret) => material.extend_from_slice(secret.as_bytes()),
        None => {
            if let AuthMode::ApiKey(keys) = &auth.mode {
                keys.iter()
                    .for_each(|key| material.extend_from_slice(key.key.as_bytes()));
            }
            if let AuthMode::Jwt(jwt) = &auth.mode
                && let super::JwtKey::Inline(key) = &jwt.key
            {
                material.extend_from_slice(key.as_bytes());
            }
            if let Some(password) = redis.and_then(|redis| redis.password.as_ref()) {
                material.extend_from_slice(password.as_bytes());
            }
        }
    }
    (!material.is_empty()).then(|| blake3::derive_key("weaver 2026 cache identity", &material))
}
