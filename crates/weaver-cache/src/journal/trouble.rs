//! What the log says where the journal cannot be followed.
//!
//! That Redis is out of reach is the pool's to tell. Here is told what the pool does not see: that
//! Redis answers and refuses, for a lack of rights say, or that it is silent on this connection alone.

use std::time::Instant;
use weaver_pool::{Health, OutageLog, OutageNews, PoolError, RedisPool};

/// Failures in a row before anything is told: after the first the pool may not have noticed yet.
const TOLD_FROM: u32 = 2;

#[derive(Default)]
pub(super) struct Trouble(OutageLog);

impl Trouble {
    /// Following failed, so many times in a row.
    pub(super) fn failed(&mut self, pool: &RedisPool, failures: u32, error: &PoolError) {
        tracing::debug!(%error, failures, "the purge journal cannot be followed");
        if *pool.health().borrow() == Health::Down || failures < TOLD_FROM {
            return;
        }
        match self.0.lasts(true, Instant::now()) {
            Some(OutageNews::Began) => tracing::warn!(
                cause = %error,
                "the purge journal in redis cannot be read; the redis tier is closed until it can"
            ),
            Some(OutageNews::Lasts(lasts)) => tracing::warn!(
                cause = %error,
                ?lasts,
                "the purge journal in redis can still not be read; the redis tier is closed"
            ),
            Some(OutageNews::Over(_)) | None => {}
        }
    }

    /// The journal is followed.
    pub(super) fn ended(&mut self) {
        if let Some(OutageNews::Over(after)) = self.0.ends(Instant::now()) {
            tracing::info!(
                ?after,
                "the purge journal is read again; the redis tier is open"
            );
        }
    }
}
