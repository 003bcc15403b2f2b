//! What the cache has done.

use crate::{Bypass, Usage};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
    not_deterministic: AtomicU64,
    tools: AtomicU64,
    no_store: AtomicU64,
    stored: AtomicU64,
    shared: AtomicU64,
    tokens_saved: AtomicU64,
    /// In billionths, so that a sum of many small amounts is exact enough.
    money_saved: AtomicU64,
    micros_saved: AtomicU64,
}

/// What the cache has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelCacheStats {
    /// Answers given from the cache.
    pub hits: u64,
    /// Calls that were looked for and not there.
    pub misses: u64,
    /// Look-ups and writes that failed in Redis.
    pub errors: u64,
    /// Calls past the cache because they are not deterministic.
    pub not_deterministic: u64,
    /// Calls past the cache because they have tools.
    pub tools: u64,
    /// Calls past the cache because who asked did not want them kept.
    pub no_store: u64,
    /// Answers that were kept.
    pub stored: u64,
    /// Calls that shared another's fetch.
    pub shared: u64,
    /// Hits of all hits and misses, in percent; 0 if there were none.
    pub hit_rate_percent: f64,
    /// Tokens of the answers that were given from the cache or shared.
    pub tokens_saved: u64,
    /// What they would have cost, where the price is known.
    pub money_saved: f64,
    /// The time that fetching them had taken, in seconds.
    pub seconds_saved: f64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn hit(&self) {
        add(&self.hits, 1);
    }

    /// What was counted as a miss is a hit.
    pub(crate) fn hit_after_all(&self) {
        self.hit();
        self.misses.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn miss(&self) {
        add(&self.misses, 1);
    }

    pub(crate) fn error(&self) {
        add(&self.errors, 1);
    }

    pub(crate) fn stored(&self) {
        add(&self.stored, 1);
    }

    pub(crate) fn shared(&self) {
        add(&self.shared, 1);
    }

    pub(crate) fn bypass(&self, why: Bypass) {
        match why {
            Bypass::NotDeterministic => add(&self.not_deterministic, 1),
            Bypass::Tools => add(&self.tools, 1),
            Bypass::NoStore => add(&self.no_store, 1),
        }
    }

    pub(crate) fn saved(&self, usage: Usage, money: f64, took: std::time::Duration) {
        add(&self.tokens_saved, usage.total());
        add(&self.money_saved, (money * 1e9) as u64);
        let micros = u64::try_from(took.as_micros()).unwrap_or(0);
        add(&self.micros_saved, micros);
    }

    pub(crate) fn read(&self) -> ModelCacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, misses) = (read(&self.hits), read(&self.misses));
        let looked = hits + misses;
        ModelCacheStats {
            hits,
            misses,
            errors: read(&self.errors),
            not_deterministic: read(&self.not_deterministic),
            tools: read(&self.tools),
            no_store: read(&self.no_store),
            stored: read(&self.stored),
            shared: read(&self.shared),
            hit_rate_percent: if looked == 0 {
                0.0
            } else {
                hits as f64 * 100.0 / looked as f64
            },
            tokens_saved: read(&self.tokens_saved),
            money_saved: read(&self.money_saved) as f64 / 1e9,
            seconds_saved: read(&self.micros_saved) as f64 / 1e6,
        }
    }
}
