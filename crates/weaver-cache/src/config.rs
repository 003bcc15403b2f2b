use crate::{IdentitySource, Pattern, QueryRule, Rule};
use actix_web::http::{
    Method,
    header::{AUTHORIZATION, HeaderName},
};
use std::{sync::Arc, time::Duration};
use weaver_cache_policy::Policy;

/// How a [`ResponseCache`](crate::ResponseCache) works.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Whether anything is looked up or stored at all.
    pub enabled: bool,
    /// Path patterns and what to do where they match; the first match counts.
    pub cache_patterns: Vec<CachePattern>,
    /// Methods that are answered from the cache; only GET and HEAD can be.
    pub cache_methods: Vec<Method>,
    /// Whether the query is part of a pattern's key.
    pub include_query_params: bool,
    /// Request headers that are part of a pattern's key.
    pub include_headers: Vec<HeaderName>,
    /// Request headers that are part of every key, of patterns and of routes.
    pub key_headers: Vec<HeaderName>,
    /// What every Redis key begins with.
    pub cache_prefix: String,
    /// Whether hits and misses are counted.
    pub track_stats: bool,
    /// Bytes that the memory tier may hold: bodies, headers, keys and its own bookkeeping. 0
    /// switches the tier off.
    pub memory: u64,
    /// The largest body that is stored, in bytes; at most 1 GiB.
    pub max_object: u64,
    /// Bytes of bodies that may be on their way into the cache at once. What comes beyond streams
    /// through unstored.
    pub max_filling: u64,
    /// The deadline of a look-up in Redis.
    pub redis_deadline: Duration,
    /// From how many bytes on a record is compressed in Redis, with zstd; 0 is never.
    pub redis_compress: u64,
    /// Bodies larger than this are in Redis in parts of this many bytes, and are sent on from there as
    /// they come.
    pub redis_part: u64,
    /// Items that the purge journal keeps in Redis. A node that was cut off for longer than they last
    /// empties its memory.
    pub journal_length: u32,
    /// Writes to Redis that may be outstanding; further ones are left out and counted as errors.
    pub max_redis_writes: usize,
    /// How long a request waits for the response to another's before it asks for itself.
    pub collapse_timeout: Duration,
    /// How long the lease lasts by which one node fetches for all that share a Redis, unless it is
    /// renewed: what a node that dies costs the others. Zero: each node fetches for itself.
    pub lease: Duration,
    /// How long a response that could not be stored keeps requests for the same key from waiting
    /// for one another.
    pub hit_for_miss: Duration,
    /// How long a stale response with a validator is kept, for the 304 it may get.
    pub keep_validators: Duration,
    /// Targeted fields that are obeyed before Cache-Control, the first that is there (RFC 9213
    /// §2.2), in lower case.
    pub targeted_fields: Vec<String>,
    /// How long a stale response may be served while it is refreshed, where the response does not
    /// say (RFC 5861 §3). Not for patterns.
    pub stale_while_revalidate: Duration,
    /// How long a stale response may be served while the origin fails, where the response does not
    /// say (RFC 5861 §4). Not for patterns.
    pub stale_if_error: Duration,
    /// How eagerly fresh responses are refreshed before they are stale: the beta of XFetch; see
    /// [`Rule::early_refresh`].
    pub early_refresh: f32,
    /// The key of the hash under which users and selecting headers are known in Redis. All nodes
    /// that are to share per-user entries need the same; `None` makes one up. What lies in Redis is
    /// authenticated with a key derived from it; with `None` it has a checksum.
    pub identity_secret: Option<[u8; 32]>,
    /// Request fields, in lower case, that the application writes behind the cache; see
    /// [`Policy::generated_fields`].
    pub generated_fields: Vec<String>,
    /// The name of this node, for people; each process adds an ending of its own.
    pub node: String,
    /// The name in Cache-Status, an sf-token.
    pub name: String,
}

/// A path pattern with its time to live.
#[derive(Clone, Debug)]
pub struct CachePattern {
    /// The pattern; as it is written, also the name by which it is counted.
    pub path: Pattern,
    /// Seconds of freshness for a response that says none; 0 exempts the paths from patterns that
    /// come behind it.
    pub ttl: u64,
    /// Whether `ttl` stands over what the response says.
    pub overrides: bool,
    /// Whether each user has a store of their own.
    pub per_user: bool,
    /// What tells users apart where nobody has authenticated them; see [`Rule::identity`].
    pub identity: Vec<IdentitySource>,
    /// Request headers that join the key, in place of [`CacheConfig::include_headers`].
    pub vary_on: Option<Vec<HeaderName>>,
    /// What of the query joins the key, in place of [`CacheConfig::include_query_params`].
    pub query: Option<QueryRule>,
    /// Whether the order of the query's parameters makes no difference.
    pub sort_query: bool,
}

impl CachePattern {
    /// A pattern that only gives freshness, of `ttl` seconds, to responses without any.
    #[must_use]
    pub const fn new(path: Pattern, ttl: u64) -> Self {
        Self {
            path,
            ttl,
            overrides: false,
            per_user: false,
            identity: Vec::new(),
            vary_on: None,
            query: None,
            sort_query: false,
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            cache_patterns: vec![
                CachePattern::new(Pattern::literal("/health"), 60),
                CachePattern {
                    per_user: true,
                    ..CachePattern::new(Pattern::literal("/whoami"), 30)
                },
                CachePattern::new(Pattern::literal("/metrics"), 10),
            ],
            cache_methods: vec![Method::GET, Method::HEAD],
            include_query_params: true,
            include_headers: vec![AUTHORIZATION],
            key_headers: Vec::new(),
            cache_prefix: "http_cache:".to_owned(),
            track_stats: true,
            memory: 256 << 20,
            max_object: 16 << 20,
            max_filling: 128 << 20,
            redis_deadline: Duration::from_millis(50),
            redis_compress: 0,
            redis_part: 512 << 10,
            journal_length: 100_000,
            max_redis_writes: 1024,
            collapse_timeout: Duration::from_secs(30),
            lease: Duration::from_secs(3),
            hit_for_miss: Duration::from_secs(2),
            keep_validators: Duration::from_secs(600),
            targeted_fields: vec!["cdn-cache-control".to_owned()],
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::from_secs(86_400),
            early_refresh: 1.0,
            identity_secret: None,
            generated_fields: Vec::new(),
            node: "node".to_owned(),
            name: "weaver".to_owned(),
        }
    }
}

impl CacheConfig {
    /// The policy of what is cached by the RFCs, with this configuration's defaults.
    #[must_use]
    pub fn standard_policy(&self) -> Policy {
        Policy {
            targets: self.targeted_fields.clone(),
            generated_fields: self.generated_fields.clone(),
            stale_while_revalidate: self.stale_while_revalidate.as_secs(),
            stale_if_error: self.stale_if_error.as_secs(),
            ..Policy::standard()
        }
    }

    /// The policy of what has a fixed time to live, in seconds, with this configuration's defaults.
    #[must_use]
    pub fn pattern_policy(&self, ttl: u64, overrides: bool) -> Policy {
        Policy {
            targets: self.targeted_fields.clone(),
            generated_fields: self.generated_fields.clone(),
            ..Policy::pattern(ttl, overrides)
        }
    }

    /// The headers that join the keys of a rule which lists these.
    #[must_use]
    pub fn keyed(&self, listed: &[HeaderName]) -> Vec<HeaderName> {
        let always = self.key_headers.iter();
        let always = always.filter(|name| !listed.contains(name));
        listed.iter().chain(always).cloned().collect()
    }

    /// The rules of the patterns, in their order; `None` for one that exempts.
    #[must_use]
    pub fn rules(&self) -> Vec<(Pattern, Option<Arc<Rule>>)> {
        let default_query = if self.include_query_params {
            QueryRule::Keep
        } else {
            QueryRule::Ignore
        };
        self.cache_patterns
            .iter()
            .map(|entry| {
                if entry.ttl == 0 {
                    return (entry.path.clone(), None);
                }
                let policy = self.pattern_policy(entry.ttl, entry.overrides);
                let mut rule = Rule::new(entry.path.as_str(), policy)
                    .per_user(entry.per_user)
                    .identity(entry.identity.clone())
                    .vary_on(self.keyed(entry.vary_on.as_ref().unwrap_or(&self.include_headers)))
                    .query(entry.query.clone().unwrap_or_else(|| default_query.clone()));
                rule.sort_query = entry.sort_query;
                rule.early_refresh = self.early_refresh;
                (entry.path.clone(), Some(Arc::new(rule)))
            })
            .collect()
    }
}
