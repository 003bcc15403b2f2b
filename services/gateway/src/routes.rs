//! Which route a request takes, and how it is cached.

use crate::{
    config::{AuthMode, Config, RouteCache, RouteConfig},
    model::Endpoint,
    proxy::Upstreams,
};
use std::{sync::Arc, time::Duration};
use weaver_cache::{CacheConfig, Pattern, Rule, policy::Policy};
use weaver_metrics::{HttpMetrics, RouteHttpMetrics};

/// A configured route.
pub(crate) struct Route {
    pub(crate) config: RouteConfig,
    pub(crate) upstreams: Upstreams,
    rule: Option<Arc<Rule>>,
    metrics: RouteHttpMetrics,
}

/// What answers a request.
#[derive(Clone)]
pub(crate) enum Target {
    Health,
    Whoami,
    Metrics,
    Ask,
    Model(Endpoint),
    ModelList,
    Route(Arc<Route>),
    Nothing,
}

/// A request's target, the rule by which it is cached, and where it is counted.
#[derive(Clone)]
pub(crate) struct Matched {
    pub(crate) target: Target,
    pub(crate) rule: Option<Arc<Rule>>,
    pub(crate) metrics: RouteHttpMetrics,
}

impl Target {
    /// The route's name, or the path of the gateway's own.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Health => "/health",
            Self::Whoami => "/whoami",
            Self::Metrics => "/metrics",
            Self::Ask => "/ask",
            Self::Model(endpoint) => endpoint.path(),
            Self::ModelList => "/v1/models",
            Self::Route(route) => &route.config.name,
            Self::Nothing => "none",
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(one), Self::Route(other)) => Arc::ptr_eq(one, other),
            (Self::Model(one), Self::Model(other)) => one == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Matched {
    pub(crate) fn has_same_target(&self, other: &Self) -> bool {
        self.target.is(&other.target)
    }

    /// Whether both go to the same target, and are cached in the same way.
    pub(crate) fn has_same_rules(&self, other: &Self) -> bool {
        let same_rule = match (&self.rule, &other.rule) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_rule && self.has_same_target(other)
    }
}

pub(crate) struct Routes {
    routes: Vec<Arc<Route>>,
    patterns: Vec<(Pattern, Option<Arc<Rule>>)>,
    /// `/whoami` where nobody is known: the same for all.
    whoami_of_nobody: Option<Arc<Rule>>,
    built_in: Vec<(&'static str, Target, RouteHttpMetrics)>,
    nothing: RouteHttpMetrics,
}

impl Routes {
    pub(crate) fn new(config: &Config, metrics: &HttpMetrics) -> Self {
        let routes = config
            .routes
            .iter()
            .map(|route| {
                Arc::new(Route {
                    upstreams: Upstreams::new(
                        &route.to,
                        route.eject_after,
                        route.eject_for,
                        route.gate,
                    ),
                    rule: rule(route, &config.cache),
                    metrics: metrics.route(&route.name),
                    config: route.clone(),
                })
            })
            .collect();
        let mut built_in = vec![
            ("/health", Target::Health),
            ("/whoami", Target::Whoami),
            ("/metrics", Target::Metrics),
            ("/ask", Target::Ask),
        ];
        // Without models these are paths like any other.
        if !config.models.is_empty() {
            let model = |endpoint: Endpoint| (endpoint.path(), Target::Model(endpoint));
            built_in.extend(Endpoint::ALL.map(model));
            built_in.push(("/v1/models", Target::ModelList));
        }
        let patterns = config.cache.rules();
        let whoami = patterns
            .iter()
            .find(|(pattern, _)| pattern.matches("/whoami"));
        let whoami_of_nobody = whoami
            .and_then(|(_, rule)| rule.as_ref())
            .filter(|rule| rule.per_user && matches!(config.auth.mode, AuthMode::None))
            .map(|rule| Arc::new(Rule::clone(rule).per_user(false)));
        Self {
            routes,
            whoami_of_nobody,
            patterns,
            built_in: built_in
                .into_iter()
                .map(|(path, target)| (path, target, metrics.route(path)))
                .collect(),
            nothing: metrics.route("none"),
        }
    }

    pub(crate) fn all(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Where requests are counted that no route has.
    pub(crate) fn unmatched(&self) -> &RouteHttpMetrics {
        &self.nothing
    }

    /// `path` is one as a strict reader resolves it
    /// ([`judge`](weaver_cache::policy::path::judge)).
    pub(crate) fn find(&self, path: &str, wants_text: bool) -> Matched {
        for (known, target, metrics) in &self.built_in {
            if path == *known {
                // Text for a scraper is made anew each time, and answers of models are never kept here.
                let cached = match target {
                    Target::Ask | Target::Model(_) | Target::ModelList => false,
                    Target::Metrics => !wants_text,
                    _ => true,
                };
                let rule = match target {
                    Target::Whoami if self.whoami_of_nobody.is_some() => {
                        self.whoami_of_nobody.clone()
                    }
                    _ if cached => self.pattern(path).and_then(|(_, rule)| rule.clone()),
                    _ => None,
                };
                return Matched {
                    target: target.clone(),
                    rule,
                    metrics: metrics.clone(),
                };
            }
        }
        match self
            .routes
            .iter()
            .find(|route| covers(&route.config.path, path))
        {
            Some(route) => Matched {
                rule: self.rule(route, path),
                metrics: route.metrics.clone(),
                target: Target::Route(Arc::clone(route)),
            },
            None => Matched {
                target: Target::Nothing,
                rule: None,
                metrics: self.nothing.clone(),
            },
        }
    }

    /// The pattern's rule, or the route's where no pattern has the path or the route says more precisely
    /// what is to be done.
    fn rule(&self, route: &Route, path: &str) -> Option<Arc<Rule>> {
        match self.pattern(path) {
            Some((pattern, Some(rule))) if !stands_over(&route.config, pattern) => {
                Some(Arc::clone(rule))
            }
            _ => route.rule.clone(),
        }
    }

    fn pattern(&self, path: &str) -> Option<&(Pattern, Option<Arc<Rule>>)> {
        self.patterns
            .iter()
            .find(|(pattern, _)| pattern.matches(path))
    }
}

/// Whether what a route says of caching stands over a pattern: it says so, and its path is longer than
/// what is written out of the pattern, or as long and it says "off".
fn stands_over(route: &RouteConfig, pattern: &Pattern) -> bool {
    let segments = route.path.split('/').filter(|segment| !segment.is_empty());
    let (own, of_pattern) = (segments.count(), pattern.literal_segments());
    route.cache_is_given
        && (own > of_pattern || own == of_pattern && own > 0 && route.cache == RouteCache::Off)
}

/// Whether a route's path is a beginning of the request's, by whole segments.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

fn rule(route: &RouteConfig, cache: &CacheConfig) -> Option<Arc<Rule>> {
    let policy = match route.cache {
        RouteCache::Off => return None,
        RouteCache::Standard => cache.standard_policy(),
        RouteCache::Pattern { ttl, overrides } => cache.pattern_policy(ttl, overrides),
    };
    let seconds = |own: Option<Duration>, default| own.map_or(default, |own| own.as_secs());
    let policy = Policy {
        client_may_force: route.client_may_force && policy.client_may_force,
        stale_while_revalidate: seconds(
            route.stale_while_revalidate,
            policy.stale_while_revalidate,
        ),
        stale_if_error: seconds(route.stale_if_error, policy.stale_if_error),
        grace: route.grace.as_secs(),
        max_stale: route.max_stale.map(|most| most.as_secs()),
        by_status: route.negative_ttl.clone(),
        ..policy
    };
    // A route by the RFCs protects what is authenticated by their rule (RFC 9111 §3.5); one with a
    // fixed time keeps credentials apart, as the patterns do.
    let vary_on = route.vary_on.clone().unwrap_or_else(|| match route.cache {
        RouteCache::Pattern { .. } => vec![actix_web::http::header::AUTHORIZATION],
        _ => Vec::new(),
    });
    let mut rule = Rule::new(route.name.as_str(), policy)
        .per_user(route.per_user)
        .identity(route.identity.clone())
        .vary_on(cache.keyed(&vary_on))
        .query(route.query.clone().unwrap_or_default());
    rule.sort_query = route.sort_query;
    rule.tiers = route.tiers;
    rule.collapse = route.collapse;
    rule.early_refresh = route.early_refresh.unwrap_or(cache.early_refresh);
    rule.bypass_headers.clone_from(&route.bypass_headers);
    rule.bypass_cookies.clone_from(&route.bypass_cookies);
    Some(Arc::new(rule))
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_route_covers_whole_segments() {
        assert!(covers("/", "/x"));
        assert!(covers("/api", "/api"));
        assert!(covers("/api", "/api/x"));
        assert!(!covers("/api", "/apix"));
        assert!(covers("/api/", "/api/x"));
    }
}
