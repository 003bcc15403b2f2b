//! Where a request goes at its upstream: the path of the upstream's URL, then the request's own path and
//! query, byte for byte, without the route's prefix where that is stripped.

use weaver_cache::policy::path::judge;

/// Whether an upstream's URL has a path.
pub(super) fn has_path(base: &str) -> bool {
    base.split_once("://")
        .is_some_and(|(_, rest)| rest.contains('/'))
}

/// The URL of a target at an upstream; `None` if the target does not begin with the prefix.
pub(super) fn url(base: &str, target: &str, strip: Option<&str>) -> Option<String> {
    let end = target.find('?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let path = match strip {
        Some(prefix) => without_prefix(path, prefix)?,
        None => path,
    };
    let root = if path.is_empty() && !has_path(base) {
        "/"
    } else {
        ""
    };
    Some(format!("{base}{root}{path}{query}"))
}

/// What is left of a path behind the segments of a prefix. Routes match a path as a strict reader
/// resolves it, and so is the prefix found; the rest stays as it came.
fn without_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let prefix = prefix.trim_end_matches('/');
    if let Some(rest) = path.strip_prefix(prefix)
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return Some(rest);
    }
    let mut rest = path;
    for wanted in prefix.split('/').filter(|segment| !segment.is_empty()) {
        let start = rest.trim_start_matches('/');
        let end = start.find('/').unwrap_or(start.len());
        let (segment, after) = start.split_at(end);
        let segment = format!("/{segment}");
        if judge(&segment).ok()?.path.strip_prefix('/') != Some(wanted) {
            return None;
        }
        rest = after;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_path_of_the_base_comes_first_and_the_prefix_goes() {
        let base = "http://h";
        for (base, target, strip, expected) in [
            (base, "/a//b?q=/x", None, "http://h/a//b?q=/x"),
            ("http://h/v", "/a", None, "http://h/v/a"),
            ("http://h/v", "/", None, "http://h/v/"),
            (base, "/api/x?q", Some("/api"), "http://h/x?q"),
            (base, "/api/x", Some("/api/"), "http://h/x"),
            (base, "/api", Some("/api"), "http://h/"),
            (base, "/api?q", Some("/api"), "http://h/?q"),
            (base, "/api/", Some("/api"), "http://h/"),
            ("http://h/v", "/api?q", Some("/api"), "http://h/v?q"),
            ("http://h/v", "/api//x", Some("/api"), "http://h/v//x"),
            (base, "//%61pi//x%2fy", Some("/api"), "http://h//x%2fy"),
            (base, "/a//b/c", Some("/a/b"), "http://h/c"),
            (base, "/x", Some("/"), "http://h/x"),
        ] {
            let found = url(base, target, strip);
            assert_eq!(found.as_deref(), Some(expected), "{target} {strip:?}");
        }
        for (target, strip) in [
            ("/apix", "/api"),
            ("/", "/api"),
            ("/a%2fb/c", "/a/b"),
            ("/b/a", "/a"),
        ] {
            assert_eq!(url(base, target, Some(strip)), None, "{target}");
        }
    }

    proptest! {
        /// What is stripped is what the route has matched, however it is written.
        #[test]
        fn a_prefix_that_a_route_has_matched_is_found(path in "/{1,2}(a|%61)/{1,2}(b|%62)?(/[a-c]{0,2})?") {
            let judged = judge(&path).unwrap().path.into_owned();
            let covered = judged == "/a" || judged.starts_with("/a/");
            prop_assert!(covered);
            let rest = without_prefix(&path, "/a").unwrap();
            prop_assert!(path.ends_with(rest));
            let rest = if rest.is_empty() { "/" } else { rest };
            let expected = judged.strip_prefix("/a").unwrap();
            let resolved = judge(rest).unwrap().path.into_owned();
            prop_assert_eq!(resolved, if expected.is_empty() { "/" } else { expected });
        }
    }
}
