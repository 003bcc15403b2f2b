//! Requests about the connection to a resource, not about the resource: OPTIONS, TRACE and Max-Forwards
//! (RFC 9110 §7.6.2, §9.3.7, §9.3.8).

use super::{Refused, refuse};
use crate::routes::Target;
use actix_web::{
    HttpResponse,
    dev::ServiceRequest,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderValue},
    },
};
use std::fmt::Write as _;

/// What is forwarded, or answered here. What an upstream allows for one resource it says itself.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// Fields that a client must not read back: a script could learn what its browser keeps from it.
const SENSITIVE: [header::HeaderName; 4] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    header::HeaderName::from_static("x-api-key"),
];

/// Answers a request that must not go further, and counts down those that may. `trace` says whether
/// TRACE is forwarded.
pub(super) fn apply(req: &mut ServiceRequest, target: &Target, trace: bool) -> Result<(), Refused> {
    let (is_options, is_trace) = match *req.method() {
        Method::OPTIONS => (true, false),
        Method::TRACE => (false, true),
        // RFC 9110 §7.6.2: for other methods it means nothing.
        _ => return Ok(()),
    };
    if is_trace && !trace {
        let what = "TRACE is not answered here; server.trace allows it";
        let mut refused = refuse(StatusCode::METHOD_NOT_ALLOWED, what);
        refused.headers_mut().insert(header::ALLOW, ALLOW);
        return Err(refused);
    }
    // RFC 9112 §3.2.4: about the server as a whole, and so ours.
    if is_options && req.uri().path() == "*" {
        return Err(allowed());
    }
    // The gateway's own paths have no hop behind them.
    if !matches!(target, Target::Route(_)) {
        return Ok(());
    }
    match left(req.headers())? {
        None => Ok(()),
        Some(0) if is_trace => Err(reflected(req)),
        Some(0) => Err(allowed()),
        Some(hops) => {
            let hops = HeaderValue::from(hops - 1);
            req.headers_mut().insert(header::MAX_FORWARDS, hops);
            Ok(())
        }
    }
}

/// How many times the request may still be forwarded, if it says so.
fn left(headers: &HeaderMap) -> Result<Option<u32>, Refused> {
    let mut lines = headers.get_all(header::MAX_FORWARDS);
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    let text = line.as_bytes().trim_ascii();
    if lines.next().is_some() || text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        // What is no number cannot be counted down, and without it a loop would have no end.
        let what = "Max-Forwards is not one decimal number";
        return Err(refuse(StatusCode::BAD_REQUEST, what));
    }
    let digit = |most: u32, digit: &u8| {
        let digit = u32::from(digit - b'0');
        most.saturating_mul(10).saturating_add(digit)
    };
    // A number that is too large for us is as good as the largest.
    Ok(Some(text.iter().fold(0, digit)))
}

fn allowed() -> Refused {
    let mut response = HttpResponse::new(StatusCode::NO_CONTENT);
    response.headers_mut().insert(header::ALLOW, ALLOW);
    Box::new(response)
}

/// The request as it would have gone further (RFC 9110 §9.3.8).
fn reflected(req: &ServiceRequest) -> Refused {
    let mut text = format!("TRACE {} HTTP/1.1\r\n", req.uri());
    for (name, value) in req.headers() {
        if !SENSITIVE.contains(name) {
            let value = String::from_utf8_lossy(value.as_bytes());
            // A String takes all that is written to it.
            let _ = write!(text, "{name}: {value}\r\n");
        }
    }
    text.push_str("\r\n");
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CONTENT_TYPE, "message/http"));
    Box::new(response.body(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&'static str]) -> Result<Option<u32>, u16> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::MAX_FORWARDS, HeaderValue::from_static(line));
        }
        left(&headers).map_err(|refused| refused.status().as_u16())
    }

    #[test]
    fn a_number_counts_and_anything_else_is_refused() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["0"]), Ok(Some(0)));
        assert_eq!(of(&["007"]), Ok(Some(7)));
        assert_eq!(of(&["99999999999999999999"]), Ok(Some(u32::MAX)));
        for bad in [
            &[""] as &[_],
            &["-1"],
            &["+1"],
            &["1.0"],
            &["1, 2"],
            &["1", "1"],
            &["x"],
        ] {
            assert_eq!(of(bad), Err(400), "{bad:?}");
        }
    }
}
