//! The connections to one server, or to whichever is primary now behind Sentinels: how many, which
//! one for a call, and whether calls are let through at all.
//!
//! In: calls, each with a deadline. Out: what came of them. A pool has one group, or in a cluster one
//! for each node.

use crate::{
    Health, PoolError, RedisPoolConfig,
    breaker::{Breaker, BreakerReason, BreakerState},
    connection::{Connection, Events},
    latency::Latency,
    maintenance,
    place::Held,
    server::Target,
    slots::Slots,
    stats::Counters,
};
use fred::{clients::Client, error::Error as RedisError, interfaces::ClientLike};
use parking_lot::Mutex;
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

/// What all groups of a pool share.
pub(crate) struct Shared {
    pub(crate) config: RedisPoolConfig,
    pub(crate) counters: Counters,
    pub(crate) latency: Latency,
    pub(crate) events: Arc<Events>,
    /// What the last call that failed for want of Redis failed of.
    pub(crate) last_failure: Mutex<Option<String>>,
}

pub(crate) struct Group {
    pub(crate) shared: Arc<Shared>,
    pub(crate) target: Target,
    pub(crate) slots: Arc<Slots>,
    pub(crate) breaker: Breaker,
    pub(crate) grow: Notify,
    /// A connection has left several commands in a row without an answer.
    pub(crate) suspect: Notify,
    /// The server says that it is a replica, and should not be.
    pub(crate) demoted: Notify,
    pub(crate) freed: Notify,
    pub(crate) waiting: AtomicUsize,
    closed: AtomicBool,
    maintenance: Mutex<Option<JoinHandle<()>>>,
}

impl Group {
    /// Starts to open `min_connections` connections.
    pub(crate) fn open(shared: &Arc<Shared>, target: Target) -> Result<Arc<Self>, PoolError> {
        let config = &shared.config;
        let slots = Arc::new(Slots::new(config.max_connections, config.max_in_flight));
        for _ in 0..config.min_connections {
            slots.push(Connection::open(config, &target, &shared.events)?);
        }
        let group = Arc::new(Self {
            shared: Arc::clone(shared),
            target,
            slots,
            breaker: Breaker::new(config.breaker, &shared.events),
            grow: Notify::new(),
            suspect: Notify::new(),
            demoted: Notify::new(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            maintenance: Mutex::new(None),
        });
        *group.maintenance.lock() = Some(maintenance::spawn(&group));
        Ok(group)
    }

    /// Waits until every connection is up.
    pub(crate) async fn ready(&self, until: Instant) -> Result<(), PoolError> {
        for connection in self.slots.clients() {
            let left = until.saturating_duration_since(Instant::now());
            connection.ready(left).await?;
        }
        Ok(())
    }

    /// A PING, whatever the breaker says.
    pub(crate) async fn ping(&self) -> Result<(), PoolError> {
        let deadline = self.shared.config.socket_timeout;
        let ping = |client: Client| async move { client.ping::<String>(None).await };
        self.call(None, deadline, false, ping).await?;
        self.shared.counters.checked();
        Ok(())
    }

    /// A call that the breaker has a say in, if it is `guarded`. It ends at `until`, or else
    /// `deadline` after it begins, which is when it is first polled.
    pub(crate) async fn call<T, F, Fut>(
        &self,
        until: Option<Instant>,
        deadline: Duration,
        guarded: bool,
        command: F,
    ) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        if self.is_closed() {
            return Err(PoolError::Closed);
        }
        let began = Instant::now();
        let until = until.unwrap_or(began + deadline);
        let mut permit = None;
        if guarded {
            let granted = self.breaker.permit(self.shared.counters.at(began));
            permit = Some(granted.ok_or(PoolError::CircuitOpen)?);
        }
        let shared = &*self.shared;
        // Reading the clock costs as much as the rest of this.
        let mut started = began;
        let place = match self.slots.take().filter(|_| !self.is_closed()) {
            Some(place) => place,
            None => {
                let place = Box::pin(self.place(until)).await;
                started = Instant::now();
                place.inspect_err(|_| shared.counters.failed())?
            }
        };
        if place.load > 0 && self.slots.has_room() {
            self.grow.notify_one();
        }
        let connected = place.connected;
        let held = Held::new(self, place);
        let outcome = match held.connection() {
            Some(connection) if connected => {
                let command = pin!(command(Client::clone(connection)));
                match timeout_at(until, command).await {
                    Ok(Ok(value)) => Ok(value),
                    Ok(Err(error)) => Err(PoolError::from_redis(error, deadline)),
                    Err(_) => Err(PoolError::Timeout(deadline)),
                }
            }
            Some(connection) => Err(connection.not_connected()),
            None => Err(PoolError::Closed),
        };
        if held.is_suspect(!matches!(outcome, Err(PoolError::Timeout(_)))) {
            self.suspect.notify_one();
        }
        let ended = Instant::now();
        held.end(ended);
        match &outcome {
            Ok(_) => shared.counters.succeeded(),
            Err(error) => self.failed(error),
        }
        shared
            .latency
            .record(ended.saturating_duration_since(started));
        if let Some(permit) = permit {
            // An error of the command's own is an answer like another.
            let failed = outcome.as_ref().err().is_some_and(PoolError::is_transient);
            let now = shared.counters.at(ended);
            let took = now.saturating_sub(shared.counters.at(started));
            permit.ended(failed, took, now);
        }
        outcome
    }

    fn failed(&self, error: &PoolError) {
        // A redirection is no failure: the call goes on elsewhere.
        if error.redirect().is_none() {
            self.shared.counters.failed();
        }
        if error.is_transient() && self.breaker.stats().state == BreakerState::Closed {
            *self.shared.last_failure.lock() = Some(error.to_string());
        }
        if self.target.server.is_none() && error.code() == Some("READONLY") {
            self.demoted.notify_one();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn is_connected(&self) -> bool {
        let connections = self.slots.clients();
        connections.iter().any(|one| one.is_connected())
    }

    pub(crate) fn health(&self) -> Health {
        let connections = self.slots.clients();
        let up = connections.iter().filter(|one| one.is_connected()).count();
        let breaker = self.breaker.stats().state;
        if up == 0 || breaker == BreakerState::Open || self.is_closed() {
            Health::Down
        } else if up < connections.len() || breaker == BreakerState::HalfOpen {
            Health::Degraded
        } else {
            Health::Up
        }
    }

    /// Why calls fail, as far as it is known.
    pub(crate) fn trouble(&self) -> Option<String> {
        let connections = self.slots.clients();
        if !connections.iter().any(|one| one.is_connected()) {
            return connections.iter().find_map(|one| one.trouble());
        }
        let reason = self.breaker.stats().reason?;
        match (reason, &*self.shared.last_failure.lock()) {
            (BreakerReason::SlowCalls, _) | (_, None) => {
                let slow = self.shared.config.breaker.slow_call;
                Some(format!("calls take longer than {slow:?}"))
            }
            (_, Some(failure)) => Some(format!("calls fail; the last: {failure}")),
        }
    }

    /// Refuses new calls.
    pub(crate) fn shut(&self) {
        self.closed.store(true, Ordering::Release);
        self.freed.notify_waiters();
    }

    /// Refuses new calls, waits for those outstanding for at most `socket_timeout`, and closes the
    /// connections.
    pub(crate) async fn close(&self) {
        self.shut();
        let longest = self.shared.config.socket_timeout;
        let until = Instant::now() + longest;
        loop {
            let freed = self.freed.notified();
            if self.slots.in_use() == 0 || timeout_at(until, freed).await.is_err() {
                break;
            }
        }
        let connections = self.stop();
        let quits = async {
            for connection in connections {
                connection.close().await;
            }
        };
        let _ = timeout(longest.min(Duration::from_secs(1)), quits).await;
    }

    /// Gives up without waiting.
    pub(crate) fn abort(&self) {
        self.shut();
        drop(self.stop());
    }

    fn stop(&self) -> Vec<Arc<Connection>> {
        if let Some(task) = self.maintenance.lock().take() {
            task.abort();
        }
        self.slots.drain()
    }
}

/// Stops the connections of a pool that nobody closed.
impl Drop for Group {
    fn drop(&mut self) {
        self.abort();
    }
}
