//! Whether a request comes from this site: its Host, its Origin and its Sec-Fetch-Site.
//!
//! A page of another site can make a browser send requests here. The browser then tells the page's
//! origin. A page whose own name was pointed to this address (DNS rebinding) is of this site for the
//! browser, but its name stands in Host. Only names can be rebound: an address names itself.

use actix_web::http::{
    StatusCode, Uri,
    header::{self, HeaderMap, HeaderName},
};
use std::net::IpAddr;

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) what: String,
}

impl Refused {
    fn new(status: StatusCode, what: impl Into<String>) -> Self {
        Self {
            status,
            what: what.into(),
        }
    }
}

const BAD_HOST: &str = "the request needs exactly one valid Host";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The host that a request names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// With its port, as it came, in lower case.
    authority: String,
    name: Name,
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Address(IpAddr),
    Dns(String),
}

impl Host {
    /// That of the target if it has one, which then stands over Host (RFC 9112 §3.2.2).
    pub(super) fn of(headers: &HeaderMap, target: &Uri) -> Result<Self, Refused> {
        let bad = || Refused::new(StatusCode::BAD_REQUEST, BAD_HOST);
        let mut lines = headers.get_all(header::HOST);
        let given = match (lines.next(), lines.next()) {
            (Some(given), None) => given.to_str().map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        let host = Self::parse(given).ok_or_else(bad)?;
        match target.authority() {
            Some(authority) => {
                let of_target = Self::parse(authority.as_str()).ok_or_else(bad)?;
                (of_target == host).then_some(host).ok_or_else(bad)
            }
            None => Ok(host),
        }
    }

    fn parse(authority: &str) -> Option<Self> {
        let (name, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                let address: std::net::Ipv6Addr = address.parse().ok()?;
                (Name::Address(IpAddr::V6(address).to_canonical()), port)
            }
            None => {
                let end = authority.find(':').unwrap_or(authority.len());
                let (name, port) = authority.split_at(end);
                let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                if name.is_empty() || !name.bytes().all(is_allowed) {
                    return None;
                }
                let name = match name.parse::<std::net::Ipv4Addr>() {
                    Ok(address) => Name::Address(address.into()),
                    Err(_) => {
                        Name::Dns(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
                    }
                };
                (name, port)
            }
        };
        let has_port = |port: &str| {
            port.strip_prefix(':')
                .is_some_and(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
        };
        (port.is_empty() || has_port(port)).then(|| Self {
            authority: authority.to_ascii_lowercase(),
            name,
        })
    }

    /// Whether it is a name of ours: loopback, one of our own addresses, or one that is listed.
    pub(super) fn check(&self, listed: &[String], own: &[Option<IpAddr>]) -> Result<(), Refused> {
        let is_ours = match &self.name {
            Name::Address(address) => {
                let is_own = |own: &Option<IpAddr>| {
                    own.is_some_and(|own| !own.is_unspecified() && own.to_canonical() == *address)
                };
                let is_listed =
                    |entry: &String| entry.parse().is_ok_and(|listed: IpAddr| listed == *address);
                address.is_loopback() || own.iter().any(is_own) || listed.iter().any(is_listed)
            }
            Name::Dns(name) => {
                name == "localhost"
                    || name.ends_with(".localhost")
                    || listed.iter().any(|entry| matches(entry, name))
            }
        };
        if is_ours || listed.iter().any(|entry| entry == "*") {
            return Ok(());
        }
        Err(Refused::new(
            StatusCode::MISDIRECTED_REQUEST,
            format!(
                "the host {:?} is not served on the admin port; list it in admin.hosts to allow it",
                self.authority
            ),
        ))
    }
}

/// `*.example.com` stands for every name below `example.com`.
fn matches(entry: &str, name: &str) -> bool {
    match entry.strip_prefix("*.") {
        Some(domain) => name
            .strip_suffix(domain)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => entry == name,
    }
}

/// Refuses what a browser sends on behalf of another site.
pub(super) fn check_origin(headers: &HeaderMap, host: Option<&Host>) -> Result<(), Refused> {
    let refused = || {
        let what = "the request comes from a page of another site";
        Refused::new(StatusCode::FORBIDDEN, what)
    };
    let mut same_origin = false;
    for site in headers.get_all(SEC_FETCH_SITE) {
        match site.as_bytes() {
            b"same-origin" => same_origin = true,
            b"none" => {}
            _ => return Err(refused()),
        }
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().map_err(|_| refused())?;
        let origin = origin.to_ascii_lowercase();
        // Behind a proxy that ends TLS the page's scheme is another than ours. Then the browser's
        // word, which no page can forge, says that both are one.
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://").filter(|_| same_origin))
            .ok_or_else(refused)?;
        if host.is_none_or(|host| host.authority != authority) {
            return Err(refused());
        }
    }
    Ok(())
}

/// Refuses what a gateway has forwarded: a route or an agent's address leads here, and everybody who
/// reaches the public port would reach the admin port from loopback.
pub(super) fn check_via(headers: &HeaderMap) -> Result<(), Refused> {
    let names_us = |line: &[u8]| {
        let line = line.to_ascii_lowercase();
        line.windows(6).any(|part| part == b"weaver")
    };
    if headers
        .get_all(header::VIA)
        .any(|line| names_us(line.as_bytes()))
    {
        let what = "the request was forwarded by a gateway, whose routes must not lead here";
        return Err(Refused::new(StatusCode::FORBIDDEN, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(host: &str, listed: &[&str], own: &str) -> u16 {
        let listed: Vec<_> = listed.iter().map(|entry| (*entry).to_owned()).collect();
        let Some(host) = Host::parse(host) else {
            return 400;
        };
        match host.check(&listed, &[own.parse().ok()]) {
            Ok(()) => 200,
            Err(refused) => refused.status.as_u16(),
        }
    }

    #[test]
    fn a_host_is_a_loopback_name_an_own_address_or_listed() {
        for (host, listed, own, wanted) in [
            ("localhost", &[][..], "127.0.0.1", 200),
            ("LOCALHOST:8001", &[], "127.0.0.1", 200),
            ("localhost.", &[], "127.0.0.1", 200),
            ("a.localhost:1", &[], "127.0.0.1", 200),
            ("127.0.0.1:8001", &[], "127.0.0.1", 200),
            ("[::1]:8001", &[], "127.0.0.1", 200),
            ("10.1.2.3:8001", &[], "10.1.2.3", 200),
            ("[::ffff:10.1.2.3]:8001", &[], "10.1.2.3", 200),
            ("[fd00::5]", &[], "fd00::5", 200),
            ("10.1.2.4", &[], "10.1.2.3", 421),
            ("0.0.0.0", &[], "0.0.0.0", 421),
            ("evil.test", &[], "127.0.0.1", 421),
            ("localhost.evil.test", &[], "127.0.0.1", 421),
            ("notlocalhost", &[], "127.0.0.1", 421),
            ("127.0.0.1.evil.test", &[], "127.0.0.1", 421),
            ("0x7f.1", &[], "127.0.0.1", 421),
            ("2130706433", &[], "127.0.0.1", 421),
            ("admin.test", &["admin.test"], "127.0.0.1", 200),
            ("a.admin.test", &["*.admin.test"], "127.0.0.1", 200),
            ("admin.test", &["*.admin.test"], "127.0.0.1", 421),
            (".admin.test", &["*.admin.test"], "127.0.0.1", 421),
            ("xadmin.test", &["*.admin.test"], "127.0.0.1", 421),
            ("10.1.2.4", &["10.1.2.4"], "10.1.2.3", 200),
            ("evil.test", &["*"], "127.0.0.1", 200),
            ("", &["*"], "127.0.0.1", 400),
            ("u@localhost", &["*"], "127.0.0.1", 400),
            ("a b", &["*"], "127.0.0.1", 400),
            ("localhost:", &["*"], "127.0.0.1", 400),
            ("localhost:99999", &["*"], "127.0.0.1", 400),
            ("localhost:+1", &["*"], "127.0.0.1", 400),
            ("localhost:8001:8001", &["*"], "127.0.0.1", 400),
            ("[::1", &["*"], "127.0.0.1", 400),
            ("[::1]x", &["*"], "127.0.0.1", 400),
            ("::1", &["*"], "127.0.0.1", 400),
        ] {
            assert_eq!(status(host, listed, own), wanted, "{host} {listed:?} {own}");
        }
    }

    proptest! {
        #[test]
        fn no_foreign_name_passes(name in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}", port in 0_u16..) {
            prop_assume!(name != "localhost" && !name.ends_with(".localhost"));
            let host = format!("{name}:{port}");
            prop_assert_eq!(status(&host, &[], "127.0.0.1"), 421);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = Host::parse(&text);
        }
    }
}
