//! The time of day in milliseconds, and durations in them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, by this node's clock and what is to be added to it.
pub(crate) fn unix_millis(offset: i64) -> u64 {
    let own = SystemTime::now().duration_since(UNIX_EPOCH);
    millis(own.unwrap_or_default()).saturating_add_signed(offset)
}

pub(crate) fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

/// As Redis wants them for a time to live.
pub(crate) fn signed_millis(of: Duration) -> i64 {
    i64::try_from(of.as_millis()).unwrap_or(i64::MAX)
}
