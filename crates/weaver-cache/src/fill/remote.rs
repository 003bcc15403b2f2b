//! What Redis has: an answer, something to validate, or a body in parts, which is sent on to all who
//! wait as it comes, then taken into memory.

use super::{Fill, Reply, Sender, send};
use crate::{
    entry::{Entry, Remote},
    flight::{Broken, Landing},
    shared::{Found, lifetime},
};
use actix_web::dev::ServiceRequest;
use std::sync::Arc;
use weaver_cache_policy::{
    Outcome,
    reuse::{self, Decision},
    status::Forward,
};
use weaver_metrics::Tier;

/// What Redis has of a response.
pub(super) enum Held {
    Here(Arc<Entry>),
    InParts(Arc<Remote>),
}

pub(super) fn outcome_of(decision: Decision) -> Outcome {
    if decision == Decision::Fresh {
        Outcome::Hit
    } else {
        Outcome::Stale
    }
}

impl Fill {
    /// Looks for a usable response in Redis; remembers there what may be validated.
    pub(super) async fn look_into_redis(
        &mut self,
        req: &ServiceRequest,
    ) -> Option<(Held, Decision)> {
        if self.ranged {
            return None;
        }
        self.shared.redis.as_ref()?;
        let found = self
            .shared
            .find_equivalent(Tier::Redis, &mut self.key, req.headers())
            .await;
        let found = match self.streamable(&found) {
            Some(streamable) => {
                self.shared.promote(&self.key, &found).await;
                self.index = found.index.or_else(|| self.index.take());
                return Some(streamable);
            }
            None => self.shared.complete(found).await,
        };
        self.shared.promote(&self.key, &found).await;
        let Found {
            entry,
            softly_purged,
            index,
            ..
        } = found;
        self.index = index.or_else(|| self.index.take());
        let entry = entry?;
        let lifetime = lifetime(&entry, softly_purged);
        let decision = reuse::decide(&lifetime, &self.wishes, self.shared.now());
        let newer =
            |known: &Arc<Entry>| known.head.lifetime.received_at >= entry.head.lifetime.received_at;
        // What is refreshed early is not refreshed by itself.
        let same = self.early && self.stored.as_ref().is_some_and(newer);
        if decision != Decision::Revalidate && !same {
            self.softly_purged = softly_purged;
            return Some((Held::Here(entry), decision));
        }
        if !self.stored.as_ref().is_some_and(newer) {
            self.stored = Some(entry);
            self.softly_purged = softly_purged;
            self.forward = Forward::Stale;
        }
        None
    }

    /// A response in parts that answers as it is, and need not be here whole for that.
    fn streamable(&self, found: &Found) -> Option<(Held, Decision)> {
        let remote = found.remote.as_ref()?;
        let lifetime = lifetime(&remote.entry, found.softly_purged);
        let decision = reuse::decide(&lifetime, &self.wishes, self.shared.now());
        (matches!(decision, Decision::Fresh | Decision::Stale) && !self.early)
            .then(|| (Held::InParts(Arc::clone(remote)), decision))
    }

    /// Gives the request back if the parts are not there after all.
    pub(super) async fn stream_parts<B>(
        &mut self,
        req: ServiceRequest,
        remote: &Arc<Remote>,
        outcome: Outcome,
        reply: &mut Sender<B>,
    ) -> Result<(), ServiceRequest> {
        let shared = Arc::clone(&self.shared);
        let Some(redis) = &shared.redis else {
            return Err(req);
        };
        let Some(first) = redis.first_part(remote).await else {
            return Err(req);
        };
        let length = remote.parts.length;
        let mut reserved = shared.budget.reserve();
        let room = length <= shared.config.max_object && reserved.grow(length);
        let head = Arc::clone(&remote.entry.head);
        // The client's reader exists before anyone can see the flight, so that nothing is missed.
        if let Some(reader) = self.lead.flight.reader(Some(length)) {
            let client = req.into_parts().0;
            let took = remote.entry.fill_micros;
            let held = Reply::Held(client, Arc::clone(&head), reader, outcome, took);
            send(reply, held);
        }
        self.lead
            .flight
            .land(Landing::Streaming(head, Some(length), Some(outcome)));
        if !room {
            self.stop_keeping();
        }
        let body = redis.body(remote, first);
        let pumped = self.pump(None, body, Some(length), room.then_some(&mut reserved));
        match pumped.await {
            Ok(true) => {
                if !self.lead.flight.is_doomed() {
                    let entry = remote.with_body(self.lead.flight.body().whole());
                    let found = Found {
                        entry: Some(entry),
                        ..Found::default()
                    };
                    shared.promote(&self.key, &found).await;
                }
                self.lead.close();
                self.lead.flight.body().end(Ok(()));
            }
            Ok(false) => {}
            // A part has gone since we looked. Who comes next is not to find the same.
            Err(Broken) => {
                let _ = redis.remove(&remote.entry.key).await;
            }
        }
        Ok(())
    }
}
