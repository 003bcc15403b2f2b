//! The embedded backend: moka, bounded in bytes.

use crate::{
    Key, ModelCacheConfig,
    codec::Record,
    store::{self, Found, Generation, Tombstone},
};
use moka::{Expiry, future::Cache, ops::compute::Op, policy::EvictionPolicy};
use parking_lot::RwLock;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes that a map entry and moka's nodes cost beside what they point to.
const OVERHEAD: usize = 480;

#[derive(Debug)]
pub(crate) struct Memory {
    cache: Cache<Key, Kept>,
    generation: RwLock<Generation>,
    /// How long a tombstone has to outlive the fetches that began before it.
    max_fetch: Duration,
}

#[derive(Clone, Debug)]
enum Kept {
    Record(Arc<Record>),
    Tombstone(Tombstone, Duration),
}

struct ByTtl;

impl Expiry<Key, Kept> for ByTtl {
    fn expire_after_create(&self, _: &Key, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(match kept {
            Kept::Record(record) => record.ttl,
            Kept::Tombstone(_, life) => *life,
        })
    }

    // moka's own keeps what was left to the one that is replaced.
    fn expire_after_update(
        &self,
        key: &Key,
        kept: &Kept,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, kept, now)
    }
}

impl Memory {
    pub(crate) fn new(config: &ModelCacheConfig) -> Arc<Self> {
        let weigh = |_: &Key, kept: &Kept| {
            let bytes = match kept {
                Kept::Record(record) => store::bytes(&record.answer),
                Kept::Tombstone(..) => 0,
            };
            u32::try_from(bytes + OVERHEAD).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder()
            .max_capacity(config.memory)
            .weigher(weigh)
            .eviction_policy(EvictionPolicy::tiny_lfu())
            .expire_after(ByTtl)
            .build();
        Arc::new(Self {
            cache,
            generation: RwLock::new(store::random()),
            max_fetch: config.max_fetch,
        })
    }

    pub(crate) async fn get(&self, key: Key) -> Found {
        let generation = *self.generation.read();
        let mut found = Found {
            record: None,
            tombstone: None,
            generation,
            is_refused: false,
        };
        match self.cache.get(&key).await {
            Some(Kept::Record(record)) if record.generation == generation => {
                found.record = Some(record);
            }
            Some(Kept::Tombstone(tombstone, _)) => found.tombstone = Some(tombstone),
            _ => {}
        }
        found
    }

    pub(crate) async fn put(&self, record: Record, seen: Option<Tombstone>) -> bool {
        let key = record.key;
        let record = Arc::new(record);
        let computed = self
            .cache
            .entry(key)
            .and_compute_with(|known| {
                let stands = match known.map(moka::Entry::into_value) {
                    Some(Kept::Tombstone(tombstone, _)) => Some(tombstone),
                    _ => None,
                };
                let op = if stands.is_none() || stands == seen {
                    Op::Put(Kept::Record(Arc::clone(&record)))
                } else {
                    Op::Nop
                };
                std::future::ready(op)
            })
            .await;
        matches!(
            computed,
            moka::ops::compute::CompResult::Inserted(_)
                | moka::ops::compute::CompResult::ReplacedWith(_)
        )
    }

    pub(crate) async fn invalidate(&self, key: Key) -> bool {
        let was = self.get(key).await.record.is_some();
        let tombstone = Kept::Tombstone(store::random(), self.max_fetch);
        self.cache.insert(key, tombstone).await;
        was
    }

    pub(crate) fn clear(&self) {
        *self.generation.write() = store::random();
        self.cache.invalidate_all();
    }
}
