//! `GET /entry?url=`: what each tier has for a URL, and what would become of it.

use crate::{ingress::judged_path, problem::problem, state::State, warm::header_line};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    web,
};
use serde_json::{Value, json};
use weaver_cache::{Stored, policy::url::Url};

/// The URL, and the headers of the request that is asked about.
struct Asked {
    url: Url,
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
        let url = Url::parse(&url).map_err(|error| {
            format!("url {url:?}: {error}; it needs its host, as in http://example.com/path")
        })?;
        Ok(Self { url, headers })
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
    let mut url = asked.url;
    let mut answer = json!({ "host": url.authority, "path": url.path() });
    match state.routes.find(&judged_path(url.path()), false).rule {
        Some(rule) => {
            let mut stored = cache.inspect(&rule, &url, &asked.headers, None).await;
            if stored.is_empty() {
                // Behind a proxy that ends TLS the scheme is easily taken for the other.
                url.scheme = url.scheme.other();
                stored = cache.inspect(&rule, &url, &asked.headers, None).await;
            }
            answer["url"] = json!(url.to_string());
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
