//! One deadline for a connection.
//!
//! It moves with every request, and the runtime's timer only when it must: to an earlier time, or
//! when it has gone off too early.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};
use tokio::time::{Sleep, sleep_until};

#[derive(Default)]
pub(super) struct Timer(Option<Armed>);

struct Armed {
    sleep: Pin<Box<Sleep>>,
    at: Instant,
}

impl Timer {
    /// Whether the deadline has passed. If not, the task is woken then, or before.
    pub(super) fn poll(&mut self, deadline: Instant, now: Instant, cx: &mut Context<'_>) -> bool {
        if deadline <= now {
            return true;
        }
        match &mut self.0 {
            // Armed and registered: this task is its only owner.
            Some(armed) if armed.at <= deadline && now < armed.at => return false,
            Some(armed) => {
                armed.at = deadline;
                armed.sleep.as_mut().reset(deadline.into());
            }
            none => {
                *none = Some(Armed {
                    sleep: Box::pin(sleep_until(deadline.into())),
                    at: deadline,
                });
            }
        }
        let sleep = self.0.as_mut().map(|armed| armed.sleep.as_mut());
        matches!(sleep.map(|sleep| sleep.poll(cx)), Some(Poll::Ready(())))
    }
}
