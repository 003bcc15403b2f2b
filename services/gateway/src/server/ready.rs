//! When a node that starts is ready, as far as Redis is concerned.
//!
//! Before the Redis tier is open every request goes to an upstream, although another node may have
//! stored the response. In a rolling update that would be all requests of each new node.

use crate::{config::Config, state::State};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::{sleep, timeout};
use weaver_cache::CacheHandle;
use weaver_pool::{BreakerState, Health, RedisPool};

/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Whether there is a Redis to wait for.
pub(super) fn awaits_redis(config: &Config) -> bool {
    config.redis.is_some() && config.cache.enabled && !config.redis_ready_timeout.is_zero()
}

/// Waits until the Redis tier is open or given up, for at most `redis.ready_timeout`; then the node
/// is ready, and stays so: without Redis it serves all the same.
pub(super) async fn await_redis(state: &State) {
    if let (Some(cache), Some(pool)) = (state.cache(), &state.redis) {
        let within = state.config.redis_ready_timeout;
        if timeout(within, settled(&cache, pool)).await.is_err() {
            tracing::warn!(
                after = ?within,
                "ready although the redis tier is not open: redis.ready_timeout has passed"
            );
        }
    }
    state.awaits_redis.store(false, Ordering::Release);
}

async fn settled(cache: &CacheHandle, pool: &RedisPool) {
    let health = pool.health();
    loop {
        // All connections, in a cluster to all nodes: any of them may be asked by the first request.
        let is_open = cache.uses_redis() && *health.borrow() == Health::Up;
        let is_given_up =
            cache.has_given_up_redis() || pool.stats().breaker.state == BreakerState::Open;
        if is_open || is_given_up {
            return;
        }
        sleep(POLL).await;
    }
}
