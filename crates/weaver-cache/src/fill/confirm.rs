//! A stored response that the origin confirms (RFC 9111 §4.3.3, §4.3.4).
//!
//! What confirms it makes two responses: one for the client whose request it answers, with all its
//! fields, and one that is stored and answers others, if the policy lets there be one.

use super::{Fill, Reply, Sender, Times, micros, send};
use crate::{
    entry::{Checked, Entry, Fields, Head, StoredFields},
    flight::{Grounds, Landing},
};
use actix_http::body::MessageBody;
use actix_web::{dev::ServiceResponse, http::header};
use std::sync::Arc;
use weaver_cache_policy::{
    Bypass, Headers as _, Lifetime, Outcome, reuse, status::Member, store, validation, vary,
};
use weaver_metrics::Tier;

/// A stored response after a response that confirms it.
pub(crate) struct Confirmed {
    /// For the client whose request brought the confirmation.
    pub(crate) own: Arc<Entry>,
    /// To be stored, and for others; or why not.
    pub(crate) kept: Result<Arc<Entry>, Bypass>,
}

impl Fill {
    /// The stored response with the fields of one that confirms it.
    pub(crate) fn freshen<B>(
        &self,
        stored: &Arc<Entry>,
        res: &ServiceResponse<B>,
        times: &Times,
    ) -> Confirmed {
        let mut update: Fields = res
            .headers()
            .iter()
            .filter(|(name, _)| *name != header::AGE)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let fields = validation::freshened(&stored.head.fields, &update);
        // The cookies that a confirmation sets are for the client that asked, and tell nothing of
        // the content, which is the stored one, unless that sets them for everybody.
        if !sets_known_cookies(&stored.head.fields, &update) {
            update.retain(|(name, _)| *name != header::SET_COOKIE);
        }
        let mut shared = validation::freshened(&stored.head.fields, &update);
        let mut aged = shared.clone();
        aged.extend(
            res.headers()
                .get_all(header::AGE)
                .map(|age| (header::AGE, age.clone())),
        );
        let request = res.request().headers();
        let judged = if is_selected_alike(&stored.head.fields, &fields) {
            self.lifetime(stored.head.status, request, &StoredFields(&aged), times)
        } else {
            Err(Bypass::VaryChanged)
        };
        let made = |fields, lifetime| {
            Arc::new(Entry {
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
                checked: Checked::default(),
            })
        };
        // RFC 9111 §5.2.2.4, §5.2.2.7.
        let withheld =
            store::withheld_fields(&StoredFields(&shared), &self.rule.policy, self.partitioned);
        shared.retain(|(name, _)| !withheld.iter().any(|field| field == name.as_str()));
        let kept = judged.map(|lifetime| made(shared, lifetime));
        // Confirmed for this request, and not to be kept: served once, as stale.
        let lifetime = judged.unwrap_or(Lifetime {
            received_at: times.received_at,
            ..Lifetime::default()
        });
        Confirmed {
            own: made(fields, lifetime),
            kept,
        }
    }

    /// RFC 9111 §4.3.4: the stored response, with the fields of the 304.
    pub(super) async fn confirmed<B: MessageBody>(
        mut self,
        stored: &Arc<Entry>,
        res: ServiceResponse<B>,
        times: &Times,
        mut reply: Sender<B>,
    ) {
        let Confirmed { own, kept } = self.freshen(stored, &res, times);
        let landing = match &kept {
            Ok(entry) => {
                let for_others = reuse::may_answer_others(&entry.head.lifetime);
                if !for_others {
                    self.mark().await;
                }
                let lease = self.lease.take();
                self.shared.store(Arc::clone(entry), None, lease).await;
                for_others.then(|| {
                    let entry = Arc::clone(entry);
                    Landing::Entry(entry, Tier::None, Outcome::Revalidated, Grounds::Fetched)
                })
            }
            Err(reason) => {
                self.mark_for(*reason).await;
                // What the request is the reason for says nothing about the stored response.
                if !reason.is_of_request() {
                    self.shared.discard(stored).await;
                }
                None
            }
        };
        self.lead.flight.land(landing.unwrap_or(Landing::Alone));
        let member = Member {
            forward: Some(self.forward),
            forward_status: Some(304),
            stored: kept.is_ok(),
            detail: kept.err().map(Bypass::as_str),
            ..Member::default()
        };
        let (req, _) = res.into_parts();
        send(
            &mut reply,
            Reply::Entry(req, own, Tier::None, Outcome::Revalidated, member),
        );
    }
}

/// Whether all cookies of an update are among those that a stored response sets: then the origin has
/// said, by the freshness of that one, that they may be shared (RFC 9111 §7.3).
fn sets_known_cookies(stored: &Fields, update: &Fields) -> bool {
    fn names(fields: &Fields) -> impl Iterator<Item = &[u8]> {
        let cookies = fields
            .iter()
            .filter(|(name, _)| *name == header::SET_COOKIE);
        cookies.map(|(_, value)| {
            let name = value.as_bytes().split(|byte| *byte == b'=').next();
            name.unwrap_or_default().trim_ascii()
        })
    }
    names(update).all(|name| names(stored).any(|known| known == name))
}

/// Whether two responses are found by the same fields of requests, and the same queries.
fn is_selected_alike(one: &Fields, other: &Fields) -> bool {
    let (one, other) = (StoredFields(one), StoredFields(other));
    let queries = "no-vary-search";
    let names = vary::names(&other);
    names.is_some() && vary::names(&one) == names && one.lines(queries).eq(other.lines(queries))
}
