//! The purge journal: what was purged, in order, and whether an entry outlived it.
//!
//! A purge is an item with a [`Position`]. With Redis it is an entry of a stream that every node
//! follows, without it the node's own counter. An entry carries the position from before its fetch
//! began, and is dead once a later item matches it: a slow fill or a late write to Redis cannot
//! resurrect it.
//!
//! - [`log`]: what of the purges still matters to an entry, bounded ([`names`]: of URLs and tags).
//! - [`stream`]: what the rest of the crate holds, the [`stream::Follower`].
//! - [`follow`]: its task, which applies the stream to the log.
//! - [`append`]: writes items, above everything this node has seen.
//! - [`known`]: the newest items that this node has seen, and which of them a Redis that failed over
//!   has lost; they are written again.
//! - [`owed`]: purges that the journal did not take yet.
//! - [`queue`]: what unsafe requests have invalidated, on its way to the journal; [`writes`]: what is
//!   remembered of it.
//! - [`license`]: keys in Redis that say what of a URL is valid there.
//! - [`ledger`]: purges by operators, for nodes that come when the journal has moved on.
//! - [`item`]: an item as the stream has it.
//! - [`limit`]: how long what a purge names may be.
//! - [`roster`]: which nodes there are, and how far each is.

mod append;
mod follow;
mod item;
mod known;
mod ledger;
pub(crate) mod license;
mod limit;
pub(crate) mod log;
mod names;
mod owed;
mod queue;
pub(crate) mod roster;
pub(crate) mod stream;
mod trouble;
mod writes;

use std::fmt;
use weaver_cache_policy::url::{self, Url, UrlError};

pub use limit::TooLong;
pub(crate) use limit::are_tags_purgeable;
pub(crate) use log::{PurgeLog, Verdict};

/// A place in the journal: the id of an entry of the Redis stream, `time-sequence`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Milliseconds of the Redis server's clock; without Redis, of this machine's.
    pub time: u64,
    /// The number within that millisecond.
    pub sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time, self.sequence)
    }
}

impl Position {
    /// Reads the form that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (time, sequence) = text.split_once('-')?;
        Some(Self {
            time: time.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    }

    fn next(self) -> Self {
        Self {
            sequence: self.sequence.saturating_add(1),
            ..self
        }
    }
}

/// What is purged. [`Purge::url`] and [`Purge::prefix`] read URLs as people write them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purge {
    /// One URL: all methods, variants and users.
    Url {
        /// Host and, unless it is the default, port, in normal form; `None` is any host.
        host: Option<String>,
        /// Path and query, in normal form.
        target: String,
    },
    /// Everything that carries the tag in Surrogate-Key or Cache-Tag.
    Tag(String),
    /// Every URL whose path and query begin with this.
    Prefix {
        /// As in [`Purge::Url`].
        host: Option<String>,
        /// The beginning.
        prefix: String,
    },
    /// Everything.
    All,
}

impl Purge {
    /// One URL, in any of its equivalent forms ([`weaver_cache_policy::url`]), by http and by https; a
    /// path with its query is one of any host.
    ///
    /// ```
    /// use weaver_cache::Purge;
    ///
    /// let purge = Purge::url("HTTP://Example.com:80/%7Eann?#top")?;
    /// assert_eq!(purge, Purge::url("https://example.com/~ann")?);
    /// # Ok::<_, weaver_cache::policy::url::UrlError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What makes the text no URL.
    pub fn url(text: &str) -> Result<Self, UrlError> {
        if text.starts_with('/') {
            let target = url::target(text)?;
            return Ok(Self::Url { host: None, target });
        }
        let Url {
            authority, target, ..
        } = Url::parse(text)?;
        Ok(Self::Url {
            host: Some(authority),
            target,
        })
    }

    /// Every URL that begins like this, in any of its equivalent forms.
    ///
    /// # Errors
    ///
    /// What makes the text no beginning of a URL.
    pub fn prefix(text: &str) -> Result<Self, UrlError> {
        if text.starts_with('/') {
            let prefix = url::prefix(text)?;
            return Ok(Self::Prefix { host: None, prefix });
        }
        let start = text.find("://").ok_or(UrlError::Scheme)? + 3;
        let at = text[start..].find(['/', '?', '#']);
        let (base, rest) = text.split_at(at.map_or(text.len(), |at| start + at));
        let rest = match rest {
            "" => "/".to_owned(),
            rest if rest.starts_with('/') => rest.to_owned(),
            rest => format!("/{rest}"),
        };
        Ok(Self::Prefix {
            host: Some(Url::parse(base)?.authority),
            prefix: url::prefix(&rest)?,
        })
    }

    /// The same with its URL in normal form.
    pub(crate) fn normal(self) -> Result<Self, UrlError> {
        Ok(match self {
            Self::Url { host, target } => Self::Url {
                host: host.map(|host| url::host(&host)).transpose()?,
                target: url::target(&target)?,
            },
            Self::Prefix { host, prefix } => Self::Prefix {
                host: host.map(|host| url::host(&host)).transpose()?,
                prefix: url::prefix(&prefix)?,
            },
            other => other,
        })
    }
}
