//! The rest of a response of which the beginning is stored (RFC 9111 §3.4).

use super::{Fill, Times};
use crate::{
    entry::{Entry, MapFields},
    partial,
};
use actix_web::{
    dev::{ServiceRequest, ServiceResponse},
    http::StatusCode,
};
use std::sync::Arc;
use weaver_cache_policy::Lifetime;
use weaver_metrics::Tier;

impl Fill {
    /// A stored beginning of what is asked for; the request is then one for the rest.
    pub(super) async fn stored_beginning(&self, req: &mut ServiceRequest) -> Option<Arc<Entry>> {
        if self.stored.is_some() || self.wishes.no_cache {
            return None;
        }
        let key = partial::key(&self.key);
        let mut part = self
            .shared
            .find(Tier::Memory, &key, req.headers())
            .await
            .entry;
        // With a memory tier a part of this node's own is there; one in Redis alone is looked for
        // only where there is none, since every first request would pay for it.
        if part.is_none() && self.shared.memory.is_none() {
            let found = self.shared.find(Tier::Redis, &key, req.headers()).await;
            part = self.shared.complete(found).await.entry;
        }
        let part = part?;
        let fresh = part.head.lifetime.ttl(self.shared.now()) > 0;
        (fresh && partial::ask_for_rest(&part, req.headers_mut())).then_some(part)
    }

    /// The length and lifetime of the whole that a stored beginning and this rest make, if they may
    /// be combined and the whole may be stored.
    pub(super) fn whole_of<B>(
        &self,
        part: &Entry,
        rest: &ServiceResponse<B>,
        times: &Times,
    ) -> Option<(u64, Lifetime)> {
        let whole = partial::completes(part, rest.headers())?;
        let (asked, fields) = (rest.request().headers(), MapFields(rest.headers()));
        let lifetime = self.lifetime(StatusCode::OK, asked, &fields, times).ok()?;
        Some((whole, lifetime))
    }
}
