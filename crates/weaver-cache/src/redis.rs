//! The Redis tier: one key for each record, through the shared pool; large bodies have more.

mod index;
mod parts;
mod refused;

use crate::{
    CacheConfig, codec, compress,
    entry::{Entry, Record, Remote},
    journal::{PurgeLog, Verdict, stream::Follower},
    key,
    lease::{Lease, Leases},
    seal::{Rejected, Seal},
};
use bytes::Bytes;
use fred::{interfaces::KeysInterface, types::Expiration};
use refused::Refused;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use weaver_cache_policy::Millis;
use weaver_metrics::CacheMetrics;
use weaver_pool::{PoolError, RedisPool, Script};

#[derive(Clone)]
pub(crate) struct RedisTier {
    inner: Arc<Inner>,
}

struct Inner {
    pool: RedisPool,
    prefix: String,
    deadline: Duration,
    writes: Arc<Semaphore>,
    /// Values of at least this many bytes are compressed; 0 is none.
    compress: u64,
    /// Bytes of a body's parts; what is smaller is in one piece with its head.
    part: u64,
    /// Bytes of the largest record.
    most: u64,
    leases: Leases,
    replace: Script,
    follower: Follower,
    metrics: CacheMetrics,
    seal: Seal,
    refused: Refused,
}

/// Bytes of a record beside its body: key, fields, variants.
const MAX_BESIDE_BODY: u64 = 4 << 20;
/// The longest a record may stay, whatever it says.
const MAX_TTL: u64 = 365 * 86_400_000;

impl RedisTier {
    pub(crate) fn new(
        pool: RedisPool,
        config: &CacheConfig,
        log: Arc<PurgeLog>,
        metrics: CacheMetrics,
        lost: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (prefix, deadline) = (config.cache_prefix.clone(), config.redis_deadline);
        let failed = {
            let metrics = metrics.clone();
            move || metrics.error()
        };
        Self {
            inner: Arc::new(Inner {
                follower: Follower::start(pool.clone(), config, log, lost, failed),
                writes: Arc::new(Semaphore::new(config.max_redis_writes)),
                compress: config.redis_compress,
                part: config.redis_part.max(1),
                most: config.max_object.saturating_add(MAX_BESIDE_BODY),
                leases: Leases::new(pool.clone(), prefix.clone(), config.lease, deadline),
                replace: Script::new(index::REPLACE),
                pool,
                prefix,
                deadline,
                metrics,
                seal: Seal::new(config.identity_secret.as_ref()),
                refused: Refused::default(),
            }),
        }
    }

    pub(crate) fn follower(&self) -> &Follower {
        &self.inner.follower
    }

    /// Whether Redis is reached, by both ways, and the journal read.
    pub(crate) fn is_open(&self) -> bool {
        self.inner.follower.current() && self.inner.pool.is_connected()
    }

    /// Looks a record up. A failure, counted, is a miss; so is a value that cannot be read.
    pub(crate) async fn get(&self, wanted: &[u8]) -> Option<Record> {
        let inner = &*self.inner;
        if !inner.follower.current() {
            return None;
        }
        let name = key::redis_name(&inner.prefix, wanted);
        match self.value(&name, inner.deadline).await {
            Ok(Some(bytes)) => {
                let record = match self.opened(&name, bytes, inner.most).await {
                    Ok(whole) => whole.and_then(|whole| codec::decode(&whole, wanted)),
                    // A node of another version, perhaps in the midst of an update, wrote it.
                    Err(Rejected::Version) => return None,
                    Err(Rejected::Code) => None,
                };
                if record.is_none() {
                    self.refuse(name).await;
                }
                self.licensed(record?).await
            }
            Ok(None) => None,
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// A record that was found, unless it is from before what this node knows of the writes and has no
    /// license.
    async fn licensed(&self, record: Record) -> Option<Record> {
        let follower = &self.inner.follower;
        let entry = match &record {
            Record::Entry(entry) => entry,
            Record::Remote(remote) => &remote.entry,
            Record::Index(..) => return Some(record),
        };
        let Some(seen) = follower.log().license_needed(entry) else {
            return Some(record);
        };
        let licenses = follower.licenses();
        let covered = licenses.covers(&entry.key, entry.head.position, self.inner.deadline);
        match covered.await {
            Ok(true) => {
                entry.checked.seen.get_or_init(|| seen);
                Some(record)
            }
            Ok(false) => None,
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Sees to it that what is to be stored is licensed and not invalidated. `false` if it is.
    async fn license(&self, entry: &Entry, life: i64) -> Result<bool, PoolError> {
        let follower = &self.inner.follower;
        let life = Duration::from_millis(life.unsigned_abs());
        let is_dead = || follower.log().judge_head(&entry.key, &entry.head) == Verdict::Dead;
        if is_dead() {
            return Ok(false);
        }
        let (licenses, position) = (follower.licenses(), entry.head.position);
        // Not from its own position on: what was fetched before it may be stored after it.
        let since = follower.log().unwritten_since(&entry.key).min(position);
        let granted = licenses.grant(&entry.key, position, since, life).await?;
        if !granted.is_valid {
            return Ok(false);
        }
        let caught_up = follower.catch_up(granted.last).await;
        if caught_up.is_ok() && !is_dead() {
            return Ok(true);
        }
        // It may be one that a write has just removed, and would speak for what the write has ended.
        licenses.revoke_key(&entry.key).await?;
        caught_up.map(|()| false)
    }

    /// What a record has behind its seal, whole again; nothing if it cannot be made whole.
    async fn opened(
        &self,
        name: &str,
        record: Bytes,
        most: u64,
    ) -> Result<Option<Bytes>, Rejected> {
        let rest = self.inner.seal.open(name, &record)?;
        Ok(compress::unpack(rest, most).await)
    }

    /// A record was found that no node of this cache wrote like that: it is counted, told of now and
    /// then, and removed.
    async fn refuse(&self, name: String) {
        let inner = &*self.inner;
        inner.metrics.error();
        if let Some(count) = inner.refused.tell() {
            tracing::error!(
                key = name,
                count,
                "records in redis are refused and removed: they were changed or damaged, or written \
                 by a node with another identity_secret"
            );
        }
        // Best effort: what stays is refused again.
        let _ = self.unlink(name, inner.deadline).await;
    }

    async fn unlink(&self, name: String, within: Duration) -> Result<(), PoolError> {
        let unlinking = self.inner.pool.command("UNLINK").key(name.as_bytes());
        unlinking
            .within(within)
            .run(|client| {
                let name = name.clone();
                async move { client.unlink::<(), _>(name).await }
            })
            .await
    }

    /// What stands under a name, as it is.
    async fn value(&self, name: &str, within: Duration) -> Result<Option<Bytes>, PoolError> {
        let asked = name.to_owned();
        self.inner
            .pool
            .command("GET")
            .key(name.as_bytes())
            .within(within)
            .once(|client| async move { client.get(asked).await })
            .await
    }

    /// The leases by which the nodes agree on who fetches; `None` while the tier is closed.
    pub(crate) fn leases(&self) -> Option<&Leases> {
        let leases = &self.inner.leases;
        (leases.enabled() && self.inner.follower.current()).then_some(leases)
    }

    /// Writes records in their order, in the background, unless too many writes are under way.
    ///
    /// With a lease nothing is written once another node has it; it ends with the writing.
    pub(crate) fn put(&self, records: Vec<(Record, Millis)>, now: Millis, lease: Option<Lease>) {
        if !self.inner.follower.current() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.inner.writes).try_acquire_owned() else {
            self.inner.metrics.error();
            return;
        };
        let this = self.clone();
        tokio::spawn(async move {
            let mut lease = lease;
            let count = records.len();
            for (at, (record, until)) in records.into_iter().enumerate() {
                let last = at + 1 == count;
                let life = i64::try_from(until.since(now).min(MAX_TTL)).unwrap_or(i64::MAX);
                if life == 0 {
                    continue;
                }
                match this.write(&record, life, lease.as_mut(), last).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::debug!(
                            "another node has fetched meanwhile, or it was invalidated; nothing is written"
                        );
                        break;
                    }
                    Err(error) => {
                        this.failed(&error);
                        break;
                    }
                }
            }
            drop(permit);
        });
    }

    /// `false` if the lease was lost, and so nothing was written.
    async fn write(
        &self,
        record: &Record,
        life: i64,
        lease: Option<&mut Lease>,
        last: bool,
    ) -> Result<bool, PoolError> {
        let entry = match record {
            Record::Entry(entry) => entry,
            Record::Index(key, index) => return self.join(key, index, life, lease).await,
            Record::Remote(_) => return self.set(record, life, lease, last).await,
        };
        let (licensed, old) = tokio::join!(self.license(entry, life), self.parts_of(&entry.key));
        if !licensed? {
            return Ok(false);
        }
        if !self.is_large(entry.body.len()) {
            let outcome = self.set(record, life, lease, last).await;
            if let (Ok(true), Some(unused)) = (&outcome, old) {
                self.retire(&entry.key, &unused).await;
            }
            return outcome;
        }
        let parts = self.write_parts(entry, life).await?;
        let remote = Remote {
            entry: Remote::without_body(entry),
            parts,
        };
        let head = Record::Remote(Arc::new(remote));
        let outcome = self.set(&head, life, lease, last).await;
        let written = matches!(outcome, Ok(true));
        if let Some(unused) = if written { old } else { Some(parts) } {
            self.retire(&entry.key, &unused).await;
        }
        outcome
    }

    /// The value to write for a record.
    async fn sealed(&self, name: &str, record: Vec<u8>) -> Bytes {
        let record = compress::pack(record, self.inner.compress).await;
        self.inner.seal.close(name, record)
    }

    async fn set(
        &self,
        record: &Record,
        life: i64,
        lease: Option<&mut Lease>,
        last: bool,
    ) -> Result<bool, PoolError> {
        let name = key::redis_name(&self.inner.prefix, record.key());
        let value = self.sealed(&name, codec::encode(record)).await;
        if let Some(lease) = lease {
            if let Some(stored) = lease.store(&name, &value, life, last).await {
                return stored;
            }
            // A variant is in another slot than the lease of its URL: looked at first, then written.
            if !lease.is_held().await {
                return Ok(false);
            }
        }
        let to = name.clone();
        let written = self.inner.pool.command("SET").key(name.as_bytes());
        written
            .once(|client| async move {
                client
                    .set::<(), _, _>(to, value, Some(Expiration::PX(life)), None, false)
                    .await
            })
            .await?;
        Ok(true)
    }

    /// Removes a record, best effort: the journal is what makes a purge certain.
    pub(crate) async fn remove(&self, key: &[u8]) -> Result<(), PoolError> {
        if let Some(parts) = self.parts_of(key).await {
            self.retire(key, &parts).await;
        }
        let name = key::redis_name(&self.inner.prefix, key);
        self.unlink(name, self.inner.pool.config().socket_timeout)
            .await
    }

    fn failed(&self, error: &PoolError) {
        self.inner.metrics.error();
        tracing::debug!(%error, "redis tier");
    }
}
