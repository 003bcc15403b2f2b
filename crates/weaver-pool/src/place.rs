//! Waiting for a place on a connection, and holding one.

use crate::{PoolError, connection::Connection, group::Group, slots::Place};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::{Instant, timeout_at};

impl Group {
    /// Waits for a place, in line behind at most `max_waiting` others.
    pub(crate) async fn place(&self, until: Instant) -> Result<Place<'_>, PoolError> {
        if self.is_closed() {
            return Err(PoolError::Closed);
        }
        if let Some(place) = self.slots.take() {
            return Ok(place);
        }
        self.grow.notify_one();
        let most = self.shared.config.max_waiting;
        // In this order, so that the count is right when the next in line is looked for.
        let _wake = Wake(self);
        let _waiting = Waiting::enter(&self.waiting, most).ok_or(PoolError::Exhausted)?;
        let until = until.min(Instant::now() + self.shared.config.acquire_timeout);
        loop {
            // Registered before the look, so that a place freed in between still wakes us.
            let freed = self.freed.notified();
            if self.is_closed() {
                return Err(PoolError::Closed);
            }
            if let Some(place) = self.slots.take() {
                return Ok(place);
            }
            timeout_at(until, freed)
                .await
                .map_err(|_| PoolError::Exhausted)?;
        }
    }

    pub(crate) fn wake_one(&self) {
        if self.is_closed() {
            self.freed.notify_waiters();
        } else if self.waiting.load(Ordering::Relaxed) > 0 {
            self.freed.notify_one();
        }
    }
}

/// A place in use. However the call ends, dropped in the middle too, the next in line is woken.
pub(crate) struct Held<'a> {
    group: &'a Group,
    place: Option<Place<'a>>,
}

impl<'a> Held<'a> {
    pub(crate) fn new(group: &'a Group, place: Place<'a>) -> Self {
        Self {
            group,
            place: Some(place),
        }
    }

    pub(crate) fn connection(&self) -> Option<&Connection> {
        self.place.as_ref().map(|place| &*place.client)
    }

    /// Gives the place back, at a time that has just been read.
    pub(crate) fn end(mut self, now: Instant) {
        if let Some(place) = &mut self.place {
            place.ended = Some(now.into_std());
        }
    }

    pub(crate) fn is_suspect(&self, answered: bool) -> bool {
        let place = self.place.as_ref();
        place.is_some_and(|place| self.group.slots.note(place, answered))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        drop(self.place.take());
        self.group.wake_one();
    }
}

/// Counts a caller that waits, however its waiting ends.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// A place in the line, unless `most` wait already.
    pub(crate) fn enter(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let room = |count| (count < most).then_some(count + 1);
        count
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, room)
            .ok()?;
        Some(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A wake-up that came to a caller while it gave up must not be lost to the next in line.
struct Wake<'a>(&'a Group);

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        self.0.wake_one();
    }
}
