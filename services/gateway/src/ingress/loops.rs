//! Requests that come back: a route, or an agent, whose address leads here again.
//!
//! Every request that goes on says in CDN-Loop (RFC 8586) that it was here. The name has a part that
//! only the nodes of one cache share, so that several Weavers in a row are no loop, and a loop through
//! another node of the same cache, which would wait for itself, is one. Where something on the way
//! drops CDN-Loop, Via (RFC 9110 §7.6.3) ends the loop after a few rounds.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
const VIA: HeaderName = HeaderName::from_static("via");
/// Weavers that a request may have come through by its Via.
const MAX_HOPS: usize = 8;

/// How this cache is called on the way.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    name: String,
}

impl Mark {
    /// `shared` is known to all nodes of the cache and to nobody else; without it the mark is of this
    /// process alone.
    pub(crate) fn new(shared: Option<&[u8]>) -> Self {
        let hash = match shared {
            Some(shared) => blake3::derive_key("weaver 2026 loop detection", shared),
            None => {
                use std::hash::{BuildHasher, Hasher};
                let random = std::hash::RandomState::new().build_hasher().finish();
                *blake3::hash(&random.to_le_bytes()).as_bytes()
            }
        };
        let id: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            name: format!("weaver-{id}"),
        }
    }

    /// The name, a token.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a request was here before.
    pub(super) fn is_on(&self, headers: &HeaderMap) -> bool {
        let in_loop = members(headers, &CDN_LOOP).any(|member| {
            let name = member.split(';').next().unwrap_or("").trim();
            name.eq_ignore_ascii_case(&self.name)
        });
        let by_weaver = |member: &&str| member.split_ascii_whitespace().nth(1) == Some("weaver");
        in_loop || members(headers, &VIA).filter(by_weaver).count() > MAX_HOPS
    }
}

fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name);
    let lines = lines.filter_map(|line: &HeaderValue| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_here_is_known_by_either_field() {
        let (mark, other) = (Mark::new(Some(b"a")), Mark::new(Some(b"b")));
        let asked = |name: &HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name.clone(), HeaderValue::try_from(value).unwrap());
            headers
        };
        for name in [mark.name().to_owned(), mark.name().to_uppercase()] {
            let headers = asked(&CDN_LOOP, &format!("x; a=b, {name}; c"));
            assert!(mark.is_on(&headers) && !other.is_on(&headers));
        }
        let via = |count: usize| asked(&VIA, &["1.0 fred", "1.1 weaver"].repeat(count).join(", "));
        assert!(!mark.is_on(&via(MAX_HOPS)));
        assert!(mark.is_on(&via(MAX_HOPS + 1)));
        assert_ne!(Mark::new(None).name(), Mark::new(None).name());
    }
}
