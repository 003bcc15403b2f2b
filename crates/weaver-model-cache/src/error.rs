use weaver_pool::PoolError;

/// Why the cache could not do what was asked. Looking up and keeping have no errors: those of Redis
/// are misses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModelCacheError {
    /// The configuration is not valid.
    #[error("model cache configuration: {0}")]
    Config(String),
    /// Redis was not reached, or did not answer in time.
    #[error(transparent)]
    Redis(#[from] PoolError),
}
