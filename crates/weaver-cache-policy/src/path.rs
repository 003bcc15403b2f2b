//! What the path of a request means to those who read it.
//!
//! A cache that matches a path as it is written, in front of an origin that resolves it, can be made
//! to store one resource under the rules of another (web cache deception; Mirheidari et al. 2020).
//! [`judge`] therefore resolves a path as a strict reader does: escapes of unreserved characters are
//! decoded (RFC 3986 §6.2.2.2) and empty segments are skipped. Rules, routes and authorization match
//! that. What readers are known to resolve in different ways is told: dot segments in any disguise
//! ([`Judged::has_dots`]), and the other readings of separators, parameters and escapes
//! ([`Judged::readings`]), all of which have to select the same rule.

use crate::url::{self, UrlError, escape};
use std::borrow::Cow;

/// Rounds of decoding after which nobody decodes further.
const MAX_ROUNDS: usize = 4;

/// A path as a strict reader resolves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged<'a> {
    /// Without dot segments, empty segments and escapes of unreserved characters.
    pub path: Cow<'a, str>,
    /// Whether some reader finds a dot segment in it, a bare backslash, or a control character.
    pub has_dots: bool,
    /// How other readers resolve it, where that differs.
    pub readings: Vec<Reading>,
}

/// Another way to read a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What it is then.
    pub path: String,
    /// Whether it differs by what is a separator, or by being decoded more than once. Otherwise it
    /// differs by where the path is cut off, which is an ordinary thing to write.
    pub by_separator: bool,
}

impl<'a> Judged<'a> {
    /// One that there is but one way to read.
    #[must_use]
    pub const fn unambiguous(path: &'a str) -> Self {
        Self {
            path: Cow::Borrowed(path),
            has_dots: false,
            readings: Vec::new(),
        }
    }
}

/// Judges the path of a request's target, without its query.
///
/// ```
/// use weaver_cache_policy::path::judge;
///
/// assert_eq!(judge("//%61ccount")?.path, "/account");
/// assert!(judge("/static/..%2faccount")?.has_dots);
/// assert_eq!(judge("/a%2fb")?.readings[0].path, "/a/b");
/// # Ok::<_, weaver_cache_policy::url::UrlError>(())
/// ```
///
/// # Errors
///
/// What makes it no path of a URL.
pub fn judge(path: &str) -> Result<Judged<'_>, UrlError> {
    if is_plain(path.as_bytes()) {
        return Ok(Judged::unambiguous(path));
    }
    let normal = url::path(path)?;
    let strict = resolved(&normal);
    // A bare backslash is no character of a URL, and a slash to those who follow WHATWG's.
    let mut has_dots = path.contains('\\') || normal.split('/').any(is_dots);
    let mut readings: Vec<Reading> = Vec::new();
    let mut add = |reading: String, by_separator: bool| {
        let path = resolved(&reading);
        if path != strict && !readings.iter().any(|known| known.path == path) {
            readings.push(Reading { path, by_separator });
        }
    };
    // What one decoding makes a separator (nginx decodes before it matches a location).
    let separated = normal
        .replace("%2F", "/")
        .replace("%5C", "/")
        .replace('\\', "/");
    add(separated.clone(), true);
    let whole = decoded(path);
    has_dots |= has_hidden_dots(&whole);
    add(String::from_utf8_lossy(&whole).replace('\\', "/"), true);
    // Where a reader ends a segment (parameters, RFC 2396 §3.3) or the path.
    let cut = |text: &str| {
        let text = text.split("%3F").next().unwrap_or("");
        let text = text.split("%23").next().unwrap_or("");
        let segments = text.split('/').map(without_parameters);
        segments.collect::<Vec<_>>().join("/")
    };
    add(cut(&normal), false);
    add(cut(&separated), true);
    Ok(Judged {
        path: Cow::Owned(strict),
        has_dots,
        readings,
    })
}

/// Whether there is but one way to read it.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for byte in path {
        match byte {
            b'/' | b'.' if before == b'/' => return false,
            b'%' | b'\\' | b';' => return false,
            _ if !byte.is_ascii_graphic() => return false,
            _ => before = *byte,
        }
    }
    path.first() == Some(&b'/')
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// The `;` may be escaped: proxies decode it on the way.
fn without_parameters(segment: &str) -> &str {
    let segment = segment.split(';').next().unwrap_or("");
    segment.split("%3B").next().unwrap_or("")
}

/// Without empty and dot segments.
fn resolved(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let is_directory = path
        .rsplit('/')
        .next()
        .is_none_or(|last| last.is_empty() || is_dots(last));
    let end = if is_directory && !segments.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", segments.join("/"))
}

/// Decoded until nothing changes, as a chain of readers does.
fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..MAX_ROUNDS {
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match escape(&bytes, at).filter(|_| byte == b'%') {
                Some(escaped) => {
                    out.push(escaped);
                    at += 3;
                }
                None => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        if out == bytes {
            break;
        }
        bytes = out;
    }
    bytes
}

/// Looks for dot segments in what is wholly decoded, and for control characters, at which some
/// readers end a path.
fn has_hidden_dots(decoded: &[u8]) -> bool {
    // Overlong forms of UTF-8 (RFC 3629 §3 forbids them; some readers take them all the same).
    let mut plain = Vec::with_capacity(decoded.len());
    let mut at = 0;
    while let Some(&byte) = decoded.get(at) {
        let overlong = match decoded.get(at..at + 2) {
            Some([0xc0, 0xae]) => Some(b'.'),
            Some([0xc0, 0xaf] | [0xc1, 0x9c]) => Some(b'/'),
            _ => None,
        };
        at += if overlong.is_some() { 2 } else { 1 };
        plain.push(overlong.unwrap_or(byte));
    }
    let is_end = |byte: &u8| b";?#".contains(byte);
    plain.iter().any(|byte| byte.is_ascii_control())
        || plain
            .split(|byte| matches!(byte, b'/' | b'\\'))
            .map(|segment| segment.split(is_end).next().unwrap_or(segment))
            .any(|segment| matches!(segment, b"." | b".."))
        || plain.iter().enumerate().any(|(at, byte)| {
            // More rounds than anybody has reason for.
            *byte == b'%' && escape(&plain, at).is_some()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_paths_are_what_they_are() {
        for path in [
            "/",
            "/a/b.css",
            "/a/",
            "/.well-known/x",
            "/...",
            "/a..b/..c",
            "/~a/b,c=d&e",
            "/a%20b",
            "/caf%C3%A9",
        ] {
            let judged = judge(path).unwrap();
            assert_eq!(judged.path, path, "{path}");
            assert!(!judged.has_dots, "{path}");
            assert!(
                judged.readings.iter().all(|reading| reading.path != "/"),
                "{path}: {judged:?}"
            );
        }
    }

    #[test]
    fn a_strict_reader_skips_empty_segments_and_decodes() {
        for (path, strict) in [
            ("//account", "/account"),
            ("/a///b//", "/a/b/"),
            ("/%61ccount", "/account"),
            ("/%7Eann", "/~ann"),
            ("//", "/"),
            ("/a%2fb", "/a%2Fb"),
        ] {
            let judged = judge(path).unwrap();
            assert_eq!(judged.path, strict, "{path}");
            assert!(!judged.has_dots, "{path}");
        }
    }

    #[test]
    fn dots_are_found_in_every_disguise() {
        for path in [
            "/static/../account",
            "/./account",
            "/static/..",
            "/static/.",
            "/static/%2e%2e/account",
            "/static/.%2E/account",
            "/static/..%2faccount",
            "/static/..%5caccount",
            "/static%2f../account",
            "/static\\..\\account",
            "/static/%252e%252e/account",
            "/static/%25252e%25252e%25252faccount",
            "/static/..;/account",
            "/static/..;a=b/account",
            "/static/%2e%2e;x/account",
            "/static/..%3bx/account",
            "/static/..%3fx",
            "/static/..%23x",
            "/static/%c0%ae%c0%ae/account",
            "/static/..%c0%afaccount",
            "/a\\account",
            "/account%00.css",
            "/account%0a.css",
            "/a%2525252525252e",
        ] {
            assert!(judge(path).unwrap().has_dots, "{path}");
        }
    }

    #[test]
    fn other_readings_are_told() {
        for (path, reading, by_separator) in [
            ("/static%2faccount", "/static/account", true),
            ("/static%5Caccount", "/static/account", true),
            ("/%2561ccount", "/account", true),
            ("/account;x.css", "/account", false),
            ("/account%3bx.css", "/account", false),
            ("/%61ccount%3Bx", "/account", false),
            ("/account%3fx.css", "/account", false),
            ("/account%23x.css", "/account", false),
            ("/a;x/b;y", "/a/b", false),
        ] {
            let judged = judge(path).unwrap();
            assert!(!judged.has_dots, "{path}");
            let found = judged.readings.iter().find(|known| known.path == reading);
            let found = found.unwrap_or_else(|| panic!("{path}: {judged:?}"));
            assert_eq!(found.by_separator, by_separator, "{path}: {judged:?}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["/%", "/%zz", "/a b", "/%u002e", "/a%2"] {
            assert!(judge(path).is_err(), "{path}");
        }
    }

    proptest! {
        /// Whatever resolves to another path by the algorithm of RFC 3986, after at most three
        /// decodings, is found.
        #[test]
        fn no_dot_segment_escapes(path in "/(\\.|%2e|%252E|/|%2f|%5C|\\\\|a|;){0,10}") {
            let whole = String::from_utf8(decoded(&path)).unwrap().replace('\\', "/");
            let dots = whole.split('/').any(is_dots);
            if let Ok(judged) = judge(&path) {
                prop_assert!(!dots || judged.has_dots);
                prop_assert!(judged.path.starts_with('/'));
                prop_assert!(!judged.path.contains("//"));
            }
        }

        #[test]
        fn no_text_panics(path in ".{0,40}") {
            let _ = judge(&path);
        }
    }
}
