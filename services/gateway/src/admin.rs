//! The admin port: probes, metrics, purge, agents.

mod agents;
mod entry;
mod models;
mod purge;
mod warm;

pub(crate) use agents::MAX_STREAMS;

use crate::{builtin, problem::problem, state::State};
use actix_web::{
    HttpRequest, HttpResponse, Resource, Route,
    http::{StatusCode, header},
    web,
};
use std::sync::atomic::Ordering;
use subtle::ConstantTimeEq;
use weaver_metrics::report::Status;

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    // A resource answers other methods with 405; a route alone would leave them to the default.
    let mut at = |path: &str, routes: Vec<Route>| {
        let resource = routes
            .into_iter()
            .fold(web::resource(path), Resource::route);
        config.service(resource);
    };
    at("/livez", vec![web::get().to(livez)]);
    at("/readyz", vec![web::get().to(readyz)]);
    at("/metrics", vec![web::get().to(metrics)]);
    at("/purge", vec![web::post().to(purge::purge)]);
    at("/warm/{job}", vec![web::get().to(warm::progress)]);
    at("/hottest", vec![web::get().to(warm::hottest)]);
    at("/entry", vec![web::get().to(entry::entry)]);
    at("/openapi.json", vec![web::get().to(agents::description)]);
    let agents = vec![
        web::post().to(agents::register),
        web::get().to(agents::list),
    ];
    at("/agents", agents);
    let one = vec![
        web::get().to(agents::find_one),
        web::delete().to(agents::remove),
    ];
    at("/agents/{agent_id}", one);
    let heartbeat = vec![web::post().to(agents::heartbeat)];
    at("/agents/{agent_id}/heartbeat", heartbeat);
    let answers = vec![
        web::get().to(models::stats),
        web::delete().to(models::clear),
    ];
    at("/model-cache", answers);
    at("/agent-stats", vec![web::get().to(agents::stats)]);
    at("/agent-events", vec![web::get().to(agents::events)]);
    let dashboard = web::get().to(|req, state| later(req, state, "dashboard"));
    at("/dashboard", vec![dashboard]);
    config
        .service(
            web::resource("/warm")
                .app_data(web::PayloadConfig::new(warm::MAX_BODY))
                .route(web::post().to(warm::begin))
                .route(web::get().to(warm::list)),
        )
        .default_service(web::to(nothing));
}

async fn livez() -> HttpResponse {
    plain(StatusCode::OK, "alive")
}

async fn readyz(state: web::Data<State>) -> HttpResponse {
    if state.is_draining() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    if state.warming.load(Ordering::Acquire) {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "warming");
    }
    match state.status() {
        // Without Redis requests are served all the same.
        Status::Healthy | Status::Degraded => plain(StatusCode::OK, "ready"),
        Status::Unhealthy => plain(StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text)
}

async fn metrics(req: HttpRequest, state: web::Data<State>) -> HttpResponse {
    builtin::text_for(&req, &state)
}

async fn nothing() -> HttpResponse {
    problem(
        StatusCode::NOT_FOUND,
        "nothing is here; see /livez, /readyz, /metrics, /purge, /warm, /hottest, /entry, /model-cache, /agents and /openapi.json",
    )
}

async fn later(req: HttpRequest, state: web::Data<State>, what: &'static str) -> HttpResponse {
    if let Some(refused) = refusal(&req, &state) {
        return refused;
    }
    problem(
        StatusCode::NOT_IMPLEMENTED,
        &format!("/{what} comes in a later version"),
    )
}

/// What a request without the right bearer token gets; tokens are compared in constant time.
fn refusal(req: &HttpRequest, state: &State) -> Option<HttpResponse> {
    let token = state.config.admin.token.as_bytes();
    if token.is_empty() {
        return None;
    }
    let given = req
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    if bool::from(given.ct_eq(token)) {
        return None;
    }
    let mut refused = problem(
        StatusCode::UNAUTHORIZED,
        "the admin token is missing or wrong",
    );
    let challenge = header::HeaderValue::from_static("Bearer realm=\"weaver-admin\"");
    refused
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    Some(refused)
}
