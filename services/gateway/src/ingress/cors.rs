//! Cross-origin resource sharing (the Fetch standard, §3.3), for the listed origins.
//!
//! An upstream that answers for itself is left alone: its Access-Control-Allow-Origin stays.

use crate::config::CorsConfig;
use actix_web::{
    HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderValue},
    },
};

/// The origin of a request, if it is one that may read the response.
pub(super) fn origin(config: &CorsConfig, headers: &HeaderMap) -> Option<HeaderValue> {
    if config.allowed_origins.is_empty() {
        return None;
    }
    let origin = headers.get(header::ORIGIN)?;
    let allowed = config
        .allowed_origins
        .iter()
        .any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes());
    allowed.then(|| origin.clone())
}

/// The answer to a preflight request, which is ours to give.
pub(super) fn preflight(
    config: &CorsConfig,
    method: &Method,
    headers: &HeaderMap,
) -> Option<HttpResponse> {
    if *method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let origin = origin(config, headers)?;
    let mut response = HttpResponse::new(StatusCode::NO_CONTENT);
    let own = response.headers_mut();
    allow(config, &origin, own);
    let mut put = |name, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            own.insert(name, value);
        }
    };
    put(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        config.allowed_methods.join(", "),
    );
    put(
        header::ACCESS_CONTROL_MAX_AGE,
        config.max_age.as_secs().to_string(),
    );
    if !config.allowed_headers.is_empty() {
        put(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            config.allowed_headers.join(", "),
        );
    } else if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        own.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    Some(response)
}

/// Adds what lets the origin read a response. Vary gets a line of its own, so that the upstream's
/// lines stay as they are.
pub(super) fn allow(config: &CorsConfig, origin: &HeaderValue, headers: &mut HeaderMap) {
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    let any = config.allowed_origins.iter().any(|allowed| allowed == "*");
    if any {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
        return;
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if config.allow_credentials {
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
}
