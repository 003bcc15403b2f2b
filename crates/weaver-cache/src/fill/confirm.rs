//! A stored response that the origin confirms (RFC 9111 §4.3.3, §4.3.4).

use super::{Fill, Reply, Sender, Times, micros, send};
use crate::{
    entry::{Entry, Fields, Head, StoredFields},
    flight::Landing,
    shared::unchecked,
};
use actix_http::body::MessageBody;
use actix_web::{dev::ServiceResponse, http::header};
use std::sync::Arc;
use weaver_cache_policy::{Lifetime, Outcome, status::Member, validation};
use weaver_metrics::Tier;

impl Fill {
    /// The stored response with the fields of one that confirms it, and whether it may be kept.
    pub(crate) fn freshen<B>(
        &self,
        stored: &Arc<Entry>,
        res: &ServiceResponse<B>,
        times: &Times,
    ) -> (Arc<Entry>, bool) {
        let update: Fields = res
            .headers()
            .iter()
            .filter(|(name, _)| *name != header::AGE)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let fields = validation::freshened(&stored.head.fields, &update);
        let mut aged = fields.clone();
        aged.extend(
            res.headers()
                .get_all(header::AGE)
                .map(|age| (header::AGE, age.clone())),
        );
        let request = res.request().headers();
        let judged = self.lifetime(stored.head.status, request, &StoredFields(&aged), times);
        let (lifetime, keep) = match judged {
            Ok(lifetime) => (lifetime, true),
            // Confirmed for this request, and not to be kept: served once, as stale.
            Err(_) => (
                Lifetime {
                    received_at: times.received_at,
                    ..Lifetime::default()
                },
                false,
            ),
        };
        let entry = Arc::new(Entry {
            key: Arc::clone(&stored.key),
            head: Arc::new(Head {
                status: stored.head.status,
                fields,
                lifetime,
                position: times.position,
                variant: stored.head.variant.clone(),
            }),
            body: stored.body.clone(),
            fill_micros: micros(times.begun),
            checked: unchecked(),
        });
        (entry, keep)
    }

    /// RFC 9111 §4.3.4: the stored response, with the fields of the 304.
    pub(super) async fn confirmed<B: MessageBody>(
        mut self,
        stored: &Arc<Entry>,
        res: ServiceResponse<B>,
        times: &Times,
        mut reply: Sender<B>,
    ) {
        let (entry, keep) = self.freshen(stored, &res, times);
        if keep {
            let lease = self.lease.take();
            self.shared.store(Arc::clone(&entry), None, lease).await;
        } else {
            self.shared.discard(stored).await;
        }
        self.lead.flight.land(Landing::Entry(
            Arc::clone(&entry),
            Tier::None,
            Outcome::Revalidated,
        ));
        let member = Member {
            forward: Some(self.forward),
            forward_status: Some(304),
            stored: keep,
            ..Member::default()
        };
        let (req, _) = res.into_parts();
        send(
            &mut reply,
            Reply::Entry(req, entry, Tier::None, Outcome::Revalidated, member),
        );
    }
}
