//! No-Vary-Search (RFC 9875): which queries of a URL get the same response.

use crate::Headers;
use std::collections::BTreeSet;

/// More parameters than this in a field make it one that is not obeyed.
const MAX_NAMES: usize = 64;

/// The URL search variance of a response (RFC 9875 §4), where it is not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variance {
    names: BTreeSet<String>,
    /// Whether `names` are the ones that matter; else they are the ones that do not.
    only_these: bool,
    ordered: bool,
}

impl Variance {
    /// Reads No-Vary-Search. `None` where every difference between queries counts: without the
    /// field, with one that is invalid, or one that says so (RFC 9875 §4.2).
    #[must_use]
    pub fn of(headers: &(impl Headers + ?Sized)) -> Option<Self> {
        let joined = headers
            .lines("no-vary-search")
            .collect::<Vec<_>>()
            .join(&b',');
        if joined.is_empty() {
            return None;
        }
        let dictionary = sfv::Parser::new(&joined).parse::<sfv::Dictionary>().ok()?;
        let mut found = Self {
            names: BTreeSet::new(),
            only_these: false,
            ordered: match dictionary.get("key-order") {
                None => true,
                Some(entry) => !boolean(entry)?,
            },
        };
        let params = dictionary.get("params");
        let all = params.and_then(boolean);
        if let (Some(params), None) = (params, all) {
            found.names = strings(params)?;
        }
        match dictionary.get("except") {
            Some(except) if all == Some(true) => {
                found.names = strings(except)?;
                found.only_these = true;
            }
            Some(_) => return None,
            None => found.only_these = all == Some(true),
        }
        let default = found.ordered && found.names.is_empty() && !found.only_these;
        (!default && found.names.len() <= MAX_NAMES).then_some(found)
    }

    /// A form of the query in which equal means equivalent (RFC 9875 §6).
    #[must_use]
    pub fn canonical(&self, query: Option<&str>) -> String {
        let mut kept: Vec<_> = form_urlencoded::parse(query.unwrap_or("").as_bytes())
            .filter(|(name, _)| self.names.contains(name.as_ref()) == self.only_these)
            .collect();
        if !self.ordered {
            // Stable, so that values of one name keep their order, which counts.
            kept.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        }
        form_urlencoded::Serializer::new(String::new())
            .extend_pairs(kept)
            .finish()
    }
}

fn boolean(entry: &sfv::ListEntry) -> Option<bool> {
    match entry {
        sfv::ListEntry::Item(item) => match &item.bare_item {
            sfv::BareItem::Boolean(value) => Some(*value),
            _ => None,
        },
        sfv::ListEntry::InnerList(_) => None,
    }
}

/// An inner list of strings, each read as a key of a query is (RFC 9875 §5.2).
fn strings(entry: &sfv::ListEntry) -> Option<BTreeSet<String>> {
    let sfv::ListEntry::InnerList(list) = entry else {
        return None;
    };
    let text = |item: &sfv::Item| match &item.bare_item {
        sfv::BareItem::String(text) => {
            // What would end a name in a query is part of it here.
            let whole = text.as_str().replace('&', "%26").replace('=', "%3D");
            let mut read = form_urlencoded::parse(whole.as_bytes());
            Some(
                read.next()
                    .map_or_else(String::new, |(name, _)| name.into_owned()),
            )
        }
        _ => None,
    };
    list.items.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variance(value: &str) -> Option<Variance> {
        Variance::of(&[("no-vary-search", value)][..])
    }

    fn same(value: &str, a: &str, b: &str) -> bool {
        let variance = variance(value).unwrap();
        variance.canonical(Some(a)) == variance.canonical(Some(b))
    }

    /// The examples of RFC 9875, §1 and §6.
    #[test]
    fn queries_are_equivalent_as_the_field_says() {
        assert!(same("key-order", "a=1&b=2", "b=2&a=1"));
        assert!(!same("key-order", "a=1&a=2", "a=2&a=1"));
        assert!(same(r#"params=("utm" "id")"#, "utm=1&a=1", "a=1&id=7"));
        assert!(!same(r#"params=("utm")"#, "a=1&b=2", "b=2&a=1"));
        assert!(same("params", "a=1&b=2", ""));
        assert!(same(r#"params, except=("q")"#, "q=1&x=2", "y=3&q=1"));
        assert!(!same(r#"params, except=("q")"#, "q=1", "q=2"));
        assert!(same(r#"params=("%C3%A9+%C3%A9")"#, "é é=1&x", "x"));
        assert!(same("params=(\"a\")", "b=%41", "b=A"));
    }

    #[test]
    fn what_is_invalid_or_says_nothing_is_the_default() {
        for value in [
            "",
            "params=?0",
            "key-order=?0",
            "params=()",
            r#"except=("a")"#,
            r#"params=("a"), except=("b")"#,
            "params=1",
            "params=(a)",
            "key-order=1",
            r#"params, except="q""#,
            "params=(",
        ] {
            assert_eq!(variance(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_query_is_its_own_canonical_form(query in "[a-c=&%+2]{0,16}", value in "params, except=\\(\"[a-c]\"\\)|key-order|params=\\(\"[a-c]\"\\)") {
            let variance = variance(&value).unwrap();
            let once = variance.canonical(Some(&query));
            prop_assert_eq!(variance.canonical(Some(&once)), once);
        }

        #[test]
        fn no_bytes_panic(value in proptest::collection::vec(any::<u8>(), 0..40), query in ".{0,40}") {
            let headers: [(&str, &[u8]); 1] = [("no-vary-search", &value)];
            if let Some(variance) = Variance::of(&headers[..]) {
                let _ = variance.canonical(Some(&query));
            }
        }
    }
}
