use crate::{
    BreakerState, PoolError, PoolStats, RedisPoolConfig,
    breaker::{Breaker, Permit},
    client,
    connection::Connection,
    maintenance,
    retry::{self, Budget},
    slots::{Place, Slots},
    stats::Counters,
};
use fred::{
    clients::Client,
    error::{Error as RedisError, ErrorKind},
    interfaces::ClientLike,
};
use parking_lot::Mutex;
use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

/// A pool of connections to Redis; a handle, cheap to clone.
///
/// See the crate's documentation for what it promises.
#[derive(Clone)]
pub struct RedisPool {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: RedisPoolConfig,
    pub(crate) slots: Arc<Slots>,
    pub(crate) counters: Counters,
    breaker: Breaker,
    retries: Budget,
    pub(crate) grow: Notify,
    /// A connection has left several commands in a row without an answer.
    pub(crate) suspect: Notify,
    freed: Notify,
    waiting: AtomicUsize,
    closed: AtomicBool,
    maintenance: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for RedisPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisPool")
            .field("config", &self.inner.config)
            .field("connections", &self.inner.slots.live())
            .finish_non_exhaustive()
    }
}

impl RedisPool {
    /// Opens `min_connections` connections and waits until the first is ready.
    ///
    /// # Errors
    ///
    /// [`PoolError::Config`] if the configuration is not valid, [`PoolError::Connection`] if Redis
    /// was not reached within `socket_connect_timeout`. Then nothing is left running.
    pub async fn connect(config: RedisPoolConfig) -> Result<Self, PoolError> {
        let deadline = config.socket_connect_timeout;
        let pool = Self::connect_in_background(config)?;
        let probe = async {
            for client in pool.inner.slots.clients() {
                client.wait_for_connect().await?;
            }
            Ok::<_, RedisError>(())
        };
        let outcome = match timeout(deadline, probe).await {
            Ok(Ok(())) => match pool.health_check().await {
                Ok(_) => return Ok(pool),
                Err(error) => error,
            },
            Ok(Err(error)) => PoolError::Connection(error.to_string()),
            Err(_) => PoolError::Connection(format!("no answer within {deadline:?}")),
        };
        pool.abort();
        Err(outcome)
    }

    /// Starts to open connections and returns at once; until one is ready, commands fail with
    /// [`PoolError::Connection`].
    ///
    /// For programs that can do without Redis, now or later. Must be called on a tokio runtime,
    /// which will run the connections.
    ///
    /// # Errors
    ///
    /// [`PoolError::Config`] if the configuration is not valid.
    pub fn connect_in_background(config: RedisPoolConfig) -> Result<Self, PoolError> {
        config.validate()?;
        let slots = Arc::new(Slots::new(config.max_connections, config.max_in_flight));
        for _ in 0..config.min_connections {
            let connection =
                Connection::open(&config).map_err(|error| PoolError::Config(error.to_string()))?;
            slots.push(connection);
        }
        let inner = Arc::new(Inner {
            counters: Counters::new(),
            breaker: Breaker::new(config.breaker),
            retries: Budget::new(),
            grow: Notify::new(),
            suspect: Notify::new(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            maintenance: Mutex::new(None),
            slots,
            config,
        });
        *inner.maintenance.lock() = Some(maintenance::spawn(&inner));
        Ok(Self { inner })
    }

    /// Sends a command, or a few that belong together, over one connection, within
    /// `socket_timeout`.
    ///
    /// `command` is given a client of that connection. It is called once; nothing is sent twice.
    ///
    /// # Errors
    ///
    /// [`PoolError::Exhausted`] if no place became free, [`PoolError::Timeout`] if the deadline
    /// passed, [`PoolError::CircuitOpen`] while the breaker refuses calls, [`PoolError::Connection`],
    /// [`PoolError::Command`] and [`PoolError::Closed`].
    pub async fn execute<T, F, Fut>(&self, command: F) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        self.execute_within(self.inner.config.socket_timeout, command)
            .await
    }

    /// [`execute`](Self::execute) with a deadline of its own, which waiting for a place counts
    /// against.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn execute_within<T, F, Fut>(
        &self,
        deadline: Duration,
        command: F,
    ) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let inner = &*self.inner;
        if self.is_closed() {
            return Err(PoolError::Closed);
        }
        let began = Instant::now();
        let permit = inner.breaker.permit(inner.counters.at(began));
        let permit = permit.ok_or(PoolError::CircuitOpen)?;
        self.run(began, deadline, Some(permit), command).await
    }

    async fn run<T, F, Fut>(
        &self,
        began: Instant,
        deadline: Duration,
        permit: Option<Permit<'_>>,
        command: F,
    ) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let inner = &*self.inner;
        // Reading the clock costs as much as the rest of this.
        let (until, mut started) = (began + deadline, began);
        let place = match inner.slots.take().filter(|_| !self.is_closed()) {
            Some(place) => place,
            None => {
                let place = self.place(until).await;
                started = Instant::now();
                place.inspect_err(|_| inner.counters.failed())?
            }
        };
        if place.load > 0 {
            inner.grow.notify_one();
        }
        let held = Held {
            inner,
            place: Some(place),
        };
        let outcome = match held.client() {
            Some(client) if client.is_connected() => timeout_at(until, command(client)).await,
            _ => Ok(Err(RedisError::new(ErrorKind::Canceled, "not connected"))),
        };
        let outcome = match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(PoolError::from_redis(error, deadline)),
            Err(_) => Err(PoolError::Timeout(deadline)),
        };
        if held.is_suspect(!matches!(outcome, Err(PoolError::Timeout(_)))) {
            inner.suspect.notify_one();
        }
        drop(held);
        match &outcome {
            Ok(_) => inner.counters.succeeded(),
            Err(_) => inner.counters.failed(),
        }
        if let Some(permit) = permit {
            // An error of the command's own is an answer like another.
            let failed = outcome.as_ref().err().is_some_and(PoolError::is_transient);
            let now = inner.counters.at(Instant::now());
            permit.ended(failed, now.saturating_sub(inner.counters.at(started)), now);
        }
        outcome
    }

    /// [`execute`](Self::execute) for commands that may run twice: where `retry_on_timeout` or
    /// `retry_on_error` says so it is sent again, up to `retries` times, after pauses of 8 ms and
    /// more that double and are drawn at random.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute), of the last attempt.
    pub async fn execute_repeatable<T, F, Fut>(&self, command: F) -> Result<T, PoolError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let inner = &*self.inner;
        inner.retries.earn();
        let mut repeated = 0;
        loop {
            match self.execute(&command).await {
                Err(error)
                    if repeated < inner.config.retries
                        && retry::is_worth_it(&error, &inner.config)
                        && inner.retries.spend() =>
                {
                    sleep(retry::pause(repeated)).await;
                    repeated += 1;
                    inner.counters.repeated();
                }
                outcome => return outcome,
            }
        }
    }

    async fn place(&self, until: Instant) -> Result<Place, PoolError> {
        let inner = &*self.inner;
        if inner.closed.load(Ordering::Acquire) {
            return Err(PoolError::Closed);
        }
        if let Some(place) = inner.slots.take() {
            return Ok(place);
        }
        inner.grow.notify_one();
        let _waiting = Waiting::enter(inner).ok_or(PoolError::Exhausted)?;
        let until = until.min(Instant::now() + inner.config.acquire_timeout);
        loop {
            // Registered before the look, so that a place freed in between still wakes us.
            let freed = inner.freed.notified();
            if inner.closed.load(Ordering::Acquire) {
                return Err(PoolError::Closed);
            }
            if let Some(place) = inner.slots.take() {
                return Ok(place);
            }
            timeout_at(until, freed)
                .await
                .map_err(|_| PoolError::Exhausted)?;
        }
    }

    /// Sends a PING and records when it was answered, whatever the breaker says.
    ///
    /// Returns how long it took.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn health_check(&self) -> Result<Duration, PoolError> {
        let started = Instant::now();
        let deadline = self.inner.config.socket_timeout;
        let ping = |client: Client| async move { client.ping::<String>(None).await };
        self.run(started, deadline, None, ping).await?;
        self.inner.counters.checked();
        Ok(started.elapsed())
    }

    /// Opens a connection beside the pool's, for commands that block it, such as XREAD.
    ///
    /// It counts for nothing in the pool. Whoever asked for it calls `quit` on it.
    ///
    /// # Errors
    ///
    /// [`PoolError::Connection`] if Redis was not reached within `socket_connect_timeout`,
    /// [`PoolError::Closed`] once the pool is closed.
    pub async fn dedicated_client(&self) -> Result<Client, PoolError> {
        if self.is_closed() {
            return Err(PoolError::Closed);
        }
        let config = &self.inner.config;
        let client = client::build(config, config.socket_timeout)
            .map_err(|error| PoolError::Config(error.to_string()))?;
        drop(client.connect());
        match timeout(config.socket_connect_timeout, client.wait_for_connect()).await {
            Ok(Ok(())) => Ok(client),
            outcome => {
                let _ = timeout(Duration::from_millis(100), client.quit()).await;
                Err(PoolError::Connection(match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer within {:?}", config.socket_connect_timeout),
                }))
            }
        }
    }

    /// Whether at least one connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner
            .slots
            .clients()
            .iter()
            .any(|client| client.is_connected())
    }

    /// What the circuit breaker does with calls, now and with every change.
    #[must_use]
    pub fn breaker(&self) -> watch::Receiver<BreakerState> {
        self.inner.breaker.watch()
    }

    /// What it was configured with.
    #[must_use]
    pub fn config(&self) -> &RedisPoolConfig {
        &self.inner.config
    }

    /// What it has done and is doing.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let inner = &*self.inner;
        inner.counters.stats(
            inner.slots.capacity(),
            inner.slots.live(),
            inner.slots.in_use(),
            inner.waiting.load(Ordering::Relaxed),
            inner.breaker.stats(),
        )
    }

    /// Refuses new commands, waits for those outstanding for at most `socket_timeout`, then closes
    /// the connections. Closing twice does no harm.
    pub async fn close(&self) {
        let inner = &*self.inner;
        inner.closed.store(true, Ordering::Release);
        inner.freed.notify_waiters();
        let until = Instant::now() + inner.config.socket_timeout;
        loop {
            let freed = inner.freed.notified();
            if inner.slots.in_use() == 0 || timeout_at(until, freed).await.is_err() {
                break;
            }
        }
        let connections = self.stop();
        let quits = async {
            for connection in connections {
                connection.close().await;
            }
        };
        let _ = timeout(
            inner.config.socket_timeout.min(Duration::from_secs(1)),
            quits,
        )
        .await;
    }

    /// Gives up without waiting.
    fn abort(&self) {
        self.inner.closed.store(true, Ordering::Release);
        for connection in self.stop() {
            tokio::spawn(connection.close());
        }
    }

    fn stop(&self) -> Vec<Arc<Connection>> {
        if let Some(task) = self.inner.maintenance.lock().take() {
            task.abort();
        }
        self.inner.slots.drain()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire)
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

impl Inner {
    pub(crate) fn wake_one(&self) {
        if self.closed.load(Ordering::Relaxed) {
            self.freed.notify_waiters();
        } else if self.waiting.load(Ordering::Relaxed) > 0 {
            self.freed.notify_one();
        }
    }
}

/// Stops the connections of a pool that nobody closed.
impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.maintenance.get_mut().take() {
            task.abort();
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            for connection in self.slots.drain() {
                runtime.spawn(connection.close());
            }
        }
    }
}

/// A place in use. However the call ends, dropped in the middle too, the next in line is woken.
struct Held<'a> {
    inner: &'a Inner,
    place: Option<Place>,
}

impl Held<'_> {
    fn client(&self) -> Option<Client> {
        self.place
            .as_ref()
            .map(|place| Client::clone(&*place.client))
    }
}

impl Held<'_> {
    fn is_suspect(&self, answered: bool) -> bool {
        let place = self.place.as_ref();
        place.is_some_and(|place| self.inner.slots.note(place, answered))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        drop(self.place.take());
        self.inner.wake_one();
    }
}

/// Counts a caller that waits, however its waiting ends.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn enter(inner: &'a Inner) -> Option<Self> {
        inner
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
                (count < inner.config.max_waiting).then_some(count + 1)
            })
            .ok()?;
        Some(Self(inner))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        // A wake-up that came to us while we gave up must not be lost to the next in line.
        self.0.wake_one();
    }
}
