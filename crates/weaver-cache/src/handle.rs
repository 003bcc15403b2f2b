use crate::{HotUrl, Node, Position, Purge, TooLong, redis::RedisTier, shared::Shared};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use weaver_cache_policy::url::UrlError;
use weaver_metrics::{CacheMetrics, report::HttpCacheReport};
use weaver_pool::{PoolError, RedisPool};

/// Where a [`ResponseCache`](crate::ResponseCache) stores, and where it counts.
#[derive(Clone)]
pub struct CacheStore {
    pub(crate) pool: Option<RedisPool>,
    pub(crate) metrics: CacheMetrics,
}

impl CacheStore {
    /// In this node's memory only.
    #[must_use]
    pub fn memory(metrics: CacheMetrics) -> Self {
        Self {
            pool: None,
            metrics,
        }
    }

    /// In memory, and in Redis, which all nodes with the same `cache_prefix` share.
    #[must_use]
    pub fn with_redis(metrics: CacheMetrics, pool: RedisPool) -> Self {
        Self {
            pool: Some(pool),
            metrics,
        }
    }
}

/// A running cache, to ask and to purge. Cheap to clone.
#[derive(Clone)]
pub struct CacheHandle {
    pub(crate) shared: Arc<Shared>,
}

/// What became of a purge.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// It holds in this node and is not in the journal, so the others may not hear of it.
    #[error("purged in this node only, for now; the journal in Redis was not reached: {0}")]
    LocalOnly(#[source] PoolError),
    /// What is to be purged is no URL, and nothing was purged.
    #[error("not a URL: {0}")]
    NotAUrl(#[from] UrlError),
    /// It names what is too long to be purged, and nothing was.
    #[error(transparent)]
    Invalid(#[from] TooLong),
}

impl CacheHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Purges; `soft` makes content stale instead of dead.
    ///
    /// Returns the purge's position once it is in the journal. In this node it holds on return, and
    /// with what is being fetched now too.
    ///
    /// # Errors
    ///
    /// [`PurgeError::LocalOnly`] if Redis is configured and could not be reached,
    /// [`PurgeError::NotAUrl`], or [`PurgeError::Invalid`] if a name is too long ([`Purge::check`]).
    pub async fn purge(&self, purge: Purge, soft: bool) -> Result<Position, PurgeError> {
        let purge = purge.normal()?;
        purge.check()?;
        self.shared
            .purge(purge, soft, false)
            .await
            .map_err(PurgeError::LocalOnly)
    }

    /// [`purge`](Self::purge) that asks every node to say when it has applied it, which
    /// [`wait_until_applied`](Self::wait_until_applied) waits for.
    ///
    /// # Errors
    ///
    /// As [`purge`](Self::purge).
    pub async fn purge_acknowledged(
        &self,
        purge: Purge,
        soft: bool,
    ) -> Result<Position, PurgeError> {
        let purge = purge.normal()?;
        purge.check()?;
        self.shared
            .purge(purge, soft, true)
            .await
            .map_err(PurgeError::LocalOnly)
    }

    /// Waits until every live node has applied the journal up to there, for at most `within`.
    ///
    /// Returns all nodes that were seen in the last minute; those with an earlier position have not
    /// applied it. A node that is not live (it has said nothing for five seconds) is not waited for:
    /// it applies what it missed before it serves again. Without Redis there are no other nodes, and
    /// none is returned.
    ///
    /// ```
    /// use std::time::Duration;
    /// use weaver_cache::{CacheHandle, Purge};
    ///
    /// # async fn run(cache: CacheHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// let position = cache.purge_acknowledged(Purge::All, false).await?;
    /// for node in cache.wait_until_applied(position, Duration::from_secs(5)).await? {
    ///     println!("{} has applied it: {}", node.name, node.position >= position);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If Redis was not reached.
    pub async fn wait_until_applied(
        &self,
        position: Position,
        within: Duration,
    ) -> Result<Vec<Node>, PoolError> {
        let Some(redis) = &self.shared.journal else {
            return Ok(Vec::new());
        };
        let until = Instant::now() + within;
        let mut pause = Duration::from_millis(2);
        loop {
            let nodes = redis.follower().nodes().await?;
            let late = |node: &Node| node.is_live() && node.position < position;
            if !nodes.iter().any(late) || Instant::now() >= until {
                return Ok(nodes);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Purges one URL: path and query, of any host.
    ///
    /// # Errors
    ///
    /// As [`purge`](Self::purge).
    pub async fn invalidate(&self, target: impl Into<String>) -> Result<Position, PurgeError> {
        self.purge(
            Purge::Url {
                host: None,
                target: target.into(),
            },
            false,
        )
        .await
    }

    /// Purges everything.
    ///
    /// # Errors
    ///
    /// As [`purge`](Self::purge).
    pub async fn clear(&self) -> Result<Position, PurgeError> {
        if let Some(memory) = &self.shared.memory {
            memory.clear();
        }
        self.shared.flights.doom_all();
        self.purge(Purge::All, false).await
    }

    /// The URLs that all nodes serve most often from the cache, the hottest first, those of nodes
    /// that have stopped included; without Redis this node's own. Counted by sampling, and only what
    /// is stored for everybody: at most 1,000 for each node.
    ///
    /// # Errors
    ///
    /// If Redis was not reached.
    pub async fn hottest(&self, most: usize) -> Result<Vec<HotUrl>, PoolError> {
        match &self.shared.hot_share {
            Some(share) => share.merged(self.shared.hot.top(usize::MAX), most).await,
            None => Ok(self.shared.hot.top(most)),
        }
    }

    /// Writes what this node finds hottest to Redis, so that it is known after the node has stopped.
    /// Call it now and then, and before the end.
    ///
    /// # Errors
    ///
    /// If Redis was not reached.
    pub async fn remember_hottest(&self) -> Result<(), PoolError> {
        match &self.shared.hot_share {
            Some(share) => share.write(&self.shared.hot.top(usize::MAX)).await,
            None => Ok(()),
        }
    }

    /// Says goodbye to the other nodes: what this one finds hottest is written, and no purge waits
    /// for it any more. From here on Redis is not used. Call it at the end, with a deadline.
    ///
    /// # Errors
    ///
    /// If Redis was not reached; then purges that wait do so for five seconds more.
    pub async fn leave(&self) -> Result<(), PoolError> {
        let remembered = self.remember_hottest().await;
        match &self.shared.journal {
            Some(redis) => redis.follower().leave().await.and(remembered),
            None => remembered,
        }
    }

    /// Whether Redis is a tier of this cache now: it is reached, and the purges made so far are
    /// applied. Without Redis never.
    #[must_use]
    pub fn uses_redis(&self) -> bool {
        let redis = self.shared.journal.as_ref();
        redis.is_some_and(RedisTier::is_open)
    }

    /// Whether Redis is configured and could not be reached: the last attempts failed, several in a
    /// row. The attempts go on.
    #[must_use]
    pub fn has_given_up_redis(&self) -> bool {
        let redis = self.shared.journal.as_ref();
        redis.is_some_and(|redis| redis.follower().is_unreachable())
    }

    /// Begins the statistics anew.
    pub fn clear_stats(&self) {
        self.shared.metrics.clear();
    }

    /// The statistics.
    #[must_use]
    pub fn stats(&self) -> HttpCacheReport {
        self.shared.metrics.report()
    }

    /// Entries and bytes in the memory tier.
    pub async fn memory_usage(&self) -> (u64, u64) {
        match &self.shared.memory {
            Some(memory) => {
                memory.tend().await;
                memory.usage()
            }
            None => (0, 0),
        }
    }

    /// Frees what expired in memory. Call it now and then: nothing else does while there is no
    /// traffic.
    pub async fn tend(&self) {
        if let Some(memory) = &self.shared.memory {
            memory.tend().await;
        }
    }
}
