//! May this stored response answer this request now? (RFC 9111 §4, §5.2.1; RFC 5861)

use crate::{
    Flags, Headers, Lifetime, Millis, Policy,
    directives::{MAX_DELTA, RequestDirectives},
};

/// What a request asks of the cache, after the route's policy has had its say. Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    max_age: Option<u64>,
    max_stale: Option<u64>,
    min_fresh: u64,
    stale_if_error: Option<u64>,
    /// The request insists on validation.
    pub no_cache: bool,
    /// The request's response must not be stored.
    pub no_store: bool,
    /// The request must not reach the origin.
    pub only_if_cached: bool,
}

impl Wishes {
    /// A request that asks for nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            max_age: None,
            max_stale: None,
            min_fresh: 0,
            stale_if_error: None,
            no_cache: false,
            no_store: false,
            only_if_cached: false,
        }
    }

    /// Reads a request's directives. Costs two look-ups where there are none.
    #[must_use]
    pub fn of(headers: &(impl Headers + ?Sized), policy: &Policy) -> Self {
        if !headers.has("cache-control") && !headers.has("pragma") {
            return Self::none();
        }
        let asks = RequestDirectives::of(headers);
        let forced = policy.client_may_force;
        Self {
            max_age: asks
                .max_age
                .filter(|_| forced)
                .map(|seconds| seconds * 1000),
            max_stale: asks.max_stale.map(|seconds| {
                policy.within_max_stale(if seconds == MAX_DELTA {
                    u64::MAX
                } else {
                    seconds * 1000
                })
            }),
            min_fresh: asks.min_fresh.filter(|_| forced).unwrap_or(0) * 1000,
            stale_if_error: asks
                .stale_if_error
                .map(|seconds| policy.within_max_stale(seconds * 1000)),
            no_cache: asks.no_cache && forced,
            no_store: asks.no_store,
            only_if_cached: asks.only_if_cached,
        }
    }
}

/// What to do with a stored response that the request selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Serve it.
    Fresh,
    /// Serve it although it is stale: the request's `max-stale` allows it (RFC 9111 §5.2.1.2).
    Stale,
    /// Serve it and refresh it meanwhile (RFC 5861 §3).
    StaleWhileRevalidate,
    /// Ask the origin first (RFC 9111 §4.3).
    Revalidate,
}

/// Decides.
#[must_use]
pub fn decide(stored: &Lifetime, wishes: &Wishes, now: Millis) -> Decision {
    let age = stored.age(now);
    // RFC 8246: what is immutable and fresh needs no validation on a reload, which browsers send as
    // max-age=0. An explicit no-cache still reaches the origin.
    let immutable = stored.flags.has(Flags::IMMUTABLE);
    let too_old = wishes
        .max_age
        .is_some_and(|limit| age > limit || (limit == 0 && !immutable));
    if stored.flags.has(Flags::NO_CACHE) || wishes.no_cache || stored.is_ahead(now) {
        return Decision::Revalidate;
    }
    if age < stored.fresh_for {
        let enough = stored.fresh_for - age >= wishes.min_fresh;
        return if enough && !too_old {
            Decision::Fresh
        } else {
            Decision::Revalidate
        };
    }
    let staleness = age - stored.fresh_for;
    if stored.flags.has(Flags::MUST_REVALIDATE) || too_old || wishes.min_fresh > 0 {
        return Decision::Revalidate;
    }
    if wishes.max_stale.is_some_and(|limit| staleness <= limit) {
        return Decision::Stale;
    }
    if staleness < stored.stale_while_revalidate {
        return Decision::StaleWhileRevalidate;
    }
    Decision::Revalidate
}

/// Whether a response that has just come, or was just confirmed, may answer other requests than the
/// one that brought it, which waited for it.
///
/// An unqualified `no-cache` forbids that: each request has to be forwarded for itself
/// (RFC 9111 §5.2.2.4).
#[must_use]
pub fn may_answer_others(arrived: &Lifetime) -> bool {
    !arrived.flags.has(Flags::NO_CACHE)
}

/// Whether a request that waited for a response takes it as it came from the origin. Asking again
/// would bring nothing fresher, so only its age counts (RFC 9111 §5.2.1.1), in whole seconds.
#[must_use]
pub fn accepts(arrived: &Lifetime, wishes: &Wishes, now: Millis) -> bool {
    let age = arrived.age(now) / 1000 * 1000;
    !wishes.no_cache && wishes.max_age.is_none_or(|limit| age <= limit)
}

/// How a fetch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The origin was asked.
    Answer,
    /// It is known to be failing, and was not asked.
    Known,
}

/// Whether a stored response may stand in for a failed fetch (RFC 9111 §4.2.4, RFC 5861 §4).
///
/// A failure is no answer, or one of 500, 502, 503 and 504.
#[must_use]
pub fn may_replace_error(
    stored: &Lifetime,
    wishes: &Wishes,
    now: Millis,
    failure: Failure,
) -> bool {
    if stored.flags.has(Flags::NO_CACHE) || wishes.no_cache || stored.is_ahead(now) {
        return false;
    }
    let age = stored.age(now);
    if age < stored.fresh_for {
        return true;
    }
    if stored.flags.has(Flags::MUST_REVALIDATE) {
        return false;
    }
    let granted = wishes.stale_if_error.unwrap_or(stored.stale_if_error);
    let granted = match failure {
        Failure::Answer => granted,
        Failure::Known => granted.max(stored.grace),
    };
    age - stored.fresh_for < granted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifetime::CLOCK_TOLERANCE;
    use proptest::prelude::*;

    const AT: Millis = Millis(1_000_000_000);

    fn minute(flags: Flags) -> Lifetime {
        Lifetime {
            received_at: AT,
            fresh_for: 60_000,
            stale_while_revalidate: 10_000,
            stale_if_error: 100_000,
            flags,
            ..Lifetime::default()
        }
    }

    fn wishes(value: &str) -> Wishes {
        Wishes::of(&[("cache-control", value)][..], &Policy::standard())
    }

    #[test]
    fn what_has_just_come_answers_others_unless_it_says_no_cache() {
        let plain = minute(Flags::default());
        let no_cache = minute(Flags::default().with(Flags::NO_CACHE, true));
        assert!(may_answer_others(&plain) && !may_answer_others(&no_cache));
        assert!(accepts(&plain, &wishes("max-age=0"), AT));
        assert!(accepts(&plain, &wishes("min-fresh=600"), AT));
        assert!(!accepts(&plain, &wishes("no-cache"), AT));
        let aged = Lifetime {
            initial_age: 30_000,
            ..plain
        };
        assert!(accepts(&aged, &wishes("max-age=30"), AT));
        assert!(!accepts(&aged, &wishes("max-age=29"), AT));
    }

    #[test]
    fn a_response_is_fresh_to_the_last_millisecond_and_stale_after() {
        let stored = minute(Flags::default());
        assert_eq!(
            decide(&stored, &Wishes::none(), AT.plus(59_999)),
            Decision::Fresh
        );
        assert_eq!(
            decide(&stored, &Wishes::none(), AT.plus(60_000)),
            Decision::StaleWhileRevalidate
        );
        assert_eq!(
            decide(&stored, &Wishes::none(), AT.plus(70_000)),
            Decision::Revalidate
        );
    }

    #[test]
    fn request_directives_narrow_and_widen() {
        let stored = minute(Flags::default());
        let at = |value, seconds| decide(&stored, &wishes(value), AT.plus_secs(seconds));
        assert_eq!(at("max-age=10", 10), Decision::Fresh);
        assert_eq!(at("max-age=10", 11), Decision::Revalidate);
        assert_eq!(at("max-age=0", 0), Decision::Revalidate);
        assert_eq!(at("min-fresh=50", 10), Decision::Fresh);
        assert_eq!(at("min-fresh=51", 10), Decision::Revalidate);
        assert_eq!(at("max-stale=30", 90), Decision::Stale);
        assert_eq!(at("max-stale=30", 91), Decision::Revalidate);
        assert_eq!(at("max-stale", 10_000), Decision::Stale);
        assert_eq!(at("no-cache", 0), Decision::Revalidate);
    }

    #[test]
    fn a_route_can_keep_clients_from_forcing_the_cache() {
        let policy = Policy {
            client_may_force: false,
            ..Policy::standard()
        };
        let wishes = Wishes::of(
            &[("cache-control", "no-cache, max-age=0, min-fresh=99")][..],
            &policy,
        );
        assert_eq!(
            decide(&minute(Flags::default()), &wishes, AT),
            Decision::Fresh
        );
    }

    #[test]
    fn an_immutable_response_is_not_revalidated_by_a_reload() {
        assert_eq!(
            decide(&minute(Flags::IMMUTABLE), &wishes("max-age=0"), AT),
            Decision::Fresh
        );
        assert_eq!(
            decide(&minute(Flags::IMMUTABLE), &wishes("no-cache"), AT),
            Decision::Revalidate
        );
    }

    #[test]
    fn a_policy_limits_what_requests_grant() {
        let policy = Policy {
            max_stale: Some(20),
            ..Policy::standard()
        };
        let stored = minute(Flags::default());
        let wishes = Wishes::of(
            &[("cache-control", "max-stale, stale-if-error=90")][..],
            &policy,
        );
        let at = |seconds: u64| AT.plus_secs(60 + seconds);
        assert_eq!(decide(&stored, &wishes, at(20)), Decision::Stale);
        assert_eq!(decide(&stored, &wishes, at(21)), Decision::Revalidate);
        assert!(may_replace_error(&stored, &wishes, at(19), Failure::Answer));
        assert!(!may_replace_error(
            &stored,
            &wishes,
            at(20),
            Failure::Answer
        ));
    }

    #[test]
    fn grace_is_for_an_origin_that_is_known_to_fail() {
        let stored = Lifetime {
            grace: 200_000,
            ..minute(Flags::default())
        };
        let at = |seconds: u64, failure| {
            let now = AT.plus_secs(60 + seconds);
            may_replace_error(&stored, &Wishes::none(), now, failure)
        };
        assert!(at(99, Failure::Answer) && !at(100, Failure::Answer));
        assert!(at(199, Failure::Known) && !at(200, Failure::Known));
        let strict = Lifetime {
            flags: Flags::MUST_REVALIDATE,
            ..stored
        };
        let now = AT.plus_secs(61);
        assert!(!may_replace_error(
            &strict,
            &Wishes::none(),
            now,
            Failure::Known
        ));
    }

    proptest! {
        /// Nothing is served past its limits.
        #[test]
        fn staleness_never_passes_what_was_granted(
            fresh in 0_u64..100_000, swr in 0_u64..50_000, initial in 0_u64..200_000, later in 0_u64..500_000,
            flags in 0_u8..4, max_stale in proptest::option::of(0_u64..60),
        ) {
            let stored = Lifetime { received_at: AT, initial_age: initial, fresh_for: fresh,
                stale_while_revalidate: swr, stale_if_error: 0, grace: 0, flags: Flags(flags) };
            let wishes = max_stale.map_or(Wishes::none(), |n| wishes(&format!("max-stale={n}")));
            let staleness = (initial + later).saturating_sub(fresh);
            let fresh_now = initial + later < fresh;
            match decide(&stored, &wishes, AT.plus(later)) {
                Decision::Fresh => prop_assert!(fresh_now && flags & 1 == 0),
                Decision::Stale => prop_assert!(flags == 0 && staleness <= max_stale.unwrap_or(0) * 1000),
                Decision::StaleWhileRevalidate => prop_assert!(flags == 0 && staleness < swr),
                Decision::Revalidate => {}
            }
            if may_replace_error(&stored, &wishes, AT.plus(later), Failure::Known) {
                prop_assert!(fresh_now && flags & 1 == 0);
            }
        }

        /// Age never runs backwards.
        #[test]
        fn age_grows_with_the_clock(initial in any::<u64>(), a in any::<u64>(), b in any::<u64>()) {
            let stored = Lifetime { received_at: AT, initial_age: initial, ..Lifetime::default() };
            let (early, late) = (a.min(b), a.max(b));
            prop_assert!(stored.age(AT.plus(early)) <= stored.age(AT.plus(late)));
        }

        /// Not by a clock that is set back either.
        #[test]
        fn a_clock_that_is_set_back_makes_nothing_fresh_again(
            back in CLOCK_TOLERANCE + 1..1_000_000_000, fresh in any::<u64>(), stale in any::<u64>(),
        ) {
            let stored = Lifetime { received_at: AT, fresh_for: fresh, stale_while_revalidate: stale,
                stale_if_error: stale, ..Lifetime::default() };
            let now = Millis(AT.0 - back);
            prop_assert_eq!(decide(&stored, &Wishes::none(), now), Decision::Revalidate);
            prop_assert!(!may_replace_error(&stored, &Wishes::none(), now, Failure::Known));
        }
    }
}
