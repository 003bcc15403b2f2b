//! What the policy says of a response that has come.

use super::{Fill, Times};
use crate::{
    entry::{Entry, MapFields},
    journal::are_tags_purgeable,
    partial,
    shared::lifetime,
};
use actix_http::body::{BodySize, MessageBody};
use actix_web::{
    dev::ServiceResponse,
    http::{StatusCode, header::HeaderMap},
};
use weaver_cache_policy::{
    Bypass, Lifetime, Millis,
    reuse::{self, Failure},
    store::{self, Answered, Asked},
};

impl Fill {
    pub(super) fn may_replace(&self, stored: &Entry, now: Millis, failure: Failure) -> bool {
        let lifetime = lifetime(stored, self.softly_purged);
        // One error is no better than another.
        !stored.head.status.is_server_error()
            && reuse::may_replace_error(&lifetime, &self.wishes, now, failure)
    }

    pub(super) fn assess<B: MessageBody>(
        &self,
        res: &ServiceResponse<B>,
        times: &Times,
    ) -> Result<Lifetime, Bypass> {
        let partial = res.status() == StatusCode::PARTIAL_CONTENT;
        if partial && !(self.ranged && partial::is_storable(res.headers())) {
            return Err(Bypass::Partial);
        }
        let lifetime = self.lifetime(
            res.status(),
            res.request().headers(),
            &MapFields(res.headers()),
            times,
        )?;
        match res.response().body().size() {
            BodySize::Sized(bytes) if bytes > self.shared.config.max_object => {
                Err(Bypass::TooLarge)
            }
            _ => Ok(lifetime),
        }
    }

    pub(super) fn lifetime(
        &self,
        status: StatusCode,
        request: &HeaderMap,
        fields: &impl weaver_cache_policy::Headers,
        times: &Times,
    ) -> Result<Lifetime, Bypass> {
        let lifetime = store::assess(
            &self.rule.policy,
            &Asked {
                headers: &MapFields(request),
                authenticated: self.authenticated,
                partitioned: self.partitioned,
            },
            &Answered {
                status: status.as_u16(),
                headers: fields,
                requested_at: times.requested_at,
                received_at: times.received_at,
            },
        )?;
        // What a purge cannot name it could not reach.
        if !are_tags_purgeable(fields) {
            return Err(Bypass::Tags);
        }
        Ok(lifetime)
    }
}
