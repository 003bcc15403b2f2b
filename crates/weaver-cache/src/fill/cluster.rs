//! Whose turn it is to fetch, among the nodes that share a Redis.

use super::{Fill, remote::Held};
use crate::{
    entry::Entry,
    exchange::ROUNDS,
    journal::Verdict,
    lease::{Holder, Lease, Leased, Leases, State},
};
use actix_web::dev::ServiceRequest;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use weaver_cache_policy::{
    Millis,
    reuse::{self, Decision},
};

/// Between two looks at another node's lease: an eighth of the time waited so far, within these, so
/// that the wait is longer than the fetch by at most that and a slow fetch costs few commands.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(50);

/// What a fill does next.
pub(super) enum Turn {
    /// It fetches: it has the lease, or there is none to be had.
    Fetch,
    /// Another node has fetched meanwhile.
    Fetched(Arc<Entry>),
    /// Another node fetches, and nobody waits for this one.
    Leave,
}

/// How the wait for another node ended.
enum Waited {
    /// Its lease has ended.
    Ended,
    /// What it fetches was purged since it began, or takes too long, and this one has its lease.
    Taken(Box<Lease>),
    /// There is nothing to wait for.
    InVain,
}

impl Fill {
    /// Takes the lease, or waits for the node that has it if somebody waits for this one.
    ///
    /// Redis that fails or is slow makes no difference beyond its deadline: then each node fetches
    /// for itself.
    pub(super) async fn take_turn(&mut self, req: &ServiceRequest, waits: bool) -> Turn {
        // A fetch that began before this request does not satisfy its no-cache.
        if self.lead.is_solo() || self.ranged || self.wishes.no_cache {
            return Turn::Fetch;
        }
        let shared = Arc::clone(&self.shared);
        let Some(redis) = &shared.redis else {
            return Turn::Fetch;
        };
        let (began, since) = (Instant::now(), shared.now());
        while let Some(leases) = redis.leases() {
            let key = shared.flight_key(&self.exact, self.index.as_ref(), req.headers());
            let of = Leased {
                key: &key,
                requester: self.requester,
            };
            match leases.ask(of, shared.log.head()).await {
                Ok(None) if !waits => return Turn::Leave,
                Ok(None) => match self.wait(leases, of, began).await {
                    Waited::Ended => {}
                    Waited::Taken(lease) => self.lease = Some(*lease),
                    Waited::InVain => return Turn::Fetch,
                },
                Ok(lease) => self.lease = lease,
                Err(_) => {
                    shared.metrics.error();
                    return Turn::Fetch;
                }
            }
            // With the lease too: the last holder may have ended between our look and our asking.
            if let Some(entry) = self.fetched(req, since).await {
                self.lease = None;
                return Turn::Fetched(entry);
            }
            if self.lease.is_some() {
                return Turn::Fetch;
            }
        }
        Turn::Fetch
    }

    /// Waits until another node's lease has ended, or can be taken over: by one of those who wait,
    /// for the others to go on waiting for that one, a few times at most.
    async fn wait(&self, leases: &Leases, of: Leased<'_>, began: Instant) -> Waited {
        let round = self.shared.config.collapse_timeout;
        let mut patience = if self.takes_over {
            Duration::ZERO
        } else {
            round
        };
        loop {
            let holder = match leases.state(of).await {
                Ok(State::Free) => return Waited::Ended,
                Ok(State::Passed) => {
                    self.shared.mark(&self.exact, self.requester).await;
                    return Waited::InVain;
                }
                Ok(State::Held(holder)) => holder,
                Err(_) => return Waited::InVain,
            };
            let waited = began.elapsed();
            let is_slow = waited >= patience;
            if waited >= round.saturating_mul(ROUNDS) {
                return Waited::InVain;
            } else if is_slow || self.is_outdated(&holder) {
                match leases.take(of, holder, self.shared.log.head()).await {
                    Ok(Some(lease)) => return Waited::Taken(Box::new(lease)),
                    // Another was faster, or the holder has ended.
                    Ok(None) if is_slow => patience = waited + round,
                    Ok(None) => {}
                    Err(_) => return Waited::InVain,
                }
            } else {
                sleep((waited / 8).clamp(SHORTEST, LONGEST)).await;
            }
        }
    }

    /// Whether what the holder fetches was purged since it began.
    fn is_outdated(&self, holder: &Holder) -> bool {
        let log = &self.shared.log;
        holder
            .position()
            .is_some_and(|position| log.judge_fetch(&self.exact, position) != Verdict::Alive)
    }

    /// What another node has fetched: fresh, or of a fetch that ended while this request waited,
    /// which answers it as it would in one node, unless it says that it answers no other request.
    async fn fetched(&mut self, req: &ServiceRequest, since: Millis) -> Option<Arc<Entry>> {
        let found = match self.look_into_redis(req).await {
            Some((Held::Here(entry), decision)) => Some((entry, decision)),
            Some((Held::InParts(remote), decision)) => {
                let redis = self.shared.redis.as_ref()?;
                redis.whole(&remote).await.map(|entry| (entry, decision))
            }
            None => None,
        };
        match found {
            Some((entry, Decision::Fresh)) => Some(entry),
            Some((entry, _)) => Some(entry).filter(|entry| is_since(entry, since)),
            None => self.stored.clone().filter(|entry| is_since(entry, since)),
        }
    }
}

fn is_since(entry: &Entry, since: Millis) -> bool {
    let lifetime = &entry.head.lifetime;
    lifetime.received_at > since && reuse::may_answer_others(lifetime)
}
