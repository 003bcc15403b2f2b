//! What each identity may use of models: tokens a minute, and money an hour.
//!
//! A bucket fills steadily up to what may be used in the whole time. A call is let through while
//! there is anything in it, takes what its question is estimated at, and settles for what the answer
//! turned out to cost, which may leave the bucket empty beyond nothing. Hits cost nothing. Buckets
//! are this node's own.

use super::Refusal;
use crate::{config::ModelLimitsConfig, limit::Subject};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Identities that are remembered at once; beyond, all new ones share one bucket.
const MAX_SUBJECTS: usize = 100_000;
const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;

#[derive(Clone)]
pub(crate) struct Budgets(Arc<Inner>);

struct Inner {
    limits: ModelLimitsConfig,
    buckets: Mutex<HashMap<Subject, Buckets>>,
}

#[derive(Clone, Copy)]
struct Buckets {
    tokens: f64,
    cost: f64,
    at: Instant,
}

impl Buckets {
    fn full(limits: &ModelLimitsConfig, now: Instant) -> Self {
        Self {
            tokens: limits.tokens_per_minute as f64,
            cost: limits.cost_per_hour,
            at: now,
        }
    }

    fn fill(&mut self, limits: &ModelLimitsConfig, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let tokens = limits.tokens_per_minute as f64;
        self.tokens = (self.tokens + passed * tokens / MINUTE).min(tokens);
        self.cost = (self.cost + passed * limits.cost_per_hour / HOUR).min(limits.cost_per_hour);
        self.at = now;
    }

    fn is_full(&self, limits: &ModelLimitsConfig) -> bool {
        self.tokens >= limits.tokens_per_minute as f64 && self.cost >= limits.cost_per_hour
    }
}

/// Seconds until a bucket has something in it again.
fn wait(level: f64, per_second: f64) -> u64 {
    // A whole unit, so that whoever waits as told gets through.
    let seconds = ((1e-9 - level).max(0.0) / per_second).ceil();
    (seconds as u64).max(1)
}

impl Budgets {
    pub(crate) fn new(limits: &ModelLimitsConfig) -> Option<Self> {
        let limited = limits.tokens_per_minute > 0 || limits.cost_per_hour > 0.0;
        limited.then(|| {
            Self(Arc::new(Inner {
                limits: *limits,
                buckets: Mutex::default(),
            }))
        })
    }

    /// Lets a call through, or says when to come back.
    pub(super) fn reserve(&self, subject: Subject, tokens: u64) -> Result<Reservation, Refusal> {
        let reserved = self.reserve_at(subject, tokens, Instant::now());
        reserved.map_err(|(what, seconds)| Refusal::over_budget(what, seconds))
    }

    fn reserve_at(
        &self,
        subject: Subject,
        tokens: u64,
        now: Instant,
    ) -> Result<Reservation, (&'static str, u64)> {
        let limits = &self.0.limits;
        let mut buckets = self.0.buckets.lock();
        let full = buckets.len() >= MAX_SUBJECTS && !buckets.contains_key(&subject);
        let subject = if full {
            Subject::Address(std::net::IpAddr::from([0, 0, 0, 0]))
        } else {
            subject
        };
        let bucket = buckets
            .entry(subject.clone())
            .or_insert_with(|| Buckets::full(limits, now));
        bucket.fill(limits, now);
        if limits.tokens_per_minute > 0 && bucket.tokens <= 0.0 {
            let per_second = limits.tokens_per_minute as f64 / MINUTE;
            return Err(("tokens a minute", wait(bucket.tokens, per_second)));
        }
        if limits.cost_per_hour > 0.0 && bucket.cost <= 0.0 {
            let per_second = limits.cost_per_hour / HOUR;
            return Err(("cost an hour", wait(bucket.cost, per_second)));
        }
        bucket.tokens -= tokens as f64;
        drop(buckets);
        Ok(Reservation {
            budgets: self.clone(),
            subject,
            reserved: tokens,
        })
    }

    fn charge(&self, subject: &Subject, tokens: f64, cost: f64) {
        if let Some(bucket) = self.0.buckets.lock().get_mut(subject) {
            bucket.tokens -= tokens;
            bucket.cost -= cost;
        }
    }

    /// Forgets those whose buckets are full again.
    pub(crate) fn tend(&self) {
        let (limits, now) = (&self.0.limits, Instant::now());
        let mut buckets = self.0.buckets.lock();
        buckets.retain(|_, bucket| {
            // What is reserved is remembered for as long as calls last.
            let recent = now.saturating_duration_since(bucket.at) < Duration::from_secs(60);
            let mut filled = *bucket;
            filled.fill(limits, now);
            recent || !filled.is_full(limits)
        });
        buckets.shrink_to_fit();
    }
}

/// What a call has taken before it is known what it costs. Dropped, it has cost that.
pub(super) struct Reservation {
    budgets: Budgets,
    subject: Subject,
    reserved: u64,
}

impl Reservation {
    /// Takes what it has cost in its place.
    pub(super) fn settle(self, tokens: u64, cost: f64) {
        let more = tokens as f64 - self.reserved as f64;
        self.budgets.charge(&self.subject, more, cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_through_until_it_is_empty_and_fills_again() {
        let limits = ModelLimitsConfig {
            tokens_per_minute: 600,
            cost_per_hour: 0.0,
        };
        let budgets = Budgets::new(&limits).unwrap();
        let (ann, ben) = (Subject::User("ann".into()), Subject::User("ben".into()));
        let began = Instant::now();
        let reserve = |who: &Subject, after| {
            budgets.reserve_at(who.clone(), 10, began + Duration::from_secs(after))
        };
        // It costs more than was thought: 700 of 600.
        reserve(&ann, 0).ok().unwrap().settle(700, 0.0);
        let refused = reserve(&ann, 0).err().unwrap();
        assert_eq!(refused, ("tokens a minute", 11));
        assert!(reserve(&ben, 0).is_ok(), "another's bucket is another");
        assert!(reserve(&ann, 9).is_err());
        assert!(reserve(&ann, 11).is_ok());
        assert!(Budgets::new(&ModelLimitsConfig::default()).is_none());
    }

    #[test]
    fn money_runs_out_too() {
        let limits = ModelLimitsConfig {
            tokens_per_minute: 0,
            cost_per_hour: 3.6,
        };
        let budgets = Budgets::new(&limits).unwrap();
        let ann = Subject::User("ann".into());
        let began = Instant::now();
        let first = budgets.reserve_at(ann.clone(), 10, began);
        first.ok().unwrap().settle(20, 3.7);
        let refused = budgets.reserve_at(ann.clone(), 10, began).err().unwrap();
        assert_eq!(refused, ("cost an hour", 101));
        let later = budgets.reserve_at(ann, 10, began + Duration::from_secs(102));
        assert!(later.is_ok());
    }
}
