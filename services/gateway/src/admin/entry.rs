//! `GET /entry?url=`: what each tier has for a URL, and what would become of it.

use crate::{problem::problem, state::State, warm::header_line};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    web,
};
use serde_json::{Value, json};
use weaver_cache::Stored;

/// The URL, and the headers of the request that is asked about.
struct Asked {
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl Asked {
    fn read(query: &str) -> Result<Self, String> {
        let mut url = None;
        let mut headers = HeaderMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "url" => url = Some(value.into_owned()),
                "header" => {
                    let (name, value) = header_line(&value)?;
                    let name = HeaderName::try_from(name)
                        .map_err(|_| format!("{name:?} is no header name"))?;
                    let value = HeaderValue::from_str(value)
                        .map_err(|_| format!("the value of {name} is no header value"))?;
                    headers.append(name, value);
                }
                other => return Err(format!("{other:?} is neither url nor header")),
            }
        }
        let url = url.ok_or("url is missing")?;
        let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
        let host = uri
            .authority()
            .map(|authority| authority.as_str().to_ascii_lowercase())
            .ok_or("url needs its host, as in http://example.com/path: each host has its own")?;
        Ok(Self {
            host,
            path: uri.path().to_owned(),
            query: uri.query().map(ToOwned::to_owned),
            headers,
        })
    }
}

pub(super) async fn entry(req: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let asked = match Asked::read(req.query_string()) {
        Ok(asked) => asked,
        Err(what) => return problem(StatusCode::BAD_REQUEST, &what),
    };
    let Some(cache) = state.cache() else {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cache is not running yet",
        );
    };
    let mut answer = json!({ "host": asked.host, "path": asked.path });
    match state.routes.find(&asked.path, false).rule {
        Some(rule) => {
            let url = (&*asked.host, &*asked.path, asked.query.as_deref());
            let stored = cache.inspect(&rule, url, &asked.headers, None).await;
            answer["rule"] = json!(&*rule.name);
            answer["per_user"] = json!(rule.per_user);
            answer["stored"] = stored.iter().map(view).collect();
        }
        None => {
            answer["rule"] = Value::Null;
            answer["stored"] = json!([]);
            answer["why"] = json!("no route or pattern caches this path");
        }
    }
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(answer)
}

fn view(stored: &Stored) -> Value {
    json!({
        "tier": stored.tier.as_str(),
        "standing": stored.standing.as_str(),
        "selected": stored.selected,
        "varies_on": stored.varies_on,
        "status": stored.status,
        "bytes": stored.bytes,
        "age_seconds": stored.age as f64 / 1000.0,
        "ttl_seconds": stored.ttl as f64 / 1000.0,
        "kept_for_seconds": stored.kept_for as f64 / 1000.0,
        "fetched_in_seconds": stored.fetched_in as f64 / 1e6,
        "position": stored.position.to_string(),
    })
}
