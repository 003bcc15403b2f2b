//! `POST /warm`, and how far it is.

use super::posted::Posted;
use crate::{
    problem::problem,
    state::State,
    warm::{MAX_URLS, Order, header_line, url},
};
use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// Bytes of one request.
pub(super) const MAX_BODY: usize = 4 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WarmRequest {
    urls: Vec<String>,
    /// Requests a second.
    #[serde(default = "rate")]
    rate: u32,
    /// `"Name: value"`
    #[serde(default)]
    headers: Vec<String>,
}

fn rate() -> u32 {
    100
}

impl WarmRequest {
    fn order(self) -> Result<Order, String> {
        if self.urls.is_empty() || self.urls.len() > MAX_URLS {
            return Err(format!("urls has 1 to {MAX_URLS} items"));
        }
        if !(1..=100_000).contains(&self.rate) {
            return Err("rate is 1 to 100000 requests a second".to_owned());
        }
        let urls = self.urls.iter().map(|line| url(line));
        let mut headers = http::HeaderMap::new();
        for line in &self.headers {
            let (name, value) = header_line(line)?;
            let name = http::HeaderName::try_from(name).map_err(|error| error.to_string())?;
            let value = http::HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            headers.append(name, value);
        }
        Ok(Order {
            urls: urls.collect::<Result<_, String>>()?,
            rate: self.rate,
            headers,
        })
    }
}

pub(super) async fn begin(state: web::Data<State>, body: Posted) -> HttpResponse {
    let request = match body.json::<WarmRequest>().await {
        Ok(request) => request,
        Err(refused) => return refused,
    };
    let order = match request.order() {
        Ok(order) => order,
        Err(what) => return problem(StatusCode::BAD_REQUEST, &what),
    };
    match state.warmer.begin(order) {
        Some(job) => answer(StatusCode::ACCEPTED, &job.report()),
        None => problem(
            StatusCode::TOO_MANY_REQUESTS,
            "too many jobs run already; wait for one to end",
        ),
    }
}

pub(super) async fn list(state: web::Data<State>) -> HttpResponse {
    let jobs: Value = state.warmer.all().iter().map(|job| job.report()).collect();
    answer(StatusCode::OK, &json!({ "jobs": jobs }))
}

pub(super) async fn progress(state: web::Data<State>, id: web::Path<u64>) -> HttpResponse {
    match state.warmer.find(*id) {
        Some(job) => answer(StatusCode::OK, &job.report()),
        None => problem(StatusCode::NOT_FOUND, "no such job, or not any more"),
    }
}

fn answer(status: StatusCode, body: &Value) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(body)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Most {
    #[serde(default = "most")]
    limit: usize,
}

fn most() -> usize {
    100
}

/// `GET /hottest?limit=100`
pub(super) async fn hottest(state: web::Data<State>, query: web::Query<Most>) -> HttpResponse {
    let Some(cache) = state.cache() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the cache is not up yet");
    };
    match cache.hottest(query.limit.min(MAX_URLS)).await {
        Ok(urls) => {
            let urls: Value = urls
                .iter()
                .map(|hot| json!({ "url": hot.url, "hits": hot.hits }))
                .collect();
            answer(StatusCode::OK, &json!({ "urls": urls }))
        }
        Err(error) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("redis was not reached: {error}"),
        ),
    }
}
