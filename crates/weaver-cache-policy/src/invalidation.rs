//! What an unsafe request invalidates (RFC 9111 §4.4).

use crate::url::{self, Scheme, Url};

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

/// The target that a Location or Content-Location names, in normal form ([`url::target`]), if it is
/// of the same origin as the request; another origin's content is not ours to invalidate.
///
/// `authority` is the request's, in normal form, and `target` its path and query, for references
/// relative to it (RFC 3986 §5.2). A reference with the other of the two schemes is taken for the
/// same origin: to invalidate too much costs a fetch, and too little serves what is outdated.
#[must_use]
pub fn same_origin_target(
    reference: &str,
    scheme: Scheme,
    authority: &str,
    target: &str,
) -> Option<String> {
    let reference = reference.trim_matches([' ', '\t']);
    let reference = reference.split('#').next().unwrap_or("");
    let absolute = match self::scheme(reference) {
        Some(known) => Scheme::parse(known).map(|_| reference.to_owned())?,
        None if reference.starts_with("//") => format!("{}:{reference}", scheme.as_str()),
        None => return url::target(&resolved(reference, target)).ok(),
    };
    let named = Url::parse(&absolute).ok()?;
    (named.authority == authority).then_some(named.target)
}

/// A reference without scheme and authority, beside the target that it is relative to.
fn resolved(reference: &str, target: &str) -> String {
    let base = target.split('?').next().unwrap_or("/");
    if reference.is_empty() {
        target.to_owned()
    } else if reference.starts_with('?') {
        format!("{base}{reference}")
    } else if reference.starts_with('/') {
        reference.to_owned()
    } else {
        let directory = base.rfind('/').map_or("/", |at| &base[..=at]);
        format!("{directory}{reference}")
    }
}

fn scheme(reference: &str) -> Option<&str> {
    let (scheme, _) = reference.split_once(':')?;
    let valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    valid.then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(reference: &str) -> Option<String> {
        same_origin_target(reference, Scheme::Http, "a.example", "/dir/page?q=1")
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
            ("http://A.example:/%7ex", "/~x"),
            ("https://a.example:443/x", "/x"),
        ] {
            assert_eq!(target(reference).as_deref(), Some(expected), "{reference}");
        }
    }

    #[test]
    fn another_origin_is_left_alone() {
        for reference in [
            "http://b.example/x",
            "https://a.example:80/x",
            "ftp://a.example/x",
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
