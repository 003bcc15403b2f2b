//! How long what a purge names may be: the journal and every node's log hold it.

use super::Purge;
use weaver_cache_policy::Headers;

/// Bytes of a tag.
const MAX_TAG: usize = 1 << 10;
/// Bytes of a URL or a prefix, with its host.
const MAX_URL: usize = 8 << 10;
/// Bytes of a host alone.
const MAX_HOST: usize = 1 << 10;
/// Tags that a response may have, and bytes of the fields that list them.
const MAX_TAGS_OF_RESPONSE: usize = 256;
const MAX_TAG_BYTES_OF_RESPONSE: usize = 16 << 10;

/// What a purge names is longer than anything it could reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} has {bytes} bytes; the longest that can be purged has {most}")]
pub struct TooLong {
    /// `tag`, `URL` or `prefix`.
    pub what: &'static str,
    /// How long it is.
    pub bytes: usize,
    /// How long it may be.
    pub most: usize,
}

impl Purge {
    /// The longest tag, in bytes. A response with a longer one is not stored.
    pub const MAX_TAG: usize = MAX_TAG;
    /// The longest URL or prefix, with its host, in bytes.
    pub const MAX_URL: usize = MAX_URL;

    /// Whether what it names may be purged.
    ///
    /// # Errors
    ///
    /// If it is too long.
    pub fn check(&self) -> Result<(), TooLong> {
        let of = |host: &Option<String>| host.as_ref().map_or(0, String::len);
        let (what, bytes, most) = match self {
            Self::All => return Ok(()),
            Self::Tag(tag) => ("tag", tag.len(), MAX_TAG),
            Self::Url { host, target } => ("URL", of(host) + target.len(), MAX_URL),
            Self::Prefix { host, prefix } => ("prefix", of(host) + prefix.len(), MAX_URL),
        };
        if bytes > most {
            return Err(TooLong { what, bytes, most });
        }
        Ok(())
    }

    /// The same, or where it is too long one that reaches more: what nobody has asked for by hand
    /// (an unsafe request to a long URL, an item of the journal) must not be left out.
    pub(crate) fn bounded(self) -> Self {
        if self.check().is_ok() {
            return self;
        }
        match self {
            Self::All | Self::Tag(_) => Self::All,
            Self::Url { host, target } => prefix(host, target),
            Self::Prefix { host, prefix: of } => prefix(host, of),
        }
    }
}

fn prefix(host: Option<String>, mut prefix: String) -> Purge {
    let host = host.filter(|host| host.len() <= MAX_HOST);
    let mut end = prefix.len().min(MAX_URL - MAX_HOST);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    prefix.truncate(end);
    Purge::Prefix { host, prefix }
}

/// The fields that list a response's tags.
pub(super) const TAG_FIELDS: [&str; 2] = ["surrogate-key", "cache-tag"];

/// What separates tags: spaces in Surrogate-Key, commas in Cache-Tag.
pub(super) fn is_between_tags(character: char) -> bool {
    matches!(character, ',' | ' ' | '\t')
}

/// Whether a purge may name each of a response's tags.
pub(crate) fn are_tags_purgeable(headers: &(impl Headers + ?Sized)) -> bool {
    let (mut count, mut bytes) = (0, 0);
    for line in TAG_FIELDS.iter().flat_map(|name| headers.lines(name)) {
        bytes += line.len();
        let Ok(line) = std::str::from_utf8(line) else {
            return false;
        };
        for tag in line.split(is_between_tags) {
            count += usize::from(!tag.is_empty());
            if tag.len() > MAX_TAG {
                return false;
            }
        }
    }
    count <= MAX_TAGS_OF_RESPONSE && bytes <= MAX_TAG_BYTES_OF_RESPONSE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(host: &str, target: &str) -> Purge {
        Purge::Url {
            host: Some(host.to_owned()),
            target: target.to_owned(),
        }
    }

    #[test]
    fn the_longest_is_purged_and_one_byte_more_is_not() {
        assert!(Purge::Tag("x".repeat(MAX_TAG)).check().is_ok());
        let too_long = Purge::Tag("x".repeat(MAX_TAG + 1)).check();
        assert_eq!(
            too_long.map_err(|error| error.to_string()),
            Err("the tag has 1025 bytes; the longest that can be purged has 1024".to_owned())
        );
        assert!(url("h", &"x".repeat(MAX_URL - 1)).check().is_ok());
        assert!(url("h", &"x".repeat(MAX_URL)).check().is_err());
    }

    #[test]
    fn what_is_too_long_reaches_more_and_never_less() {
        assert_eq!(Purge::Tag("x".repeat(MAX_TAG + 1)).bounded(), Purge::All);
        let target = format!("/{}", "é".repeat(MAX_URL));
        let Purge::Prefix { host, prefix } = url("h", &target).bounded() else {
            panic!("a prefix");
        };
        assert!(host.as_deref() == Some("h") && target.starts_with(&prefix));
        let long_host = url(&"h".repeat(MAX_URL), "/a").bounded();
        let prefix = "/a".to_owned();
        assert_eq!(long_host, Purge::Prefix { host: None, prefix });
    }

    #[test]
    fn tags_beyond_the_limits_cannot_be_purged() {
        let one = |value: String| are_tags_purgeable(&[("surrogate-key", value)][..]);
        assert!(one("x".repeat(MAX_TAG)) && !one("x".repeat(MAX_TAG + 1)));
        assert!(one("x ".repeat(256)) && !one("x ".repeat(257)));
        let long = format!("{} ", "x".repeat(1000));
        assert!(one(long.repeat(16)) && !one(long.repeat(17)));
        assert!(are_tags_purgeable(&[("cache-tag", "é,b")][..]));
        assert!(!are_tags_purgeable(&[("cache-tag", &b"\xff"[..])][..]));
    }

    proptest! {
        #[test]
        fn what_is_bounded_may_be_purged(host in proptest::option::of("h{0,3000}"), text in ".{0,4000}", times in 1_usize..8) {
            let text = text.repeat(times);
            for purge in [
                Purge::Tag(text.clone()),
                Purge::Url { host: host.clone(), target: text.clone() },
                Purge::Prefix { host, prefix: text },
            ] {
                prop_assert!(purge.bounded().check().is_ok());
            }
        }
    }
}
