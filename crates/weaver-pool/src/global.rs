//! The pool that a whole process shares.

use crate::{PoolError, PoolStats, RedisPool, RedisPoolConfig};
use arc_swap::ArcSwapOption;
use std::sync::{Arc, LazyLock};
use tokio::sync::Mutex;

static POOL: LazyLock<ArcSwapOption<RedisPool>> = LazyLock::new(ArcSwapOption::empty);
/// Orders making and closing among each other; readers do not take it.
static CHANGE: Mutex<()> = Mutex::const_new(());

/// Makes the process-wide pool, or returns it if it exists with an equal configuration.
///
/// Calls may come at once from many tasks: one of them connects, the others get the same pool.
///
/// # Errors
///
/// [`PoolError::AlreadyInitialized`] if it exists with another configuration, otherwise as
/// [`RedisPool::connect`]; then there is none afterwards.
pub async fn init_redis_pool(config: RedisPoolConfig) -> Result<RedisPool, PoolError> {
    let _change = CHANGE.lock().await;
    if let Some(pool) = POOL.load_full().filter(|pool| !pool.is_closed()) {
        return if *pool.config() == config {
            Ok(RedisPool::clone(&pool))
        } else {
            Err(PoolError::AlreadyInitialized)
        };
    }
    let pool = RedisPool::connect(config).await?;
    POOL.store(Some(Arc::new(pool.clone())));
    Ok(pool)
}

/// The process-wide pool.
///
/// # Errors
///
/// [`PoolError::NotInitialized`] before [`init_redis_pool`] and after [`close_redis_pool`].
pub fn get_redis_pool() -> Result<RedisPool, PoolError> {
    let pool = POOL.load_full().ok_or(PoolError::NotInitialized)?;
    Ok(RedisPool::clone(&pool))
}

/// Closes the process-wide pool as [`RedisPool::close`] does; does nothing if there is none. It can
/// be made again afterwards.
pub async fn close_redis_pool() {
    let _change = CHANGE.lock().await;
    if let Some(pool) = POOL.swap(None) {
        pool.close().await;
    }
}

/// The statistics of the process-wide pool.
///
/// # Errors
///
/// [`PoolError::NotInitialized`] if there is none.
pub fn get_pool_stats() -> Result<PoolStats, PoolError> {
    Ok(get_redis_pool()?.stats())
}
