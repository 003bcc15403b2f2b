//! What the two backends have in common.

use crate::{Answer, Key, codec::Record, memory::Memory, redis::Redis};
use std::sync::Arc;
use weaver_pool::PoolError;

/// What the whole cache is in; another after it was cleared.
pub(crate) type Generation = [u8; 16];
/// What stands for an answer that was invalidated; each time another.
pub(crate) type Tombstone = [u8; 16];

/// What was found under a key.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) record: Option<Arc<Record>>,
    /// What has to stand there still for an answer that is fetched from now on to be kept.
    pub(crate) tombstone: Option<Tombstone>,
    pub(crate) generation: Generation,
    /// Whether a record is there that this cache did not write like that: changed, damaged, of another
    /// version or secret. It is overwritten by the next that is kept.
    pub(crate) is_refused: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Store {
    Memory(Arc<Memory>),
    Redis(Arc<Redis>),
}

impl Store {
    pub(crate) async fn get(&self, key: Key) -> Result<Found, PoolError> {
        match self {
            Self::Memory(memory) => Ok(memory.get(key).await),
            Self::Redis(redis) => redis.get(key).await,
        }
    }

    /// Keeps a record, unless it was invalidated since `seen`; returns whether it did.
    pub(crate) async fn put(
        &self,
        record: Record,
        seen: Option<Tombstone>,
    ) -> Result<bool, PoolError> {
        match self {
            Self::Memory(memory) => Ok(memory.put(record, seen).await),
            Self::Redis(redis) => redis.put(&record, seen).await,
        }
    }

    /// Returns whether there was an answer.
    pub(crate) async fn invalidate(&self, key: Key) -> Result<bool, PoolError> {
        match self {
            Self::Memory(memory) => Ok(memory.invalidate(key).await),
            Self::Redis(redis) => redis.invalidate(key).await,
        }
    }

    pub(crate) async fn clear(&self) -> Result<(), PoolError> {
        match self {
            Self::Memory(memory) => {
                memory.clear();
                Ok(())
            }
            Self::Redis(redis) => redis.clear().await,
        }
    }

    pub(crate) async fn health(&self) -> Result<(), PoolError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.health().await,
        }
    }
}

/// Random bytes from the operating system.
///
/// Where it has none, which no system that runs this lacks after its start, the hash state of the
/// standard library stands in.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        use std::hash::{BuildHasher, Hasher};
        for chunk in bytes.chunks_mut(8) {
            let word = std::hash::RandomState::new().build_hasher().finish();
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
    bytes
}

/// Bytes of an answer beside its body, roughly, for limits.
pub(crate) fn bytes(answer: &Answer) -> usize {
    answer.body.len() + answer.media_type.len() + 256
}
