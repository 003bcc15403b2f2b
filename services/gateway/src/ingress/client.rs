//! Where a request comes from, as far as the proxies before us are trusted.
//!
//! Addresses have one form: an IPv4 address that came in IPv6 (`::ffff:192.0.2.1`, RFC 4291 §2.5.5.2)
//! is that IPv4 address, in limits, in logs and in what goes upstream.

use crate::network::Network;
use actix_web::{
    dev::ServiceRequest,
    http::header::{HeaderMap, HeaderName},
};
use std::net::{IpAddr, SocketAddr};
use weaver_cache::policy::url::Scheme;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Hops that are looked at, from the right; more are no chain of proxies.
const MAX_HOPS: usize = 64;

/// A request's origin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    /// The client's address: the peer's, or what trusted peers say.
    pub(crate) address: Option<IpAddr>,
    /// The peer's address.
    pub(crate) peer: Option<IpAddr>,
    /// What a trusted peer said.
    pub(crate) told: Option<Box<Told>>,
}

/// What a trusted proxy says of the request that it passes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The chain of X-Forwarded-For as one list, addresses in their one form.
    pub(crate) chain: Option<String>,
    /// The addresses from the client's on, by hops that are trusted.
    pub(crate) hops: Vec<IpAddr>,
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<String>,
}

impl Client {
    pub(super) fn of(req: &ServiceRequest, trusted: &[Network]) -> Self {
        Self::read(req.peer_addr(), req.headers(), trusted)
    }

    fn read(peer: Option<SocketAddr>, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let peer = peer.map(|peer| peer.ip().to_canonical());
        let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
        let Some(trusted_peer) = peer.filter(|peer| is_trusted(*peer)) else {
            return Self {
                address: peer,
                peer,
                told: None,
            };
        };
        let chain: Vec<&str> = list(headers, &X_FORWARDED_FOR).collect();
        // One of the two counts as a whole: a proxy that writes the one may let a client's other
        // through.
        let by_others = [
            X_FORWARDED_FOR,
            X_FORWARDED_HOST,
            X_FORWARDED_PROTO,
            X_FORWARDED_PORT,
        ];
        let elements: Vec<Element> = if by_others.iter().any(|name| headers.contains_key(name)) {
            Vec::new()
        } else {
            list(headers, &FORWARDED).map(Element::read).collect()
        };
        let hops: Vec<Option<IpAddr>> = if elements.is_empty() {
            chain.iter().map(|hop| node(hop)).collect()
        } else {
            elements.iter().map(|element| element.node).collect()
        };
        // Whoever stands before a hop that is not trusted, or that cannot be read, may have written
        // what they liked.
        let mut address = trusted_peer;
        let mut walked = Vec::new();
        for hop in hops.into_iter().rev().take(MAX_HOPS) {
            let Some(hop) = hop else { break };
            address = hop;
            walked.push(hop);
            if !is_trusted(hop) {
                break;
            }
        }
        walked.reverse();
        // The last that was said: by the proxy nearest to us.
        let nearest = elements.last();
        let said = |name: &HeaderName| list(headers, name).last().map(str::to_owned);
        let told = Told {
            scheme: said(&X_FORWARDED_PROTO)
                .or_else(|| nearest.and_then(|element| element.proto.clone()))
                .and_then(|proto| scheme(&proto)),
            host: said(&X_FORWARDED_HOST)
                .or_else(|| nearest.and_then(|element| element.host.clone())),
            port: said(&X_FORWARDED_PORT),
            chain: (!chain.is_empty()).then(|| {
                let hops = chain.iter().map(|hop| match node(hop) {
                    Some(address) => address.to_string(),
                    None => (*hop).to_owned(),
                });
                hops.collect::<Vec<_>>().join(", ")
            }),
            hops: walked,
        };
        Self {
            address: Some(address),
            peer,
            told: Some(Box::new(told)),
        }
    }
}

/// The members of a field's lines, as one list; commas in quotes do not separate.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers
        .get_all(name)
        // What cannot be read stays a member, at which the walk along the chain ends.
        .map(|line| line.to_str().unwrap_or("unknown"));
    lines.flat_map(members).filter(|member| !member.is_empty())
}

fn members(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    })
    .map(str::trim)
}

fn scheme(proto: &str) -> Option<Scheme> {
    match proto.to_ascii_lowercase().as_str() {
        "https" | "wss" => Some(Scheme::Https),
        "http" | "ws" => Some(Scheme::Http),
        _ => None,
    }
}

/// One element of Forwarded.
#[derive(Default)]
struct Element {
    node: Option<IpAddr>,
    host: Option<String>,
    proto: Option<String>,
}

impl Element {
    fn read(text: &str) -> Self {
        let mut element = Self::default();
        let mut quoted = false;
        let pairs = text.split(move |letter| {
            quoted ^= letter == '"';
            letter == ';' && !quoted
        });
        for (name, value) in pairs.filter_map(|pair| pair.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => element.node = node(value),
                "host" => element.host = Some(value.to_owned()),
                "proto" => element.proto = Some(value.to_owned()),
                _ => {}
            }
        }
        element
    }
}

/// An address, with or without a port (RFC 7239 §6).
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let address: IpAddr = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            is_port(port).then(|| address.parse().ok())??
        }
        None => match text.parse() {
            Ok(address) => address,
            Err(_) => {
                let (address, port) = text.split_once(':')?;
                is_port(&format!(":{port}")).then(|| address.parse().ok())??
            }
        },
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|port| {
            !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn read(peer: &str, fields: &[(&'static str, &str)]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        Client::read(Some(peer), &headers, &trusted)
    }

    fn address(fields: &[(&'static str, &str)]) -> String {
        let client = read("::ffff:10.0.0.1", fields);
        client.address.unwrap().to_string()
    }

    #[test]
    fn an_address_has_one_form_and_an_untrusted_peer_tells_nothing() {
        let client = read("::ffff:192.0.2.1", &[("x-forwarded-for", "1.1.1.1")]);
        assert_eq!(client.address.unwrap().to_string(), "192.0.2.1");
        assert!(client.told.is_none());
        assert_eq!(address(&[("x-forwarded-for", "::ffff:1.2.3.4")]), "1.2.3.4");
    }

    #[test]
    fn the_walk_ends_at_the_first_hop_that_is_not_trusted_or_not_read() {
        let of = |lines: &[&'static str]| {
            let fields: Vec<_> = lines
                .iter()
                .map(|line| ("x-forwarded-for", *line))
                .collect();
            address(&fields)
        };
        assert_eq!(of(&["9.9.9.9, 1.1.1.1, 10.0.0.7"]), "1.1.1.1");
        assert_eq!(of(&["9.9.9.9", "1.1.1.1", "10.0.0.7"]), "1.1.1.1");
        assert_eq!(of(&["9.9.9.9, unknown, 10.0.0.7"]), "10.0.0.7");
        assert_eq!(of(&["9.9.9.9, 10.0.0.7:80x"]), "10.0.0.1");
        assert_eq!(of(&["1.1.1.1:4711"]), "1.1.1.1");
        assert_eq!(of(&["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(of(&["10.0.0.8, 10.0.0.9"]), "10.0.0.8");
        assert_eq!(of(&["1.1.1.1, \u{e9}"]), "10.0.0.1");
    }

    #[test]
    fn forwarded_counts_as_a_whole_where_there_is_no_other() {
        let field =
            "for=9.9.9.9;proto=http, For=\"[2001:db8::1]:80\";Host=\"a,b.example\";proto=HTTPS";
        let client = read("10.0.0.1", &[("forwarded", field)]);
        assert_eq!(client.address.unwrap().to_string(), "2001:db8::1");
        let told = client.told.unwrap();
        assert_eq!(told.scheme, Some(Scheme::Https));
        assert_eq!(told.host.as_deref(), Some("a,b.example"));
        assert_eq!(told.chain, None);
        let both = read(
            "10.0.0.1",
            &[("forwarded", field), ("x-forwarded-for", "1.1.1.1")],
        );
        assert_eq!(both.address.unwrap().to_string(), "1.1.1.1");
        assert_eq!(both.told.unwrap().host, None);
    }

    #[test]
    fn several_lines_are_one_list_and_the_nearest_counts() {
        let client = read(
            "10.0.0.1",
            &[
                ("x-forwarded-for", "::ffff:1.1.1.1"),
                ("x-forwarded-for", "10.0.0.7"),
                ("x-forwarded-proto", "http, https"),
                ("x-forwarded-host", "forged"),
                ("x-forwarded-host", "real"),
            ],
        );
        let told = client.told.unwrap();
        assert_eq!(told.chain.as_deref(), Some("1.1.1.1, 10.0.0.7"));
        assert_eq!(told.scheme, Some(Scheme::Https));
        assert_eq!(told.host.as_deref(), Some("real"));
    }
}
