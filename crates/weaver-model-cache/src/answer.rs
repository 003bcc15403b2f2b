use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// Tokens that a call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of what was asked.
    pub prompt: u64,
    /// Of what was answered.
    pub completion: u64,
}

impl Usage {
    /// Both.
    #[must_use]
    pub fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As it came.
    pub body: Bytes,
    /// What it is, such as `application/json` or `text/event-stream`.
    pub media_type: String,
    /// What it cost.
    pub usage: Usage,
    /// How long it took to get it.
    pub took: Duration,
}

impl Answer {
    /// Plain text, of which nothing more is known.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self {
            body: text.into(),
            media_type: "text/plain".to_owned(),
            usage: Usage::default(),
            took: Duration::ZERO,
        }
    }

    /// With what it cost.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }
}

/// An answer that was given before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// The answer.
    pub answer: Answer,
    /// The class of the question, by which it is kept.
    pub class: Arc<str>,
    /// How long ago it was given.
    pub age: Duration,
    /// How long it will be kept on.
    pub ttl: Duration,
}
