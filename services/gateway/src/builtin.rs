//! The endpoints of the gateway's own: `/health`, `/whoami`, `/metrics`.

use crate::{ingress::RequestContext, problem::problem, state::State};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap},
    },
};
use serde_json::json;

/// What a request gets that is neither GET nor HEAD.
fn unless_get(req: &HttpRequest) -> Option<HttpResponse> {
    if matches!(*req.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let mut response = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "only GET and HEAD are answered here",
    );
    response
        .headers_mut()
        .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
    Some(response)
}

pub(crate) fn health(req: &HttpRequest, state: &State) -> HttpResponse {
    if let Some(refused) = unless_get(req) {
        return refused;
    }
    HttpResponse::Ok().json(json!({
        "status": state.status(),
        "service": state.config.server.service_name,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

pub(crate) fn whoami(req: &HttpRequest, context: &RequestContext, state: &State) -> HttpResponse {
    if let Some(refused) = unless_get(req) {
        return refused;
    }
    HttpResponse::Ok().json(match &context.identity {
        Some(identity) => json!({
            "authenticated": true,
            "user_id": &*identity.user,
            "roles": identity.roles,
            "scopes": identity.scopes,
            "auth_mode": identity.mode,
        }),
        None => json!({
            "authenticated": false,
            "user_id": "anonymous",
            "roles": [],
            "scopes": [],
            "auth_mode": state.auth.mode(),
        }),
    })
}

/// Whether a scraper asks, which wants text and wants it fresh.
pub(crate) fn wants_text(headers: &HeaderMap) -> bool {
    text_kind(headers).is_some()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    OpenMetrics,
    Prometheus,
}

/// The first of the two kinds of text that Accept names, if it names one before JSON or `*/*`.
fn text_kind(headers: &HeaderMap) -> Option<Text> {
    for line in headers.get_all(header::ACCEPT) {
        for item in line.to_str().unwrap_or("").split(',') {
            let mut parts = item.split(';').map(str::trim);
            let kind = parts.next().unwrap_or("");
            let refused = parts.any(|part| part == "q=0" || part == "q=0.0");
            match kind {
                _ if refused => {}
                "application/openmetrics-text" => return Some(Text::OpenMetrics),
                "text/plain" => return Some(Text::Prometheus),
                "application/json" | "*/*" => return None,
                _ => {}
            }
        }
    }
    None
}

pub(crate) fn metrics(req: &HttpRequest, state: &State) -> HttpResponse {
    if let Some(refused) = unless_get(req) {
        return refused;
    }
    match text_kind(req.headers()) {
        None => HttpResponse::Ok()
            .insert_header((header::VARY, "Accept"))
            .json(state.report()),
        Some(kind) => text(state, kind == Text::OpenMetrics),
    }
}

/// All metrics as text, never cached.
pub(crate) fn text(state: &State, openmetrics: bool) -> HttpResponse {
    let open = state.cache().is_some_and(|cache| cache.uses_redis());
    state.cache_metrics.redis_open(open);
    let (body, kind) = if openmetrics {
        (
            weaver_metrics::encode(&state.registry),
            weaver_metrics::OPENMETRICS,
        )
    } else {
        (
            weaver_metrics::encode_prometheus(&state.registry),
            weaver_metrics::PROMETHEUS,
        )
    };
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, kind))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(body)
}

/// What the admin port gives a scraper that asks for nothing in particular.
pub(crate) fn text_for(req: &HttpRequest, state: &State) -> HttpResponse {
    text(state, text_kind(req.headers()) != Some(Text::Prometheus))
}
