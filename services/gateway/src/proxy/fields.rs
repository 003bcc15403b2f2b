//! Header fields between client and upstream.

use crate::{convert, ingress::RequestContext};
use actix_web::{
    HttpRequest,
    http::header::{HeaderMap, HeaderName},
};
use std::net::IpAddr;
use weaver_cache::policy::validation::HOP_BY_HOP;

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

fn is_forwarding(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "forwarded"
            | "x-real-ip"
    )
}

/// The fields of the request to the upstream.
///
/// Gone are those of the connection (RFC 9110 §7.6.1), Expect, which this gateway has answered, and
/// what an untrusted client says of where it comes from. Added are Via, X-Forwarded-* and Forwarded
/// (RFC 7239).
pub(super) fn of_request(
    req: &HttpRequest,
    context: &RequestContext,
    host: Option<&str>,
    upgrade: bool,
) -> http::HeaderMap {
    let given = req.headers();
    let mut fields = http::HeaderMap::with_capacity(given.len() + 8);
    let connection = given
        .get_all("connection")
        .map(|line| line.as_bytes().to_vec());
    let listed = if given.contains_key("connection") {
        named(connection)
    } else {
        Vec::new()
    };
    let client = &context.client;
    for (name, value) in given {
        let text = name.as_str();
        if HOP_BY_HOP.contains(&text)
            || matches!(text, "expect" | "host" | "content-length")
            || listed.iter().any(|listed| listed == text)
            || (!client.trusted && is_forwarding(name))
        {
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
    if let Ok(id) = http::HeaderValue::from_bytes(context.request_id.as_bytes()) {
        fields.insert("x-request-id", id);
    }
    forwarded(&mut fields, client.peer, own_host, client.https);
    // TE is of one hop, but trailers are wanted by whoever says so to us (RFC 9110 §10.1.4).
    let trailers = given.get_all("te").any(|line| {
        line.to_str()
            .is_ok_and(|line| line.to_ascii_lowercase().contains("trailers"))
    });
    if trailers {
        put(&mut fields, "te", "trailers", false);
    }
    if upgrade && let Some(protocol) = given.get("upgrade").and_then(|value| value.to_str().ok()) {
        put(&mut fields, "connection", "upgrade", false);
        put(&mut fields, "upgrade", protocol, false);
    } else if trailers {
        put(&mut fields, "connection", "te", false);
    }
    fields
}

fn forwarded(fields: &mut http::HeaderMap, peer: Option<IpAddr>, host: &str, https: bool) {
    let proto = if https { "https" } else { "http" };
    if let Some(peer) = peer {
        let chain = match fields
            .get("x-forwarded-for")
            .and_then(|value| value.to_str().ok())
        {
            Some(before) => format!("{before}, {peer}"),
            None => peer.to_string(),
        };
        put(fields, "x-forwarded-for", &chain, false);
        let node = if peer.is_ipv6() {
            format!("\"[{peer}]\"")
        } else {
            peer.to_string()
        };
        let element = format!(
            "for={node};host=\"{}\";proto={proto}",
            host.replace(['"', '\\'], "")
        );
        put(fields, "forwarded", &element, true);
    }
    if !fields.contains_key("x-forwarded-proto") {
        put(fields, "x-forwarded-proto", proto, false);
    }
    if !fields.contains_key("x-forwarded-host") && !host.is_empty() {
        put(fields, "x-forwarded-host", host, false);
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
