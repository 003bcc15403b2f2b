//! `/model-cache`: what the cache of models' answers has done, and its end.

use crate::{
    problem::problem,
    state::{State, model_snapshot},
};
use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web,
};

fn none() -> HttpResponse {
    let what = "no models are configured, or model_cache is off";
    problem(StatusCode::NOT_FOUND, what)
}

/// `GET /model-cache`: as in the JSON of `/metrics`, made anew.
pub(super) async fn stats(state: web::Data<State>) -> HttpResponse {
    match &state.models.cache {
        Some(cache) => HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .json(model_snapshot(cache).report()),
        None => none(),
    }
}

/// `DELETE /model-cache`: all answers, in all nodes that share it, and those that are being fetched.
pub(super) async fn clear(state: web::Data<State>) -> HttpResponse {
    let Some(cache) = &state.models.cache else {
        return none();
    };
    match cache.clear().await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => {
            let what = format!("the answers are there still: {error}");
            problem(StatusCode::SERVICE_UNAVAILABLE, &what)
        }
    }
}
