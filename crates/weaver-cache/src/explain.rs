//! At debug the log says of each request what the cache made of it, and why.

use actix_web::dev::ServiceResponse;

/// The `why` is that of Cache-Status (RFC 9211): after `fwd=` why it was not answered from the cache,
/// after `detail=` why it went past it or why the response was not stored.
pub(crate) fn tell<B>(response: &ServiceResponse<B>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let request = response.request();
    let text = |value: Option<&actix_web::http::header::HeaderValue>| {
        value.and_then(|value| value.to_str().ok().map(str::to_owned))
    };
    // The last member is this cache's: those before are of caches nearer to the origin.
    let members = response.headers().get_all("cache-status").last();
    let own = text(members).and_then(|value| value.rsplit(", ").next().map(str::to_owned));
    tracing::debug!(
        method = request.method().as_str(),
        host = text(request.headers().get("host")),
        path = request.path(),
        status = response.status().as_u16(),
        why = own.as_deref().unwrap_or("no rule caches this path"),
        request_id = text(request.headers().get("x-request-id")),
        "{}",
        outcome(own.as_deref().unwrap_or("")),
    );
}

fn outcome(member: &str) -> &'static str {
    match member {
        _ if member.contains("; hit") => "hit",
        _ if member.contains("; collapsed") => "collapsed",
        _ if member.is_empty()
            || member.contains("fwd=bypass")
            || member.contains("fwd=method") =>
        {
            "bypass"
        }
        _ if member.contains("; stored") => "miss, stored",
        _ => "miss, not stored",
    }
}
