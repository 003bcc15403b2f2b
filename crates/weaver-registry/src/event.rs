//! What happened, in order, for those who follow.

use crate::{
    RegistryError,
    memory::{Memory, MemoryFollower},
    redis::RedisFollower,
};
use serde::Serialize;
use std::{fmt, sync::Arc};

/// What happened to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum EventKind {
    /// It registered, or is back after it had expired.
    #[serde(rename = "agent:registered")]
    Registered,
    /// It unregistered, or was forgotten after a long silence.
    #[serde(rename = "agent:unregistered")]
    Unregistered,
    /// Its heartbeat is late: it is offline.
    #[serde(rename = "agent:expired")]
    Expired,
}

impl EventKind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "agent:registered",
            Self::Unregistered => "agent:unregistered",
            Self::Expired => "agent:expired",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Registered, Self::Unregistered, Self::Expired]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// A place among the events. Those who keep it, in its text form, go on from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPosition {
    /// Where the backend finds it.
    pub(crate) id: String,
    /// The number of the event; numbers have no gaps.
    pub(crate) number: u64,
}

impl EventPosition {
    /// Before the first event.
    #[must_use]
    pub fn start() -> Self {
        Self {
            id: "0-0".to_owned(),
            number: 0,
        }
    }

    /// Reads the form that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, number) = text.split_once('/')?;
        let (time, sequence) = id.split_once('-')?;
        let digits = |text: &str| text.parse::<u64>().is_ok_and(|_| !text.starts_with('+'));
        (digits(time) && digits(sequence)).then_some(())?;
        Some(Self {
            id: id.to_owned(),
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.number)
    }
}

/// Something that happened to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEvent {
    /// Its place.
    pub position: EventPosition,
    /// What happened.
    pub kind: EventKind,
    /// To whom.
    pub agent_id: String,
    /// The agent's type.
    pub agent_type: String,
    /// When, in milliseconds since the Unix epoch, by the clock of the backend.
    pub at: u64,
}

/// What following brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The next event.
    Event(AgentEvent),
    /// So many events are gone that happened after the last one that was given, or, if `None`, an
    /// unknown number: the events begin anew. Whoever keeps a picture of the agents makes it anew.
    Missed(Option<u64>),
}

/// Follows the events, from [`AgentRegistry::events`](crate::AgentRegistry::events).
#[derive(Debug)]
pub struct AgentEvents {
    source: Source,
    /// The number of the last event given; `None` before the first, if it begins with what comes.
    last: Option<EventPosition>,
    waiting: std::collections::VecDeque<AgentEvent>,
}

#[derive(Debug)]
pub(crate) enum Source {
    Memory(MemoryFollower),
    Redis(Box<RedisFollower>),
}

impl AgentEvents {
    pub(crate) fn memory(memory: &Arc<Memory>, after: Option<EventPosition>) -> Self {
        let follower = MemoryFollower::new(memory, after.as_ref().map(|after| after.number));
        Self::new(Source::Memory(follower), after)
    }

    pub(crate) fn new(source: Source, after: Option<EventPosition>) -> Self {
        Self {
            source,
            last: after,
            waiting: std::collections::VecDeque::new(),
        }
    }

    /// Waits for what happens next. May be dropped and called again without losing any.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Redis`] while Redis is out of reach. It may be called again: it pauses,
    /// connects, and goes on behind the last event that it gave.
    pub async fn next(&mut self) -> Result<Followed, RegistryError> {
        while self.waiting.is_empty() {
            let events = match &mut self.source {
                Source::Memory(follower) => follower.next().await,
                Source::Redis(follower) => follower.next().await?,
            };
            self.waiting.extend(events);
        }
        let Some(event) = self.waiting.front() else {
            return Ok(Followed::Missed(None));
        };
        let number = event.position.number;
        if let Some(last) = &mut self.last
            && number != last.number + 1
        {
            let missed = number.checked_sub(last.number + 1);
            // The event itself comes next.
            last.number = number - 1;
            return Ok(Followed::Missed(missed));
        }
        self.last = Some(event.position.clone());
        match self.waiting.pop_front() {
            Some(event) => Ok(Followed::Event(event)),
            None => Ok(Followed::Missed(None)),
        }
    }

    /// The place of the last event that it gave, or where it begins; `None` if it begins with what
    /// comes, and nothing has come.
    #[must_use]
    pub fn position(&self) -> Option<&EventPosition> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_text_form() {
        let place = EventPosition::parse("17-3/42").unwrap();
        assert_eq!(place.to_string(), "17-3/42");
        for bad in ["", "$", "17/42", "17-3", "a-b/1", "17-3/x", "+1-2/3"] {
            assert_eq!(EventPosition::parse(bad), None, "{bad}");
        }
    }
}
