//! What all workers of a process share: the tiers, the journal, the flights, the counters.

use crate::{
    CacheConfig, Position, Purge, Rule, Tiers,
    clock::{millis, unix_millis},
    entry::{Entry, Index, MapFields, Record, Remote},
    flight::{Budget, Flights, Requester},
    hot::{Hot, share::Share},
    identity::{Secret, random},
    journal::{PurgeLog, Verdict},
    key,
    lease::Lease,
    memory::Memory,
    redis::RedisTier,
};
use actix_web::{dev::ServiceRequest, http::header::HeaderMap};
use moka::future::Cache as Moka;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use weaver_cache_policy::{Lifetime, Millis, vary::Variant};
use weaver_metrics::{CacheMetrics, Tier};
use weaver_pool::PoolError;

/// Chooses the rule for a request; `None` leaves it alone.
pub(crate) type Rules = dyn Fn(&ServiceRequest) -> Option<Arc<Rule>> + Send + Sync;

/// Keys that are remembered as not worth waiting for.
const MAX_MARKERS: u64 = 20_000;
/// An index outlives its variants by this much, in milliseconds.
const INDEX_LIFE: u64 = 86_400_000;

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: CacheConfig,
    pub(crate) rules: Arc<Rules>,
    pub(crate) secret: Secret,
    pub(crate) memory: Option<Memory>,
    pub(crate) redis: Option<RedisTier>,
    /// What follows the purges: the same as `redis`, which rules for memory alone do without.
    pub(crate) journal: Option<RedisTier>,
    /// The same with one tier, for rules that use no more.
    pub(crate) narrow: Option<Narrow>,
    pub(crate) log: Arc<PurgeLog>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) markers: Moka<Arc<[u8]>, ()>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: CacheMetrics,
    pub(crate) hot: Arc<Hot>,
    /// Where the nodes share what is hot.
    pub(crate) hot_share: Option<Arc<Share>>,
}

/// A cache with one of its tiers.
#[derive(Clone)]
pub(crate) struct Narrow {
    pub(crate) memory: Arc<Shared>,
    pub(crate) redis: Arc<Shared>,
}

/// What a tier has for a request.
#[derive(Default)]
pub(crate) struct Found {
    /// The response that the request selects.
    pub(crate) entry: Option<Arc<Entry>>,
    /// When a soft purge ended its freshness.
    pub(crate) softly_purged: Option<Millis>,
    /// The index of the URL, if its responses vary.
    pub(crate) index: Option<Arc<Index>>,
    /// In place of the response, one whose body is still in Redis; see [`Shared::complete`].
    pub(crate) remote: Option<Arc<Remote>>,
}

impl Found {
    pub(crate) fn is_nothing(&self) -> bool {
        self.entry.is_none() && self.index.is_none() && self.remote.is_none()
    }
}

impl Shared {
    pub(crate) fn markers(config: &CacheConfig) -> Moka<Arc<[u8]>, ()> {
        Moka::builder()
            .max_capacity(MAX_MARKERS)
            .time_to_live(config.hit_for_miss)
            .build()
    }

    /// The same, with the tiers of a rule.
    pub(crate) fn with_tiers(self: &Arc<Self>, tiers: Tiers) -> &Arc<Self> {
        match (tiers, &self.narrow) {
            (Tiers::Both, _) | (_, None) => self,
            (Tiers::Memory, Some(narrow)) => &narrow.memory,
            (Tiers::Redis, Some(narrow)) => &narrow.redis,
        }
    }

    /// The cache, with narrower ones beside it where it has both tiers: a tier that is not there is
    /// not missed, what is left is used.
    pub(crate) fn with_narrow(mut self) -> Self {
        if self.memory.is_some() && self.redis.is_some() {
            self.narrow = Some(Narrow {
                memory: Arc::new(Self {
                    redis: None,
                    ..self.clone()
                }),
                redis: Arc::new(Self {
                    memory: None,
                    ..self.clone()
                }),
            });
        }
        self
    }

    /// The clock that all nodes share: this one's, set right by the Redis server's.
    pub(crate) fn now(&self) -> Millis {
        let offset = self
            .journal
            .as_ref()
            .map_or(0, |redis| redis.follower().clock_offset());
        Millis(unix_millis(offset))
    }

    /// Whether this node may have missed purges, having been frozen perhaps: what it has is not to be
    /// served before [`Self::settle`].
    pub(crate) fn is_in_doubt(&self, now: Instant) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|redis| redis.follower().is_in_doubt(now))
    }

    pub(crate) async fn settle(&self) {
        if let Some(redis) = &self.journal {
            redis.follower().settle(self.config.redis_deadline).await;
        }
    }

    pub(crate) async fn get(&self, tier: Tier, key: &[u8]) -> Option<Record> {
        match tier {
            Tier::Memory => self.memory.as_ref()?.get(key).await,
            Tier::Redis => self.redis.as_ref()?.get(key).await,
            Tier::None => None,
        }
    }

    /// [`Self::find`] in memory without waiting; `None` where it would have to.
    pub(crate) fn find_now(&self, key: &[u8], headers: &HeaderMap) -> Option<Found> {
        let Some(memory) = &self.memory else {
            return Some(Found::default());
        };
        let (entry, index) = match memory.get_now(key)? {
            None => return Some(Found::default()),
            Some(Record::Entry(entry)) => (entry, None),
            Some(Record::Remote(_)) => return None,
            // Variants are rare enough to take the other way.
            Some(Record::Index(_, index)) => {
                let secret = self.secret.bytes();
                let view = MapFields(headers);
                let variant = index
                    .variants
                    .iter()
                    .find(|variant| variant.matches(secret, &view))?;
                let key = key::of_variant(key, &index.nonce, &variant.digest);
                match memory.get_now(&key)? {
                    Some(Record::Entry(entry)) => (entry, Some(index)),
                    _ => return None,
                }
            }
        };
        match self.log.judge(&entry) {
            // The other way removes it.
            Verdict::Dead => None,
            verdict => Some(Found {
                entry: Some(entry),
                softly_purged: verdict.freshness_ended(),
                index,
                remote: None,
            }),
        }
    }

    /// What a tier has under a key for a request with these headers.
    pub(crate) async fn find(&self, tier: Tier, key: &[u8], headers: &HeaderMap) -> Found {
        match self.get(tier, key).await {
            None => Found::default(),
            Some(Record::Entry(entry)) => self.judged(tier, entry, None).await,
            Some(Record::Remote(remote)) => self.judged_remote(remote, None),
            Some(Record::Index(_, index)) => {
                let secret = self.secret.bytes();
                for variant in &index.variants {
                    if !variant.matches(secret, &MapFields(headers)) {
                        continue;
                    }
                    let key = key::of_variant(key, &index.nonce, &variant.digest);
                    match self.get(tier, &key).await {
                        Some(Record::Entry(entry)) => {
                            return self.judged(tier, entry, Some(index)).await;
                        }
                        Some(Record::Remote(remote)) => {
                            return self.judged_remote(remote, Some(index));
                        }
                        _ => {}
                    }
                }
                Found {
                    index: Some(index),
                    ..Found::default()
                }
            }
        }
    }

    async fn judged(&self, tier: Tier, entry: Arc<Entry>, index: Option<Arc<Index>>) -> Found {
        let verdict = self.log.judge(&entry);
        if verdict == Verdict::Dead {
            if let (Tier::Memory, Some(memory)) = (tier, &self.memory) {
                memory.remove(&entry.key).await;
            }
            return Found {
                index,
                ..Found::default()
            };
        }
        Found {
            entry: Some(entry),
            softly_purged: verdict.freshness_ended(),
            index,
            remote: None,
        }
    }

    fn judged_remote(&self, remote: Arc<Remote>, index: Option<Arc<Index>>) -> Found {
        let verdict = self.log.judge(&remote.entry);
        Found {
            entry: None,
            softly_purged: verdict.freshness_ended(),
            index,
            remote: (verdict != Verdict::Dead).then_some(remote),
        }
    }

    /// Fetches the body that is still in Redis; without it nothing was found.
    pub(crate) async fn complete(&self, mut found: Found) -> Found {
        if let (Some(remote), Some(redis)) = (found.remote.take(), &self.redis) {
            found.entry = redis.whole(&remote).await;
        }
        found
    }

    /// Takes what Redis had into memory, with the freshness it has left.
    pub(crate) async fn promote(&self, key: &[u8], found: &Found) {
        let Some(memory) = &self.memory else { return };
        let now = self.now();
        if let Some(index) = &found.index {
            let record = Record::Index(key.into(), Arc::clone(index));
            memory.put(record, now.plus(INDEX_LIFE), now).await;
        }
        if let Some(entry) = &found.entry {
            let until = self.until(entry);
            self.remember(memory, Record::Entry(Arc::clone(entry)), until, now)
                .await;
        }
    }

    /// Puts a record into memory, unless it was purged.
    pub(crate) async fn remember(
        &self,
        memory: &Memory,
        record: Record,
        until: Millis,
        now: Millis,
    ) {
        let life = Duration::from_millis(until.since(now));
        if let Record::Entry(entry) = &record
            && self.log.admit(entry, life) == Verdict::Dead
        {
            return;
        }
        memory.put(record, until, now).await;
    }

    pub(crate) fn until(&self, entry: &Entry) -> Millis {
        let keep = millis(self.config.keep_validators);
        entry.head.lifetime.useful_until(keep)
    }

    /// The index that memory has by now: others may have been stored since it was looked at.
    pub(crate) async fn known_index(&self, primary: &[u8]) -> Option<Arc<Index>> {
        match self.get(Tier::Memory, primary).await {
            Some(Record::Index(_, index)) => Some(index),
            _ => None,
        }
    }

    /// The key under which a response that varies is stored, and the index that leads to it.
    pub(crate) fn place_variant(
        &self,
        primary: &[u8],
        index: Option<&Arc<Index>>,
        variant: &Variant,
    ) -> (key::KeyBytes, Index) {
        let known = index.map_or_else(
            || Index {
                nonce: random(),
                variants: Vec::new(),
            },
            |index| Index::clone(index),
        );
        let key = key::of_variant(primary, &known.nonce, &variant.digest);
        (key, known.with(variant.clone()))
    }

    /// Puts a complete response, and the index that leads to it, into the tiers. Returns `false`
    /// where a purge since its fetch began forbids it.
    pub(crate) async fn store(
        &self,
        entry: Arc<Entry>,
        index: Option<(&[u8], Index)>,
        lease: Option<Lease>,
    ) -> bool {
        if self.log.judge(&entry) == Verdict::Dead {
            return false;
        }
        let now = self.now();
        let until = self.until(&entry);
        let bytes = entry.body.len() as u64;
        let index = index.map(|(primary, index)| Record::Index(primary.into(), Arc::new(index)));
        let index_until = until.max(now.plus(INDEX_LIFE));
        let entry = (Record::Entry(entry), until);
        // The index last: whoever follows it finds what it leads to.
        let records = [Some(entry), index.map(|index| (index, index_until))];
        self.put(records.into_iter().flatten().collect(), lease)
            .await;
        self.metrics.stored(bytes);
        true
    }

    /// Puts records into the tiers.
    pub(crate) async fn put(&self, records: Vec<(Record, Millis)>, lease: Option<Lease>) {
        let now = self.now();
        if let Some(memory) = &self.memory {
            for (record, until) in &records {
                self.remember(memory, record.clone(), *until, now).await;
            }
        }
        if let Some(redis) = &self.redis {
            redis.put(records, now, lease);
        }
    }

    /// The key of the flight for a request: requests for different variants of a URL do not wait for
    /// one another, once it is known that it has any.
    pub(crate) fn flight_key(
        &self,
        exact: &key::KeyBytes,
        index: Option<&Arc<Index>>,
        headers: &HeaderMap,
    ) -> key::KeyBytes {
        let Some((index, latest)) = index.and_then(|index| Some((index, index.variants.first()?)))
        else {
            return exact.clone();
        };
        let variant = Variant::new(
            self.secret.bytes(),
            latest.names.clone(),
            &MapFields(headers),
            &MapFields(&HeaderMap::new()),
        );
        // Of just this URL: what comes may not answer for the others.
        key::of_variant(exact, &index.nonce, &variant.digest)
    }

    /// Removes one stored response.
    pub(crate) async fn discard(&self, entry: &Entry) {
        if let Some(memory) = &self.memory {
            memory.remove(&entry.key).await;
        }
        if let Some(redis) = &self.redis {
            // Best effort: what stays is stale, and is judged by its own numbers when it is read.
            let _ = redis.remove(&entry.key).await;
        }
    }

    /// Purges here, and in the journal where there is one.
    pub(crate) async fn purge(
        &self,
        purge: Purge,
        soft: bool,
        acknowledged: bool,
    ) -> Result<Position, PoolError> {
        let Some(redis) = &self.journal else {
            return Ok(self.purge_here(purge, soft));
        };
        let written = redis.follower().append(&purge, soft, acknowledged).await;
        match &written {
            Ok(position) => self.log.apply(*position, purge, soft),
            // Not before it is known that the journal gives no place: a made-up one is below the
            // places that others get meanwhile, and what is fetched with it would escape them.
            Err(_) => {
                self.purge_here(purge, soft);
            }
        }
        written
    }

    /// Purges in this node alone.
    pub(crate) fn purge_here(&self, purge: Purge, soft: bool) -> Position {
        // Where there is a journal it alone gives places a time: one of ours could be above those
        // that it gives to others meanwhile.
        let now = match self.journal {
            Some(_) => Millis(0),
            None => self.now(),
        };
        self.log.apply_local(purge, soft, now)
    }

    /// Invalidates in this node alone, for an unsafe request.
    pub(crate) fn invalidate_here(&self, purge: Purge) {
        let now = match self.journal {
            Some(_) => Millis(0),
            None => self.now(),
        };
        self.log.apply_local_write(purge, now);
    }

    /// Invalidates here and in the journal, for an unsafe request.
    pub(crate) async fn invalidate(&self, purge: Purge) -> Result<(), PoolError> {
        let Some(redis) = &self.journal else {
            self.invalidate_here(purge);
            return Ok(());
        };
        match redis.follower().append_write(&purge).await {
            Ok(position) => {
                self.log.apply_write(position, purge);
                Ok(())
            }
            Err(error) => {
                self.invalidate_here(purge);
                Err(error)
            }
        }
    }

    /// Whether a requester has nothing to wait for. What requests without credentials get nobody
    /// shares; what those with credentials get says nothing about the others.
    pub(crate) async fn is_marked(&self, key: &[u8], requester: Requester) -> bool {
        if self.markers.entry_count() == 0 {
            return false;
        }
        let is_there = async |key: &[u8]| self.markers.get(key).await.is_some();
        is_there(key).await
            || (requester == Requester::Credentialed && is_there(&requester.own(key)).await)
    }

    pub(crate) async fn mark(&self, key: &[u8], requester: Requester) {
        self.markers
            .insert(requester.own(key).as_slice().into(), ())
            .await;
        // The count that `is_marked` looks at first lags until moka tends itself.
        self.markers.run_pending_tasks().await;
    }
}

/// The lifetime of a response whose freshness a soft purge may have ended.
pub(crate) fn lifetime(entry: &Entry, softly_purged: Option<Millis>) -> Lifetime {
    let lifetime = entry.head.lifetime;
    softly_purged.map_or(lifetime, |at| lifetime.ended_at(at))
}
