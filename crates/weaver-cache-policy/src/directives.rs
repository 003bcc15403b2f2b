//! Cache-Control directives (RFC 9111 §5.2) and targeted cache control (RFC 9213).

use crate::{Headers, headers::list};
use smallvec::SmallVec;

/// The largest delta-seconds that is told apart (RFC 9111 §1.2.2); anything larger means as long.
pub const MAX_DELTA: u64 = 2_147_483_648;

/// Reads delta-seconds: digits only, capped at [`MAX_DELTA`]. `None` for anything else.
#[must_use]
pub fn delta_seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = value.iter().fold(0_u64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    Some(seconds.min(MAX_DELTA))
}

/// Splits a directive into its name and its argument, the argument without quotes.
///
/// Both forms of argument are accepted for every directive (RFC 9111 §5.2). White space around the
/// `=` is not part of the grammar; such a directive has another name and is ignored as unknown.
fn split(member: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else {
        return (member, None);
    };
    let argument = &member[at + 1..];
    let argument = match argument {
        [b'"', inner @ .., b'"'] => inner,
        _ => argument,
    };
    (&member[..at], Some(argument))
}

fn is(name: &[u8], directive: &str) -> bool {
    name.eq_ignore_ascii_case(directive.as_bytes())
}

/// A number that a directive carries.
///
/// A value that is no number, or a missing one, is kept apart from an absent directive: RFC 9111
/// §4.2.1 has such a response treated as stale, which is 0 for a lifetime.
fn seconds(argument: Option<&[u8]>) -> u64 {
    argument.and_then(delta_seconds).unwrap_or(0)
}

/// `no-cache` or `private` as they may come: bare, or limited to listed fields (RFC 9111 §5.2.2.4,
/// §5.2.2.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Qualified {
    /// The directive is not there.
    #[default]
    Absent,
    /// It applies to these fields, in lower case.
    Fields(SmallVec<[String; 2]>),
    /// It applies to the response as a whole.
    Whole,
}

impl Qualified {
    fn add(&mut self, argument: Option<&[u8]>) {
        let fields: SmallVec<[String; 2]> = argument
            .into_iter()
            .flat_map(|value| list(std::iter::once(value)).collect::<SmallVec<[&[u8]; 4]>>())
            .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
            .collect();
        match self {
            Self::Whole => {}
            // An empty or missing argument is the unqualified form, the stricter one.
            _ if fields.is_empty() => *self = Self::Whole,
            Self::Fields(known) => known.extend(fields),
            Self::Absent => *self = Self::Fields(fields),
        }
    }

    /// Whether the directive applies to the whole response.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// The fields it is limited to.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        match self {
            Self::Fields(fields) => fields,
            _ => &[],
        }
    }
}

/// What a response's Cache-Control, or a targeted field in its place, says.
///
/// Of a directive that is repeated the first counts (RFC 9111 §4.2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// `max-age` in seconds.
    pub max_age: Option<u64>,
    /// `s-maxage` in seconds.
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate` in seconds (RFC 5861 §3).
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error` in seconds (RFC 5861 §4).
    pub stale_if_error: Option<u64>,
    /// `no-cache`.
    pub no_cache: Qualified,
    /// `private`.
    pub private: Qualified,
    /// `no-store`.
    pub no_store: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `immutable` (RFC 8246).
    pub immutable: bool,
    /// Whether the directives came from a targeted field (RFC 9213).
    pub targeted: bool,
}

impl ResponseDirectives {
    /// Reads what governs a cache that obeys the `targets`, in that order, before Cache-Control.
    ///
    /// The first target that is present, not empty and valid replaces Cache-Control (and Expires)
    /// altogether; an invalid one is passed over (RFC 9213 §2.2).
    #[must_use]
    pub fn of(headers: &(impl Headers + ?Sized), targets: &[String]) -> Self {
        targets
            .iter()
            .find_map(|name| Self::targeted(headers, name))
            .unwrap_or_else(|| Self::cache_control(headers.lines("cache-control")))
    }

    fn cache_control<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut found = Self::default();
        for (name, argument) in list(lines).map(split) {
            found.apply(name, argument);
        }
        found
    }

    /// Reads a targeted field as the Dictionary that it is (RFC 9213 §2.1).
    fn targeted(headers: &(impl Headers + ?Sized), name: &str) -> Option<Self> {
        let mut joined = Vec::new();
        for line in headers.lines(name) {
            if !joined.is_empty() {
                joined.extend_from_slice(b", ");
            }
            joined.extend_from_slice(line);
        }
        let dictionary = sfv::Parser::new(&joined).parse::<sfv::Dictionary>().ok()?;
        if dictionary.is_empty() {
            return None;
        }
        let mut found = Self {
            targeted: true,
            ..Self::default()
        };
        for (key, entry) in &dictionary {
            let sfv::ListEntry::Item(item) = entry else {
                continue;
            };
            let name = key.as_str().as_bytes();
            match &item.bare_item {
                sfv::BareItem::Boolean(true) => found.apply(name, None),
                sfv::BareItem::Boolean(false) => {}
                sfv::BareItem::Integer(number) => {
                    let number = i64::from(*number).to_string();
                    found.apply(name, Some(number.as_bytes()));
                }
                sfv::BareItem::String(text)
                    // A number given as a String is of the wrong type and ignored (§2.1); a list of
                    // field names is a String.
                    if (is(name, "no-cache") || is(name, "private")) => {
                        found.apply(name, Some(text.as_str().as_bytes()));
                    }
                _ => {}
            }
        }
        Some(found)
    }

    fn apply(&mut self, name: &[u8], argument: Option<&[u8]>) {
        fn first(slot: &mut Option<u64>, argument: Option<&[u8]>) {
            slot.get_or_insert_with(|| seconds(argument));
        }
        match name.len() {
            6 if is(name, "public") => self.public = true,
            7 if is(name, "max-age") => first(&mut self.max_age, argument),
            7 if is(name, "private") => self.private.add(argument),
            8 if is(name, "s-maxage") => first(&mut self.s_maxage, argument),
            8 if is(name, "no-store") => self.no_store = true,
            8 if is(name, "no-cache") => self.no_cache.add(argument),
            9 if is(name, "immutable") => self.immutable = true,
            14 if is(name, "stale-if-error") => first(&mut self.stale_if_error, argument),
            15 if is(name, "must-revalidate") => self.must_revalidate = true,
            15 if is(name, "must-understand") => self.must_understand = true,
            16 if is(name, "proxy-revalidate") => self.proxy_revalidate = true,
            22 if is(name, "stale-while-revalidate") => {
                first(&mut self.stale_while_revalidate, argument);
            }
            _ => {}
        }
    }
}

/// What a request's Cache-Control, or Pragma where there is none, asks for (RFC 9111 §5.2.1, §5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// `max-age` in seconds: no response older than this.
    pub max_age: Option<u64>,
    /// `max-stale` in seconds; [`MAX_DELTA`] where it has no argument.
    pub max_stale: Option<u64>,
    /// `min-fresh` in seconds.
    pub min_fresh: Option<u64>,
    /// `stale-if-error` in seconds (RFC 5861 §4).
    pub stale_if_error: Option<u64>,
    /// `no-cache`, or `Pragma: no-cache`.
    pub no_cache: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
}

impl RequestDirectives {
    /// Reads them; a number that is none leaves its directive out, except that an unreadable
    /// `max-age` asks for the strictest, 0.
    #[must_use]
    pub fn of(headers: &(impl Headers + ?Sized)) -> Self {
        let mut found = Self::default();
        let mut any = false;
        for (name, argument) in list(headers.lines("cache-control")).map(split) {
            any = true;
            let number = argument.and_then(delta_seconds);
            if is(name, "max-age") {
                found.max_age.get_or_insert(number.unwrap_or(0));
            } else if is(name, "max-stale") {
                if argument.is_none() || number.is_some() {
                    found.max_stale.get_or_insert(number.unwrap_or(MAX_DELTA));
                }
            } else if is(name, "min-fresh") {
                found.min_fresh = found.min_fresh.or(number);
            } else if is(name, "stale-if-error") {
                found.stale_if_error = found.stale_if_error.or(number);
            } else if is(name, "no-cache") {
                found.no_cache = true;
            } else if is(name, "no-store") {
                found.no_store = true;
            } else if is(name, "only-if-cached") {
                found.only_if_cached = true;
            }
        }
        if !any {
            found.no_cache =
                list(headers.lines("pragma")).any(|member| is(split(member).0, "no-cache"));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(lines: &[&str]) -> ResponseDirectives {
        let headers: Vec<(&str, &[u8])> = lines
            .iter()
            .map(|line| ("cache-control", line.as_bytes()))
            .collect();
        ResponseDirectives::of(&headers, &[])
    }

    fn cdn(line: &str) -> ResponseDirectives {
        let headers = [("cache-control", "max-age=1"), ("cdn-cache-control", line)];
        ResponseDirectives::of(&headers[..], &["cdn-cache-control".to_owned()])
    }

    #[test]
    fn names_are_compared_without_case_and_the_first_of_a_repeated_directive_counts() {
        assert_eq!(response(&["MaX-aGe=3600, max-age=1"]).max_age, Some(3600));
        assert_eq!(response(&["max-age=1", "max-age=3600"]).max_age, Some(1));
        assert!(response(&["No-StOrE"]).no_store);
    }

    #[test]
    fn quoted_numbers_are_read_and_directives_inside_quotes_are_not() {
        assert_eq!(response(&["max-age=\"3600\""]).max_age, Some(3600));
        assert_eq!(
            response(&["extension=\"max-age=3600\", max-age=1"]).max_age,
            Some(1)
        );
        assert!(!response(&["extension=\"a, no-store\""]).no_store);
    }

    #[test]
    fn an_unreadable_lifetime_is_stale_and_a_space_makes_another_name() {
        for bad in [
            "max-age='3600'",
            "max-age=-3600",
            "max-age=a3600",
            "max-age=3600.5",
            "max-age= 1",
            "max-age",
        ] {
            assert_eq!(response(&[bad]).max_age, Some(0), "{bad}");
        }
        assert_eq!(response(&["max-age =3600"]).max_age, None);
        assert_eq!(response(&["max-age=003600"]).max_age, Some(3600));
        assert_eq!(
            response(&["max-age=99999999999999999999999"]).max_age,
            Some(MAX_DELTA)
        );
    }

    #[test]
    fn a_qualified_directive_lists_fields_and_a_bare_one_wins() {
        assert_eq!(
            response(&["no-cache=\"A, b\""]).no_cache.fields(),
            ["a", "b"]
        );
        assert!(response(&["no-cache=\"a\", no-cache"]).no_cache.is_whole());
        assert!(response(&["private=\"\""]).private.is_whole());
    }

    #[test]
    fn a_valid_target_replaces_cache_control_and_an_invalid_one_is_passed_over() {
        assert_eq!(cdn("max-age=60").max_age, Some(60));
        assert!(cdn("max-age=60").targeted);
        assert_eq!(cdn("max-age=60, &").max_age, Some(1));
        assert_eq!(cdn("").max_age, Some(1));
        assert_eq!(cdn("foo=\"x\", max-age=60, bar").max_age, Some(60));
    }

    #[test]
    fn a_request_without_cache_control_may_use_pragma() {
        let pragma = [("pragma", "no-cache")];
        assert!(RequestDirectives::of(&pragma[..]).no_cache);
        let both = [("pragma", "no-cache"), ("cache-control", "max-age=5")];
        assert!(!RequestDirectives::of(&both[..]).no_cache);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let headers = [("cache-control", bytes.clone()), ("cdn-cache-control", bytes.clone()), ("pragma", bytes)];
            let _ = ResponseDirectives::of(&headers[..], &["cdn-cache-control".to_owned()]);
            let _ = RequestDirectives::of(&headers[..]);
        }

        #[test]
        fn no_store_is_found_wherever_it_stands(before in "[a-z=0-9, -]{0,20}", after in "[a-z=0-9, -]{0,20}") {
            let line = format!("{before},No-Store,{after}");
            prop_assert!(response(&[&line]).no_store);
        }
    }
}
