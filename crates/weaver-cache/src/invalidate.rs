//! What a successful unsafe request invalidates (RFC 9111 §4.4).

use crate::{Purge, key::RequestUrl, shared::Shared};
use actix_web::{
    dev::ServiceResponse,
    http::header::{self, HeaderName},
};
use weaver_cache_policy::invalidation::same_origin_target;

/// What a response to an unsafe request invalidates: the target URL and, on the same origin, those
/// in Location and Content-Location.
pub(crate) fn by<B>(res: &ServiceResponse<B>) -> Vec<Purge> {
    let url = RequestUrl::of_request(res.request());
    let mut targets = vec![url.target()];
    targets.extend(named(res, &url, &header::LOCATION));
    targets.extend(named(res, &url, &header::CONTENT_LOCATION));
    targets.dedup();
    let purge = |target| {
        let host = Some(url.authority.to_string());
        Purge::Url { host, target }.bounded()
    };
    targets.into_iter().map(purge).collect()
}

/// Invalidates here, which has happened on return; the other nodes hear of it through the journal,
/// a moment later.
pub(crate) fn apply(shared: &Shared, purges: Vec<Purge>) {
    for purge in purges {
        shared.invalidate_here(purge.clone());
        if let Some(redis) = &shared.journal {
            redis.follower().queue_write(purge);
        }
    }
}

/// Invalidates here and in the journal, and waits for both: what is stored after it must not have a
/// place before it.
pub(crate) async fn apply_in_order(shared: &Shared, purges: Vec<Purge>) {
    for purge in purges {
        if shared.invalidate(purge).await.is_err() {
            shared.metrics.error();
        }
    }
}

/// The target that a field of a response names, if it is of the request's origin.
fn named<B>(res: &ServiceResponse<B>, url: &RequestUrl<'_>, name: &HeaderName) -> Option<String> {
    let value = res.headers().get(name)?.to_str().ok()?;
    same_origin_target(value, url.scheme, &url.authority, &url.target())
}

/// What Content-Location names.
pub(crate) fn content_location<B>(res: &ServiceResponse<B>) -> Option<String> {
    let url = RequestUrl::of_request(res.request());
    named(res, &url, &header::CONTENT_LOCATION)
}
