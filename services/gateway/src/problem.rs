//! Problem details (RFC 9457): what clients are told when the gateway itself refuses or fails.
//!
//! A problem names the upstream by its configured name, never by its address, and no internals.

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{CONTENT_TYPE, HeaderValue},
    },
};
use serde::Serialize;

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
}

pub(crate) fn problem(status: StatusCode, detail: &str) -> HttpResponse {
    build(status, Some(detail), None)
}

pub(crate) fn of_upstream(status: StatusCode, detail: &str, upstream: &str) -> HttpResponse {
    build(status, Some(detail), Some(upstream))
}

fn build(status: StatusCode, detail: Option<&str>, upstream: Option<&str>) -> HttpResponse {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = Body {
        r#type: "about:blank",
        title,
        status: status.as_u16(),
        detail,
        upstream,
    };
    // A struct of strings and a number always has a JSON form.
    let json = serde_json::to_string(&body).unwrap_or_default();
    let mut response = HttpResponse::build(status).body(json);
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}
