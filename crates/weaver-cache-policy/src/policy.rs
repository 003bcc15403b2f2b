/// How a route decides about freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What the response says, by the RFCs.
    Standard,
    /// A fixed time for successful responses.
    Pattern {
        /// Freshness in seconds of a response that carries none.
        ttl: u64,
        /// Whether `ttl` stands over what the response says of its freshness.
        overrides: bool,
    },
}

/// The choices RFC 9111 leaves to a cache, as one route makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where freshness comes from.
    pub mode: Mode,
    /// Targeted fields that are obeyed, in order, in lower case (RFC 9213 §2.2).
    pub targets: Vec<String>,
    /// Whether a request's Cache-Control may force a fetch (`no-cache`, `max-age`, `min-fresh`).
    /// `only-if-cached`, `max-stale` and `no-store` are honoured in any case: they cost the origin
    /// nothing.
    pub client_may_force: bool,
    /// The share of (Date - Last-Modified) that is a heuristic lifetime, in percent (§4.2.2).
    pub heuristic_percent: u64,
    /// The longest heuristic lifetime, in seconds.
    pub heuristic_max: u64,
    /// `stale-while-revalidate` of a response that says none, in seconds.
    pub stale_while_revalidate: u64,
    /// `stale-if-error` of a response that says none, in seconds (RFC 9111 §4.2.4 lets a cache
    /// that cannot reach the origin serve stale).
    pub stale_if_error: u64,
    /// For how long a response may be served, in seconds after it has become stale, while the
    /// origin is known to be failing and is not asked; beyond `stale_if_error`, whoever said that.
    pub grace: u64,
    /// The most staleness, in seconds, that anybody may grant: the response, the request or this
    /// policy.
    pub max_stale: Option<u64>,
    /// Seconds of freshness by status, for responses that say none: negative caching. Not for
    /// patterns, which keep 2xx alone.
    ///
    /// ```
    /// use weaver_cache_policy::Policy;
    ///
    /// let policy = Policy { by_status: vec![(404, 10), (503, 1)], ..Policy::standard() };
    /// # assert_ne!(policy, Policy::standard());
    /// ```
    pub by_status: Vec<(u16, u64)>,
    /// Request fields, in lower case, that are written after the cache has seen a request, such as
    /// `x-forwarded-for`: the cache does not know what the origin was sent in them. A response that
    /// varies on one of them is not stored.
    pub generated_fields: Vec<String>,
}

impl Policy {
    /// RFC 9111 as it stands: 10 % heuristics of at most a day, and a day of stale answers while
    /// the origin fails, unless the response forbids it.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            mode: Mode::Standard,
            targets: vec!["cdn-cache-control".to_owned()],
            client_may_force: true,
            heuristic_percent: 10,
            heuristic_max: 86_400,
            stale_while_revalidate: 0,
            stale_if_error: 86_400,
            grace: 0,
            max_stale: None,
            by_status: Vec::new(),
            generated_fields: Vec::new(),
        }
    }

    /// A path pattern with a time to live in seconds.
    #[must_use]
    pub fn pattern(ttl: u64, overrides: bool) -> Self {
        Self {
            mode: Mode::Pattern { ttl, overrides },
            stale_if_error: 0,
            client_may_force: false,
            ..Self::standard()
        }
    }

    /// Milliseconds of staleness granted, within the limit.
    pub(crate) fn within_max_stale(&self, granted: u64) -> u64 {
        self.max_stale
            .map_or(granted, |most| granted.min(most.saturating_mul(1000)))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::standard()
    }
}
