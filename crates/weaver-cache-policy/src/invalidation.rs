//! What an unsafe request invalidates (RFC 9111 §4.4).

/// Whether a method may change state at the origin: anything that is not known to be safe
/// (RFC 9110 §9.2.1).
#[must_use]
pub fn is_unsafe(method: &str) -> bool {
    !matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PRI" | "PROPFIND" | "REPORT" | "SEARCH"
    )
}

/// Whether a response invalidates: one that is no error, 2xx or 3xx.
#[must_use]
pub fn is_non_error(status: u16) -> bool {
    (200..400).contains(&status)
}

/// An absolute http URI, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and, if not the default, port.
    pub authority: &'a str,
}

/// The path and query that a Location or Content-Location names, if it is of the same origin as
/// the request; another origin's content is not ours to invalidate.
///
/// `path` is the path of the request's target, for references relative to it (RFC 3986 §5.2).
#[must_use]
pub fn same_origin_target(reference: &str, origin: Origin<'_>, path: &str) -> Option<String> {
    let reference = reference.trim_matches([' ', '\t']);
    let reference = reference.split('#').next().unwrap_or("");
    let rest = match scheme(reference) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(origin.scheme) => rest,
        Some(_) => return None,
        None => reference,
    };
    if let Some(network) = rest.strip_prefix("//") {
        let end = network.find(['/', '?']).unwrap_or(network.len());
        if !same_authority(&network[..end], origin) {
            return None;
        }
        let target = &network[end..];
        return Some(if target.starts_with('/') {
            normalised(target)
        } else {
            format!("/{target}")
        });
    }
    if rest.is_empty() {
        return Some(path.to_owned());
    }
    if rest.starts_with('?') {
        let base = path.split('?').next().unwrap_or("/");
        return Some(format!("{base}{rest}"));
    }
    if rest.starts_with('/') {
        return Some(normalised(rest));
    }
    let base = path.split('?').next().unwrap_or("/");
    let directory = base.rfind('/').map_or("/", |at| &base[..=at]);
    Some(normalised(&format!("{directory}{rest}")))
}

fn scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    valid.then_some((scheme, rest))
}

fn same_authority(one: &str, origin: Origin<'_>) -> bool {
    fn host_and_port<'a>(authority: &'a str, scheme: &str) -> (&'a str, &'a str) {
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        let default = if scheme.eq_ignore_ascii_case("https") {
            "443"
        } else {
            "80"
        };
        match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, if port.is_empty() { default } else { port })
            }
            _ => (authority, default),
        }
    }
    let (host, port) = host_and_port(one, origin.scheme);
    let (own_host, own_port) = host_and_port(origin.authority, origin.scheme);
    host.eq_ignore_ascii_case(own_host) && port == own_port
}

/// Removes dot segments from the path (RFC 3986 §5.2.4) and leaves the query alone.
fn normalised(target: &str) -> String {
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            _ => segments.push(part),
        }
    }
    format!("/{}{query}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: Origin<'_> = Origin {
        scheme: "http",
        authority: "a.example:80",
    };

    fn target(reference: &str) -> Option<String> {
        same_origin_target(reference, ORIGIN, "/dir/page?q=1")
    }

    #[test]
    fn references_are_resolved_against_the_request() {
        for (reference, expected) in [
            ("/x", "/x"),
            ("/x?y#z", "/x?y"),
            ("x", "/dir/x"),
            ("../x", "/x"),
            ("./", "/dir/"),
            ("?z", "/dir/page?z"),
            ("", "/dir/page?q=1"),
            ("http://a.example/x", "/x"),
            ("HTTP://A.EXAMPLE:80/x", "/x"),
            ("//a.example/x", "/x"),
            ("http://a.example", "/"),
            ("http://a.example?q", "/?q"),
        ] {
            assert_eq!(target(reference).as_deref(), Some(expected), "{reference}");
        }
    }

    #[test]
    fn another_origin_is_left_alone() {
        for reference in [
            "http://b.example/x",
            "https://a.example/x",
            "http://a.example:8080/x",
            "//b.example/x",
            "mailto:x@a.example",
        ] {
            assert_eq!(target(reference), None, "{reference}");
        }
    }

    proptest! {
        #[test]
        fn any_reference_gives_an_absolute_path_or_none(reference in ".{0,40}") {
            if let Some(path) = target(&reference) {
                prop_assert!(path.starts_with('/'));
            }
        }
    }
}
