//! The bytes that all bodies hold together, and the threads that work on them.

use super::{AT_ONCE, BodyError};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// How long a body waits for a thread.
const QUEUE: Duration = Duration::from_secs(10);

/// The budget of all bodies that the gateway reads itself.
pub(crate) struct Bodies {
    limit: u64,
    held: AtomicU64,
    /// A decoder takes up to 16 MiB beside the budget, so that there must not be many.
    threads: Arc<Semaphore>,
}

impl Bodies {
    pub(crate) fn new(limit: u64, threads: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicU64::new(0),
            threads: Arc::new(Semaphore::new(threads.max(1))),
        })
    }

    /// Takes bytes, for as long as what is returned is kept.
    pub(super) fn hold(self: &Arc<Self>, bytes: u64) -> Result<Held, BodyError> {
        let mut held = Held {
            bodies: Arc::clone(self),
            bytes: 0,
        };
        held.take(bytes)?;
        Ok(held)
    }

    /// Works on what was made of a body of so many bytes: apart from the workers if there are many.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BodyError> {
        if bytes < AT_ONCE {
            Ok(work())
        } else {
            self.run(work).await
        }
    }

    /// Works apart from the workers. If the request is given up meanwhile, the work ends all the same, and
    /// what it holds with it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BodyError> {
        let place = timeout(QUEUE, Arc::clone(&self.threads).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(BodyError::Full);
        };
        let done = spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        done.await.map_err(|_| BodyError::Failed)
    }
}

/// A share of the budget.
pub(crate) struct Held {
    bodies: Arc<Bodies>,
    bytes: u64,
}

impl Held {
    pub(super) fn bodies(&self) -> Arc<Bodies> {
        Arc::clone(&self.bodies)
    }

    /// Takes more.
    pub(super) fn take(&mut self, more: u64) -> Result<(), BodyError> {
        let limit = self.bodies.limit;
        if self.bytes.saturating_add(more) > limit {
            return Err(BodyError::TooDear(limit));
        }
        let order = Ordering::Relaxed;
        let taken = self.bodies.held.fetch_update(order, order, |held| {
            held.checked_add(more).filter(|held| *held <= limit)
        });
        taken.map_err(|_| BodyError::Full)?;
        self.bytes += more;
        Ok(())
    }

    /// Gives some of it back.
    pub(super) fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.bodies.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let bodies = Bodies::new(100, 1);
        let mut one = bodies.hold(60).unwrap();
        assert_eq!(bodies.hold(41).err(), Some(BodyError::Full));
        assert_eq!(bodies.hold(101).err(), Some(BodyError::TooDear(100)));
        one.give_back(10);
        let other = bodies.hold(50).unwrap();
        assert_eq!(one.take(1), Err(BodyError::Full));
        drop(other);
        one.take(50).unwrap();
        assert_eq!(one.take(1), Err(BodyError::TooDear(100)));
        drop(one);
        assert_eq!(bodies.held.load(Ordering::Relaxed), 0);
    }
}
