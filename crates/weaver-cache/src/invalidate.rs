//! What a successful unsafe request invalidates (RFC 9111 §4.4).

use crate::{Purge, shared::Shared};
use actix_web::{
    dev::ServiceResponse,
    http::header::{self, HeaderName},
};
use std::sync::Arc;
use weaver_cache_policy::invalidation::{Origin, same_origin_target};

/// What a response to an unsafe request invalidates: the target URL and, on the same origin, those
/// in Location and Content-Location.
pub(crate) fn by<B>(res: &ServiceResponse<B>) -> Vec<Purge> {
    let (host, target) = host_and_target(res);
    let mut targets = vec![target.to_owned()];
    targets.extend(named(res, &header::LOCATION));
    targets.extend(content_location(res));
    targets.dedup();
    let host = host.to_ascii_lowercase();
    targets
        .into_iter()
        .map(|target| {
            let host = Some(host.clone());
            Purge::Url { host, target }.bounded()
        })
        .collect()
}

/// Invalidates here, which has happened on return; the other nodes hear of it through the journal,
/// a moment later.
pub(crate) fn apply(shared: &Arc<Shared>, purges: Vec<Purge>) {
    for purge in purges {
        shared.purge_here(purge.clone(), false);
        if shared.journal.is_some() {
            let shared = Arc::clone(shared);
            actix_rt::spawn(async move {
                if let Some(redis) = &shared.journal
                    && redis.follower().append(&purge, false, false).await.is_err()
                {
                    shared.metrics.error();
                }
            });
        }
    }
}

/// Invalidates here and in the journal, and waits for both: what is stored after it must not have a
/// place before it.
pub(crate) async fn apply_in_order(shared: &Shared, purges: Vec<Purge>) {
    for purge in purges {
        if shared.purge(purge, false, false).await.is_err() {
            shared.metrics.error();
        }
    }
}

fn host_and_target<B>(res: &ServiceResponse<B>) -> (&str, &str) {
    let request = res.request();
    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| {
            request
                .headers()
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
        })
        .unwrap_or("");
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    (host, target)
}

/// The path and query that a field of a response names, if it is of the request's origin.
///
/// Whether the client came by http or https is not ours to know behind a proxy that ends TLS, so
/// both are taken for the same.
fn named<B>(res: &ServiceResponse<B>, name: &HeaderName) -> Option<String> {
    let (authority, target) = host_and_target(res);
    let value = res.headers().get(name)?.to_str().ok()?;
    ["http", "https"]
        .iter()
        .find_map(|scheme| same_origin_target(value, Origin { scheme, authority }, target))
}

/// What Content-Location names.
pub(crate) fn content_location<B>(res: &ServiceResponse<B>) -> Option<String> {
    named(res, &header::CONTENT_LOCATION)
}
