//! Rate limits by identity, or by address where nobody is known (governor's GCRA).

use crate::config::RateLimitConfig;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};
use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Whom a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    User(Arc<str>),
    Address(IpAddr),
}

impl Subject {
    /// An address as it is counted: of IPv6 the network, since a client has a whole /64.
    pub(crate) fn address(address: IpAddr) -> Self {
        // An IPv4 client of a socket that takes both has a mapped address, all in one /64.
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            v4 => v4,
        })
    }
}

type Governor =
    RateLimiter<Subject, DashMapStateStore<Subject>, DefaultClock, StateInformationMiddleware>;

/// Subjects that are remembered at once; beyond, all new ones share one budget.
const MAX_SUBJECTS: usize = 1_000_000;

pub(crate) struct Limiter {
    governor: Governor,
    /// At least as many as there are subjects: counting them walks all shards of the map.
    known: AtomicUsize,
    burst: u32,
    /// Seconds in which a spent burst comes back.
    window: u64,
}

/// What a subject may still ask.
pub(crate) struct Budget {
    pub(crate) remaining: u32,
    /// Seconds until one more may come; 0 if it may come now.
    pub(crate) retry_after: u64,
}

impl Limiter {
    pub(crate) fn new(config: &RateLimitConfig) -> Option<Self> {
        let rate = config.requests_per_second;
        if rate <= 0.0 {
            return None;
        }
        let burst = if config.burst == 0 {
            rate.ceil() as u32
        } else {
            config.burst
        };
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_secs_f64(1.0 / rate))?.allow_burst(burst);
        Some(Self {
            governor: RateLimiter::keyed(quota).with_middleware(),
            known: AtomicUsize::new(0),
            burst: burst.get(),
            window: (f64::from(burst.get()) / rate).ceil() as u64,
        })
    }

    /// Counts a request: `Ok` with what is left, `Err` if it is one too many.
    pub(crate) fn check(&self, subject: &Subject) -> Result<Budget, Budget> {
        let full = self.is_full();
        let shared = Subject::Address(IpAddr::from([0, 0, 0, 0]));
        match self
            .governor
            .check_key(if full { &shared } else { subject })
        {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                // Its first request, or its first in a while.
                if remaining + 1 >= self.burst {
                    self.known.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Budget {
                    remaining,
                    retry_after: 0,
                })
            }
            Err(until) => {
                let wait = until.wait_time_from(DefaultClock::default().now());
                Err(Budget {
                    remaining: 0,
                    retry_after: wait.as_secs_f64().ceil().max(1.0) as u64,
                })
            }
        }
    }

    /// Whether there are as many subjects as may be; they are counted only if there might be.
    fn is_full(&self) -> bool {
        self.known.load(Ordering::Relaxed) >= MAX_SUBJECTS && {
            let known = self.governor.len();
            self.known.store(known, Ordering::Relaxed);
            known >= MAX_SUBJECTS
        }
    }

    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
    pub(crate) fn fields(&self, budget: &Budget) -> [(&'static str, String); 2] {
        let reset = if budget.remaining == 0 {
            budget.retry_after.max(1)
        } else {
            self.window
        };
        [
            (
                "ratelimit-policy",
                format!("\"default\";q={};w={}", self.burst, self.window),
            ),
            (
                "ratelimit",
                format!("\"default\";r={};t={reset}", budget.remaining),
            ),
        ]
    }

    /// Forgets those whose budget is full again.
    pub(crate) fn run_maintenance(&self) {
        self.governor.retain_recent();
        self.governor.shrink_to_fit();
        self.known.store(self.governor.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(requests_per_second: f64) -> Limiter {
        let config = RateLimitConfig {
            requests_per_second,
            burst: 2,
        };
        Limiter::new(&config).unwrap()
    }

    #[test]
    fn subjects_are_counted_as_they_come_and_exactly_by_maintenance() {
        let limiter = limiter(0.001);
        for number in 0..1000_u32 {
            let subject = Subject::address(IpAddr::from(number.to_be_bytes()));
            for _ in 0..3 {
                let _ = limiter.check(&subject);
            }
        }
        assert!(limiter.known.load(Ordering::Relaxed) >= 1000);
        limiter.run_maintenance();
        assert_eq!(limiter.known.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn mapped_ipv4_addresses_have_a_budget_each() {
        let address = |text: &str| Subject::address(text.parse().unwrap());
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("::ffff:192.0.2.1"), address("::ffff:192.0.2.2"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::2"));
    }
}
