//! How many wrong credentials an address may send (GCRA).
//!
//! While its budget is spent, everything that needs credentials is refused to an address before the
//! credentials are compared, right ones too: a guess that happens to be right must not be told from
//! the others. Whoever only sends right ones never has an entry here.

use crate::limit::Subject;
use parking_lot::RwLock;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Addresses that are remembered at once. Beyond, those that are nearest to be forgiven are forgotten:
/// whoever has so many addresses is not held up by a budget for each.
const MAX_ADDRESSES: usize = 100_000;
/// In which a spent budget comes back.
const WINDOW: Duration = Duration::from_secs(60);

pub(crate) struct FailureBudget {
    /// What one failure costs, in nanoseconds.
    interval: u64,
    epoch: Instant,
    /// When all of an address's failures are forgiven, in nanoseconds after the epoch.
    forgiven: RwLock<HashMap<Subject, u64>>,
    /// How many there are: without any, no lock is taken.
    known: AtomicUsize,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn subject(address: Option<IpAddr>) -> Subject {
    Subject::address(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

impl FailureBudget {
    /// `None` where they are not limited.
    pub(crate) fn new(per_minute: u32) -> Option<Self> {
        let interval = nanoseconds(WINDOW).checked_div(u64::from(per_minute))?;
        Some(Self {
            interval,
            epoch: Instant::now(),
            forgiven: RwLock::default(),
            known: AtomicUsize::new(0),
        })
    }

    /// Whether credentials from an address may be looked at; otherwise the seconds until they may.
    pub(crate) fn check(&self, address: Option<IpAddr>) -> Result<(), u64> {
        if self.known.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.check_at(address, nanoseconds(self.epoch.elapsed()))
    }

    fn check_at(&self, address: Option<IpAddr>, now: u64) -> Result<(), u64> {
        let forgiven = self.forgiven.read().get(&subject(address)).copied();
        // One more must fit into the window.
        let most = now + nanoseconds(WINDOW) - self.interval;
        let wait = forgiven.unwrap_or(0).saturating_sub(most);
        if wait == 0 {
            Ok(())
        } else {
            Err(wait.div_ceil(1_000_000_000))
        }
    }

    /// Counts wrong credentials.
    pub(crate) fn failed(&self, address: Option<IpAddr>) {
        self.failed_at(address, nanoseconds(self.epoch.elapsed()));
    }

    fn failed_at(&self, address: Option<IpAddr>, now: u64) {
        let mut forgiven = self.forgiven.write();
        if forgiven.len() >= MAX_ADDRESSES {
            make_room(&mut forgiven, now);
        }
        let entry = forgiven.entry(subject(address)).or_insert(now);
        *entry = (*entry).max(now).saturating_add(self.interval);
        self.known.store(forgiven.len(), Ordering::Relaxed);
    }

    /// Forgets whose failures are forgiven.
    pub(crate) fn run_maintenance(&self) {
        let now = nanoseconds(self.epoch.elapsed());
        let mut forgiven = self.forgiven.write();
        forgiven.retain(|_, until| *until > now);
        forgiven.shrink_to_fit();
        self.known.store(forgiven.len(), Ordering::Relaxed);
    }
}

/// Forgets half of them, so that what it takes is spread over many failures.
fn make_room(forgiven: &mut HashMap<Subject, u64>, now: u64) {
    forgiven.retain(|_, until| *until > now);
    if forgiven.len() < MAX_ADDRESSES {
        return;
    }
    let mut times: Vec<u64> = forgiven.values().copied().collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    let mut room = middle;
    forgiven.retain(|_, until| {
        let goes = *until <= median && room > 0;
        room -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_spent_budget_comes_back_one_by_one() {
        let budget = FailureBudget::new(30).unwrap();
        let (bad, good) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..30 {
            assert_eq!(budget.check_at(bad, 0), Ok(()));
            budget.failed_at(bad, 0);
        }
        assert_eq!(budget.check_at(bad, 0), Err(2));
        assert_eq!(budget.check_at(good, 0), Ok(()));
        assert_eq!(budget.check_at(bad, 2 * SECOND), Ok(()));
        budget.failed_at(bad, 2 * SECOND);
        assert!(budget.check_at(bad, 2 * SECOND).is_err());
        assert_eq!(budget.check_at(bad, 62 * SECOND), Ok(()));
    }

    #[test]
    fn ipv6_counts_by_network_and_mapped_ipv4_by_address() {
        let budget = FailureBudget::new(1).unwrap();
        budget.failed_at(address("2001:db8::1"), 0);
        assert!(budget.check_at(address("2001:db8::ffff:1"), 0).is_err());
        assert!(budget.check_at(address("2001:db8:0:1::1"), 0).is_ok());
        budget.failed_at(address("::ffff:192.0.2.1"), 0);
        assert!(budget.check_at(address("192.0.2.1"), 0).is_err());
        assert!(budget.check_at(address("::ffff:192.0.2.2"), 0).is_ok());
        assert!(FailureBudget::new(0).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let budget = FailureBudget::new(1).unwrap();
        for number in 0..(2 * MAX_ADDRESSES as u32) {
            budget.failed_at(Some(Ipv4Addr::from(number).into()), u64::from(number));
        }
        assert!(budget.forgiven.read().len() <= MAX_ADDRESSES);
        let last = Some(Ipv4Addr::from(2 * MAX_ADDRESSES as u32 - 1).into());
        assert!(budget.check_at(last, u64::from(u32::MAX) / 1000).is_err());
    }

    proptest! {
        #[test]
        fn no_more_fail_than_the_budget_and_what_came_back(
            per_minute in 1_u32..100,
            gaps in prop::collection::vec(0..5 * SECOND, 1..300),
        ) {
            let budget = FailureBudget::new(per_minute).unwrap();
            let (mut now, mut let_through) = (0, 0_u64);
            for gap in gaps {
                now += gap;
                if budget.check_at(None, now).is_ok() {
                    budget.failed_at(None, now);
                    let_through += 1;
                }
            }
            let most = u64::from(per_minute) + now / budget.interval + 1;
            prop_assert!(let_through <= most, "{let_through} of {most}");
        }
    }
}
