//! On which scheme and host a request is: one answer for the check of hosts, for routes, keys, Host
//! and the forwarding fields.

use super::client::Told;
use actix_web::http::{
    StatusCode, Uri, Version,
    header::{self, HeaderMap, HeaderValue},
};
use weaver_cache::policy::url::{Authority, Scheme, UrlError};

/// Why there is no answer: the status, and words for the client.
type Refusal = (StatusCode, &'static str);

/// The effective scheme, and the effective authority as it goes upstream in Host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Effective {
    pub(super) scheme: Scheme,
    /// `None` where the Host field has it already.
    pub(super) host: Option<String>,
}

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const ONE_HOST: Refusal = (BAD, "the request needs exactly one Host");
const BAD_HOST: Refusal = (BAD, "the host of the request is not a name or an address");

/// Settles it by RFC 9112 §3.2 and §3.3: the target in absolute form counts before Host, and what a
/// trusted proxy says before both.
pub(super) fn effective(
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    told: Option<&Told>,
) -> Result<Effective, Refusal> {
    let mut hosts = headers.get_all(header::HOST);
    let given = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| BAD_HOST)?,
        (None, None) if version < Version::HTTP_11 => "",
        _ => return Err(ONE_HOST),
    };
    // It is judged even where another counts: a request that is wrong is wrong as a whole.
    check(given)?;
    let scheme = told.and_then(|told| told.scheme).unwrap_or(Scheme::Http);
    let absolute = match uri.scheme_str() {
        Some(text) => {
            let named = Scheme::parse(text);
            let named = named.ok_or((BAD, "the target is neither http nor https"))?;
            if named != scheme {
                // RFC 9110 §7.4: nobody has shown that the connection is secure.
                return Err((
                    StatusCode::MISDIRECTED_REQUEST,
                    "the scheme of the target is not that of the connection",
                ));
            }
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            check(authority)?;
            if authority.is_empty() {
                return Err(BAD_HOST);
            }
            Some(authority)
        }
        None => None,
    };
    let host = match told.and_then(|told| told.host.as_deref()) {
        Some(forwarded) => {
            check(forwarded)?;
            Some(forwarded)
        }
        None => absolute,
    };
    let port = told.and_then(|told| told.port.as_deref());
    Ok(Effective {
        scheme,
        host: match port {
            Some(port) => Some(with_port(
                host.unwrap_or(given),
                port,
                host.is_some(),
                scheme,
            )?),
            None => host.filter(|host| *host != given).map(str::to_owned),
        },
    })
}

fn check(host: &str) -> Result<(), Refusal> {
    if host.is_empty() {
        return Ok(());
    }
    match Authority::parse(host, Scheme::Http) {
        Ok(_) => Ok(()),
        Err(UrlError::Port) => Err((BAD, "the port of the host is not a number from 1 to 65535")),
        Err(_) => Err(BAD_HOST),
    }
}

/// The host with the port that the proxy was reached at, unless the proxy named one with the host.
fn with_port(host: &str, port: &str, named: bool, scheme: Scheme) -> Result<String, Refusal> {
    if host.is_empty() {
        return Ok(String::new());
    }
    let at = if host.starts_with('[') {
        host.find(']').map_or(host.len(), |at| at + 1)
    } else {
        host.find(':').unwrap_or(host.len())
    };
    let (name, own_port) = host.split_at(at);
    if named && own_port.len() > 1 {
        return Ok(host.to_owned());
    }
    let text = format!("{name}:{port}");
    let authority = Authority::parse(&text, scheme);
    let authority = authority.map_err(|_| (BAD, "X-Forwarded-Port is not a port"))?;
    Ok(match authority.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    })
}

/// Whether a host is one of those that are served; with none listed all are.
pub(super) fn is_served(host: &str, trusted: &[String]) -> bool {
    if trusted.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::parse(host, Scheme::Http) else {
        return false;
    };
    let name = authority.host();
    trusted
        .iter()
        .any(|wanted| match wanted.strip_prefix("*.") {
            Some(domain) => name
                .strip_suffix(domain)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => wanted == name,
        })
}

/// Makes the Host field say it.
pub(super) fn put(headers: &mut HeaderMap, host: Option<String>) -> Result<(), Refusal> {
    if let Some(host) = host {
        let value = HeaderValue::try_from(host).map_err(|_| BAD_HOST)?;
        headers.insert(header::HOST, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &'static str, hosts: &[&'static str], told: Option<Told>) -> Result<Effective, u16> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_static(host));
        }
        effective(
            &uri.parse().unwrap(),
            Version::HTTP_11,
            &headers,
            told.as_ref(),
        )
        .map_err(|(status, _)| status.as_u16())
    }

    fn host(uri: &'static str, hosts: &[&'static str], told: Option<Told>) -> Option<String> {
        of(uri, hosts, told).unwrap().host
    }

    #[test]
    fn the_target_counts_before_host() {
        assert_eq!(host("/x", &["h"], None), None);
        let absolute = host("http://victim/x", &["evil"], None);
        assert_eq!(absolute.as_deref(), Some("victim"));
        assert_eq!(of("https://victim/x", &["victim"], None), Err(421));
        assert_eq!(of("ftp://victim/x", &["victim"], None), Err(400));
        assert_eq!(of("http://u@victim/x", &["victim"], None), Err(400));
    }

    #[test]
    fn hosts_that_are_none_are_refused() {
        for bad in [
            "a b", "a/b", "u@a", "a, b", "a,b", "a\"><x", "a:b", "a:", "a:99999", "a:-1", "[::1",
            "a?b", "a#b", "a\\b", "%61", "a..b",
        ] {
            let expected = if bad == "a:" { Ok(()) } else { Err(400) };
            assert_eq!(of("/", &[bad], None).map(|_| ()), expected, "{bad}");
        }
        assert_eq!(of("/", &["a", "a"], None), Err(400));
        assert_eq!(of("/", &[], None), Err(400));
    }

    #[test]
    fn a_trusted_proxy_tells_scheme_host_and_port() {
        let told = |scheme, host: Option<&str>, port: Option<&str>| {
            Some(Told {
                scheme,
                host: host.map(str::to_owned),
                port: port.map(str::to_owned),
                ..Told::default()
            })
        };
        let https = Some(Scheme::Https);
        let asked = |told| of("/", &["inner:8000"], told).unwrap();
        assert_eq!(asked(told(https, None, None)).scheme, Scheme::Https);
        for (told, expected) in [
            (told(https, Some("shop"), None), "shop"),
            (told(https, Some("shop"), Some("443")), "shop"),
            (told(https, Some("shop"), Some("8443")), "shop:8443"),
            (told(https, Some("shop:1"), Some("8443")), "shop:1"),
            (told(https, None, Some("443")), "inner"),
            (told(None, None, Some("8080")), "inner:8080"),
        ] {
            assert_eq!(asked(told).host.as_deref(), Some(expected));
        }
        assert_eq!(of("/", &["h"], told(None, Some("a b"), None)), Err(400));
        assert_eq!(of("/", &["h"], told(None, None, Some("x"))), Err(400));
    }

    #[test]
    fn hosts_that_are_served_are_known_in_any_form() {
        let trusted = ["shop.example".to_owned(), "*.tenants.example".to_owned()];
        for (host, served) in [
            ("SHOP.example:8080", true),
            ("a.tenants.example", true),
            ("tenants.example", false),
            ("eviltenants.example", false),
            (".tenants.example", false),
            ("shop.example.evil", false),
            ("", false),
        ] {
            assert_eq!(is_served(host, &trusted), served, "{host}");
        }
    }
}
