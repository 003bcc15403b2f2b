//! Which fields of a request go on, decided once: what is left is what the cache keys, what Vary
//! selects by, and what the upstream gets.
//!
//! Gone are the fields of the connection (RFC 9110 §7.6.1), what a client may not say of itself unless
//! `trusted_fields` lets it, and names that CGI would fold into others (RFC 3875 §4.1.18). The forwarding fields are read
//! by [`super::client`] and written anew for the upstream.

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::collections::HashSet;

/// What the request's connection asked for, which its fields no longer tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Whether it asked to become a WebSocket (RFC 6455 §4.1).
    pub(crate) websocket: bool,
    /// Whether it takes trailers (RFC 9110 §10.1.4).
    pub(crate) trailers: bool,
}

/// Fields by which proxies tell of the client; read and then written anew.
const FORWARDING: [&str; 6] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Fields of a request that the gateway writes behind the cache: a response that varies on them is
/// not stored. The forwarded scheme and host are part of every key.
pub(crate) const GENERATED: [&str; 7] = [
    "cdn-loop",
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-port",
    "x-real-ip",
    "x-request-id",
];

/// Whether a field is of one connection, or written by the gateway, so that no key can have what the
/// client says in it.
pub(crate) fn is_not_keyable(name: &HeaderName) -> bool {
    let name = name.as_str();
    FORWARDING.contains(&name) || GENERATED.contains(&name) || is_hop_by_hop(name)
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Families of fields by which clients pass for others, or for other requests, at servers that take
/// them for a proxy's: overriding URL, method, host or scheme, telling an address, a user or a
/// certificate. Each is the beginning of some names.
const OVERRIDES: [&str; 73] = [
    "base-url",
    "cf-access-",
    "cf-connecting-",
    "client-cert",
    "client-ip",
    "fastly-client-",
    "fly-client-",
    "forwarded-",
    "front-end-https",
    "http-host",
    "impersonate-",
    "proxy-",
    "real-ip",
    "remote-",
    "request-uri",
    "ssl-",
    "tailscale-user-",
    "true-client-ip",
    "url-scheme",
    "wl-proxy-",
    "x-accel-",
    "x-amzn-oidc-",
    "x-anonymous-consumer",
    "x-appengine-",
    "x-arr-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-cert",
    "x-client-dn",
    "x-client-ip",
    "x-client-verify",
    "x-cluster-client-",
    "x-consumer-",
    "x-credential-",
    "x-custom-ip-authorization",
    "x-envoy-",
    "x-forward-",
    "x-forwarded",
    "x-goog-authenticated-",
    "x-goog-iap-",
    "x-host",
    "x-http-",
    "x-invoke-",
    "x-jwt-payload",
    "x-matched-path",
    "x-method",
    "x-middleware-",
    "x-ms-client-principal",
    "x-now-route-matches",
    "x-original-",
    "x-originating-",
    "x-override-",
    "x-pomerium-",
    "x-proxy-",
    "x-proxyuser-",
    "x-real-",
    "x-remote-",
    "x-request-uri",
    "x-rewrite-",
    "x-scheme",
    "x-script-name",
    "x-sendfile-",
    "x-server-name",
    "x-ssl",
    "x-true-",
    "x-url-scheme",
    "x-user-email",
    "x-userinfo",
    "x-vercel-",
    "x-webauth-",
];

/// Credentials that only Weaver's own authentication reads: where it does not, they are part of every
/// key.
pub(crate) const OWN_CREDENTIALS: [&str; 2] = ["x-api-key", "x-user-id"];

fn is_override(name: &str) -> bool {
    // Most names of requests are none by their first letter.
    let may_be = matches!(
        name.as_bytes().first(),
        Some(b'x' | b'b' | b'c' | b'f' | b'h' | b'i' | b'p' | b'r' | b's' | b't' | b'u' | b'w')
    );
    name == "proxy" || may_be && OVERRIDES.iter().any(|family| name.starts_with(family))
}

/// Whether CGI and its kin read the name as another: they take everything but letters and digits for
/// one character.
fn is_folded(name: &str) -> bool {
    name.contains("--")
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// What becomes of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It is one of the connection, or of the proxies before us.
    Goes,
    /// It goes unless the configuration names it.
    GoesUnlessTrusted,
}

fn fate(name: &str) -> Fate {
    if is_hop_by_hop(name) || FORWARDING.contains(&name) {
        Fate::Goes
    } else if is_override(name) || is_folded(name) {
        Fate::GoesUnlessTrusted
    } else {
        Fate::Stays
    }
}

/// Fields that Connection cannot take away: the request's own identity, and what proxies tell.
fn is_kept_from_connection(name: &str) -> bool {
    FORWARDING.contains(&name)
        || GENERATED.contains(&name)
        || matches!(name, "host" | "content-length" | "content-type")
}

/// Leaves the fields that go on, once the forwarding fields have been read.
pub(super) fn reduce(headers: &mut HeaderMap, trusted: &[HeaderName], is_http11: bool) -> Hop {
    let mut hop = Hop::default();
    let leaves = headers
        .keys()
        .any(|name| fate(name.as_str()) != Fate::Stays);
    if !leaves {
        return hop;
    }
    let listed = connection_options(headers);
    let asks_upgrade = listed.contains("upgrade");
    hop.trailers = headers
        .get_all(header::TE)
        .any(|line| options(line).any(|coding| coding == "trailers"));
    hop.websocket = is_http11
        && asks_upgrade
        && headers.contains_key(header::SEC_WEBSOCKET_KEY)
        && is_one(headers, &header::UPGRADE, b"websocket");
    let framing = headers.get(header::TRANSFER_ENCODING).cloned();
    headers.retain(|name, _| match fate(name.as_str()) {
        Fate::Goes => false,
        Fate::GoesUnlessTrusted => trusted.contains(name),
        Fate::Stays => {
            let name = name.as_str();
            is_kept_from_connection(name) || !listed.contains(name)
        }
    });
    if let Some(framing) = framing {
        // Tells those behind that there is a body. It is not sent on as it stands.
        headers.insert(header::TRANSFER_ENCODING, framing);
    }
    if hop.websocket {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    if hop.trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    hop
}

/// What Connection lists, in lower case. A set, for a client may list as many as it has fields.
fn connection_options(headers: &HeaderMap) -> HashSet<String> {
    headers
        .get_all(header::CONNECTION)
        .flat_map(options)
        .collect()
}

/// The members of a list, in lower case and without parameters.
fn options(line: &HeaderValue) -> impl Iterator<Item = String> {
    line.as_bytes().split(|byte| *byte == b',').map(|member| {
        let member = member.split(|byte| *byte == b';').next().unwrap_or(member);
        String::from_utf8_lossy(member.trim_ascii()).to_ascii_lowercase()
    })
}

fn is_one(headers: &HeaderMap, name: &HeaderName, wanted: &[u8]) -> bool {
    let mut lines = headers.get_all(name);
    let first = lines.next().map(|line| line.as_bytes().trim_ascii());
    lines.next().is_none() && first.is_some_and(|value| value.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(fields: &[(&str, &str)], trusted: &[&str]) -> (Vec<String>, Hop) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let trusted: Vec<_> = trusted.iter().map(|name| name.parse().unwrap()).collect();
        let hop = reduce(&mut headers, &trusted, true);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        (names, hop)
    }

    #[test]
    fn what_connection_lists_goes_but_not_what_makes_the_request() {
        let (names, _) = reduced(
            &[
                ("host", "h"),
                ("connection", "Accept-Language , host"),
                ("connection", "via"),
                ("accept-language", "de"),
                ("via", "1.1 x"),
                ("accept", "*/*"),
            ],
            &[],
        );
        assert_eq!(names, ["accept", "host", "via"]);
    }

    #[test]
    fn what_passes_for_another_goes_unless_it_is_trusted() {
        let given = [
            ("x-original-url", "/x"),
            ("x_user_id", "root"),
            ("x-forwarded-user", "root"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-user-id", "u"),
        ];
        assert_eq!(reduced(&given, &[]).0, ["x-user-id"]);
        let trusted = ["x-original-url", "x_user_id", "x-forwarded-for"];
        let (names, _) = reduced(&given, &trusted);
        assert_eq!(names, ["x-original-url", "x-user-id", "x_user_id"]);
    }

    #[test]
    fn an_upgrade_is_one_to_websocket_and_asked_for() {
        let websocket = |fields: &[(&str, &str)]| reduced(fields, &[]).1.websocket;
        let key = ("sec-websocket-key", "x");
        assert!(websocket(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            key
        ]));
        assert!(!websocket(&[("upgrade", "websocket"), key]));
        assert!(!websocket(&[
            ("connection", "upgrade"),
            ("upgrade", "h2c"),
            key
        ]));
        assert!(!websocket(&[
            ("connection", "upgrade"),
            ("upgrade", "websocket")
        ]));
        assert!(reduced(&[("te", "gzip;q=0.5, Trailers")], &[]).1.trailers);
    }
}
