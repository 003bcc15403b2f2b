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
//! - [`item`]: an item as the stream has it.
//! - [`limit`]: how long what a purge names may be.
//! - [`roster`]: which nodes there are, and how far each is.

mod append;
mod follow;
mod item;
mod known;
mod limit;
pub(crate) mod log;
mod names;
mod owed;
pub(crate) mod roster;
pub(crate) mod stream;

use std::fmt;

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

/// What is purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// One URL: all methods, variants and users.
    Url {
        /// Host and port as in the Host field, lower case; `None` is any host.
        host: Option<String>,
        /// Path and query.
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
