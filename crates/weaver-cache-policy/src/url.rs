//! URLs in normal form: one form for all that are equivalent (RFC 3986 §6.2.2, §6.2.3;
//! RFC 9110 §4.2.3).
//!
//! Cache keys, purges, invalidation and the check of hosts all use this form, so that a URL that one
//! of them means is the URL that the others mean:
//!
//! | part | normal form |
//! |---|---|
//! | scheme | lower case; `http` and `https` only |
//! | host | lower case; IDNA A-labels; IP addresses in their canonical text |
//! | port | left out where it is empty or the scheme's default |
//! | path | `/` where it is empty; percent escapes in upper case, those of unreserved characters decoded |
//! | query | escapes as in the path; left out where it is empty |
//! | fragment | left out: it is not sent |
//!
//! Double slashes stay: only an origin knows whether they mean the same. What goes to an origin is
//! never rewritten to this form.

use std::{
    borrow::Cow,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`
    #[default]
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL that names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// The one that it is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Http => Self::Https,
            Self::Https => Self::Http,
        }
    }

    /// Reads a scheme in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("http") {
            Some(Self::Http)
        } else if text.eq_ignore_ascii_case("https") {
            Some(Self::Https)
        } else {
            None
        }
    }
}

/// Why a text is not an http or https URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// It has no scheme, or another than `http` and `https`.
    Scheme,
    /// It names a user or a password.
    UserInfo,
    /// Its host is missing, or not a name or an IP address.
    Host,
    /// Its port is not a number from 1 to 65535.
    Port,
    /// A `%` is not followed by two hexadecimal digits.
    Escape,
    /// It has a character that no URL has, such as a space.
    Character,
    /// Its path does not begin with `/`.
    Path,
}

impl UrlError {
    /// What is wrong, as a clause.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheme => "the scheme is not http or https",
            Self::UserInfo => "a user or password is not allowed in the URL",
            Self::Host => "the host is not a name or an IP address",
            Self::Port => "the port is not a number from 1 to 65535",
            Self::Escape => "a % is not followed by two hexadecimal digits",
            Self::Character => "a character is not allowed in a URL",
            Self::Path => "the path does not begin with /",
        }
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for UrlError {}

/// A host and, unless it is the scheme's default, a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority<'a> {
    host: Cow<'a, str>,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `host`, `host:port` or `[address]:port` as it stands in a Host field (RFC 9112 §3.2).
    ///
    /// Names have letters, digits, `-`, `_` and `.` only, as all hosts do that can be resolved.
    ///
    /// # Errors
    ///
    /// [`UrlError::Host`], [`UrlError::Port`] or [`UrlError::UserInfo`].
    pub fn parse(text: &'a str, scheme: Scheme) -> Result<Self, UrlError> {
        let authority = Self::of_any_scheme(text)?;
        Ok(Self {
            port: authority.port.filter(|port| *port != scheme.default_port()),
            ..authority
        })
    }

    /// The same where no scheme is known, so that every port is named.
    fn of_any_scheme(text: &'a str) -> Result<Self, UrlError> {
        if text.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            let address: Ipv6Addr = address.parse().map_err(|_| UrlError::Host)?;
            (Cow::Owned(format!("[{address}]")), port)
        } else {
            let at = text.find(':').unwrap_or(text.len());
            let (host, port) = text.split_at(at);
            (name(host)?, port)
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return Err(UrlError::Host),
            Some("") => None,
            Some(digits) => Some(number(digits)?),
        };
        Ok(Self { host, port })
    }

    /// The host: lower case, IPv6 addresses in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, unless it is the scheme's default.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Its text, without a copy where it is normal already and names no port.
    #[must_use]
    pub fn into_text(self) -> Cow<'a, str> {
        match self.port {
            None => self.host,
            Some(port) => Cow::Owned(format!("{}:{port}", self.host)),
        }
    }
}

fn name(host: &str) -> Result<Cow<'_, str>, UrlError> {
    let mut lower = true;
    for byte in host.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {}
            b'A'..=b'Z' => lower = false,
            _ => return Err(UrlError::Host),
        }
    }
    if host.is_empty() || host.len() > 255 || host.starts_with('.') || host.contains("..") {
        return Err(UrlError::Host);
    }
    // A last label of digits alone makes it an IPv4 address (WHATWG URL §3.5), of which there is
    // only one text that all readers understand alike.
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or("");
    if last.bytes().all(|byte| byte.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() {
        return Err(UrlError::Host);
    }
    Ok(if lower {
        Cow::Borrowed(host)
    } else {
        Cow::Owned(host.to_ascii_lowercase())
    })
}

fn number(digits: &str) -> Result<u16, UrlError> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or(UrlError::Port)
    } else {
        Err(UrlError::Port)
    }
}

/// A URL in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Its scheme.
    pub scheme: Scheme,
    /// Host and, unless it is the scheme's default, port.
    pub authority: String,
    /// Path and, unless it is empty, query.
    pub target: String,
}

impl Url {
    /// Reads an absolute URL, such as `http://example.com/a?b`.
    ///
    /// Dot segments are resolved (RFC 3986 §5.2.4), a fragment is dropped, and an internationalised
    /// host becomes its A-labels (RFC 5891).
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let scheme = Scheme::parse(scheme).ok_or(UrlError::Scheme)?;
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        Ok(Self {
            scheme,
            authority: authority_of_url(authority, scheme)?,
            target: self::target(target)?,
        })
    }

    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("/")
    }

    /// The query, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority, target) = (self.scheme.as_str(), &self.authority, &self.target);
        write!(f, "{scheme}://{authority}{target}")
    }
}

/// An authority as people write it in URLs: with international names.
fn authority_of_url(text: &str, scheme: Scheme) -> Result<String, UrlError> {
    let text = with_a_labels(text)?;
    Ok(Authority::parse(&text, scheme)?.into_text().into_owned())
}

fn with_a_labels(text: &str) -> Result<Cow<'_, str>, UrlError> {
    if text.is_ascii() {
        return Ok(Cow::Borrowed(text));
    }
    let at = text.rfind(':').unwrap_or(text.len());
    let (host, port) = text.split_at(at);
    let host = idna::domain_to_ascii(host).map_err(|_| UrlError::Host)?;
    Ok(Cow::Owned(format!("{host}{port}")))
}

/// The normal form of a host as people write it, such as one in a list of hosts. A port, if there is
/// one, stays: which one is the default is not known without a scheme.
///
/// # Errors
///
/// [`UrlError::Host`] or [`UrlError::Port`].
pub fn host(text: &str) -> Result<String, UrlError> {
    let text = with_a_labels(text)?;
    Ok(Authority::of_any_scheme(&text)?.into_text().into_owned())
}

/// The normal form of a path with a query, such as `/a?b`: that of [`Url::target`].
///
/// # Errors
///
/// What is wrong with it.
pub fn target(text: &str) -> Result<String, UrlError> {
    let text = text.split('#').next().unwrap_or("");
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    if !path.is_empty() && !path.starts_with('/') {
        return Err(UrlError::Path);
    }
    let mut target = without_dot_segments(&self::path(path)?);
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        check(query)?;
        target.push('?');
        target.push_str(&self::query(query));
    }
    Ok(target)
}

/// The normal form of the beginning of a path, perhaps with that of a query.
///
/// It ends where it ends: dot segments stay, since the last may be the beginning of a name, and so
/// does a `?`.
///
/// # Errors
///
/// What is wrong with it.
pub fn prefix(text: &str) -> Result<String, UrlError> {
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    if path.contains('#') || query.is_some_and(|query| query.contains('#')) {
        return Err(UrlError::Character);
    }
    if !path.starts_with('/') {
        return Err(UrlError::Path);
    }
    let mut prefix = self::path(path)?.into_owned();
    if let Some(query) = query {
        check(query)?;
        prefix.push('?');
        prefix.push_str(&self::query(query));
    }
    Ok(prefix)
}

fn check(text: &str) -> Result<(), UrlError> {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(UrlError::Character);
    }
    Ok(())
}

/// The normal form of a path: `/` for an empty one.
///
/// # Errors
///
/// [`UrlError::Escape`] or [`UrlError::Character`].
pub fn path(path: &str) -> Result<Cow<'_, str>, UrlError> {
    if path.is_empty() {
        return Ok(Cow::Borrowed("/"));
    }
    if path.bytes().all(is_plain) {
        return Ok(Cow::Borrowed(path));
    }
    check(path)?;
    if has_bad_escape(path) {
        return Err(UrlError::Escape);
    }
    Ok(Cow::Owned(normalised(path, true)))
}

/// The normal form of a query. Of one with a `%` that begins no escape, which browsers send, all
/// escapes stay as they are: readers differ in what they make of it, so that it is equivalent to no
/// other.
#[must_use]
pub fn query(query: &str) -> Cow<'_, str> {
    if query.bytes().all(|byte| is_plain(byte) || byte == b'?') {
        Cow::Borrowed(query)
    } else {
        Cow::Owned(normalised(query, !has_bad_escape(query)))
    }
}

/// Characters that are the same in the normal form.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte)
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The byte that is escaped there, where a `%` stands.
pub(crate) fn escape(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let (high, low) = (digit(at + 1)?, digit(at + 2)?);
    u8::try_from(high * 16 + low).ok()
}

/// Whether a `%` begins no escape.
fn has_bad_escape(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut percents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    percents.any(|(at, _)| escape(bytes, at).is_none())
}

fn normalised(text: &str, decodes: bool) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len() + 8);
    let mut at = 0;
    let put_escape = |out: &mut String, byte: u8| {
        out.push('%');
        out.push(HEX[usize::from(byte >> 4)] as char);
        out.push(HEX[usize::from(byte & 15)] as char);
    };
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'%' => match escape(bytes, at - 1).filter(|_| decodes) {
                Some(escaped) => {
                    at += 2;
                    if is_unreserved(escaped) {
                        out.push(escaped as char);
                    } else {
                        put_escape(&mut out, escaped);
                    }
                }
                None => out.push('%'),
            },
            byte if is_plain(byte) || byte == b'?' => out.push(byte as char),
            byte => put_escape(&mut out, byte),
        }
    }
    out
}

/// RFC 3986 §5.2.4.
fn without_dot_segments(path: &str) -> String {
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    if !path.split('/').any(is_dots) {
        return path.to_owned();
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        if part == ".." {
            segments.pop();
        }
        if !is_dots(part) {
            segments.push(part);
        } else if parts.peek().is_none() {
            segments.push("");
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(text: &str) -> String {
        Url::parse(text).map_or_else(|error| error.to_string(), |url| url.to_string())
    }

    #[test]
    fn equivalent_urls_have_one_form() {
        for same in [
            "http://example.com/~a/b?c=d",
            "HTTP://EXAMPLE.com:80/%7Ea/b?c=d",
            "http://example.com:/%7ea/b?%63=d",
            "http://example.com/x/../~a/./b?c=d#part",
            "http://example.com:0080/%7Ea/b?c=d",
        ] {
            assert_eq!(normal(same), "http://example.com/~a/b?c=d", "{same}");
        }
        assert_eq!(normal("https://h:443"), "https://h/");
        assert_eq!(normal("http://h:443/"), "http://h:443/");
        assert_eq!(normal("http://h/?"), "http://h/");
        assert_eq!(normal("http://h?q"), "http://h/?q");
        assert_eq!(normal("http://h/a%2fb"), "http://h/a%2Fb");
        assert_eq!(normal("http://h//a"), "http://h//a");
        assert_eq!(normal("http://h/é?é"), "http://h/%C3%A9?%C3%A9");
        assert_eq!(normal("http://h/?q=100%&a=%7e"), "http://h/?q=100%&a=%7e");
        assert_eq!(normal("http://h/?%%32e"), "http://h/?%%32e");
        assert_eq!(
            normal("http://Bücher.example:8080/"),
            "http://xn--bcher-kva.example:8080/"
        );
        assert_eq!(normal("http://[0:0::1]:80/"), "http://[::1]/");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for (bad, why) in [
            ("/x", UrlError::Scheme),
            ("ftp://h/x", UrlError::Scheme),
            ("http:///x", UrlError::Host),
            ("http://u@h/", UrlError::UserInfo),
            ("http://a b/", UrlError::Host),
            ("http://a,b/", UrlError::Host),
            ("http://h:65536/", UrlError::Port),
            ("http://h:0/", UrlError::Port),
            ("http://h:+80/", UrlError::Port),
            ("http://h:80:80/", UrlError::Port),
            ("http://[::1/", UrlError::Host),
            ("http://[::1]x/", UrlError::Host),
            ("http://1.2.3/", UrlError::Host),
            ("http://0177.0.0.1/", UrlError::Host),
            ("http://a..b/", UrlError::Host),
            ("http://h/%zz", UrlError::Escape),
            ("http://h/%1", UrlError::Escape),
            ("http://h/a b", UrlError::Character),
            ("http://h/?a b", UrlError::Character),
        ] {
            assert_eq!(Url::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_host_without_a_scheme_keeps_its_port() {
        assert_eq!(
            host("B\u{fc}cher.example:80").as_deref(),
            Ok("xn--bcher-kva.example:80")
        );
        assert_eq!(host("[0::1]:").as_deref(), Ok("[::1]"));
    }

    #[test]
    fn a_prefix_keeps_its_end() {
        assert_eq!(prefix("/a%7e/."), Ok("/a~/.".to_owned()));
        assert_eq!(prefix("/a?"), Ok("/a?".to_owned()));
        assert_eq!(prefix("a"), Err(UrlError::Path));
        assert_eq!(prefix("/a%7"), Err(UrlError::Escape));
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own(text in "http://[a-cA-C.]{1,5}(:[0-9]{0,5})?/[a-c/.%27eEf~é]{0,8}(\\?[a-c%27eE=&]{0,6})?") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert_eq!(Url::parse(&url.to_string()), Ok(url));
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = Url::parse(&text);
            let _ = (target(&text), prefix(&text), host(&text), path(&text), query(&text));
            let _ = Authority::parse(&text, Scheme::Https);
        }
    }
}
