//! The admin port: probes, metrics, purge, agents.

mod agents;
mod entry;
mod guard;
mod models;
mod posted;
mod purge;
mod warm;

pub(crate) use agents::MAX_STREAMS;
pub(crate) use guard::LocalAddress;
pub(crate) use purge::MAX_TAGS as MAX_PURGE_TAGS;

use crate::{builtin, problem::problem, state::State};
use actix_web::{
    HttpRequest, HttpResponse, Resource, Route,
    http::{StatusCode, header},
    middleware::from_fn,
    web,
};
use std::sync::atomic::Ordering;
use weaver_metrics::report::Status;

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    let agents = vec![
        web::post().to(agents::register),
        web::get().to(agents::list),
    ];
    let one = vec![
        web::get().to(agents::find_one),
        web::delete().to(agents::remove),
    ];
    let answers = vec![
        web::get().to(models::stats),
        web::delete().to(models::clear),
    ];
    let warm = vec![web::post().to(warm::begin), web::get().to(warm::list)];
    let warm = resource("/warm", warm).app_data(posted::MaxBody(warm::MAX_BODY));
    let heartbeat = vec![web::post().to(agents::heartbeat)];
    config.service(
        web::scope("")
            .wrap(from_fn(guard::guard))
            .service(resource(
                "/livez",
                vec![web::get().to(livez), web::head().to(livez)],
            ))
            .service(resource(
                "/readyz",
                vec![web::get().to(readyz), web::head().to(readyz)],
            ))
            .service(resource(
                "/metrics",
                vec![web::get().to(metrics), web::head().to(metrics)],
            ))
            .service(resource(
                "/openapi.json",
                vec![web::get().to(agents::description)],
            ))
            .service(resource("/purge", vec![web::post().to(purge::purge)]))
            .service(warm)
            .service(resource("/warm/{job}", vec![web::get().to(warm::progress)]))
            .service(resource("/hottest", vec![web::get().to(warm::hottest)]))
            .service(resource("/entry", vec![web::get().to(entry::entry)]))
            .service(resource("/agents", agents))
            .service(resource("/agents/{agent_id}", one))
            .service(resource("/agents/{agent_id}/heartbeat", heartbeat))
            .service(resource("/model-cache", answers))
            .service(resource("/agent-stats", vec![web::get().to(agents::stats)]))
            .service(resource(
                "/agent-events",
                vec![web::get().to(agents::events)],
            ))
            .service(resource("/dashboard", vec![web::get().to(dashboard)]))
            .default_service(web::to(nothing)),
    );
}

/// A resource answers other methods with 405; a route alone would leave them to the default.
fn resource(path: &str, routes: Vec<Route>) -> Resource {
    routes
        .into_iter()
        .fold(web::resource(path), Resource::route)
}

async fn livez() -> HttpResponse {
    plain(StatusCode::OK, "alive")
}

async fn readyz(state: web::Data<State>) -> HttpResponse {
    if state.is_draining() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    if state.awaits_redis.load(Ordering::Acquire) {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "waiting for redis");
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

async fn dashboard() -> HttpResponse {
    problem(
        StatusCode::NOT_IMPLEMENTED,
        "/dashboard comes in a later version",
    )
}
