//! How often it is told of that records are refused.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Between two times that it is told of. Whoever can write to Redis can have as many refused as he
/// likes; the log is not his to fill.
const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Refused(Mutex<State>);

#[derive(Default)]
struct State {
    told_at: Option<Instant>,
    count: u64,
}

impl Refused {
    /// Counts one more. Says how many there were since it was last told of, if it is to be told of now.
    pub(super) fn tell(&self) -> Option<u64> {
        self.tell_at(Instant::now())
    }

    fn tell_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        state.count += 1;
        let is_soon = |at: Instant| now.saturating_duration_since(at) < INTERVAL;
        if state.told_at.is_some_and(is_soon) {
            return None;
        }
        state.told_at = Some(now);
        Some(std::mem::take(&mut state.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_at_once_and_then_once_an_interval_with_a_count() {
        let (refused, now) = (Refused::default(), Instant::now());
        assert_eq!(refused.tell_at(now), Some(1));
        assert_eq!(refused.tell_at(now), None);
        assert_eq!(refused.tell_at(now + INTERVAL / 2), None);
        assert_eq!(refused.tell_at(now + INTERVAL), Some(3));
    }
}
