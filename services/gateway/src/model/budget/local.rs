//! Buckets of this node alone.

use super::{COST, Empty, TOKENS};
use crate::{config::ModelLimitsConfig, limit::Subject};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Identities that are remembered at once; beyond, all new ones share one bucket.
const MAX_SUBJECTS: usize = 100_000;
const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;

pub(super) struct Local {
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

impl Local {
    pub(super) fn new(limits: &ModelLimitsConfig) -> Self {
        Self {
            limits: *limits,
            buckets: Mutex::default(),
        }
    }

    pub(super) fn reserve(&self, subject: &Subject, tokens: u64) -> Result<(), Empty> {
        self.reserve_at(subject.clone(), tokens, Instant::now())
    }

    fn reserve_at(&self, subject: Subject, tokens: u64, now: Instant) -> Result<(), Empty> {
        let limits = &self.limits;
        let mut buckets = self.buckets.lock();
        let full = buckets.len() >= MAX_SUBJECTS && !buckets.contains_key(&subject);
        let subject = if full {
            Subject::Address(std::net::IpAddr::from([0, 0, 0, 0]))
        } else {
            subject
        };
        let bucket = buckets
            .entry(subject)
            .or_insert_with(|| Buckets::full(limits, now));
        bucket.fill(limits, now);
        if limits.tokens_per_minute > 0 && bucket.tokens <= 0.0 {
            let per_second = limits.tokens_per_minute as f64 / MINUTE;
            return Err((TOKENS, wait(bucket.tokens, per_second)));
        }
        if limits.cost_per_hour > 0.0 && bucket.cost <= 0.0 {
            let per_second = limits.cost_per_hour / HOUR;
            return Err((COST, wait(bucket.cost, per_second)));
        }
        bucket.tokens -= tokens as f64;
        Ok(())
    }

    pub(super) fn charge(&self, subject: &Subject, tokens: f64, cost: f64) {
        if let Some(bucket) = self.buckets.lock().get_mut(subject) {
            bucket.tokens -= tokens;
            bucket.cost -= cost;
        }
    }

    /// Forgets those whose buckets are full again.
    pub(super) fn tend(&self) {
        let (limits, now) = (&self.limits, Instant::now());
        let mut buckets = self.buckets.lock();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_through_until_it_is_empty_and_fills_again() {
        let limits = ModelLimitsConfig {
            tokens_per_minute: 600,
            cost_per_hour: 0.0,
        };
        let budgets = Local::new(&limits);
        let (ann, ben) = (Subject::User("ann".into()), Subject::User("ben".into()));
        let began = Instant::now();
        let reserve = |who: &Subject, after| {
            budgets.reserve_at(who.clone(), 10, began + Duration::from_secs(after))
        };
        // It costs more than was thought: 700 of 600.
        reserve(&ann, 0).unwrap();
        budgets.charge(&ann, 690.0, 0.0);
        let refused = reserve(&ann, 0).unwrap_err();
        assert_eq!(refused, ("tokens a minute", 11));
        assert!(reserve(&ben, 0).is_ok(), "another's bucket is another");
        assert!(reserve(&ann, 9).is_err());
        assert!(reserve(&ann, 11).is_ok());
    }

    #[test]
    fn money_runs_out_too() {
        let limits = ModelLimitsConfig {
            tokens_per_minute: 0,
            cost_per_hour: 3.6,
        };
        let budgets = Local::new(&limits);
        let ann = Subject::User("ann".into());
        let began = Instant::now();
        budgets.reserve_at(ann.clone(), 10, began).unwrap();
        budgets.charge(&ann, 10.0, 3.7);
        let refused = budgets.reserve_at(ann.clone(), 10, began).unwrap_err();
        assert_eq!(refused, ("cost an hour", 101));
        let later = budgets.reserve_at(ann, 10, began + Duration::from_secs(102));
        assert!(later.is_ok());
    }
}
