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
    table: Mutex<Table>,
}

/// In whose bucket a call has its reservation, so that it is settled there too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its subject's.
    Own,
    /// That of all for whom the table has no room.
    Others,
}

struct Table {
    most: usize,
    own: HashMap<Subject, Buckets>,
    others: Option<Buckets>,
}

impl Table {
    fn place(&self, subject: &Subject) -> Place {
        if self.own.len() < self.most || self.own.contains_key(subject) {
            Place::Own
        } else {
            Place::Others
        }
    }

    /// The buckets at a place, filled up to now. One that was forgotten was full.
    fn bucket(
        &mut self,
        place: Place,
        subject: &Subject,
        limits: &ModelLimitsConfig,
        now: Instant,
    ) -> &mut Buckets {
        let new = || Buckets::full(limits, now);
        let bucket = match place {
            Place::Own => self.own.entry(subject.clone()).or_insert_with(new),
            Place::Others => self.others.get_or_insert_with(new),
        };
        bucket.fill(limits, now);
        bucket
    }
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
        Self::with_room(limits, MAX_SUBJECTS)
    }

    fn with_room(limits: &ModelLimitsConfig, most: usize) -> Self {
        Self {
            limits: *limits,
            table: Mutex::new(Table {
                most,
                own: HashMap::new(),
                others: None,
            }),
        }
    }

    /// Takes tokens from a subject's bucket, and says where that is.
    pub(super) fn reserve(&self, subject: &Subject, tokens: u64) -> (Place, Result<(), Empty>) {
        self.reserve_at(subject, tokens, Instant::now())
    }

    fn reserve_at(
        &self,
        subject: &Subject,
        tokens: u64,
        now: Instant,
    ) -> (Place, Result<(), Empty>) {
        let limits = &self.limits;
        let mut table = self.table.lock();
        let place = table.place(subject);
        let bucket = table.bucket(place, subject, limits, now);
        if limits.tokens_per_minute > 0 && bucket.tokens <= 0.0 {
            let per_second = limits.tokens_per_minute as f64 / MINUTE;
            return (place, Err((TOKENS, wait(bucket.tokens, per_second))));
        }
        if limits.cost_per_hour > 0.0 && bucket.cost <= 0.0 {
            let per_second = limits.cost_per_hour / HOUR;
            return (place, Err((COST, wait(bucket.cost, per_second))));
        }
        bucket.tokens -= tokens as f64;
        (place, Ok(()))
    }

    pub(super) fn charge(&self, place: Place, subject: &Subject, tokens: f64, cost: f64) {
        self.charge_at(place, subject, tokens, cost, Instant::now());
    }

    fn charge_at(&self, place: Place, subject: &Subject, tokens: f64, cost: f64, now: Instant) {
        let mut table = self.table.lock();
        let bucket = table.bucket(place, subject, &self.limits, now);
        bucket.tokens -= tokens;
        bucket.cost -= cost;
    }

    /// Forgets those whose buckets are full again.
    pub(super) fn tend(&self) {
        let (limits, now) = (&self.limits, Instant::now());
        let own = &mut self.table.lock().own;
        own.retain(|_, bucket| {
            // Who has just been here may be here again.
            let recent = now.saturating_duration_since(bucket.at) < Duration::from_secs(60);
            let mut filled = *bucket;
            filled.fill(limits, now);
            recent || !filled.is_full(limits)
        });
        own.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ModelLimitsConfig = ModelLimitsConfig {
        tokens_per_minute: 600,
        cost_per_hour: 3.6,
    };

    fn user(name: &str) -> Subject {
        Subject::User(name.into())
    }

    #[test]
    fn a_bucket_lets_through_until_it_is_empty_and_fills_again() {
        let budgets = Local::new(&LIMITS);
        let (ann, ben) = (user("ann"), user("ben"));
        let began = Instant::now();
        let reserve = |who: &Subject, after| {
            let now = began + Duration::from_secs(after);
            budgets.reserve_at(who, 10, now).1
        };
        // It costs more than was thought: 700 of 600.
        reserve(&ann, 0).unwrap();
        budgets.charge_at(Place::Own, &ann, 690.0, 0.0, began);
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
            ..LIMITS
        };
        let budgets = Local::new(&limits);
        let ann = user("ann");
        let began = Instant::now();
        budgets.reserve_at(&ann, 10, began).1.unwrap();
        budgets.charge_at(Place::Own, &ann, 10.0, 3.7, began);
        let refused = budgets.reserve_at(&ann, 10, began).1.unwrap_err();
        assert_eq!(refused, ("cost an hour", 101));
        let later = budgets.reserve_at(&ann, 10, began + Duration::from_secs(102));
        assert!(later.1.is_ok());
    }

    #[test]
    fn what_those_beyond_the_table_use_is_settled_in_the_bucket_that_they_share() {
        let budgets = Local::with_room(&LIMITS, 1);
        let (ann, ben, cem) = (user("ann"), user("ben"), user("cem"));
        let began = Instant::now();
        let at = |after| began + Duration::from_secs(after);
        assert_eq!(budgets.reserve_at(&ann, 10, began), (Place::Own, Ok(())));
        let (place, reserved) = budgets.reserve_at(&ben, 100, began);
        assert_eq!((place, reserved), (Place::Others, Ok(())));
        // 700 of 600, and all the money.
        budgets.charge_at(place, &ben, 600.0, 3.6, began);
        let refused = budgets.reserve_at(&cem, 1, began).1;
        assert_eq!(refused, Err(("tokens a minute", 11)));
        assert_eq!(
            budgets.reserve_at(&cem, 1, at(11)).1,
            Ok(()),
            "money comes too"
        );
        // What was reserved and not used comes back.
        budgets.charge_at(place, &ben, -600.0, -3.6, at(11));
        assert_eq!(budgets.reserve_at(&cem, 500, at(11)).1, Ok(()));
        // A place in the table that has become free does not lead the settlement astray.
        budgets.table.lock().own.clear();
        budgets.charge_at(place, &cem, 1000.0, 0.0, at(11));
        assert_eq!(budgets.reserve_at(&cem, 1, at(11)), (Place::Own, Ok(())));
        assert!(budgets.reserve_at(&ben, 1, at(11)).1.is_err());
    }

    #[test]
    fn a_long_call_is_settled_although_its_bucket_was_forgotten() {
        let budgets = Local::new(&LIMITS);
        let (ann, began) = (user("ann"), Instant::now());
        let (place, _) = budgets.reserve_at(&ann, 10, began);
        budgets.table.lock().own.clear();
        budgets.charge_at(place, &ann, 700.0, 0.0, began + Duration::from_secs(120));
        let refused = budgets.reserve_at(&ann, 10, began + Duration::from_secs(120));
        assert_eq!(refused.1, Err(("tokens a minute", 11)));
    }
}
