//! How many requests an upstream is given at once, learnt from how long it takes.
//!
//! An upstream that works at its capacity answers more slowly with each further request, and no more
//! of them. One that is merely slow does not. Latency alone cannot tell the two apart, so the limit is
//! moved to find out, after the idea of gradient limits (Netflix's concurrency-limits, TCP Vegas):
//!
//! - While latency is near the least that is known, a limit that was reached grows.
//! - When latency has risen, the limit is lowered by a step. If latency falls with it, requests were
//!   queueing in the upstream: the limit goes on down to where latency falls no more, which is the
//!   upstream's capacity, and its latency there is learnt anew. If latency stays as it was, the upstream
//!   is slow and not overloaded: the step is taken back, and its latency is the new normal.
//!
//! Latency is the geometric mean over a window of requests that began under one limit: a few slow ones
//! among many fast ones must not look like overload. A limit that was not reached is never lowered,
//! because nothing is known against it.

/// The least that an upstream is given.
pub(super) const MIN_LIMIT: usize = 4;
/// The most, where the configuration gives no number.
pub(super) const MAX_LIMIT: usize = 1024;
/// What an upstream is given of which nothing is known: enough for a slow one that many ask at once.
pub(super) const INITIAL_LIMIT: usize = 256;

/// How much slower than its best an upstream may be before the limit is doubted.
const TOLERANCE: f64 = 2.0;
/// Seconds that are always tolerated besides: below this, queueing harms nobody.
const SLACK: f64 = 0.1;
/// The share of itself by which a limit grows.
const GROWTH: f64 = 0.1;
/// What a step down leaves of the limit.
const STEP: f64 = 0.7;
/// The share of a step by which latency must fall to show that the step has helped.
const HELPS: f64 = 0.5;

#[derive(Debug)]
pub(super) struct Adaptive {
    limit: f64,
    /// Seconds that the upstream takes when it is not overloaded, as far as is known.
    base: Option<f64>,
    /// Whether a step down has ever told where the base comes from.
    tried: bool,
    /// The limit and the latency before the step down that is being tried.
    before: Option<(f64, f64)>,
}

impl Adaptive {
    pub(super) fn new() -> Self {
        Self {
            limit: INITIAL_LIMIT as f64,
            base: None,
            tried: false,
            before: None,
        }
    }

    /// The limit after a window with that mean latency in seconds, in which the limit was `reached` or
    /// not.
    pub(super) fn next(&mut self, latency: f64, reached: bool) -> usize {
        match self.before.take() {
            Some(before) => self.judge_step(before, latency),
            None => self.judge_window(latency, reached),
        }
        self.limit()
    }

    /// Raises the limit where the upstream has said nothing for long: silence is no overload.
    pub(super) fn raise(&mut self) -> usize {
        self.before = None;
        self.set(self.limit * 1.5);
        self.limit()
    }

    fn limit(&self) -> usize {
        // Between the two constants, so that nothing is lost.
        self.limit as usize
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(MIN_LIMIT as f64, MAX_LIMIT as f64);
    }

    fn judge_window(&mut self, latency: f64, reached: bool) {
        let base = *self.base.get_or_insert(latency);
        if latency < base {
            // By halves: the best of many windows would be better than what is usual.
            self.base = Some((base + latency) / 2.0);
        } else if !reached {
            self.base = Some(base + (latency - base) / 20.0);
        }
        if !reached {
            return;
        }
        if latency > base * TOLERANCE + SLACK || !self.tried {
            self.step_down(latency);
        } else {
            self.set(self.limit + (self.limit * GROWTH).max(1.0));
        }
    }

    fn step_down(&mut self, latency: f64) {
        self.tried = true;
        if self.limit > MIN_LIMIT as f64 {
            self.before = Some((self.limit, latency));
            self.set((self.limit * STEP).floor());
        }
    }

    fn judge_step(&mut self, (limit, before): (f64, f64), latency: f64) {
        let fall = HELPS * (1.0 - self.limit / limit);
        if latency <= before * (1.0 - fall) {
            self.base = Some(self.base.map_or(latency, |base| base.min(latency)));
            self.step_down(latency);
        } else {
            self.base = Some(latency);
            self.set(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of an upstream that serves so many at once in so many seconds, and is asked for more
    /// than it can do.
    fn saturate(adaptive: &mut Adaptive, servers: f64, service: f64, windows: usize) -> Vec<usize> {
        (0..windows)
            .map(|_| {
                let queueing = (adaptive.limit() as f64 / servers).max(1.0);
                adaptive.next(service * queueing, true)
            })
            .collect()
    }

    #[test]
    fn an_upstream_whose_latency_is_constant_sees_its_limit_grow() {
        for latency in [0.001, 0.2, 20.0] {
            let mut adaptive = Adaptive::new();
            let limits = saturate(&mut adaptive, 1e9, latency, 40);
            assert_eq!(limits.last(), Some(&MAX_LIMIT), "{latency}: {limits:?}");
            assert!(
                limits.iter().all(|limit| *limit >= INITIAL_LIMIT * 6 / 10),
                "{latency}: {limits:?}"
            );
        }
    }

    #[test]
    fn a_limit_that_is_not_reached_is_never_lowered() {
        let mut adaptive = Adaptive::new();
        for latency in [0.01, 5.0, 0.01, 30.0, 60.0] {
            assert_eq!(adaptive.next(latency, false), INITIAL_LIMIT);
        }
    }

    #[test]
    fn an_overloaded_upstream_is_given_what_it_can_do_and_a_little_more() {
        // Ten at a time, 20 ms each: the tolerance allows for 140 ms, so for 70 of them.
        let mut adaptive = Adaptive::new();
        let limits = saturate(&mut adaptive, 10.0, 0.02, 300);
        assert!(
            limits[40..].iter().all(|limit| (7..=80).contains(limit)),
            "{limits:?}"
        );
    }

    #[test]
    fn an_upstream_that_became_slower_is_not_taken_for_an_overloaded_one() {
        let mut adaptive = Adaptive::new();
        saturate(&mut adaptive, 1e9, 0.005, 10);
        let before = adaptive.limit();
        let limits = saturate(&mut adaptive, 1e9, 5.0, 20);
        assert!(
            limits.iter().all(|limit| *limit >= before * 6 / 10),
            "{limits:?}"
        );
        assert!(*limits.last().unwrap() > before, "{limits:?}");
    }

    #[test]
    fn an_upstream_that_recovers_gets_its_limit_back() {
        let mut adaptive = Adaptive::new();
        saturate(&mut adaptive, 10.0, 0.02, 100);
        let limits = saturate(&mut adaptive, 500.0, 0.02, 100);
        assert!(limits.last().unwrap() > &400, "{limits:?}");
    }

    proptest::proptest! {
        #[test]
        fn the_limit_stays_within_its_bounds(
            windows in proptest::collection::vec((0.0_f64..100.0, proptest::bool::ANY), 0..300)
        ) {
            let mut adaptive = Adaptive::new();
            for (latency, reached) in windows {
                let limit = adaptive.next(latency, reached);
                proptest::prop_assert!((MIN_LIMIT..=MAX_LIMIT).contains(&limit));
            }
        }

        #[test]
        fn noise_does_not_take_a_healthy_upstream_its_limit(
            noise in proptest::collection::vec(0.8_f64..1.25, 200)
        ) {
            let mut adaptive = Adaptive::new();
            for noise in noise {
                let limit = adaptive.next(2.0 * noise, true);
                proptest::prop_assert!(limit >= INITIAL_LIMIT / 4, "{}", limit);
            }
        }
    }
}
