//! The Redis tier: one key for each record, through the shared pool.

use crate::{
    codec,
    entry::Record,
    journal::{PurgeLog, stream::Follower},
    key,
};
use bytes::Bytes;
use fred::{interfaces::KeysInterface, types::Expiration};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use weaver_cache_policy::Millis;
use weaver_metrics::CacheMetrics;
use weaver_pool::{PoolError, RedisPool};

#[derive(Clone)]
pub(crate) struct RedisTier {
    inner: Arc<Inner>,
}

struct Inner {
    pool: RedisPool,
    prefix: String,
    deadline: Duration,
    writes: Arc<Semaphore>,
    follower: Follower,
    metrics: CacheMetrics,
}

/// The longest a record may stay, whatever it says.
const MAX_TTL: u64 = 365 * 86_400_000;

impl RedisTier {
    pub(crate) fn new(
        pool: RedisPool,
        prefix: String,
        deadline: Duration,
        max_writes: usize,
        log: Arc<PurgeLog>,
        metrics: CacheMetrics,
        lost: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let journal = format!("{prefix}journal");
        Self {
            inner: Arc::new(Inner {
                follower: Follower::start(pool.clone(), journal, log, lost),
                writes: Arc::new(Semaphore::new(max_writes)),
                pool,
                prefix,
                deadline,
                metrics,
            }),
        }
    }

    pub(crate) fn follower(&self) -> &Follower {
        &self.inner.follower
    }

    /// Looks a record up. A failure, counted, is a miss; so is a value that cannot be read, which is
    /// removed.
    pub(crate) async fn get(&self, wanted: &[u8]) -> Option<Record> {
        let inner = &*self.inner;
        if !inner.follower.current() {
            return None;
        }
        let name = key::redis_name(&inner.prefix, wanted);
        let asked = name.clone();
        let answer = inner
            .pool
            .command("GET")
            .key(name.as_bytes())
            .within(inner.deadline)
            .once(|client| async move { client.get::<Option<Bytes>, _>(asked).await })
            .await;
        match answer {
            Ok(Some(bytes)) => {
                let record = codec::decode(&bytes, wanted);
                if record.is_none() {
                    tracing::warn!(key = name, "a value in redis cannot be read and is ignored");
                    inner.metrics.error();
                }
                record
            }
            Ok(None) => None,
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Writes a record in the background, unless too many writes are under way.
    pub(crate) fn put(&self, record: Record, until: Millis, now: Millis) {
        let life = until.since(now).min(MAX_TTL);
        let Ok(life) = i64::try_from(life) else {
            return;
        };
        if life == 0 || !self.inner.follower.current() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.inner.writes).try_acquire_owned() else {
            self.inner.metrics.error();
            return;
        };
        let this = self.clone();
        tokio::spawn(async move {
            let name = key::redis_name(&this.inner.prefix, record.key());
            let value = codec::encode(&record);
            drop(record);
            let to = name.clone();
            let written = this.inner.pool.command("SET").key(name.as_bytes());
            let outcome = written
                .once(|client| async move {
                    client
                        .set::<(), _, _>(to, value, Some(Expiration::PX(life)), None, false)
                        .await
                })
                .await;
            if let Err(error) = outcome {
                this.failed(&error);
            }
            drop(permit);
        });
    }

    /// Removes a record, best effort: the journal is what makes a purge certain.
    pub(crate) async fn remove(&self, key: &[u8]) -> Result<(), PoolError> {
        let name = key::redis_name(&self.inner.prefix, key);
        self.inner
            .pool
            .command("UNLINK")
            .key(name.as_bytes())
            .run(|client| {
                let name = name.clone();
                async move { client.unlink::<(), _>(name).await }
            })
            .await
    }

    fn failed(&self, error: &PoolError) {
        self.inner.metrics.error();
        tracing::debug!(%error, "redis tier");
    }
}
