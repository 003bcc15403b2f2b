//! How long an upstream takes, added up to windows, from which its limit is learnt.

use super::adaptive::Adaptive;
use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Requests of a window, if the limit is as large.
const MAX_WINDOW: usize = 64;
const MIN_WINDOW: usize = 8;
/// How long an upstream that has reached its limit may say nothing before it gets more.
pub(super) const SILENCE: Duration = Duration::from_secs(1);
/// Parts of a doubling in which latencies are added up: their sum must be a whole number.
const LOG_UNIT: f64 = 1024.0;

/// Of one upstream.
pub(super) struct Meter {
    epoch: Instant,
    /// Milliseconds after the epoch at which the upstream last answered anything.
    last: AtomicU64,
    /// The number of the window. Only requests that began in it count in it, so that what it tells is
    /// the effect of one limit.
    window: AtomicU32,
    count: AtomicUsize,
    logs: AtomicU64,
    reached: AtomicBool,
    /// Locked at a window's end only, by whoever ends it, and never waited for.
    adaptive: Mutex<Adaptive>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            last: AtomicU64::new(0),
            window: AtomicU32::new(0),
            count: AtomicUsize::new(0),
            logs: AtomicU64::new(0),
            reached: AtomicBool::new(false),
            adaptive: Mutex::new(Adaptive::new()),
        }
    }

    /// The number of the window that a request begins in.
    pub(super) fn window(&self) -> u32 {
        self.window.load(Ordering::Relaxed)
    }

    /// A request was kept waiting, or refused.
    pub(super) fn limit_was_reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes a latency; the new limit, if it ends a window.
    pub(super) fn note(&self, window: u32, took: Duration, limit: usize) -> Option<usize> {
        self.last.store(self.now(), Ordering::Relaxed);
        if window != self.window.load(Ordering::Relaxed) {
            return None;
        }
        // Microseconds from one on, whose logarithm is not negative.
        let micros = took.as_micros().max(1) as f64;
        self.logs
            .fetch_add((micros.log2() * LOG_UNIT) as u64, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count < (limit / 2).clamp(MIN_WINDOW, MAX_WINDOW) {
            return None;
        }
        let mut adaptive = self.adaptive.try_lock()?;
        if window != self.window.load(Ordering::Relaxed) {
            return None;
        }
        // Others may add to the old window meanwhile: a latency too many does not matter.
        let count = self.count.swap(0, Ordering::Relaxed).max(1);
        let logs = self.logs.swap(0, Ordering::Relaxed);
        let reached = self.reached.swap(false, Ordering::Relaxed);
        self.window.fetch_add(1, Ordering::Relaxed);
        let seconds = (logs as f64 / LOG_UNIT / count as f64).exp2() / 1e6;
        Some(adaptive.next(seconds, reached))
    }

    /// The raised limit, if the upstream has not answered anything for long.
    pub(super) fn limit_after_silence(&self) -> Option<usize> {
        let (now, last) = (self.now(), self.last.load(Ordering::Relaxed));
        let silence = u64::try_from(SILENCE.as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(last) < silence {
            return None;
        }
        // One of those who see it raises the limit, and the next not before a second.
        self.last
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        Some(self.adaptive.try_lock()?.raise())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::adaptive::INITIAL_LIMIT, *};

    #[test]
    fn a_few_slow_responses_among_many_fast_ones_are_no_overload() {
        let meter = Meter::new();
        let mut limit = INITIAL_LIMIT;
        for number in 0..20_000_u32 {
            meter.limit_was_reached();
            let took = if number.is_multiple_of(20) {
                Duration::from_secs(20)
            } else {
                Duration::from_millis(5)
            };
            limit = meter.note(meter.window(), took, limit).unwrap_or(limit);
            assert!(limit >= INITIAL_LIMIT / 2, "{limit}");
        }
        assert!(limit > 2 * INITIAL_LIMIT, "{limit}");
    }
}
