//! The canonical request: one reading of what a client sent, before anything is decided by it.
//!
//! [`establish`] rewrites the request's head in place. Afterwards
//!
//! - the URI is in origin form, and Host says the effective host: that of the target in absolute form,
//!   or what a trusted proxy says of it ([`super::authority`]);
//! - the fields are those that go upstream ([`super::fields`]);
//! - the query is, once the rule is known, what the key has of it ([`keep_query_as_keyed`]).
//!
//! What the head cannot say is in [`Canonical`]. The path stays as it came, byte for byte, and is
//! judged as a strict reader resolves it; a path that readers resolve differently is refused, or goes
//! past the cache (`server.ambiguous_paths`).

use super::{
    Refused,
    authority::{self, Effective},
    client::Client,
    fields::{self, Hop},
    refuse,
};
use crate::{config::AmbiguousPaths, routes::Matched, state::State, warm};
use actix_web::{
    dev::ServiceRequest,
    http::{
        Method, StatusCode, Uri, Version,
        header::{self, HeaderMap},
        uri::{Parts, PathAndQuery},
    },
};
use std::borrow::Cow;
use weaver_cache::{
    Rule,
    policy::{
        path::{Judged, judge},
        url::Scheme,
    },
};

/// What a request is, beside its head.
pub(crate) struct Canonical {
    /// The effective scheme.
    pub(crate) scheme: Scheme,
    /// Who made it.
    pub(crate) client: Client,
    /// What its connection asked for.
    pub(crate) hop: Hop,
    /// Whether readers resolve its path differently, so that nothing of it may be stored.
    pub(crate) ambiguous: bool,
}

/// Settles what the request is, and rewrites its head to that.
pub(super) fn establish(state: &State, req: &mut ServiceRequest) -> Result<Canonical, Refused> {
    let server = &state.config.server;
    if state.mark.is_on(req.headers()) {
        let what = "the request has been here before: an upstream leads back to this gateway";
        return Err(refuse(StatusCode::LOOP_DETECTED, what));
    }
    let mut client = Client::of(req, &server.trusted_proxies);
    if let Some(value) = req.headers_mut().remove(warm::BY_HTTPS).next()
        && state.warmer.has_sent(value.as_bytes())
    {
        client.told.get_or_insert_default().scheme = Some(Scheme::Https);
    }
    let told = client.told.as_deref();
    let refused = |(status, what)| refuse(status, what);
    let Effective { scheme, host } =
        authority::effective(req.uri(), req.version(), req.headers(), told).map_err(refused)?;
    let is_http11 = req.version() >= Version::HTTP_11;
    let head = req.head_mut();
    authority::put(&mut head.headers, host).map_err(refused)?;
    let hop = fields::reduce(&mut head.headers, &server.trusted_fields, is_http11);
    if req.uri().scheme().is_some() {
        let target = req.uri().path_and_query().cloned();
        set_target(req, target.unwrap_or(PathAndQuery::from_static("/")))?;
    }
    let host = req.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
    if !authority::is_served(host, &server.trusted_hosts) {
        let what = "the host is not served here";
        return Err(refuse(StatusCode::MISDIRECTED_REQUEST, what));
    }
    Ok(Canonical {
        scheme,
        client,
        hop: Hop {
            websocket: hop.websocket && *req.method() == Method::GET && !has_body(req.headers()),
            ..hop
        },
        ambiguous: false,
    })
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING)
        || length.is_some_and(|length| length.as_bytes() != b"0")
}

/// The path as a strict reader resolves it.
pub(super) fn judged(path: &str) -> Result<Judged<'_>, Refused> {
    // RFC 9112 §3.2.4: the server as a whole.
    if path == "*" {
        return Ok(Judged::unambiguous(path));
    }
    judge(path).map_err(|error| {
        let what = format!("the path of the request is not valid: {error}");
        refuse(StatusCode::BAD_REQUEST, &what)
    })
}

/// The same of a path that may be none, where a request is only counted.
pub(crate) fn judged_path(path: &str) -> Cow<'_, str> {
    judge(path).map_or(Cow::Borrowed(path), |judged| judged.path)
}

/// Whether the request must go past the cache, because some reader would take its path for another
/// that has other rules.
pub(super) fn is_ambiguous(
    state: &State,
    path: &Judged<'_>,
    matched: &Matched,
) -> Result<bool, Refused> {
    if !path.has_dots && path.readings.is_empty() {
        return Ok(false);
    }
    let mut past = path.has_dots;
    let mut refused = path.has_dots;
    for reading in &path.readings {
        let other = state.routes.find(&reading.path, false);
        if !other.has_same_rules(matched) {
            past = true;
            refused |= reading.by_separator;
        }
        // Whoever may have the one may not have the other: what was judged is all it can mean.
        let elsewhere = !other.has_same_target(matched);
        if elsewhere && state.config.server.ambiguous_paths == AmbiguousPaths::Bypass {
            return Err(ambiguous());
        }
    }
    if refused && state.config.server.ambiguous_paths == AmbiguousPaths::Refuse {
        return Err(ambiguous());
    }
    Ok(past)
}

fn ambiguous() -> Refused {
    let what = "the path of the request can be read in several ways: it has dot segments, or escaped \
                separators or control characters";
    refuse(StatusCode::BAD_REQUEST, what)
}

/// Leaves of the query what the rule has in its key, for requests that the cache may answer: what is
/// not in the key must not shape what is stored under it.
pub(super) fn keep_query_as_keyed(
    req: &mut ServiceRequest,
    rule: Option<&Rule>,
) -> Result<(), Refused> {
    let Some(rule) = rule else { return Ok(()) };
    if !matches!(*req.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let uri = req.uri();
    let keyed = rule.query_as_keyed(uri.query());
    if keyed.as_deref() == uri.query() {
        return Ok(());
    }
    let target = match keyed {
        Some(query) => format!("{}?{query}", uri.path()),
        None => uri.path().to_owned(),
    };
    let bad = |_| {
        refuse(
            StatusCode::BAD_REQUEST,
            "the query of the request is not valid",
        )
    };
    set_target(req, PathAndQuery::try_from(target).map_err(bad)?)
}

fn set_target(req: &mut ServiceRequest, target: PathAndQuery) -> Result<(), Refused> {
    let mut parts = Parts::default();
    parts.path_and_query = Some(target);
    let bad = |_| {
        refuse(
            StatusCode::BAD_REQUEST,
            "the target of the request is not valid",
        )
    };
    let uri = Uri::from_parts(parts).map_err(bad)?;
    req.match_info_mut().get_mut().update(&uri);
    req.head_mut().uri = uri;
    Ok(())
}
