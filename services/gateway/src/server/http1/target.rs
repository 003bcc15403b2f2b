//! The request target and its four forms (RFC 9112 §3.2).

use super::refusal::Refusal;
use actix_web::http::{Method, StatusCode, Uri};
use bytes::Bytes;

/// What the URI type can hold.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// Reads a target. What is given out has every byte that came: the URI type drops a fragment, so
/// that a target with one is refused.
pub(crate) fn parse(target: Bytes, method: &Method) -> Result<Uri, Refusal> {
    if *method == Method::CONNECT {
        return Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "CONNECT is not answered",
        ));
    }
    if target.len() > MAX_TARGET {
        return Err(Refusal::new(
            StatusCode::URI_TOO_LONG,
            "the request target is too long",
        ));
    }
    let bad = || Refusal::bad("the request target is not valid");
    if target.contains(&b'#') {
        return Err(bad());
    }
    match target.first() {
        Some(b'/') => Uri::from_maybe_shared(target).map_err(|_| bad()),
        Some(b'*') if target.len() == 1 && *method == Method::OPTIONS => {
            Uri::from_maybe_shared(target).map_err(|_| bad())
        }
        _ => {
            let uri = Uri::from_maybe_shared(target).map_err(|_| bad())?;
            if uri.scheme().is_some() && uri.authority().is_some() {
                Ok(uri)
            } else {
                Err(bad())
            }
        }
    }
}
