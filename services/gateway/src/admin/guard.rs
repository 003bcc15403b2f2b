//! Who may use the admin port: the gate that every request to it passes.
//!
//! Two kinds of caller are kept out. One has no token. The other is a web page in an operator's
//! browser: it can reach a loopback address, but it cannot choose `Host`, `Origin` or
//! `Sec-Fetch-Site`, and without a CORS preflight it cannot send `application/json` ([`site`]).
//!
//! | endpoint | Host | Origin, Sec-Fetch-Site | token | media type |
//! |---|---|---|---|---|
//! | `/livez`, `/readyz` | | checked | | |
//! | `/metrics`, `/openapi.json` | checked | checked | | |
//! | everything else, unknown paths included | checked | checked | checked | checked |

mod site;

use crate::{auth::FailureBudget, problem::problem, state::State};
use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use site::Refused;
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// The address on which a connection came in, which its requests may name as their Host: an extension
/// of each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalAddress(pub(crate) IpAddr);

/// How much a caller has to show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// A kubelet asks by the address of the pod, and learns nothing but "ready".
    Probe,
    /// Anybody on the network may read it, but not a page under a rebound name.
    Open,
    Operator,
}

impl Access {
    /// What is not listed here needs the token: a new endpoint is not open by mistake.
    fn to(path: &str) -> Self {
        match path {
            "/livez" | "/readyz" => Self::Probe,
            "/metrics" | "/openapi.json" => Self::Open,
            _ => Self::Operator,
        }
    }
}

/// Refuses what may not pass, before anything of a body is read.
pub(super) async fn guard(
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let refused = match req.app_data::<web::Data<State>>() {
        Some(state) => check(&req, state).err().map(|refused| *refused),
        None => Some(HttpResponse::InternalServerError().finish()),
    };
    let mut response = match refused {
        Some(refused) => req.into_response(refused).map_into_right_body(),
        None => {
            let response = next.call(req).await?;
            // What the framework refuses by itself, such as a body that is too large.
            let refused = response.response().error().map(|error| {
                let status = error.as_response_error().status_code();
                problem(status, &error.to_string())
            });
            match refused {
                Some(refused) => response.into_response(refused).map_into_right_body(),
                None => response.map_into_left_body(),
            }
        }
    };
    isolate(response.headers_mut());
    Ok(response)
}

fn check(req: &ServiceRequest, state: &State) -> Result<(), Box<HttpResponse>> {
    let access = Access::to(req.path());
    let headers = req.headers();
    let token = state.config.admin.token.as_bytes();
    if access == Access::Operator && !token.is_empty() && !headers.contains_key("authorization") {
        return Err(Box::new(unauthorized("the admin token is missing")));
    }
    let respond = |Refused { status, what }: Refused| Box::new(problem(status, &what));
    let host = match (site::Host::of(headers, req.uri()), access) {
        (Ok(host), _) => Some(host),
        (Err(_), Access::Probe) => None,
        (Err(refused), _) => return Err(respond(refused)),
    };
    if let Some(host) = host.as_ref().filter(|_| access != Access::Probe) {
        let local = req.extensions().get::<LocalAddress>().map(|local| local.0);
        let own = [local, Some(state.config.server.admin_listen.ip())];
        host.check(&state.config.admin.hosts, &own)
            .map_err(respond)?;
    }
    site::check_origin(headers, host.as_ref()).map_err(respond)?;
    site::check_via(headers).map_err(respond)?;
    if access == Access::Operator {
        let peer = req.peer_addr().map(|peer| peer.ip());
        check_token(headers, token, peer, state.admin_failures.as_ref())?;
        check_media_type(req.method(), headers)?;
    }
    Ok(())
}

fn unauthorized(what: &str) -> HttpResponse {
    let mut refused = problem(StatusCode::UNAUTHORIZED, what);
    let challenge = HeaderValue::from_static("Bearer realm=\"weaver-admin\"");
    refused
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    refused
}

/// Compares the bearer token in constant time, unless too many wrong ones came from this address.
fn check_token(
    headers: &HeaderMap,
    token: &[u8],
    peer: Option<IpAddr>,
    failures: Option<&FailureBudget>,
) -> Result<(), Box<HttpResponse>> {
    if token.is_empty() {
        return Ok(());
    }
    if let Some(failures) = failures
        && let Err(seconds) = failures.check(peer)
    {
        let what = "too many wrong admin tokens came from this address; try again later";
        let mut refused = problem(StatusCode::TOO_MANY_REQUESTS, what);
        refused
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return Err(Box::new(refused));
    }
    let given = crate::auth::bearer(headers).unwrap_or_default();
    if bool::from(given.ct_eq(token)) {
        return Ok(());
    }
    if let Some(failures) = failures {
        failures.failed(peer);
    }
    Err(Box::new(unauthorized("the admin token is wrong")))
}

/// A body has to be JSON: pages may send forms and plain text to other sites, but not that.
fn check_media_type(method: &Method, headers: &HeaderMap) -> Result<(), Box<HttpResponse>> {
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length.as_bytes() != b"0");
    let mut types = headers.get_all(header::CONTENT_TYPE);
    let is_json = match (types.next(), types.next()) {
        (Some(one), None) => is_json(one.as_bytes()),
        (None, None) => !has_body,
        _ => false,
    };
    let reads_only = matches!(*method, Method::GET | Method::HEAD) && !has_body;
    if is_json || reads_only {
        return Ok(());
    }
    let what = "the body must be JSON: send it with Content-Type: application/json";
    let mut refused = problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, what);
    // RFC 9110 §15.5.16 names Accept in a response; RFC 5789 and LDP name the other two.
    let name = match *method {
        Method::POST => HeaderName::from_static("accept-post"),
        Method::PATCH => HeaderName::from_static("accept-patch"),
        _ => header::ACCEPT,
    };
    refused
        .headers_mut()
        .insert(name, HeaderValue::from_static("application/json"));
    Err(Box::new(refused))
}

/// `application/json` or `application/…+json`, with or without parameters.
fn is_json(value: &[u8]) -> bool {
    let end = value.iter().position(|byte| *byte == b';');
    let essence = value[..end.unwrap_or(value.len())].trim_ascii();
    let essence = essence.to_ascii_lowercase();
    let Some(subtype) = essence.strip_prefix(b"application/") else {
        return false;
    };
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(byte);
    subtype == b"json"
        || (subtype.len() > 5 && subtype.ends_with(b"+json") && subtype.iter().all(token))
}

/// Tells browsers to keep what is answered from every other site.
fn isolate(headers: &mut HeaderMap) {
    let fields = [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        (
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'",
        ),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
    ];
    for (name, value) in fields {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_json() {
        for good in [
            "application/json",
            "Application/JSON ; charset=utf-8",
            "application/merge-patch+json",
            "application/vnd.a.b+json;v=1",
        ] {
            assert!(is_json(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "text/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "application/+json",
            "application/a b+json",
            "text/plain, application/json",
            "text/plain;application/json",
            "application/x-www-form-urlencoded;a=+json",
        ] {
            assert!(!is_json(bad.as_bytes()), "{bad}");
        }
    }
}
