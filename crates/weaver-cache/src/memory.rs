//! The memory tier: moka, bounded in bytes.

use crate::entry::Record;
use futures_util::FutureExt as _;
use moka::{Expiry, future::Cache, policy::EvictionPolicy};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use weaver_cache_policy::Millis;

/// A cheap handle; clones share the tier.
#[derive(Clone)]
pub(crate) struct Memory {
    cache: Cache<Arc<[u8]>, Kept>,
}

#[derive(Clone)]
struct Kept {
    record: Record,
    /// How long the record is of use from when it was put in.
    useful: Duration,
}

impl Kept {
    /// An index takes over what the one that it replaces leads to: others may have been stored since
    /// it was read.
    fn over(self, earlier: Option<Self>) -> Self {
        match (&self.record, earlier.as_ref().map(|kept| &kept.record)) {
            (Record::Index(key, index), Some(Record::Index(_, earlier_index))) => Self {
                record: Record::Index(Arc::clone(key), Arc::new(index.over(earlier_index))),
                useful: earlier.map_or(self.useful, |kept| kept.useful.max(self.useful)),
            },
            _ => self,
        }
    }
}

struct ByUsefulness;

impl Expiry<Arc<[u8]>, Kept> for ByUsefulness {
    fn expire_after_create(&self, _: &Arc<[u8]>, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.useful)
    }

    // moka's own keeps what was left to the record that is replaced.
    fn expire_after_update(
        &self,
        _: &Arc<[u8]>,
        kept: &Kept,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.useful)
    }
}

impl Memory {
    pub(crate) fn new(bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, kept: &Kept| u32::try_from(kept.record.bytes()).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::tiny_lfu())
            .expire_after(ByUsefulness)
            .build();
        Self { cache }
    }

    /// [`Self::get`] without waiting; `None` where it would have to, while another thread tends the
    /// cache.
    pub(crate) fn get_now(&self, key: &[u8]) -> Option<Option<Record>> {
        self.get(key).now_or_never()
    }

    pub(crate) async fn get(&self, key: &[u8]) -> Option<Record> {
        self.cache.get(key).await.map(|kept| kept.record)
    }

    pub(crate) async fn put(&self, record: Record, until: Millis, now: Millis) {
        // Instants far ahead overflow inside a timer wheel; a month is for ever to a memory tier.
        const MONTH: u64 = 30 * 86_400_000;
        let useful = Duration::from_millis(until.since(now).min(MONTH));
        if useful.is_zero() {
            return;
        }
        let kept = Kept { record, useful };
        let key = kept.record.key().into();
        if matches!(kept.record, Record::Index(..)) {
            let joined = |earlier: Option<moka::Entry<_, Kept>>| {
                std::future::ready(kept.over(earlier.map(moka::Entry::into_value)))
            };
            self.cache.entry(key).and_upsert_with(joined).await;
        } else {
            self.cache.insert(key, kept).await;
        }
    }

    pub(crate) async fn remove(&self, key: &[u8]) {
        self.cache.invalidate(key).await;
    }

    pub(crate) fn clear(&self) {
        self.cache.invalidate_all();
    }

    /// Entries and bytes held, exact after [`Self::tend`].
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.cache.entry_count(), self.cache.weighted_size())
    }

    /// Frees what expired; moka has no thread of its own.
    pub(crate) async fn tend(&self) {
        self.cache.run_pending_tasks().await;
    }
}
