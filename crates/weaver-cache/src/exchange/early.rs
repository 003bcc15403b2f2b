//! Early refresh: XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede
//! Prevention, VLDB 2015).
//!
//! Each request decides by itself, at random, whether the response is to be refreshed before its
//! freshness ends: the nearer the end and the longer the fetch took, the more likely. Where requests
//! are many one of them does it in time, and nobody waits; where they are few nothing is fetched that
//! nobody may want.

use crate::{Rule, entry::Entry};
use weaver_cache_policy::Millis;

/// What -ln of a random number exceeds once in 500 million draws: no draw is made before it matters.
const FARTHEST: f64 = 20.0;

/// Whether a fresh response is to be refreshed now.
pub(super) fn is_due(rule: &Rule, entry: &Entry, now: Millis) -> bool {
    let beta = f64::from(rule.early_refresh);
    if beta <= 0.0 {
        return false;
    }
    let left = entry.head.lifetime.ttl(now) as f64;
    let took = entry.fill_micros as f64 / 1000.0;
    left < took * beta * FARTHEST && is_drawn(took * beta, left, fastrand::f64())
}

/// The paper's test: `now - delta * beta * ln(random) >= expiry`.
fn is_drawn(gap: f64, left: f64, random: f64) -> bool {
    // random() is in [0, 1) here and in (0, 1] there.
    -gap * (1.0 - random).ln() >= left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds that clients wait for around expiry, and fetches, of one key whose fetch takes
    /// 200 ms and whose freshness is 10 s, at 100 requests a second for an hour.
    fn simulate(beta: f64, lock: bool) -> (f64, u32) {
        let (took, fresh, every, end) = (200.0, 10_000.0, 10.0, 3_600_000.0);
        let mut random = fastrand::Rng::with_seed(7);
        let (mut now, mut expiry, mut waited, mut fetches) = (0.0, 0.0, 0.0, 0);
        // When the fetches under way end, each with what it brings.
        let mut under_way: Vec<f64> = Vec::new();
        while now < end {
            under_way.retain(|ends: &f64| {
                if *ends <= now {
                    expiry = ends + fresh;
                }
                *ends > now
            });
            let left = expiry - now;
            let missed = left <= 0.0;
            let early = !missed && beta > 0.0 && is_drawn(took * beta, left, random.f64());
            if (missed || early) && (under_way.is_empty() || !lock) {
                under_way.push(now + took);
                fetches += 1;
            }
            if missed {
                waited += under_way
                    .iter()
                    .fold(f64::MAX, |first, ends| first.min(*ends))
                    - now;
            }
            now += every;
        }
        (waited, fetches)
    }

    #[test]
    fn early_refresh_spares_the_waiting_that_plain_expiry_and_a_lock_cost() {
        let (plain, lock, early) = (
            simulate(0.0, false),
            simulate(0.0, true),
            simulate(1.0, true),
        );
        println!("plain expiry: {plain:?}; a lock: {lock:?}; XFetch with it: {early:?}");
        // Without a lock every request of the 200 ms fetches.
        assert!(plain.1 > 15 * lock.1);
        assert!(early.0 < lock.0 / 20.0);
        assert!(early.1 < lock.1 * 11 / 10);
    }

    #[test]
    fn the_chance_rises_towards_the_end() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut share = |left: f64| {
            let drawn = (0..20_000).filter(|_| is_drawn(100.0, left, random.f64()));
            drawn.count() as f64 / 20_000.0
        };
        // exp(-left / gap)
        assert!((share(100.0) - 0.368).abs() < 0.02);
        assert!((share(300.0) - 0.050).abs() < 0.01);
        assert!(share(0.0) > 0.999);
    }
}
