use crate::{
    PoolError, PoolStats, RedisPoolConfig, client, maintenance,
    slots::{Place, Slots},
    stats::Counters,
};
use fred::{clients::Client, error::Error as RedisError, interfaces::ClientLike};
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
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
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
    pub(crate) grow: Notify,
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
            let client =
                client::build(&config).map_err(|error| PoolError::Config(error.to_string()))?;
            // The task ends with the client's quit, or with the runtime.
            drop(client.connect());
            slots.push(client);
        }
        let inner = Arc::new(Inner {
            counters: Counters::new(),
            grow: Notify::new(),
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
    /// passed, [`PoolError::Connection`], [`PoolError::Command`] and [`PoolError::Closed`].
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
        let until = Instant::now() + deadline;
        let place = self
            .place(until)
            .await
            .inspect_err(|_| self.inner.counters.failed())?;
        if place.load > 0 {
            self.inner.grow.notify_one();
        }
        if !place.client.is_connected() {
            self.inner.counters.failed();
            return Err(PoolError::Connection("not connected".to_owned()));
        }
        let outcome = timeout_at(until, command(Client::clone(&place.client))).await;
        self.release(place);
        match outcome {
            Ok(Ok(value)) => {
                self.inner.counters.succeeded();
                Ok(value)
            }
            Ok(Err(error)) => {
                self.inner.counters.failed();
                Err(PoolError::from_redis(error, deadline))
            }
            Err(_) => {
                self.inner.counters.failed();
                Err(PoolError::Timeout(deadline))
            }
        }
    }

    /// [`execute`](Self::execute) for commands that may run twice: where `retry_on_timeout` is set
    /// and the deadline passed or the connection broke, it is sent once more.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute), of the second attempt if there was one.
    pub async fn execute_repeatable<T, F, Fut>(&self, command: F) -> Result<T, PoolError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        match self.execute(&command).await {
            Err(PoolError::Timeout(_) | PoolError::Connection(_))
                if self.inner.config.retry_on_timeout =>
            {
                self.execute(&command).await
            }
            outcome => outcome,
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

    fn release(&self, place: Place) {
        drop(place);
        self.inner.wake_one();
    }

    /// Sends a PING and records when it was answered.
    ///
    /// Returns how long it took.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn health_check(&self) -> Result<Duration, PoolError> {
        let started = Instant::now();
        self.execute(|client| async move { client.ping::<String>(None).await })
            .await?;
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
        let client = client::build(config).map_err(|error| PoolError::Config(error.to_string()))?;
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
        let clients = self.stop();
        let quits = async {
            for client in clients {
                // An error here means that the connection is gone, which is what we want.
                let _ = client.quit().await;
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
        for client in self.stop() {
            tokio::spawn(async move {
                let _ = timeout(Duration::from_secs(1), client.quit()).await;
            });
        }
    }

    fn stop(&self) -> Vec<Arc<Client>> {
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
            for client in self.slots.drain() {
                runtime.spawn(async move {
                    let _ = timeout(Duration::from_secs(1), client.quit()).await;
                });
            }
        }
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
