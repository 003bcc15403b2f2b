//! Header fields between client and upstream.

use crate::{
    convert,
    ingress::{Canonical, Mark, RequestContext},
};
use actix_web::{
    HttpRequest,
    http::header::{HeaderMap, HeaderName},
};
use std::net::IpAddr;
use weaver_cache::policy::{url::Authority, validation::HOP_BY_HOP};

/// Names that a Connection field lists, in lower case.
fn named(lines: impl Iterator<Item = Vec<u8>>) -> Vec<String> {
    lines
        .flat_map(|line| {
            let text = String::from_utf8_lossy(&line).to_ascii_lowercase();
            text.split(',')
                .map(|name| name.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// The fields of the request to the upstream: those of the canonical request, and what the gateway
/// writes of where it comes from.
///
/// Those that frame the message are for the connection to the upstream to write (RFC 9112 §6).
/// Added are Via, CDN-Loop (RFC 8586), X-Forwarded-* and Forwarded (RFC 7239). `host` stands in for
/// the effective host in Host alone: the route's upstream is known by another name.
pub(super) fn of_request(
    req: &HttpRequest,
    context: &RequestContext,
    mark: &Mark,
    host: Option<&str>,
) -> http::HeaderMap {
    let given = req.headers();
    let canonical = &context.canonical;
    let mut fields = http::HeaderMap::with_capacity(given.len() + 8);
    for (name, value) in given {
        let text = name.as_str();
        if matches!(text, "host" | "content-length") || HOP_BY_HOP.contains(&text) {
            continue;
        }
        if let Some((name, value)) = convert::field(name, value) {
            fields.append(name, value);
        }
    }
    let own_host = given
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or("");
    put(&mut fields, "host", host.unwrap_or(own_host), false);
    put(&mut fields, "via", "1.1 weaver", true);
    put(&mut fields, "cdn-loop", mark.name(), true);
    if let Ok(id) = http::HeaderValue::from_bytes(context.request_id.as_bytes()) {
        fields.insert("x-request-id", id);
    }
    forwarded(&mut fields, canonical, own_host);
    if canonical.hop.trailers {
        put(&mut fields, "te", "trailers", false);
    }
    if canonical.hop.websocket {
        put(&mut fields, "connection", "upgrade", false);
        put(&mut fields, "upgrade", "websocket", false);
    } else if canonical.hop.trailers {
        put(&mut fields, "connection", "te", false);
    }
    fields
}

/// Where the request comes from: what trusted proxies have said, and the peer behind them.
fn forwarded(fields: &mut http::HeaderMap, canonical: &Canonical, host: &str) {
    let client = &canonical.client;
    let told = client.told.as_deref();
    let proto = canonical.scheme.as_str();
    if let Some(peer) = client.peer {
        let chain = match told.and_then(|told| told.chain.as_deref()) {
            Some(before) => format!("{before}, {peer}"),
            None => peer.to_string(),
        };
        put(fields, "x-forwarded-for", &chain, false);
        // Nothing of Forwarded is passed on as it came: an origin may read the first element, which a
        // client has written.
        let hops = told.map_or(&[][..], |told| &told.hops);
        let mut elements: Vec<String> = hops.iter().chain([&peer]).map(node).collect();
        if let Some(first) = elements.first_mut() {
            if !host.is_empty() {
                first.push_str(&format!(";host=\"{host}\""));
            }
            first.push_str(&format!(";proto={proto}"));
        }
        put(fields, "forwarded", &elements.join(", "), false);
    }
    if let (Some(_), Some(address)) = (told, client.address) {
        put(fields, "x-real-ip", &address.to_string(), false);
    }
    put(fields, "x-forwarded-proto", proto, false);
    if !host.is_empty() {
        put(fields, "x-forwarded-host", host, false);
    }
    if told.is_some_and(|told| told.port.is_some()) {
        let port = Authority::parse(host, canonical.scheme).map(|authority| authority.port());
        let port = port.ok().flatten();
        let port = port.unwrap_or(canonical.scheme.default_port());
        put(fields, "x-forwarded-port", &port.to_string(), false);
    }
}

/// RFC 7239 §6.
fn node(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    }
}

fn put(fields: &mut http::HeaderMap, name: &'static str, value: &str, append: bool) {
    let Ok(value) = http::HeaderValue::try_from(value) else {
        return;
    };
    if append {
        fields.append(name, value);
    } else {
        fields.insert(name, value);
    }
}

/// Puts the upstream's fields on the response: all but those of its connection.
pub(super) fn of_response(from: &http::HeaderMap, to: &mut HeaderMap, keep_length: bool) {
    let connection = from
        .get_all("connection")
        .iter()
        .map(|line| line.as_bytes().to_vec());
    let listed = if from.contains_key("connection") {
        named(connection)
    } else {
        Vec::new()
    };
    for (name, value) in from {
        let text = name.as_str();
        if HOP_BY_HOP.contains(&text)
            || (text == "content-length" && !keep_length)
            || listed.iter().any(|listed| listed == text)
        {
            continue;
        }
        if let Some((name, value)) = convert::field_back(name, value) {
            to.append(name, value);
        }
    }
    to.append(
        HeaderName::from_static("via"),
        actix_web::http::header::HeaderValue::from_static("1.1 weaver"),
    );
}
