//! The Date field, written anew once a second.

use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use weaver_cache::policy::{Millis, date};

/// A worker's date.
#[derive(Debug, Default)]
pub(super) struct DateCache(RefCell<Option<Cached>>);

#[derive(Debug)]
struct Cached {
    text: String,
    until: Instant,
}

impl DateCache {
    /// Gives `use_it` the date in the form of a field's value.
    pub(super) fn with<R>(&self, now: Instant, use_it: impl FnOnce(&str) -> R) -> R {
        let mut cached = self.0.borrow_mut();
        let current = match cached.take() {
            Some(current) if now < current.until => current,
            _ => fresh(now),
        };
        use_it(&cached.insert(current).text)
    }
}

fn fresh(now: Instant) -> Cached {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let rest = Duration::from_nanos(u64::from(1_000_000_000 - since.subsec_nanos()));
    Cached {
        text: date::format(Millis(millis)),
        until: now + rest,
    }
}
