//! A call of which nothing is needed any more but its bytes and its key.
//!
//! Parsing, classifying and hashing a large call take a while, and what was parsed takes much more memory
//! than its bytes. So all of that happens in one go, apart from the workers, and only this remains while
//! the call waits and is answered.

use super::{Asked, Endpoint, complete::Expected, request::Said};
use crate::body::Held;
use bytes::Bytes;
use weaver_model_cache::{ModelCache, Ticket};

pub(crate) struct Prepared {
    pub(super) endpoint: Endpoint,
    /// What goes to the upstream.
    pub(super) body: Bytes,
    pub(super) model: String,
    pub(super) said: Said,
    /// Tokens of what is asked, by its length.
    pub(super) prompt_estimate: u64,
    pub(super) expected: Expected,
    /// Its place in the cache, or why it has none.
    pub(super) ticket: Result<Ticket, &'static str>,
    /// The body's share of what all bodies may hold.
    held: Option<Held>,
}

impl Asked {
    pub(crate) fn prepare(self, cache: Option<&ModelCache>) -> Prepared {
        let ticket = match cache {
            Some(cache) => {
                let prepared = cache.prepare(&self.call, self.said.wishes);
                prepared.map_err(|bypass| bypass.as_str())
            }
            None => Err("off"),
        };
        Prepared {
            expected: Expected::of(&self),
            endpoint: self.endpoint,
            body: self.body,
            model: self.call.model,
            said: self.said,
            prompt_estimate: self.prompt_estimate,
            ticket,
            held: None,
        }
    }
}

impl Prepared {
    /// Keeps the body's share of the budget for as long as the body is needed.
    pub(crate) fn holding(mut self, held: Held) -> Self {
        self.held = Some(held);
        self
    }
}
