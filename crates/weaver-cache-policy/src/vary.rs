//! Which stored variant a request selects (RFC 9111 §4.1).
//!
//! A response that varies is stored with a [`Variant`]: the names its Vary lists, and hashes of what
//! the request had under these names, in a normalised form that "is known to have identical
//! semantics". Values are hashed with a key, because they may be cookies, and 256 bits wide, because
//! a collision would hand one user's response to another.
//!
//! A response with a content coding whose Vary does not list Accept-Encoding is for all requests that
//! accept the coding, whatever else they accept (RFC 9110 §12.5.3).

use crate::{
    Headers,
    coding::{applied, canonical, is_accepted, weighted},
    headers::list,
};
use smallvec::SmallVec;

/// The field names that a Vary lists: lower case, sorted, each once. [`CODED`] with a coding stands for
/// "accepts that coding".
pub type Names = SmallVec<[String; 4]>;

/// More names than this in a Vary make a response that nobody would ask for twice.
pub const MAX_NAMES: usize = 32;

/// Before the coding of a response whose Vary does not list Accept-Encoding. It is no field name.
pub const CODED: &str = "accept-encoding: ";

/// More codings than this on a response are none that a client would undo.
const MAX_CODINGS: usize = 4;

/// Reads Vary, and what Content-Encoding adds to it; `None` for one that matches no request ever: `*`
/// in any place, more than [`MAX_NAMES`] names, or what is no field name, of which nobody can tell what
/// it was to be.
#[must_use]
pub fn names(headers: &(impl Headers + ?Sized)) -> Option<Names> {
    let mut names = Names::new();
    for member in list(headers.lines("vary")) {
        if !is_field_name(member) || names.len() == MAX_NAMES {
            return None;
        }
        names.push(String::from_utf8_lossy(member).to_ascii_lowercase());
    }
    if !names.iter().any(|name| name == ACCEPT_ENCODING) {
        let codings = applied(headers);
        if codings.len() > MAX_CODINGS || names.len() + codings.len() > MAX_NAMES {
            return None;
        }
        names.extend(codings.iter().map(|coding| format!("{CODED}{coding}")));
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// RFC 9110 §5.1: a token, other than `*`.
fn is_field_name(member: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    member != b"*" && !member.is_empty() && member.iter().all(is_token)
}

/// What a stored response was selected by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The names its Vary lists.
    pub names: Names,
    /// The hash of the selecting fields.
    pub digest: [u8; 32],
    /// The same without Accept-Language; meaningful where [`Self::language`] is there.
    pub beside_language: [u8; 32],
    /// The response's Content-Language in lower case, where Vary lists Accept-Language.
    pub language: Option<String>,
}

impl Variant {
    /// Describes a response that answers `request` and varies on `names`.
    #[must_use]
    pub fn new(
        key: &[u8; 32],
        names: Names,
        request: &(impl Headers + ?Sized),
        response: &(impl Headers + ?Sized),
    ) -> Self {
        // Coded for a request that did not accept it: another with the same Accept-Encoding gets no
        // better from the origin.
        let is_refused = |name: &String| {
            let coding = name.strip_prefix(CODED);
            coding.is_some_and(|coding| !is_accepted(coding, request))
        };
        let mut names = names;
        if response.has("content-encoding") && names.iter().any(is_refused) {
            names.retain(|name| !name.starts_with(CODED));
            names.push(ACCEPT_ENCODING.to_owned());
            names.sort_unstable();
        }
        let by_language = names.iter().any(|name| name == ACCEPT_LANGUAGE);
        let language = by_language
            .then(|| response.first("content-language"))
            .flatten()
            .map(|value| String::from_utf8_lossy(value).trim().to_ascii_lowercase());
        Self {
            digest: digest(key, &names, request, None),
            beside_language: digest(key, &names, request, Some(ACCEPT_LANGUAGE)),
            names,
            language,
        }
    }

    /// Whether the request selects this variant.
    ///
    /// Besides the same fields, a request whose one most preferred language is the response's
    /// Content-Language selects it: whatever the other languages are, it could get nothing better.
    #[must_use]
    pub fn matches(&self, key: &[u8; 32], request: &(impl Headers + ?Sized)) -> bool {
        if digest(key, &self.names, request, None) == self.digest {
            return true;
        }
        self.language.as_deref().is_some_and(|language| {
            favourite(request).is_some_and(|wanted| wanted == language)
                && digest(key, &self.names, request, Some(ACCEPT_LANGUAGE)) == self.beside_language
        })
    }
}

const ACCEPT_LANGUAGE: &str = "accept-language";
const ACCEPT_ENCODING: &str = "accept-encoding";

/// The language a request prefers to all others, if there is just one.
fn favourite(request: &(impl Headers + ?Sized)) -> Option<String> {
    let mut best: Option<(String, u16)> = None;
    let mut tied = false;
    for (language, weight) in weighted(request.lines(ACCEPT_LANGUAGE)) {
        match best
            .as_ref()
            .map_or(std::cmp::Ordering::Greater, |(_, known)| weight.cmp(known))
        {
            std::cmp::Ordering::Greater => (best, tied) = (Some((language, weight)), false),
            std::cmp::Ordering::Equal => tied = true,
            std::cmp::Ordering::Less => {}
        }
    }
    best.filter(|(language, weight)| !tied && *weight > 0 && language != "*")
        .map(|(language, _)| language)
}

/// Request headers whose values tell nothing about who asks. Variants by these alone are hashed with
/// a key that everybody knows, so that nodes share them without sharing a secret.
const PUBLIC: [&str; 16] = [
    "accept",
    "accept-charset",
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    "access-control-request-headers",
    "access-control-request-method",
    "device-memory",
    "dpr",
    "ect",
    "host",
    "origin",
    "save-data",
    "user-agent",
    "viewport-width",
    "width",
    "x-forwarded-proto",
];

fn digest(
    key: &[u8; 32],
    names: &[String],
    request: &(impl Headers + ?Sized),
    without: Option<&str>,
) -> [u8; 32] {
    let public = |name: &String| {
        PUBLIC.contains(&name.as_str()) || name.starts_with("sec-") || name.starts_with(CODED)
    };
    let key = if names.iter().all(public) {
        &[0; 32]
    } else {
        key
    };
    let mut hasher = blake3::Hasher::new_keyed(key);
    for name in names.iter().filter(|name| Some(name.as_str()) != without) {
        // Lengths go first, so that no two lists of names and values give the same bytes.
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        match normalised(name, request) {
            Some(value) => {
                hasher.update(&(value.len() as u64 + 1).to_le_bytes());
                hasher.update(&value);
            }
            None => {
                hasher.update(&0_u64.to_le_bytes());
            }
        }
    }
    *hasher.finalize().as_bytes()
}

/// The value of a selecting field in a form in which equal means the same; `None` where the field is
/// absent, which matches only absence.
fn normalised(name: &str, request: &(impl Headers + ?Sized)) -> Option<Vec<u8>> {
    if let Some(coding) = name.strip_prefix(CODED) {
        return Some(vec![u8::from(is_accepted(coding, request))]);
    }
    if !request.has(name) {
        return None;
    }
    Some(match name {
        ACCEPT_ENCODING => canonical(request.lines(name)),
        ACCEPT_LANGUAGE => {
            let mut members: Vec<(u16, String)> = weighted(request.lines(name))
                .map(|(language, weight)| (1000 - weight.min(1000), language))
                .collect();
            members.sort_unstable();
            members.dedup();
            let mut value = Vec::new();
            for (place, language) in members {
                value.extend_from_slice(language.as_bytes());
                value.extend_from_slice(&place.to_be_bytes());
            }
            value
        }
        // RFC 9111 §4.1: lines may be combined and white space around the commas dropped.
        _ => list(request.lines(name))
            .collect::<SmallVec<[&[u8]; 8]>>()
            .join(&b','),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];
    type Lines = Vec<(String, String)>;

    fn lines(of: &[(&str, &str)]) -> Lines {
        of.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn variant(vary: &str, request: &[(&str, &str)], response: &[(&str, &str)]) -> Variant {
        let mut response = lines(response);
        response.push(("vary".to_owned(), vary.to_owned()));
        Variant::new(&KEY, names(&response).unwrap(), &lines(request), &response)
    }

    #[test]
    fn star_in_any_place_matches_nothing() {
        for vary in [
            ["*", ""],
            ["*, *", ""],
            [", *", ""],
            ["", "*"],
            ["Foo, *", ""],
        ] {
            let headers = [("vary", vary[0]), ("vary", vary[1])];
            assert_eq!(names(&headers[..]), None, "{vary:?}");
        }
    }

    #[test]
    fn a_variant_matches_the_same_fields_and_absence_matches_only_absence() {
        let stored = variant("Foo, bar", &[("foo", "1")], &[]);
        assert!(stored.matches(&KEY, &lines(&[("Foo", "1"), ("other", "2")])));
        assert!(!stored.matches(&KEY, &lines(&[("foo", "2")])));
        assert!(!stored.matches(&KEY, &lines(&[("foo", "1"), ("bar", "")])));
        assert!(!stored.matches(&KEY, &lines(&[])));
    }

    #[test]
    fn what_is_coded_without_vary_is_for_all_who_accept_the_coding() {
        let response = lines(&[("content-encoding", "X-GZip")]);
        let stored = |accepted: &str| {
            let request = lines(&[("accept-encoding", accepted)]);
            Variant::new(&KEY, names(&response).unwrap(), &request, &response)
        };
        let matches = |stored: &Variant, accepted: &str| {
            stored.matches(&KEY, &lines(&[("accept-encoding", accepted)]))
        };
        let (wanted, unwanted) = (stored("gzip"), stored("identity"));
        assert!(wanted.matches(&KEY, &lines(&[])));
        for accepts in ["gzip", "br, gzip;q=0.5", "*"] {
            assert!(matches(&wanted, accepts) && !matches(&unwanted, accepts));
        }
        for refuses in ["gzip;q=0", "br", ""] {
            assert!(!matches(&wanted, refuses) && !matches(&unwanted, refuses));
        }
        assert!(!matches(&wanted, "identity") && matches(&unwanted, "identity"));
        assert!(
            names(&lines(&[("content-encoding", "identity")]))
                .unwrap()
                .is_empty()
        );
        let listed = [("vary", "accept-encoding"), ("content-encoding", "gzip")];
        assert_eq!(names(&lines(&listed)).unwrap()[..], ["accept-encoding"]);
    }

    #[test]
    fn lines_are_combined_and_white_space_around_commas_dropped() {
        let stored = variant("foo", &[("foo", "1,2")], &[]);
        assert!(stored.matches(&KEY, &lines(&[("foo", " 1, 2 ")])));
        assert!(stored.matches(&KEY, &lines(&[("foo", "1"), ("foo", "2")])));
        assert!(!stored.matches(&KEY, &lines(&[("foo", "2,1")])));
    }

    #[test]
    fn languages_are_compared_by_weight_and_the_favourite_selects_by_content_language() {
        let stored = variant(
            "accept-language",
            &[("accept-language", "en, de")],
            &[("content-language", "de")],
        );
        assert!(stored.matches(&KEY, &lines(&[("accept-language", " DE ,   en")])));
        assert!(stored.matches(&KEY, &lines(&[("accept-language", "fr;q=0.5, de;q=1.0")])));
        assert!(!stored.matches(&KEY, &lines(&[("accept-language", "fr, de;q=0.5")])));
        assert!(!stored.matches(&KEY, &lines(&[("accept-language", "fr, de")])));
    }

    #[test]
    fn a_split_accept_encoding_is_read_as_one_list() {
        let stored = variant(
            "accept-encoding",
            &[("accept-encoding", "gzip"), ("accept-encoding", "br")],
            &[],
        );
        assert!(stored.matches(&KEY, &lines(&[("accept-encoding", "br;q=0.9, gzip")])));
        assert!(!stored.matches(&KEY, &lines(&[("accept-encoding", "gzip")])));
    }

    #[test]
    fn variants_are_shared_without_a_secret_unless_they_may_tell_who_asks() {
        let stored = |vary| variant(vary, &[("accept-encoding", "br"), ("cookie", "a")], &[]);
        let asked = lines(&[("accept-encoding", "br"), ("cookie", "a")]);
        let other = [8; 32];
        assert!(stored("accept-encoding").matches(&other, &asked));
        assert!(!stored("accept-encoding, cookie").matches(&other, &asked));
        assert!(stored("accept-encoding, cookie").matches(&KEY, &asked));
    }

    proptest! {
        /// A stored response answers only requests that have the same selecting fields.
        #[test]
        fn different_values_never_match(a in "[a-z]{0,6}", b in "[a-z]{0,6}", c in "[a-z]{0,6}", d in "[a-z]{0,6}") {
            let stored = variant("x, y", &[("x", &a), ("y", &b)], &[]);
            let same = a == c && b == d;
            prop_assert_eq!(stored.matches(&KEY, &lines(&[("x", &c), ("y", &d)])), same);
        }

        #[test]
        fn moving_a_byte_between_fields_is_another_variant(a in "[a-z]{1,5}", b in "[a-z]{1,5}") {
            let joined = format!("{a}{b}");
            let stored = variant("x, y", &[("x", &joined)], &[]);
            prop_assert!(!stored.matches(&KEY, &lines(&[("x", &a), ("y", &b)])));
        }
    }
}
