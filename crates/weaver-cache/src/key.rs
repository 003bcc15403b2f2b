//! Cache keys: injective, so that no two requests that differ in anything a rule looks at share one,
//! and in normal form, so that requests for equivalent URLs do.
//!
//! Every field is preceded by its length. The bytes themselves are the key in memory, where nothing
//! can collide; in Redis the name is their BLAKE3 hash, and the entry carries the bytes, which are
//! compared when it is read.

use crate::{Https, Principal, QueryRule, Rule, identity::Secret};
use actix_web::{
    HttpMessage as _, HttpRequest,
    dev::ServiceRequest,
    http::{
        Uri,
        header::{self, AUTHORIZATION, HeaderMap},
    },
};
use smallvec::SmallVec;
use std::borrow::Cow;
use weaver_cache_policy::url::{self, Authority, Scheme, Url};

/// Changes with the layout, so that nodes of different versions share a Redis in peace.
const VERSION: u8 = 2;
const QUERY_IGNORED: u8 = 0;
const QUERY_KEPT: u8 = 1;
/// In place of a query: the record of how the responses of a path vary by it.
const QUERY_SEARCH: u8 = 2;
/// The query in a canonical form, which stands for all that are equivalent (RFC 9875).
const QUERY_CANONICAL: u8 = 3;

/// A part of the query, or the query in another order, as the rule says.
const QUERY_PARTLY: u8 = 4;

pub(crate) type KeyBytes = SmallVec<[u8; 192]>;

/// What a request's key was made of, as far as decisions need it.
pub(crate) struct Keyed {
    pub(crate) key: KeyBytes,
    /// Whether it names one user (RFC 9111's private cache).
    pub(crate) partitioned: bool,
    /// Whether it ought to name one, and nothing tells which.
    pub(crate) anonymous: bool,
}

/// The URL of a request, in normal form: the one reading of it for keys, purges and invalidation.
pub(crate) struct RequestUrl<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) authority: Cow<'a, str>,
    pub(crate) path: Cow<'a, str>,
    /// Empty where there is none.
    pub(crate) query: Cow<'a, str>,
}

impl<'a> RequestUrl<'a> {
    pub(crate) fn of(req: &'a ServiceRequest) -> Self {
        let secure = req.app_config().secure() || req.extensions().contains::<Https>();
        Self::read(req.uri(), req.headers(), secure)
    }

    pub(crate) fn of_request(req: &'a HttpRequest) -> Self {
        let secure = req.app_config().secure() || req.extensions().contains::<Https>();
        Self::read(req.uri(), req.headers(), secure)
    }

    pub(crate) fn of_url(url: &'a Url) -> Self {
        Self {
            scheme: url.scheme,
            authority: Cow::Borrowed(&url.authority),
            path: Cow::Borrowed(url.path()),
            query: Cow::Borrowed(url.query().unwrap_or("")),
        }
    }

    /// What has no normal form stands for itself alone.
    fn read(uri: &'a Uri, headers: &'a HeaderMap, secure: bool) -> Self {
        let scheme = match uri.scheme_str().and_then(Scheme::parse) {
            Some(scheme) => scheme,
            None if secure => Scheme::Https,
            None => Scheme::Http,
        };
        let host = match uri.authority() {
            Some(authority) => authority.as_str(),
            None => headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or(""),
        };
        let authority = match Authority::parse(host, scheme) {
            Ok(authority) => authority.into_text(),
            Err(_) => Cow::Owned(host.to_ascii_lowercase()),
        };
        Self {
            scheme,
            authority,
            path: url::path(uri.path()).unwrap_or(Cow::Borrowed(uri.path())),
            query: url::query(uri.query().unwrap_or("")),
        }
    }

    /// Path and query.
    pub(crate) fn target(&self) -> String {
        if self.query.is_empty() {
            self.path.to_string()
        } else {
            format!("{}?{}", self.path, self.query)
        }
    }
}

pub(crate) fn build(
    url: &RequestUrl<'_>,
    rule: &Rule,
    headers: &HeaderMap,
    principal: Option<&Principal>,
    secret: &Secret,
) -> Keyed {
    let mut key = KeyBytes::new();
    key.push(VERSION);
    key.push(u8::from(url.scheme == Scheme::Https));
    put(&mut key, url.authority.as_bytes());
    put(&mut key, url.path.as_bytes());
    match &rule.query {
        QueryRule::Keep if !rule.sort_query => {
            key.push(QUERY_KEPT);
            put(&mut key, url.query.as_bytes());
        }
        QueryRule::Ignore => key.push(QUERY_IGNORED),
        partly => {
            key.push(QUERY_PARTLY);
            let kept = kept(&url.query, partly, rule.sort_query);
            put(&mut key, kept.as_bytes());
        }
    }

    let mut partitioned = false;
    let credentials = |key: &mut KeyBytes| {
        let hash = secret.credentials(principal, &rule.identity, headers);
        part(key, b'c', hash);
        hash.is_some()
    };
    let mut anonymous = false;
    if rule.per_user {
        partitioned = credentials(&mut key);
        anonymous = !partitioned;
    }
    for name in &rule.vary_on {
        if *name == AUTHORIZATION {
            if !rule.per_user {
                credentials(&mut key);
            }
        } else {
            part(&mut key, b'h', secret.header(name, headers));
        }
    }
    Keyed {
        key,
        partitioned,
        anonymous,
    }
}

fn put(key: &mut KeyBytes, bytes: &[u8]) {
    key.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    key.extend_from_slice(bytes);
}

fn part(key: &mut KeyBytes, tag: u8, hash: Option<[u8; 32]>) {
    match hash {
        Some(hash) => {
            key.push(tag);
            key.extend_from_slice(&hash);
        }
        None => key.push(b'-'),
    }
}

/// The parameters that a rule keeps, in the order that it gives them.
pub(crate) fn kept(query: &str, rule: &QueryRule, sort: bool) -> String {
    /// As an origin reads it: `%69d` is `id`.
    fn name(parameter: &str) -> Cow<'_, str> {
        form_urlencoded::parse(parameter.as_bytes())
            .next()
            .map_or(Cow::Borrowed(""), |(name, _)| name)
    }
    let keeps = |parameter: &&str| match rule {
        QueryRule::Keep => true,
        QueryRule::Ignore => false,
        QueryRule::Only(names) => names.iter().any(|wanted| *wanted == name(parameter)),
        QueryRule::Except(names) => !names.iter().any(|dropped| *dropped == name(parameter)),
    };
    let mut kept: Vec<&str> = query.split('&').filter(keeps).collect();
    if sort {
        // Stable: what a repeated parameter means may depend on the order of its values.
        kept.sort_by(|one, other| name(one).cmp(&name(other)));
    }
    kept.join("&")
}

/// The key of one variant: the key of its URL, the index's nonce and the variant's hash.
pub(crate) fn of_variant(primary: &[u8], nonce: &[u8; 16], digest: &[u8; 32]) -> KeyBytes {
    let mut key = KeyBytes::from_slice(primary);
    key.push(b'v');
    key.extend_from_slice(nonce);
    key.extend_from_slice(digest);
    key
}

/// What a key says of its URL.
pub(crate) struct Parsed<'a> {
    pub(crate) scheme: Scheme,
    /// With its port, unless that is the scheme's default.
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    /// Unless the rule ignores it.
    pub(crate) query: Option<&'a str>,
    /// Where the query is, with what says of which kind it is.
    section: std::ops::Range<usize>,
    kind: u8,
}

impl Parsed<'_> {
    /// Path and query.
    pub(crate) fn target(&self) -> String {
        match self.query {
            Some(query) if !query.is_empty() => format!("{}?{query}", self.path),
            _ => self.path.to_owned(),
        }
    }

    /// Whether the key stands for more URLs than one, which differ in their queries.
    pub(crate) fn stands_for_many(&self) -> bool {
        self.kind != QUERY_KEPT
    }
}

/// Reads the layout that [`build`] and [`with_canonical`] write.
pub(crate) fn parse(key: &[u8]) -> Option<Parsed<'_>> {
    fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *rest = after;
        std::str::from_utf8(text).ok()
    }
    let ([version, secure], mut rest) = key.split_first_chunk::<2>()?;
    if *version != VERSION {
        return None;
    }
    let scheme = match secure {
        0 => Scheme::Http,
        1 => Scheme::Https,
        _ => return None,
    };
    let (host, path) = (take(&mut rest)?, take(&mut rest)?);
    let start = key.len() - rest.len();
    let (kind, mut rest) = rest.split_first()?;
    let query = match *kind {
        QUERY_KEPT | QUERY_CANONICAL | QUERY_PARTLY => Some(take(&mut rest)?),
        _ => None,
    };
    Some(Parsed {
        scheme,
        host,
        path,
        query,
        section: start..key.len() - rest.len(),
        kind: *kind,
    })
}

/// Whether a key is of parts of a response; see [`crate::partial`].
pub(crate) fn is_of_part(key: &[u8]) -> bool {
    let Some(parsed) = parse(key) else {
        return false;
    };
    let mut rest = &key[parsed.section.end..];
    while let Some((tag, after)) = rest.split_first() {
        rest = match tag {
            b'-' => after,
            b'c' | b'h' if after.len() >= 32 => &after[32..],
            tag => return *tag == b'r',
        };
    }
    false
}

/// The URL of a key, unless the key names a user or is of one variant.
pub(crate) fn public_url(key: &[u8]) -> Option<String> {
    let parsed = parse(key)?;
    let mut rest = &key[parsed.section.end..];
    while let Some((tag, after)) = rest.split_first() {
        rest = match tag {
            b'-' => after,
            b'h' => after.get(32..)?,
            _ => return None,
        };
    }
    // A URL with other characters is in no key: HTTP admits none.
    let scheme = parsed.scheme.as_str();
    let mut url = format!("{scheme}://{}{}", parsed.host, parsed.path);
    if let Some(query) = parsed.query.filter(|query| !query.is_empty()) {
        url.push('?');
        url.push_str(query);
    }
    (!parsed.host.is_empty()).then_some(url)
}

/// The key under which it is kept how the responses of a key's path vary by their query.
pub(crate) fn of_search(key: &[u8]) -> Option<KeyBytes> {
    with_query(key, &[QUERY_SEARCH])
}

/// A key with another query, which stands for all that are equivalent to it.
pub(crate) fn with_canonical(key: &[u8], query: &str) -> Option<KeyBytes> {
    let mut section = KeyBytes::new();
    section.push(QUERY_CANONICAL);
    put(&mut section, query.as_bytes());
    with_query(key, &section)
}

fn with_query(key: &[u8], section: &[u8]) -> Option<KeyBytes> {
    let old = parse(key).filter(|old| old.kind == QUERY_KEPT)?.section;
    let mut made = KeyBytes::from_slice(&key[..old.start]);
    made.extend_from_slice(section);
    made.extend_from_slice(&key[old.end..]);
    Some(made)
}

/// The name of a key in Redis.
pub(crate) fn redis_name(prefix: &str, key: &[u8]) -> String {
    let mut name = String::with_capacity(prefix.len() + 64);
    name.push_str(prefix);
    name.push_str(&blake3::hash(key).to_hex());
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use weaver_cache_policy::Policy;

    #[test]
    fn a_key_tells_its_url_unless_it_is_one_users() {
        let mut rule = Rule::new("r", Policy::standard());
        let none = HeaderMap::new();
        let url = |rule: &Rule, query, headers: &HeaderMap| {
            public_url(&key("H:81", "/a%20b", query, rule, headers))
        };
        assert_eq!(
            url(&rule, None, &none).as_deref(),
            Some("http://h:81/a%20b")
        );
        assert_eq!(
            url(&rule, Some(""), &none).as_deref(),
            Some("http://h:81/a%20b")
        );
        assert_eq!(
            url(&rule, Some("x=1"), &none).as_deref(),
            Some("http://h:81/a%20b?x=1")
        );
        rule.query = QueryRule::Only(vec!["x".to_owned()]);
        assert_eq!(
            url(&rule, Some("x=1&y=2"), &none).as_deref(),
            Some("http://h:81/a%20b?x=1")
        );
        assert_eq!(
            url(&rule, Some("y=2"), &none).as_deref(),
            Some("http://h:81/a%20b")
        );
        rule.vary_on = vec![HeaderName::from_static("accept"), AUTHORIZATION];
        let mut headers = HeaderMap::new();
        headers.insert(
            HeaderName::from_static("accept"),
            HeaderValue::from_static("a"),
        );
        assert!(url(&rule, None, &headers).is_some());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(url(&rule, None, &headers), None);
    }

    fn key(
        host: &str,
        path: &str,
        query: Option<&str>,
        rule: &Rule,
        headers: &HeaderMap,
    ) -> KeyBytes {
        let target = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let uri: Uri = target.parse().unwrap();
        let mut with_host = headers.clone();
        with_host.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        build(
            &RequestUrl::read(&uri, &with_host, false),
            rule,
            headers,
            None,
            &Secret::new(Some([1; 32])),
        )
        .key
    }

    fn url(key: &[u8]) -> Option<(&str, &str, Option<&str>)> {
        parse(key).map(|url| (url.host, url.path, url.query))
    }

    fn stands_for_many(key: &[u8]) -> bool {
        parse(key).is_some_and(|url| url.stands_for_many())
    }

    fn rule() -> Rule {
        Rule::new("r", Policy::standard())
    }

    #[test]
    fn a_key_gives_its_url_back_and_the_host_has_no_case() {
        let made = key("A.example", "/p", Some("q=1"), &rule(), &HeaderMap::new());
        assert_eq!(url(&made), Some(("a.example", "/p", Some("q=1"))));
        assert_eq!(
            made,
            key("a.EXAMPLE", "/p", Some("q=1"), &rule(), &HeaderMap::new())
        );
        assert_eq!(url(&of_variant(&made, &[0; 16], &[1; 32])), url(&made));
    }

    #[test]
    fn requests_for_equivalent_urls_share_a_key_and_schemes_do_not() {
        let read = |scheme, host: &'static str, uri: &'static str| {
            let uri: Uri = uri.parse().unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            let url = RequestUrl::read(&uri, &headers, scheme == Scheme::Https);
            let none = HeaderMap::new();
            build(&url, &rule(), &none, None, &Secret::new(Some([1; 32]))).key
        };
        let one = read(Scheme::Http, "h", "/~a?b=c");
        for (host, uri) in [
            ("H:80", "/%7Ea?b=c"),
            ("h:", "/%7ea?%62=c"),
            ("evil", "http://h/~a?b=c"),
        ] {
            assert_eq!(one, read(Scheme::Http, host, uri), "{host}{uri}");
        }
        for (scheme, host, uri) in [
            (Scheme::Https, "h", "/~a?b=c"),
            (Scheme::Http, "h:443", "/~a?b=c"),
            (Scheme::Http, "h", "//~a?b=c"),
            (Scheme::Http, "h", "/~a%3Fb=c"),
        ] {
            assert_ne!(one, read(scheme, host, uri), "{scheme:?} {host}{uri}");
        }
    }

    #[test]
    fn a_canonical_key_has_the_same_user_and_another_query() {
        let user = |token: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(token));
            headers
        };
        let made = |query, token| key("h", "/p", query, &rule().per_user(true), &user(token));
        let canonical = |query, token| with_canonical(&made(query, token), "q=1").unwrap();
        assert_eq!(canonical(Some("x"), "a"), canonical(None, "a"));
        assert_ne!(canonical(Some("x"), "a"), canonical(Some("x"), "b"));
        assert_ne!(canonical(Some("x"), "a"), made(Some("q=1"), "a"));
        assert_eq!(url(&canonical(None, "a")), Some(("h", "/p", Some("q=1"))));
        assert!(stands_for_many(&canonical(None, "a")) && !stands_for_many(&made(None, "a")));
        assert_eq!(
            of_search(&made(None, "a")),
            of_search(&made(Some("x"), "a"))
        );
        assert_eq!(of_search(&canonical(None, "a")), None);
    }

    #[test]
    fn query_rules_keep_what_they_say() {
        let rule = |query| rule().query(query);
        let made =
            |query: &str, by: QueryRule| key("h", "/", Some(query), &rule(by), &HeaderMap::new());
        let sorted = |query: &str| {
            let mut rule = rule(QueryRule::Keep);
            rule.sort_query = true;
            key("h", "/", Some(query), &rule, &HeaderMap::new())
        };
        assert_eq!(sorted("b=1&a=2&a=1"), sorted("a=2&a=1&b=1"));
        assert_ne!(sorted("a=1&a=2"), sorted("a=2&a=1"));
        let only = QueryRule::Only(vec!["a".into()]);
        assert_eq!(made("a=1&b=2", only.clone()), made("a=1&b=3", only.clone()));
        assert_ne!(made("a=1", only.clone()), made("a=2", only));
        let only = QueryRule::Only(vec!["id".into()]);
        assert_ne!(made("%69d=1", only.clone()), made("%69d=2", only.clone()));
        assert_eq!(made("i+d=1", only.clone()), made("i+d=2", only));
        let except = QueryRule::Except(vec!["id".into()]);
        assert_eq!(made("a=1&%69%64=2", except.clone()), made("a=1", except));
        let except = QueryRule::Except(vec!["utm".into()]);
        assert_eq!(made("a=1&utm=x", except.clone()), made("a=1&utm=y", except));
        assert_eq!(
            made("a=1", QueryRule::Ignore),
            made("b=1", QueryRule::Ignore)
        );
    }

    #[test]
    fn a_user_is_known_by_a_hash_and_not_by_the_token() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer s3cr3t"));
        let rule = rule().per_user(true);
        let made = key("h", "/", None, &rule, &headers);
        let found = made.windows(6).any(|window| window == b"s3cr3t");
        assert!(!found);
        assert_ne!(made, key("h", "/", None, &rule, &HeaderMap::new()));
    }

    proptest! {
        /// Two requests share a key only if everything the rule looks at is equal.
        #[test]
        fn keys_are_injective(
            a in ("[a-c.]{1,4}", "/[a-c/]{0,4}", proptest::option::of("[a-c=&]{0,4}"), proptest::option::of("[a-c]{0,3}")),
            b in ("[a-c.]{1,4}", "/[a-c/]{0,4}", proptest::option::of("[a-c=&]{0,4}"), proptest::option::of("[a-c]{0,3}")),
        ) {
            let name = HeaderName::from_static("x-a");
            let rule = rule().vary_on(vec![name.clone()]);
            let made = |of: &(String, String, Option<String>, Option<String>)| {
                let mut headers = HeaderMap::new();
                if let Some(value) = &of.3 {
                    headers.insert(name.clone(), HeaderValue::from_str(value).unwrap());
                }
                key(&of.0, &of.1, of.2.as_deref(), &rule, &headers)
            };
            let normal = |of: &(String, String, Option<String>, Option<String>)| {
                let query = of.2.clone().filter(|query| !query.is_empty());
                (of.0.clone(), of.1.clone(), query, of.3.clone())
            };
            prop_assert_eq!(made(&a) == made(&b), normal(&a) == normal(&b));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = url(&bytes);
            let _ = (stands_for_many(&bytes), of_search(&bytes), with_canonical(&bytes, "q"));
        }
    }
}
