use crate::Position;
use actix_web::http::{
    StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use bytes::Bytes;
use std::sync::{Arc, OnceLock, atomic::AtomicU64};
use weaver_cache_policy::{Headers, Lifetime, vary::Variant};

/// Bytes that a map entry, an `Arc` and moka's own nodes cost beside what they point to; measured
/// with a million small entries.
const OVERHEAD: usize = 480;
/// Bytes of a `(HeaderName, HeaderValue)` beside their text.
const HEADER_OVERHEAD: usize = 72;

/// Header fields in the order in which they came.
pub(crate) type Fields = Vec<(HeaderName, HeaderValue)>;

/// A response without its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) fields: Fields,
    pub(crate) lifetime: Lifetime,
    /// The place in the purge journal from before the fetch began.
    pub(crate) position: Position,
    /// What selects it, where it varies.
    pub(crate) variant: Option<Variant>,
}

/// A stored response.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The full key under which it is stored.
    pub(crate) key: Arc<[u8]>,
    pub(crate) head: Arc<Head>,
    pub(crate) body: Bytes,
    /// What filling it took, in microseconds.
    pub(crate) fill_micros: u64,
    pub(crate) checked: Checked,
}

/// What is known of an entry's place in the purge journal, beside its position.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// The state of the purge log for which it was last found alive; 0 is never.
    pub(crate) version: AtomicU64,
    /// Up to where no unsafe request has invalidated it, from when it came into memory or was found
    /// licensed in Redis.
    pub(crate) seen: OnceLock<Position>,
}

impl Checked {
    /// The same for a copy of the entry.
    pub(crate) fn carried(&self) -> Self {
        Self {
            version: AtomicU64::new(0),
            seen: self.seen.clone(),
        }
    }
}

impl Entry {
    /// What it costs in memory.
    pub(crate) fn bytes(&self) -> usize {
        let fields: usize = self
            .head
            .fields
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD)
            .sum();
        let variant = self.head.variant.as_ref().map_or(0, variant_bytes);
        OVERHEAD + self.key.len() + fields + variant + self.body.len()
    }
}

/// A response whose body is in Redis, in parts.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Without its body; never to be served.
    pub(crate) entry: Arc<Entry>,
    pub(crate) parts: Parts,
}

/// How a body is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Of this body alone: what is written later has another.
    pub(crate) id: [u8; 16],
    /// Bytes of the whole, and of each part but the last; neither is 0.
    pub(crate) length: u64,
    pub(crate) each: u64,
}

/// More parts than any node writes: of the largest object, in the smallest parts.
pub(crate) const MAX_PARTS: u64 = 1 << 18;

impl Parts {
    pub(crate) fn count(&self) -> u64 {
        self.length.div_ceil(self.each)
    }

    /// Where a part is in the whole.
    pub(crate) fn range(&self, at: u64) -> std::ops::Range<usize> {
        let place = |at: u64| {
            let place = at.saturating_mul(self.each).min(self.length);
            usize::try_from(place).unwrap_or(usize::MAX)
        };
        place(at)..place(at + 1)
    }
}

/// The variants known for a URL, the most recent first.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// Part of every variant's key, so that variants of an index that was removed stay out of reach
    /// of its successor.
    pub(crate) nonce: [u8; 16],
    pub(crate) variants: Vec<Variant>,
}

/// Variants of one URL that are kept; the least recent one goes first.
pub(crate) const MAX_VARIANTS: usize = 64;

impl Index {
    /// The index with this variant in front.
    pub(crate) fn with(&self, variant: Variant) -> Self {
        let newest = Self {
            nonce: self.nonce,
            variants: vec![variant],
        };
        newest.over(self)
    }

    /// The index with the variants of an earlier one behind its own, unless its nonce says that it
    /// begins anew.
    pub(crate) fn over(&self, earlier: &Self) -> Self {
        let mut all = self.clone();
        if self.nonce == earlier.nonce {
            let is_new = |variant: &&Variant| {
                !self
                    .variants
                    .iter()
                    .any(|known| known.digest == variant.digest && known.names == variant.names)
            };
            all.variants
                .extend(earlier.variants.iter().filter(is_new).cloned());
            all.variants.truncate(MAX_VARIANTS);
        }
        all
    }
}

fn variant_bytes(variant: &Variant) -> usize {
    let names: usize = variant.names.iter().map(|name| name.len() + 24).sum();
    96 + names + variant.language.as_ref().map_or(0, String::len)
}

/// What stands under a key.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// A response.
    Entry(Arc<Entry>),
    /// A response whose body is elsewhere.
    Remote(Arc<Remote>),
    /// The index of a URL whose responses vary.
    Index(Arc<[u8]>, Arc<Index>),
}

impl Record {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.bytes(),
            Self::Remote(remote) => remote.entry.bytes(),
            Self::Index(key, index) => {
                OVERHEAD + key.len() + index.variants.iter().map(variant_bytes).sum::<usize>()
            }
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Entry(entry) => &entry.key,
            Self::Remote(remote) => &remote.entry.key,
            Self::Index(key, _) => key,
        }
    }
}

/// Stored fields as the policy wants to see them.
pub(crate) struct StoredFields<'a>(pub(crate) &'a Fields);

impl Headers for StoredFields<'_> {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.0
            .iter()
            .filter(move |(candidate, _)| candidate.as_str() == name)
            .map(|(_, value)| value.as_bytes())
    }
}

/// A request's or response's header map as the policy wants to see it.
pub(crate) struct MapFields<'a>(pub(crate) &'a HeaderMap);

impl Headers for MapFields<'_> {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.0.get_all(name).map(HeaderValue::as_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weaver_cache_policy::vary;

    fn variant(language: &str) -> Variant {
        let mut asked = HeaderMap::new();
        let language = HeaderValue::from_str(language).unwrap();
        asked.insert(actix_web::http::header::ACCEPT_LANGUAGE, language);
        let mut answer = HeaderMap::new();
        let vary = HeaderValue::from_static("accept-language");
        answer.insert(actix_web::http::header::VARY, vary);
        let names = vary::names(&MapFields(&answer)).unwrap();
        Variant::new(&[7; 32], names, &MapFields(&asked), &MapFields(&answer))
    }

    fn index(nonce: u8, languages: &[&str]) -> Index {
        Index {
            nonce: [nonce; 16],
            variants: languages.iter().map(|language| variant(language)).collect(),
        }
    }

    fn digests(index: &Index) -> Vec<[u8; 32]> {
        index
            .variants
            .iter()
            .map(|variant| variant.digest)
            .collect()
    }

    #[test]
    fn indexes_are_joined_the_newer_first() {
        let joined = index(1, &["c", "a"]).over(&index(1, &["b", "a"]));
        assert_eq!(digests(&joined), digests(&index(1, &["c", "a", "b"])));
        let anew = index(2, &["c"]).over(&index(1, &["b", "a"]));
        assert_eq!(digests(&anew), digests(&index(2, &["c"])));
    }

    #[test]
    fn no_more_are_kept_than_may_be() {
        let many: Vec<_> = (0..MAX_VARIANTS)
            .map(|number| format!("a{number}"))
            .collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let joined = index(1, &["new"]).over(&index(1, &many));
        assert_eq!(joined.variants.len(), MAX_VARIANTS);
        assert_eq!(joined.variants[0].digest, variant("new").digest);
    }
}
