//! What Redis has in parts: sent on to all who wait as it comes, then taken into memory.

use super::{Fill, Reply, Sender, send};
use crate::{
    entry::Remote,
    flight::{Broken, Landing},
    shared::Found,
};
use actix_web::dev::ServiceRequest;
use std::sync::Arc;
use weaver_cache_policy::Outcome;

impl Fill {
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
