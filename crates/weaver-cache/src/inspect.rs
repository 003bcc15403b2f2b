//! What the tiers have for a URL, and what would become of it.

use crate::{
    CacheHandle, Position, Principal, Rule,
    entry::{MapFields, Record},
    journal::Verdict,
    key::{self, RequestUrl},
    shared::{Shared, lifetime},
};
use actix_web::http::header::HeaderMap;
use weaver_cache_policy::{
    Flags,
    reuse::{self, Decision, Wishes},
    url::Url,
};
use weaver_metrics::Tier;

/// What would become of a stored response if it were asked for now, by a request without wishes of
/// its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Served.
    Fresh,
    /// Served, and refreshed meanwhile.
    StaleWhileRevalidate,
    /// Validated first: its freshness has ended.
    Stale,
    /// Validated first: it says `no-cache`.
    NoCache,
    /// Validated first: a soft purge ended its freshness.
    PurgedSoftly,
    /// Not served: purged.
    Purged,
}

impl Standing {
    /// A fixed word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::StaleWhileRevalidate => "stale-while-revalidate",
            Self::Stale => "stale",
            Self::NoCache => "no-cache",
            Self::PurgedSoftly => "purged-softly",
            Self::Purged => "purged",
        }
    }
}

/// A stored response, as an operator wants to see it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where it is.
    pub tier: Tier,
    /// The request fields that it varies on; empty if it does not vary.
    pub varies_on: Vec<String>,
    /// Whether the given headers select it.
    pub selected: bool,
    /// Its status.
    pub status: u16,
    /// The length of its body in bytes.
    pub bytes: u64,
    /// How old it is, in milliseconds.
    pub age: u64,
    /// For how long it is fresh, in milliseconds; negative once it is stale.
    pub ttl: i64,
    /// For how long it is kept, in milliseconds, to be validated or to stand in for an error.
    pub kept_for: u64,
    /// What fetching it took, in microseconds.
    pub fetched_in: u64,
    /// The place in the purge journal from before its fetch began.
    pub position: Position,
    /// What would become of it.
    pub standing: Standing,
}

impl CacheHandle {
    /// What the tiers have for a URL under a rule: for the user and the variant that the headers and
    /// the principal tell.
    ///
    /// A look is counted neither as hit nor as miss. What Redis has is missing while Redis is out of
    /// reach.
    pub async fn inspect(
        &self,
        rule: &Rule,
        url: &Url,
        headers: &HeaderMap,
        principal: Option<&Principal>,
    ) -> Vec<Stored> {
        let shared = &self.shared;
        let url = RequestUrl::of_url(url);
        let exact = key::build(&url, rule, headers, principal, &shared.secret).key;
        let mut all = Vec::new();
        for tier in [Tier::Memory, Tier::Redis] {
            let mut key = exact.clone();
            // Finds the key of an equivalent query, if that is what would answer.
            shared.find_equivalent(tier, &mut key, headers).await;
            match shared.get(tier, &key).await {
                None => {}
                Some(record @ (Record::Entry(_) | Record::Remote(_))) => {
                    all.extend(shared.describe(tier, &record, headers));
                }
                Some(Record::Index(_, index)) => {
                    for variant in &index.variants {
                        let key = key::of_variant(&key, &index.nonce, &variant.digest);
                        if let Some(record) = shared.get(tier, &key).await {
                            all.extend(shared.describe(tier, &record, headers));
                        }
                    }
                }
            }
        }
        all
    }
}

impl Shared {
    fn describe(&self, tier: Tier, record: &Record, headers: &HeaderMap) -> Option<Stored> {
        let (entry, bytes) = match record {
            Record::Entry(entry) => (entry, entry.body.len() as u64),
            Record::Remote(remote) => (&remote.entry, remote.parts.length),
            Record::Index(..) => return None,
        };
        let now = self.now();
        let verdict = self.log.judge(entry);
        let life = lifetime(entry, verdict.freshness_ended());
        let variant = entry.head.variant.as_ref();
        let view = MapFields(headers);
        let standing = match verdict {
            Verdict::Dead => Standing::Purged,
            _ => match reuse::decide(&life, &Wishes::none(), now) {
                Decision::Fresh => Standing::Fresh,
                Decision::StaleWhileRevalidate => Standing::StaleWhileRevalidate,
                _ if matches!(verdict, Verdict::Stale(_)) => Standing::PurgedSoftly,
                _ if life.flags.has(Flags::NO_CACHE) => Standing::NoCache,
                _ => Standing::Stale,
            },
        };
        Some(Stored {
            tier,
            varies_on: variant
                .map(|variant| variant.names.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            selected: variant.is_none_or(|variant| variant.matches(self.secret.bytes(), &view)),
            status: entry.head.status.as_u16(),
            bytes,
            age: life.age(now),
            ttl: life.ttl(now),
            kept_for: self.until(entry).since(now),
            fetched_in: entry.fill_micros,
            position: entry.head.position,
            standing,
        })
    }
}
