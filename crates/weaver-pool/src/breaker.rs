//! The circuit breaker: when Redis fails or crawls, calls stop at once instead of one deadline each.
//!
//! Closed, it counts calls, failures and slow calls over a sliding window. Where their share passes
//! what is configured it opens, and refuses every call for a while. Then it is half open: a bounded
//! number of calls go through as probes; if all succeed it closes, if one fails it opens again
//! (Nygard, *Release It!*, 2nd ed., chapter 5).
//!
//! Times are milliseconds of a clock that is passed in. The closed state takes no lock.

use crate::{BreakerConfig, connection::Events};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};
use tokio::sync::watch;

/// What the breaker does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// They pass.
    Closed,
    /// They are refused.
    Open,
    /// Some pass, as probes.
    HalfOpen,
}

impl BreakerState {
    /// As it stands in reports and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Why the breaker opened last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerReason {
    /// Too large a share of calls failed.
    Failures,
    /// Too large a share of calls was slow.
    SlowCalls,
    /// A probe failed or was slow.
    Probe,
}

impl BreakerReason {
    /// As it stands in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::SlowCalls => "slow_calls",
            Self::Probe => "probe",
        }
    }
}

/// The breaker's part of [`PoolStats`](crate::PoolStats).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerStats {
    /// What it does with calls now.
    pub state: BreakerState,
    /// How often it opened, also again after a probe.
    pub opened: u64,
    /// Why it opened last, if it ever did.
    pub reason: Option<BreakerReason>,
    /// Calls it refused.
    pub refused: u64,
}

impl BreakerStats {
    pub(crate) fn new() -> Self {
        Self {
            state: BreakerState::Closed,
            opened: 0,
            reason: None,
            refused: 0,
        }
    }

    /// Those of another one too: the worse of the two states, and its reason.
    pub(crate) fn add(&mut self, other: Self) {
        let bad = |state| match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        if self.reason.is_none() || bad(other.state) > bad(self.state) {
            self.reason = other.reason.or(self.reason);
        }
        if bad(other.state) > bad(self.state) {
            self.state = other.state;
        }
        self.opened += other.opened;
        self.refused += other.refused;
    }
}

/// How a call went, as far as the breaker cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Went {
    Well,
    Slowly,
    Wrong,
}

const BUCKETS: usize = 10;
const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

/// One tenth of the window. A call that ends just as a bucket is taken into use anew may be lost to
/// the count, which is a share of many.
#[derive(Default)]
struct Bucket {
    turn: AtomicU64,
    calls: AtomicU32,
    failed: AtomicU32,
    slow: AtomicU32,
}

#[derive(Default)]
struct Control {
    /// Told apart, so that a probe of an earlier time counts for nothing.
    round: u64,
    until: u64,
    out: u32,
    well: u32,
    opened: u64,
    reason: Option<BreakerReason>,
}

pub(crate) struct Breaker {
    config: BreakerConfig,
    state: AtomicU8,
    buckets: [Bucket; BUCKETS],
    control: Mutex<Control>,
    refused: AtomicU64,
    states: watch::Sender<BreakerState>,
    events: Arc<Events>,
}

/// Leave to make one call. Dropped without a word of how it went, it counts for nothing.
pub(crate) struct Permit<'a> {
    breaker: Option<&'a Breaker>,
    probe: Option<u64>,
}

impl Breaker {
    pub(crate) fn new(config: BreakerConfig, events: &Arc<Events>) -> Self {
        Self {
            config,
            state: AtomicU8::new(CLOSED),
            buckets: Default::default(),
            control: Mutex::default(),
            refused: AtomicU64::new(0),
            states: watch::Sender::new(BreakerState::Closed),
            events: Arc::clone(events),
        }
    }

    /// Leave for a call that begins now, unless it is refused.
    pub(crate) fn permit(&self, now: u64) -> Option<Permit<'_>> {
        if !self.config.enabled {
            return Some(Permit {
                breaker: None,
                probe: None,
            });
        }
        let mut probe = None;
        if self.state.load(Ordering::Acquire) != CLOSED {
            let Some(round) = self.probe(now) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            };
            probe = round;
        }
        Some(Permit {
            breaker: Some(self),
            probe,
        })
    }

    /// The round of a probe; `Some(None)` where it has closed meanwhile.
    fn probe(&self, now: u64) -> Option<Option<u64>> {
        let mut control = self.control.lock();
        match self.state.load(Ordering::Acquire) {
            CLOSED => return Some(None),
            OPEN if now < control.until => return None,
            OPEN => {
                (control.out, control.well) = (0, 0);
                control.round += 1;
                self.turn_to(HALF_OPEN);
            }
            _ => {}
        }
        if control.out + control.well >= self.config.probes {
            return None;
        }
        control.out += 1;
        Some(Some(control.round))
    }

    fn turn_to(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        let state = Self::named(state);
        tracing::debug!(?state, "redis circuit breaker");
        self.states.send_replace(state);
        self.events.changed.notify_one();
    }

    const fn named(state: u8) -> BreakerState {
        match state {
            CLOSED => BreakerState::Closed,
            OPEN => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }

    fn millis(duration: std::time::Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }

    fn turn(&self, now: u64) -> u64 {
        // From 1, since 0 is a bucket that was never used.
        now / (Self::millis(self.config.window) / BUCKETS as u64).max(1) + 1
    }

    fn count(&self, went: Went, now: u64) {
        let turn = self.turn(now);
        let bucket = &self.buckets[usize::try_from(turn).unwrap_or(0) % BUCKETS];
        let used = bucket.turn.load(Ordering::Acquire);
        if used != turn
            && bucket
                .turn
                .compare_exchange(used, turn, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            bucket.calls.store(0, Ordering::Relaxed);
            bucket.failed.store(0, Ordering::Relaxed);
            bucket.slow.store(0, Ordering::Relaxed);
        }
        bucket.calls.fetch_add(1, Ordering::Relaxed);
        let worse = match went {
            Went::Well => return,
            Went::Slowly => &bucket.slow,
            Went::Wrong => &bucket.failed,
        };
        worse.fetch_add(1, Ordering::Relaxed);
        self.assess(turn, now);
    }

    fn assess(&self, turn: u64, now: u64) {
        let (mut calls, mut failed, mut slow) = (0_u64, 0_u64, 0_u64);
        let recent = |bucket: &&Bucket| {
            let used = bucket.turn.load(Ordering::Relaxed);
            used > 0 && used <= turn && turn - used < BUCKETS as u64
        };
        for bucket in self.buckets.iter().filter(recent) {
            calls += u64::from(bucket.calls.load(Ordering::Relaxed));
            failed += u64::from(bucket.failed.load(Ordering::Relaxed));
            slow += u64::from(bucket.slow.load(Ordering::Relaxed));
        }
        if calls < u64::from(self.config.min_calls) {
            return;
        }
        let share = |of: u64| of as f64 / calls as f64;
        let reason = if share(failed) >= self.config.failure_rate {
            BreakerReason::Failures
        } else if share(failed + slow) >= self.config.slow_call_rate {
            BreakerReason::SlowCalls
        } else {
            return;
        };
        let mut control = self.control.lock();
        if self.state.load(Ordering::Acquire) == CLOSED {
            self.open(&mut control, reason, now);
        }
    }

    fn open(&self, control: &mut Control, reason: BreakerReason, now: u64) {
        control.until = now.saturating_add(Self::millis(self.config.open_for));
        control.opened += 1;
        control.round += 1;
        control.reason = Some(reason);
        self.turn_to(OPEN);
    }

    fn probed(&self, round: u64, went: Option<Went>, now: u64) {
        let mut control = self.control.lock();
        if control.round != round || self.state.load(Ordering::Acquire) != HALF_OPEN {
            return;
        }
        control.out = control.out.saturating_sub(1);
        match went {
            None => {}
            Some(Went::Well) => {
                control.well += 1;
                if control.well >= self.config.probes {
                    // What was counted before it opened says nothing of now.
                    for bucket in &self.buckets {
                        bucket.turn.store(0, Ordering::Release);
                    }
                    self.turn_to(CLOSED);
                }
            }
            Some(_) => self.open(&mut control, BreakerReason::Probe, now),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<BreakerState> {
        self.states.subscribe()
    }

    /// Whether a call would be refused that is no probe either.
    pub(crate) fn is_open(&self, now: u64) -> bool {
        self.state.load(Ordering::Acquire) == OPEN && now < self.control.lock().until
    }

    pub(crate) fn stats(&self) -> BreakerStats {
        let control = self.control.lock();
        BreakerStats {
            state: Self::named(self.state.load(Ordering::Acquire)),
            opened: control.opened,
            reason: control.reason,
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// How a call that took so long and did not fail went.
    fn pace(&self, took: u64) -> Went {
        if took >= Self::millis(self.config.slow_call) {
            Went::Slowly
        } else {
            Went::Well
        }
    }
}

impl Permit<'_> {
    /// Says how the call went: `failed`, and how many milliseconds it took.
    pub(crate) fn ended(mut self, failed: bool, took: u64, now: u64) {
        let Some(breaker) = self.breaker.take() else {
            return;
        };
        let went = if failed {
            Went::Wrong
        } else {
            breaker.pace(took)
        };
        match self.probe.take() {
            Some(round) => breaker.probed(round, Some(went), now),
            None if breaker.state.load(Ordering::Acquire) == CLOSED => breaker.count(went, now),
            // It began before the breaker opened, and its end is no news.
            None => {}
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let (Some(breaker), Some(round)) = (self.breaker.take(), self.probe.take()) {
            breaker.probed(round, None, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn breaker() -> Breaker {
        Breaker::new(
            BreakerConfig {
                enabled: true,
                failure_rate: 0.5,
                slow_call: Duration::from_millis(100),
                slow_call_rate: 0.8,
                window: Duration::from_secs(10),
                min_calls: 4,
                open_for: Duration::from_secs(1),
                probes: 2,
            },
            &Arc::default(),
        )
    }

    fn call(breaker: &Breaker, failed: bool, took: u64, now: u64) -> bool {
        let Some(permit) = breaker.permit(now) else {
            return false;
        };
        permit.ended(failed, took, now);
        true
    }

    fn opened() -> Breaker {
        let breaker = breaker();
        for _ in 0..4 {
            assert!(call(&breaker, true, 1, 5000));
        }
        assert_eq!(breaker.stats().state, BreakerState::Open);
        breaker
    }

    #[test]
    fn it_opens_by_failures_and_closes_after_its_probes() {
        let breaker = opened();
        assert_eq!(breaker.stats().reason, Some(BreakerReason::Failures));
        assert!(!call(&breaker, false, 1, 5999));
        let first = breaker.permit(6000).unwrap();
        let second = breaker.permit(6000).unwrap();
        assert!(breaker.permit(6000).is_none(), "two probes, not three");
        first.ended(false, 1, 6000);
        assert!(breaker.permit(6000).is_none());
        second.ended(false, 1, 6000);
        assert_eq!(breaker.stats().state, BreakerState::Closed);
        // The failures of before are forgotten.
        assert!(call(&breaker, true, 1, 6000));
        assert_eq!(breaker.stats().state, BreakerState::Closed);
    }

    #[test]
    fn it_opens_by_slowness_and_a_slow_probe_opens_it_again() {
        let breaker = breaker();
        for took in [1, 100, 200, 300] {
            assert!(call(&breaker, false, took, 0));
        }
        assert_eq!(breaker.stats().state, BreakerState::Closed);
        call(&breaker, false, 100, 0);
        assert_eq!(breaker.stats().reason, Some(BreakerReason::SlowCalls));
        call(&breaker, false, 100, 1000);
        assert_eq!(breaker.stats().reason, Some(BreakerReason::Probe));
        assert_eq!(breaker.stats().opened, 2);
        assert!(!call(&breaker, false, 1, 1999));
    }

    #[test]
    fn a_probe_that_is_dropped_makes_room_for_another() {
        let breaker = opened();
        for _ in 0..10 {
            drop(breaker.permit(7000).unwrap());
        }
        assert!(call(&breaker, false, 1, 7000) && call(&breaker, false, 1, 7000));
        assert_eq!(breaker.stats().state, BreakerState::Closed);
    }

    #[test]
    fn what_left_the_window_does_not_count() {
        let breaker = breaker();
        for at in 0..3 {
            call(&breaker, true, 1, at);
        }
        call(&breaker, true, 1, 11_000);
        assert_eq!(breaker.stats().state, BreakerState::Closed);
    }

    #[test]
    fn a_call_from_before_it_opened_changes_nothing() {
        let breaker = breaker();
        let old = breaker.permit(0).unwrap();
        for _ in 0..4 {
            call(&breaker, true, 1, 0);
        }
        old.ended(false, 1, 0);
        assert_eq!(breaker.stats().state, BreakerState::Open);
    }

    proptest! {
        /// However calls come and go, it never lets more probes out than it may, never opens below
        /// the least number of calls, and is usable again once calls succeed.
        #[test]
        fn it_always_recovers(steps in proptest::collection::vec((0_u8..4, 0_u64..900), 1..200)) {
            let breaker = breaker();
            let (mut now, mut held) = (0, Vec::new());
            for (what, later) in steps {
                now += later;
                match what {
                    0 => held.extend(breaker.permit(now)),
                    1 => { call(&breaker, true, 1, now); }
                    2 => { call(&breaker, false, 1, now); }
                    _ => drop(held.pop()),
                }
                prop_assert!(held.iter().filter(|permit| permit.probe == Some(breaker.control.lock().round)).count() <= 2);
            }
            held.clear();
            now += 1000;
            prop_assert!((0..4).any(|_| call(&breaker, false, 1, now)));
            for _ in 0..4 { call(&breaker, false, 1, now); }
            prop_assert_eq!(breaker.stats().state, BreakerState::Closed);
        }
    }
}
