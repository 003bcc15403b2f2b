use crate::Millis;

/// Facts about a stored response that a decision needs, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// `no-cache`: never reuse without successful validation (RFC 9111 §5.2.2.4).
    pub const NO_CACHE: Self = Self(1);
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: never serve stale (§5.2.2.2, §5.2.2.8,
    /// §5.2.2.10).
    pub const MUST_REVALIDATE: Self = Self(2);
    /// `immutable`: a reload need not revalidate while fresh (RFC 8246).
    pub const IMMUTABLE: Self = Self(4);
    /// The freshness lifetime is a guess (§4.2.2).
    pub const HEURISTIC: Self = Self(8);
    /// The response has an ETag or a Last-Modified to validate with (§4.3.1).
    pub const VALIDATOR: Self = Self(16);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets the bits of `other` where `on`.
    #[must_use]
    pub const fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { self }
    }
}

/// How long a stored response may be used: computed once, when it arrives.
///
/// All durations are milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// When the response was received (RFC 9111 §4.2.3, `response_time`).
    pub received_at: Millis,
    /// Its age at that moment (`corrected_initial_age`).
    pub initial_age: u64,
    /// Its freshness lifetime (§4.2.1).
    pub fresh_for: u64,
    /// For how long after that it may be served while a refresh runs (RFC 5861 §3).
    pub stale_while_revalidate: u64,
    /// For how long after that it may be served in place of an error (RFC 5861 §4).
    pub stale_if_error: u64,
    /// For how long after that it may be served while the origin is known to be failing.
    pub grace: u64,
    /// What else matters.
    pub flags: Flags,
}

/// How far ahead of `now` a response may have been received, in milliseconds: clocks of nodes that
/// follow a common one differ by less.
pub(crate) const CLOCK_TOLERANCE: u64 = 2000;

impl Lifetime {
    /// The current age, `current_age` of RFC 9111 §4.2.3.
    ///
    /// A response that was received in the future tells that the clock was set back since. How old
    /// it is cannot be known then, and it counts as older than anything: it is validated, not served
    /// past its limits.
    #[must_use]
    pub const fn age(&self, now: Millis) -> u64 {
        if self.is_ahead(now) {
            return u64::MAX;
        }
        self.initial_age.saturating_add(now.since(self.received_at))
    }

    /// Whether the response was received in the future, by more than clocks may differ.
    pub(crate) const fn is_ahead(&self, now: Millis) -> bool {
        self.received_at.since(now) > CLOCK_TOLERANCE
    }

    /// Milliseconds of freshness left; negative once stale.
    #[must_use]
    pub fn ttl(&self, now: Millis) -> i64 {
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        clamp(self.fresh_for).saturating_sub(clamp(self.age(now)))
    }

    /// The same, with its freshness ended at that moment, if it had not ended before. What is granted
    /// beyond freshness counts from there.
    ///
    /// ```
    /// use weaver_cache_policy::{Lifetime, Millis};
    /// let received_at = Millis(1_000);
    /// let lifetime = Lifetime { received_at, fresh_for: 60_000, ..Lifetime::default() };
    /// let purged = lifetime.ended_at(Millis(5_000));
    /// assert_eq!((lifetime.ttl(Millis(7_000)), purged.ttl(Millis(7_000))), (54_000, -2_000));
    /// ```
    #[must_use]
    pub fn ended_at(self, moment: Millis) -> Self {
        let age = self
            .initial_age
            .saturating_add(moment.since(self.received_at));
        Self {
            fresh_for: self.fresh_for.min(age),
            ..self
        }
    }

    /// The instant after which the response is of no use at all, so that a store can drop it.
    ///
    /// A response with a validator is kept for `keep_validators` milliseconds past that, because a
    /// 304 is cheaper than a body.
    #[must_use]
    pub fn useful_until(&self, keep_validators: u64) -> Millis {
        let stale = if self.flags.has(Flags::MUST_REVALIDATE) || self.flags.has(Flags::NO_CACHE) {
            0
        } else {
            self.stale_while_revalidate
                .max(self.stale_if_error)
                .max(self.grace)
        };
        let kept = if self.flags.has(Flags::VALIDATOR) {
            keep_validators
        } else {
            0
        };
        let fresh = self.fresh_for.saturating_sub(self.initial_age);
        self.received_at.plus(fresh).plus(stale.max(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_that_was_ended_counts_from_then() {
        let lifetime = Lifetime {
            received_at: Millis(10_000),
            initial_age: 500,
            fresh_for: 60_000,
            ..Lifetime::default()
        };
        let (before, moment, later) = (Millis(9_000), Millis(30_000), Millis(31_000));
        let ended = lifetime.ended_at(moment);
        assert_eq!((ended.ttl(moment), ended.ttl(later)), (0, -1000));
        assert_eq!(ended.age(later), lifetime.age(later));
        // What had ended by itself has ended earlier.
        let long_after = Millis(100_000);
        assert_eq!(lifetime.ended_at(long_after), lifetime);
        // It is not fresh at all if that was before it came.
        assert_eq!(lifetime.ended_at(before).ttl(lifetime.received_at), 0);
    }
}
