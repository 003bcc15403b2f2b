//! Between the two versions of the `http` crate: Actix has 0.2, hyper has 1.

use actix_web::http as old;

pub(crate) fn method(method: &old::Method) -> Option<http::Method> {
    http::Method::from_bytes(method.as_str().as_bytes()).ok()
}

pub(crate) fn status(status: http::StatusCode) -> old::StatusCode {
    // Both accept 100 to 999.
    old::StatusCode::from_u16(status.as_u16()).unwrap_or(old::StatusCode::BAD_GATEWAY)
}

pub(crate) fn field(
    name: &old::header::HeaderName,
    value: &old::header::HeaderValue,
) -> Option<(http::HeaderName, http::HeaderValue)> {
    let name = http::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
    let value = http::HeaderValue::from_bytes(value.as_bytes()).ok()?;
    Some((name, value))
}

pub(crate) fn field_back(
    name: &http::HeaderName,
    value: &http::HeaderValue,
) -> Option<(old::header::HeaderName, old::header::HeaderValue)> {
    let name = old::header::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
    let value = old::header::HeaderValue::from_bytes(value.as_bytes()).ok()?;
    Some((name, value))
}
