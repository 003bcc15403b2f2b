//! Connections of one's own, for what would hold up others or be disturbed by them: blocking
//! commands, WATCH with the transaction after it, settings of the connection.
//!
//! In: a permit, of which there are `max_dedicated`. Out: a connection that nobody else sends on. It
//! comes back clean or not at all: one that a command was left outstanding on is closed, and any
//! other is RESET before it is lent again.

use crate::{
    PoolError, Protocol, RedisPool, RedisPoolConfig,
    client::Attempt,
    cluster::Destination,
    connection::Connection,
    place::Waiting,
    pool::{Inner, Route},
    server::Target,
};
use fred::{
    clients::Client,
    error::Error as RedisError,
    interfaces::{AuthInterface, ClientLike},
    types::{ClusterHash, CustomCommand, RespVersion},
};
use parking_lot::Mutex;
use std::{
    fmt,
    future::Future,
    sync::{Arc, Weak, atomic::AtomicUsize},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, timeout},
};

/// The connections beside the pool's.
pub(crate) struct Dedicated {
    permits: Arc<Semaphore>,
    most: usize,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
}

/// One that was given back, and is not clean yet.
struct Idle {
    connection: Connection,
    target: Target,
    since: Instant,
}

impl Dedicated {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(most)),
            most,
            waiting: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.most - self.permits.available_permits() + self.idle.lock().len()
    }

    /// Leave to open one more.
    async fn permit(&self, config: &RedisPoolConfig) -> Result<OwnedSemaphorePermit, PoolError> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(PoolError::Closed),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _waiting =
            Waiting::enter(&self.waiting, config.max_waiting).ok_or(PoolError::Exhausted)?;
        let permit = Arc::clone(&self.permits).acquire_owned();
        match timeout(config.acquire_timeout, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(PoolError::Closed),
            Err(_) => Err(PoolError::Exhausted),
        }
    }

    fn reuse(&self, target: &Target) -> Option<Connection> {
        let mut idle = self.idle.lock();
        match idle.iter().rposition(|one| one.target == *target) {
            Some(at) => Some(idle.swap_remove(at).connection),
            None => {
                // Together with the one that will be made there may be too many.
                if idle.len() > self.permits.available_permits() {
                    idle.pop();
                }
                None
            }
        }
    }

    /// Makes room where the idle ones take it up.
    pub(crate) fn make_room(&self) {
        let mut idle = self.idle.lock();
        if idle.len() > self.permits.available_permits() {
            idle.pop();
        }
    }

    /// Closes those that nobody has used for long.
    pub(crate) fn shrink(&self, longest: Duration) {
        self.idle.lock().retain(|one| one.since.elapsed() < longest);
    }

    pub(crate) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

/// A connection that nobody else sends on, from [`RedisPool::exclusive`]. Dropping it gives it back.
pub struct Exclusive {
    pool: Weak<Inner>,
    target: Target,
    deadline: Duration,
    connection: Option<Connection>,
    /// A command is under way, or was left so.
    busy: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Exclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exclusive")
            .field("busy", &self.busy)
            .finish_non_exhaustive()
    }
}

impl RedisPool {
    /// Lends a connection that nobody else sends on, for blocking commands and for WATCH with the
    /// transaction after it.
    ///
    /// There are at most `max_dedicated`, besides the pool's own. It is as good as new: what an
    /// earlier user did to it, open transactions, watched keys, another database, was undone (by
    /// RESET; a server before 6.2 has none, and gets a new connection each time). In a cluster it is
    /// to any node; see [`exclusive_for`](Self::exclusive_for).
    ///
    /// ```no_run
    /// # async fn example(pool: weaver_pool::RedisPool) -> Result<(), weaver_pool::PoolError> {
    /// use fred::{clients::Client, interfaces::KeysInterface};
    /// let mut own = pool.exclusive().await?;
    /// own.execute(|client: Client| async move { client.watch("stock").await })
    ///     .await?;
    /// // If it is lost from here on this is an error, and not a transaction without the WATCH.
    /// own.execute(|client: Client| async move { client.unwatch().await })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PoolError::Exhausted`] if all are lent out for longer than `acquire_timeout`,
    /// [`PoolError::NotConnected`] if Redis was not reached within `socket_connect_timeout`,
    /// [`PoolError::CircuitOpen`] and [`PoolError::Closed`].
    pub async fn exclusive(&self) -> Result<Exclusive, PoolError> {
        self.exclusive_to(Destination::default()).await
    }

    /// [`exclusive`](Self::exclusive), in a cluster to the node that has a key. It follows no
    /// redirections: after an error that begins with MOVED, ask for another.
    ///
    /// # Errors
    ///
    /// As [`exclusive`](Self::exclusive).
    pub async fn exclusive_for(&self, key: &[u8]) -> Result<Exclusive, PoolError> {
        let destination = Destination {
            key: Some(key),
            replica: false,
        };
        self.exclusive_to(destination).await
    }

    async fn exclusive_to(&self, destination: Destination<'_>) -> Result<Exclusive, PoolError> {
        let inner = &self.inner;
        let permit = inner.dedicated_permit().await?;
        let target = inner.target(destination)?;
        let connection = match inner.reused(&target).await {
            Some(connection) => connection,
            None => {
                let shared = &inner.shared;
                let (config, events) = (&shared.config, &shared.events);
                Connection::establish(config, &target, events, Attempt::Only).await?
            }
        };
        Ok(Exclusive {
            pool: Arc::downgrade(inner),
            target,
            deadline: inner.shared.config.socket_timeout,
            connection: Some(connection),
            busy: false,
            permit: Some(permit),
        })
    }
}

impl Inner {
    pub(crate) async fn dedicated_permit(&self) -> Result<OwnedSemaphorePermit, PoolError> {
        if self.is_closed() {
            return Err(PoolError::Closed);
        }
        self.dedicated.permit(&self.shared.config).await
    }

    fn target(&self, destination: Destination<'_>) -> Result<Target, PoolError> {
        let now = self.shared.counters.at(Instant::now());
        match &self.route {
            Route::One(group) if group.breaker.is_open(now) => Err(PoolError::CircuitOpen),
            Route::One(group) => Ok(group.target.clone()),
            Route::Cluster(cluster) => {
                let server = cluster.server(destination).ok_or_else(|| {
                    PoolError::NotConnected("no node of the cluster is known".to_owned())
                })?;
                Ok(Target::node(server))
            }
        }
    }

    /// One that was given back, cleaned; any that cannot be cleaned is closed.
    async fn reused(&self, target: &Target) -> Option<Connection> {
        let connection = self.dedicated.reuse(target)?;
        if !connection.is_connected() {
            return None;
        }
        let clean = timeout(self.shared.config.socket_timeout, self.clean(&connection)).await;
        matches!(clean, Ok(Ok(()))).then_some(connection)
    }

    async fn clean(&self, connection: &Connection) -> Result<(), RedisError> {
        // RESET, from Redis 6.2 on, undoes everything: MULTI, WATCH, subscriptions, tracking, the
        // database, and also who we are.
        let reset = CustomCommand::new_static("RESET", ClusterHash::Random, false);
        let _: String = connection.custom(reset, Vec::<String>::new()).await?;
        let (username, password) = match &self.shared.config.credentials {
            Some(credentials) => credentials.provider().fetch(None).await?,
            None => (
                self.shared.config.username.clone(),
                self.shared.config.password.clone(),
            ),
        };
        if let Some(password) = password {
            connection.auth::<_>(username, password).await?;
        }
        if self.shared.config.protocol == Protocol::Resp3 {
            connection.hello(RespVersion::RESP3, None, None).await?;
        }
        if self.shared.config.db != 0 {
            let select = CustomCommand::new_static("SELECT", ClusterHash::Random, false);
            let _: String = connection
                .custom(select, vec![self.shared.config.db.to_string()])
                .await?;
        }
        Ok(())
    }
}

impl Exclusive {
    /// Sends commands over it within `socket_timeout`.
    ///
    /// After a deadline, and if this is dropped before it ends, the connection is closed: a command
    /// may still be under way on it.
    ///
    /// # Errors
    ///
    /// [`PoolError::Timeout`], [`PoolError::Command`], [`PoolError::Connection`], and
    /// [`PoolError::NotConnected`] once it is closed or was lost. It is never made again behind
    /// its holder's back, for what was watched or set on it would be gone: ask for another.
    pub async fn execute<T, F, Fut>(&mut self, command: F) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        self.execute_within(self.deadline, command).await
    }

    /// [`execute`](Self::execute) with a deadline of its own; for a blocking command, longer than
    /// it blocks.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute). A blocking command of fred's that has waited in vain is
    /// [`PoolError::Timeout`] too, and then the connection stays open.
    pub async fn execute_within<T, F, Fut>(
        &mut self,
        deadline: Duration,
        command: F,
    ) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let connection = self.connection.as_ref().filter(|_| !self.busy);
        let Some(connection) = connection else {
            self.connection = None;
            return Err(PoolError::NotConnected(
                "closed, for a command was left under way".to_owned(),
            ));
        };
        if !connection.is_connected() {
            return Err(connection.not_connected());
        }
        self.busy = true;
        let ended = timeout(deadline, command(Client::clone(connection))).await;
        // What Redis answers when a blocking command has waited in vain is fred's own timeout.
        let answered = ended.is_ok();
        let outcome = match ended {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(PoolError::from_redis(error, deadline)),
            Err(_) => Err(PoolError::Timeout(deadline)),
        };
        self.busy = !answered || matches!(outcome, Err(PoolError::Connection(_)));
        if self.busy {
            self.connection = None;
        }
        if let Some(inner) = self.pool.upgrade() {
            match &outcome {
                Ok(_) => inner.shared.counters.succeeded(),
                Err(_) => inner.shared.counters.failed(),
            }
        }
        outcome
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        let connection = self.connection.take().filter(|_| !self.busy);
        if let (Some(connection), Some(inner)) = (connection, self.pool.upgrade()) {
            let mut idle = inner.dedicated.idle.lock();
            // Looked at under the lock, under which closing empties it.
            if !inner.is_closed() {
                idle.push(Idle {
                    connection,
                    target: self.target.clone(),
                    since: Instant::now(),
                });
            }
        }
        // Only now may another caller have it.
        drop(self.permit.take());
    }
}
