use crate::{
    Health, PoolError, PoolStats, RedisPoolConfig, Topology, client,
    cluster::Cluster,
    connection::Events,
    exclusive::Dedicated,
    group::{Group, Shared},
    health,
    latency::Latency,
    outage::OutageLog,
    retry::Budget,
    server::Target,
    stats::Counters,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// A pool of connections to Redis; a handle, cheap to clone.
///
/// See the crate's documentation for what it promises.
#[derive(Clone)]
pub struct RedisPool {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) route: Route,
    pub(crate) retries: Budget,
    pub(crate) dedicated: Dedicated,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) outage: Mutex<OutageLog>,
    closed: AtomicBool,
    upkeep: Mutex<Option<JoinHandle<()>>>,
}

/// Where calls go.
pub(crate) enum Route {
    One(Arc<Group>),
    Cluster(Cluster),
}

impl fmt::Debug for RedisPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisPool")
            .field("config", &self.inner.shared.config)
            .finish_non_exhaustive()
    }
}

impl RedisPool {
    /// Opens `min_connections` connections and waits until they are ready.
    ///
    /// # Errors
    ///
    /// [`PoolError::Config`] if the configuration is not valid or a file of it cannot be read,
    /// [`PoolError::Connection`] if Redis was not reached within `socket_connect_timeout`, with the
    /// reason of the last attempt. Then nothing is left running.
    pub async fn connect(config: RedisPoolConfig) -> Result<Self, PoolError> {
        let until = Instant::now() + config.socket_connect_timeout;
        let pool = Self::connect_in_background(config)?;
        // It is made below, before anybody gets the pool.
        pool.inner.shared.counters.claim_first_check();
        let outcome = async {
            match &pool.inner.route {
                Route::One(group) => group.ready(until).await?,
                Route::Cluster(cluster) => cluster.ready(until).await?,
            }
            pool.health_check().await
        };
        match outcome.await {
            Ok(_) => {
                pool.inner.assess();
                Ok(pool)
            }
            Err(error) => {
                pool.abort();
                Err(error)
            }
        }
    }

    /// Starts to open connections and returns at once; until one is ready, commands fail with
    /// [`PoolError::NotConnected`].
    ///
    /// For programs that can do without Redis, now or later. Must be called on a tokio runtime,
    /// which will run the connections.
    ///
    /// # Errors
    ///
    /// [`PoolError::Config`] if the configuration is not valid or a file of it cannot be read.
    pub fn connect_in_background(config: RedisPoolConfig) -> Result<Self, PoolError> {
        config.validate()?;
        let events = Arc::<Events>::default();
        let shared = Arc::new(Shared {
            counters: Counters::new(),
            latency: Latency::default(),
            last_failure: Mutex::default(),
            events,
            config,
        });
        let config = &shared.config;
        if let Topology::Cluster { .. } = config.topology {
            // What is wrong with it would otherwise be seen only when a node is met.
            client::builder(config, None, client::Attempt::Once)?;
        }
        let route = match config.topology {
            Topology::Cluster { .. } => Route::Cluster(Cluster::open(&shared)),
            _ => Route::One(Group::open(&shared, Target::default())?),
        };
        let inner = Arc::new(Inner {
            route,
            retries: Budget::new(),
            dedicated: Dedicated::new(config.max_dedicated),
            health: watch::Sender::new(Health::Down),
            outage: Mutex::default(),
            closed: AtomicBool::new(false),
            upkeep: Mutex::new(None),
            shared,
        });
        *inner.upkeep.lock() = Some(tokio::spawn(health::watch(Arc::downgrade(&inner))));
        Ok(Self { inner })
    }

    /// Sends a PING, in a cluster to every node, and records when it was answered, whatever the
    /// breaker says.
    ///
    /// Returns how long it took.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn health_check(&self) -> Result<Duration, PoolError> {
        let started = Instant::now();
        let groups = self.inner.groups();
        if groups.is_empty() {
            return Err(PoolError::NotConnected(
                "no node of the cluster is known".to_owned(),
            ));
        }
        let mut asked = groups
            .iter()
            .map(|group| group.ping())
            .collect::<FuturesUnordered<_>>();
        while let Some(answer) = asked.next().await {
            answer?;
        }
        Ok(started.elapsed())
    }

    /// Whether at least one connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.groups().iter().any(|group| group.is_connected())
    }

    /// What it was configured with.
    #[must_use]
    pub fn config(&self) -> &RedisPoolConfig {
        &self.inner.shared.config
    }

    /// What it has done and is doing.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let inner = &*self.inner;
        let mut stats = PoolStats::empty();
        let groups = inner.groups();
        for group in &groups {
            stats.add(group);
        }
        if let Route::Cluster(_) = inner.route {
            let named = groups.iter().filter_map(|group| {
                let server = group.target.server.as_ref()?;
                Some((server.to_string(), group.breaker.stats()))
            });
            stats.nodes = named.collect();
        }
        stats.available_connections = stats
            .max_connections
            .saturating_sub(stats.in_use_connections);
        stats.dedicated_connections = inner.dedicated.open();
        stats.reconnects = inner.shared.events.reconnects.load(Ordering::Relaxed);
        stats.latency = inner.shared.latency.snapshot();
        inner.shared.counters.write_to(&mut stats);
        stats
    }

    /// Refuses new commands, waits for those outstanding for at most `socket_timeout`, then closes
    /// the connections. Closing twice does no harm.
    pub async fn close(&self) {
        let groups = self.shut();
        let mut closing = groups
            .iter()
            .map(|group| group.close())
            .collect::<FuturesUnordered<_>>();
        while closing.next().await.is_some() {}
        drop(closing);
        self.inner.assess();
    }

    /// Gives up without waiting.
    fn abort(&self) {
        for group in self.shut() {
            group.abort();
        }
    }

    fn shut(&self) -> Vec<Arc<Group>> {
        let inner = &*self.inner;
        inner.closed.store(true, Ordering::Release);
        inner.dedicated.close();
        let groups = inner.groups();
        match &inner.route {
            Route::One(group) => group.shut(),
            Route::Cluster(cluster) => cluster.shut(),
        }
        groups
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
}

impl Inner {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn groups(&self) -> Vec<Arc<Group>> {
        match &self.route {
            Route::One(group) => vec![Arc::clone(group)],
            Route::Cluster(cluster) => cluster.groups(),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.upkeep.get_mut().take() {
            task.abort();
        }
    }
}
