//! The admin port: probes, metrics, purge.

use crate::{builtin, problem::problem, state::State};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use subtle::ConstantTimeEq;
use weaver_cache::{Position, Purge, PurgeError};
use weaver_metrics::report::Status;

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/livez", web::get().to(livez))
        .route("/readyz", web::get().to(readyz))
        .route("/metrics", web::get().to(metrics))
        .route("/purge", web::post().to(purge))
        .route(
            "/warm",
            web::post().to(|req, state| later(req, state, "warm")),
        )
        .route(
            "/entry",
            web::get().to(|req, state| later(req, state, "entry")),
        )
        .route(
            "/dashboard",
            web::get().to(|req, state| later(req, state, "dashboard")),
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
        "nothing is here; see /livez, /readyz, /metrics and /purge",
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

/// What to purge: exactly one of the first four.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeRequest {
    url: Option<String>,
    tags: Option<Vec<String>>,
    prefix: Option<String>,
    all: Option<bool>,
    #[serde(default)]
    soft: bool,
}

/// Tags that one request may name.
const MAX_TAGS: usize = 1000;

impl PurgeRequest {
    fn purges(self) -> Result<Vec<Purge>, &'static str> {
        const ONE: &str = "exactly one of url, tags, prefix and all is needed";
        match (self.url, self.tags, self.prefix, self.all) {
            (Some(url), None, None, None) => {
                let (host, target) = split(&url)?;
                Ok(vec![Purge::Url { host, target }])
            }
            (None, Some(tags), None, None) => {
                if tags.is_empty() || tags.len() > MAX_TAGS {
                    return Err("tags has 1 to 1000 items");
                }
                if tags
                    .iter()
                    .any(|tag| tag.is_empty() || tag.contains([' ', ',', '\t']))
                {
                    return Err("a tag is not empty, and has neither space nor comma");
                }
                Ok(tags.into_iter().map(Purge::Tag).collect())
            }
            (None, None, Some(prefix), None) => {
                let (host, prefix) = split(&prefix)?;
                Ok(vec![Purge::Prefix { host, prefix }])
            }
            (None, None, None, Some(true)) => Ok(vec![Purge::All]),
            _ => Err(ONE),
        }
    }
}

/// Splits a URL into its host, if it has one, and path and query.
fn split(url: &str) -> Result<(Option<String>, String), &'static str> {
    if url.starts_with('/') {
        return Ok((None, url.to_owned()));
    }
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or("a URL begins with http://, https:// or /")?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(at);
    let target = if target.starts_with('/') {
        target.to_owned()
    } else {
        format!("/{target}")
    };
    Ok((Some(host.to_ascii_lowercase()), target))
}

#[derive(Deserialize)]
struct PurgeOptions {
    wait: Option<String>,
}

async fn purge(
    req: HttpRequest,
    state: web::Data<State>,
    options: web::Query<PurgeOptions>,
    body: web::Bytes,
) -> HttpResponse {
    if let Some(refused) = refusal(&req, &state) {
        return refused;
    }
    let soft;
    let purges = match serde_json::from_slice::<PurgeRequest>(&body) {
        Ok(request) => {
            soft = request.soft;
            request.purges()
        }
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let purges = match purges {
        Ok(purges) => purges,
        Err(what) => return problem(StatusCode::BAD_REQUEST, what),
    };
    let Some(cache) = state.cache() else {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cache is not running yet",
        );
    };
    let mut position = Position::default();
    for purge in purges {
        match cache.purge(purge, soft).await {
            Ok(at) => position = at,
            Err(PurgeError::LocalOnly(error)) => {
                tracing::error!(%error, "a purge did not reach the journal");
                let what = "purged in this node only: the journal in Redis was not reached, \
                            so other nodes may not hear of it; send it again";
                return problem(StatusCode::SERVICE_UNAVAILABLE, what);
            }
        }
    }
    let mut answer = json!({ "position": position.to_string(), "soft": soft });
    if options.wait.as_deref() == Some("applied") {
        let applied = cache.applied(position, Duration::from_secs(5)).await;
        answer["applied_here"] = json!(applied);
    }
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(answer)
}
