use crate::{IdentitySource, key};
use actix_web::http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName};
use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};
use weaver_cache_policy::Policy;
use weaver_metrics::{CacheMetrics, RouteCacheMetrics};

/// Which part of the query is part of the key. Names are compared as an origin reads them, with
/// escapes and `+` decoded.
///
/// Whoever answers behind the cache must not depend on the rest:
/// [`Rule::query_as_keyed`] gives what it may see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum QueryRule {
    /// All of it, as it stands.
    #[default]
    Keep,
    /// Nothing.
    Ignore,
    /// The parameters of these names.
    Only(Vec<String>),
    /// All but the parameters of these names.
    Except(Vec<String>),
}

/// How requests to one route, or to one pattern, are cached.
///
/// ```
/// use weaver_cache::{Rule, Tiers, policy::Policy};
///
/// let mut rule = Rule::new("catalog", Policy::pattern(300, false));
/// rule.sort_query = true;
/// rule.tiers = Tiers::Memory;
/// ```
#[derive(Clone, Debug)]
pub struct Rule {
    /// The name by which it is counted.
    pub name: Arc<str>,
    /// What is stored and for how long.
    pub policy: Policy,
    /// Whether each user has a store of their own. A request of which nothing tells whose it is goes
    /// past the cache.
    pub per_user: bool,
    /// What tells users apart beside the [`Principal`](crate::Principal), or without one: all of these
    /// that a request has, and Authorization with them. Where none are listed, Authorization does.
    /// Empty values are none.
    pub identity: Vec<IdentitySource>,
    /// Request headers that join the key. `Authorization` stands for the credentials, however they
    /// came: where a [`Principal`](crate::Principal) is known it is used in place of the header.
    pub vary_on: Vec<HeaderName>,
    /// What of the query joins the key.
    pub query: QueryRule,
    /// Whether the parameters of the query join the key in the order of their names, so that their
    /// order makes no difference; those of the same name keep theirs.
    pub sort_query: bool,
    /// Where its responses are stored.
    pub tiers: Tiers,
    /// Whether requests for the same key wait for one fetch.
    pub collapse: bool,
    /// How eagerly a response is refreshed before its freshness ends: the beta of XFetch (Vattani,
    /// Chierichetti, Lowenstein 2015). 0 is never, 1 is what the paper recommends.
    /// Only what memory has is refreshed early.
    pub early_refresh: f32,
    /// Request headers whose presence sends a request past the cache.
    pub bypass_headers: Vec<HeaderName>,
    /// Cookies whose presence does.
    pub bypass_cookies: Vec<String>,
    /// Of the cache that asked first, which is the only one in all but tests.
    counters: OnceLock<(CacheMetrics, RouteCacheMetrics)>,
}

/// Where responses are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiers {
    /// In this node's memory, and in Redis for all nodes.
    #[default]
    Both,
    /// In this node's memory alone.
    Memory,
    /// In Redis alone.
    Redis,
}

impl Rule {
    /// A rule that shares its entries among all users.
    pub fn new(name: impl Into<Arc<str>>, policy: Policy) -> Self {
        Self {
            name: name.into(),
            policy,
            per_user: false,
            identity: Vec::new(),
            vary_on: Vec::new(),
            query: QueryRule::Keep,
            sort_query: false,
            tiers: Tiers::Both,
            collapse: true,
            early_refresh: 1.0,
            bypass_headers: Vec::new(),
            bypass_cookies: Vec::new(),
            counters: OnceLock::new(),
        }
    }

    /// Gives each user a store of their own.
    #[must_use]
    pub fn per_user(mut self, on: bool) -> Self {
        self.per_user = on;
        self
    }

    /// Sets what tells users apart where nobody has authenticated them.
    #[must_use]
    pub fn identity(mut self, sources: Vec<IdentitySource>) -> Self {
        self.identity = sources;
        self
    }

    /// Sets the request headers that join the key.
    #[must_use]
    pub fn vary_on(mut self, headers: Vec<HeaderName>) -> Self {
        self.vary_on = headers;
        self
    }

    /// Sets what of the query joins the key.
    #[must_use]
    pub fn query(mut self, query: QueryRule) -> Self {
        self.query = query;
        self
    }

    /// The part of a query that joins the key, in the key's order: what whoever answers behind the
    /// cache may see of it, so that nothing that is not in the key shapes what is stored.
    ///
    /// ```
    /// use weaver_cache::{QueryRule, Rule, policy::Policy};
    ///
    /// let rule = Rule::new("r", Policy::standard()).query(QueryRule::Only(vec!["id".into()]));
    /// assert_eq!(rule.query_as_keyed(Some("a=1&%69d=2")).as_deref(), Some("%69d=2"));
    /// assert_eq!(rule.query_as_keyed(Some("a=1")), None);
    /// ```
    #[must_use]
    pub fn query_as_keyed<'a>(&self, query: Option<&'a str>) -> Option<Cow<'a, str>> {
        let query = query?;
        match &self.query {
            QueryRule::Keep if !self.sort_query => Some(Cow::Borrowed(query)),
            QueryRule::Ignore => None,
            rule => Some(key::kept(query, rule, self.sort_query))
                .filter(|kept| !kept.is_empty())
                .map(Cow::Owned),
        }
    }

    /// Whether the request is one that the rule sends past the cache.
    pub(crate) fn bypasses(&self, headers: &HeaderMap) -> bool {
        let has_cookie = |wanted: &String| {
            // Bytes: one cookie that is not ASCII must not hide the others of its line.
            let lines = headers.get_all(COOKIE).map(|line| line.as_bytes());
            let mut names = lines
                .flat_map(|line| line.split(|byte| *byte == b';'))
                .filter_map(|pair| pair.split(|byte| *byte == b'=').next());
            names.any(|name| name.trim_ascii() == wanted.as_bytes())
        };
        self.bypass_headers
            .iter()
            .any(|name| headers.contains_key(name))
            || self.bypass_cookies.iter().any(has_cookie)
    }

    pub(crate) fn credentials_in_key(&self) -> bool {
        self.per_user || self.vary_on.contains(&AUTHORIZATION)
    }

    /// The counters of a cache for this rule: a rule may be used by several caches, each of which
    /// counts for itself.
    pub(crate) fn counters(&self, metrics: &CacheMetrics) -> Cow<'_, RouteCacheMetrics> {
        let first = || (metrics.clone(), metrics.route(&self.name));
        match self.counters.get_or_init(first) {
            (of, counters) if of.is_same(metrics) => Cow::Borrowed(counters),
            _ => Cow::Owned(metrics.route(&self.name)),
        }
    }
}

/// A path pattern: whole segments, `*` for one segment, and for all that follow where it stands
/// last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    segments: Vec<Box<str>>,
    open: bool,
}

impl Pattern {
    /// Reads a pattern such as `/health` or `/catalog/*`.
    ///
    /// # Errors
    ///
    /// What is wrong with it: it must begin with `/`, and have neither a query nor `*` beside other
    /// characters in a segment.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix('/').ok_or("a pattern begins with /")?;
        if rest.contains(['?', '#']) {
            return Err("a pattern is a path, without a query");
        }
        let mut segments: Vec<Box<str>> = rest.split('/').map(Into::into).collect();
        if segments
            .iter()
            .any(|segment| segment.contains('*') && &**segment != "*")
        {
            return Err("* stands for a whole segment");
        }
        let open = segments.last().is_some_and(|last| &**last == "*");
        if open {
            segments.pop();
        }
        Ok(Self {
            text: text.into(),
            segments,
            open,
        })
    }

    /// A path without `*`.
    pub(crate) fn literal(path: &'static str) -> Self {
        let segments = path
            .trim_start_matches('/')
            .split('/')
            .map(Into::into)
            .collect();
        Self {
            text: path.into(),
            segments,
            open: false,
        }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many of its segments are written out, and not `*`.
    #[must_use]
    pub fn literal_segments(&self) -> usize {
        let segments = self.segments.iter().map(AsRef::as_ref);
        segments
            .filter(|segment: &&str| !matches!(*segment, "" | "*"))
            .count()
    }

    /// Whether the path of a request fits.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else {
            return false;
        };
        let mut given = rest.split('/');
        for wanted in &self.segments {
            match given.next() {
                Some(segment) if **wanted == *segment => {}
                Some(segment) if &**wanted == "*" && !segment.is_empty() => {}
                _ => return false,
            }
        }
        if self.open {
            given.next().is_some()
        } else {
            given.next().is_none()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_that_share_a_rule_count_each_for_itself() {
        let rule = Rule::new("r", Policy::standard());
        let made = || CacheMetrics::new(&mut weaver_metrics::Registry::default());
        let (one, other) = (made(), made());
        for metrics in [&one, &other, &other] {
            let counters = rule.counters(metrics);
            counters.count(weaver_metrics::Tier::None, "miss");
        }
        assert_eq!((one.report().misses, other.report().misses), (1, 2));
    }

    #[test]
    fn patterns_match_whole_segments() {
        let matches = |pattern: &str, path: &str| Pattern::parse(pattern).unwrap().matches(path);
        assert!(matches("/health", "/health"));
        assert!(!matches("/health", "/healthz"));
        assert!(!matches("/health", "/health/x"));
        assert!(matches("/catalog/*", "/catalog/a/b"));
        assert!(matches("/catalog/*", "/catalog/"));
        assert!(!matches("/catalog/*", "/catalog"));
        assert!(matches("/a/*/c", "/a/b/c"));
        assert!(!matches("/a/*/c", "/a/b/d"));
        assert!(matches("/*", "/anything/at/all"));
        assert!(matches("/", "/"));
    }

    #[test]
    fn a_pattern_that_cannot_match_is_refused() {
        for bad in ["health", "/a*", "/a?b", ""] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
