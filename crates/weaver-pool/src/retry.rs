//! Sending a command again: when, after how long, and how often over all calls.

use crate::{PoolError, RedisPoolConfig, commands::Repeat};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// The longest pause before the first repetition; it doubles with each further one.
const BASE: Duration = Duration::from_millis(8);
const MOST: Duration = Duration::from_millis(512);
/// A repetition costs this much, and a call earns 1: one repetition in ten calls.
const PRICE: u32 = 10;
/// What may be saved up: ten repetitions at once.
const SAVINGS: u32 = 10 * PRICE;

/// Bounds repetitions to a share of the calls, so that a server in trouble does not get more work
/// for it.
pub(crate) struct Budget(AtomicU32);

impl Budget {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(SAVINGS))
    }

    /// A call was made.
    pub(crate) fn earn(&self) {
        let full = |saved| (saved < SAVINGS).then_some(saved + 1);
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, full);
    }

    /// Pays for a repetition, if there is enough.
    pub(crate) fn spend(&self) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| {
                saved.checked_sub(PRICE)
            })
            .is_ok()
    }
}

/// Whether a command that failed like this is to be sent again.
pub(crate) fn is_worth_it(error: &PoolError, repeat: Repeat, config: &RedisPoolConfig) -> bool {
    let safe = match repeat {
        Repeat::Always => true,
        Repeat::NotRun => error.has_not_run(),
        Repeat::Never => false,
    };
    safe && match error {
        PoolError::Timeout(_) | PoolError::Connection(_) | PoolError::NotConnected(_) => {
            config.retry_on_timeout
        }
        error => config.retry_on_error && error.is_server_state(),
    }
}

/// The pause before repetition number `nth`, from 0: exponential, with full jitter (Brooker,
/// "Exponential Backoff And Jitter", AWS Architecture Blog 2015).
pub(crate) fn pause(nth: u32) -> Duration {
    let most = BASE.saturating_mul(1 << nth.min(16)).min(MOST);
    most.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_in_ten_is_repeated_and_ten_at_once() {
        let budget = Budget::new();
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
        let repeated = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(repeated.count(), 100);
    }

    #[test]
    fn what_may_have_run_is_repeated_only_if_twice_is_as_good_as_once() {
        let config = RedisPoolConfig::default();
        let broke = PoolError::Connection(String::new());
        let late = PoolError::Timeout(Duration::ZERO);
        let never_sent = PoolError::NotConnected(String::new());
        for (error, changes_nothing, not_run) in [
            (&broke, true, false),
            (&late, true, false),
            (&never_sent, true, true),
            (&PoolError::CircuitOpen, false, false),
            (&PoolError::Exhausted, false, false),
        ] {
            assert_eq!(
                is_worth_it(error, Repeat::Always, &config),
                changes_nothing,
                "{error:?}"
            );
            assert_eq!(
                is_worth_it(error, Repeat::NotRun, &config),
                not_run,
                "{error:?}"
            );
            assert!(!is_worth_it(error, Repeat::Never, &config));
        }
        let patient = RedisPoolConfig {
            retry_on_timeout: false,
            ..config
        };
        assert!(!is_worth_it(&late, Repeat::Always, &patient));
    }

    #[test]
    fn pauses_grow_and_stay_below_half_a_second() {
        for nth in 0..40 {
            let most = Duration::from_millis(8 << nth.min(6));
            for _ in 0..100 {
                assert!(pause(nth) <= most.min(Duration::from_millis(512)));
            }
        }
    }
}
