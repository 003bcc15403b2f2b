//! A Redis connection pool on [fred](https://docs.rs/fred).
//!
//! fred's connections are multiplexed: many commands share one, pipelined, and answers come back in
//! order. A pool of them is therefore not a set of things to check out. It keeps between
//! `min_connections` and `max_connections` open, sends each command over the connected one with the
//! fewest commands outstanding, bounds how many those may be, and counts all of it.
//!
//! - **Every command has a deadline** ([`RedisPoolConfig::socket_timeout`], or the call's own).
//!   fred has none of its own.
//! - **Nothing queues without a limit.** When every place on every connection is taken for longer
//!   than `acquire_timeout`, or too many callers wait already, the answer is
//!   [`PoolError::Exhausted`] and memory does not grow.
//! - **A lost connection heals by itself** with exponential backoff; meanwhile commands fail at once
//!   with [`PoolError::Connection`] instead of queueing.
//! - **When Redis fails or crawls, calls stop at once** with [`PoolError::CircuitOpen`] instead of
//!   waiting for a deadline each: a circuit breaker ([`BreakerConfig`]) looks at the share of failed
//!   and slow calls, and lets a few probes through after a while.
//! - **What is in use is counted, not estimated**: a connection is in use while a command is
//!   outstanding on it.
//!
//! A command whose deadline passed may still run at the server: it had been written already. Write
//! so that a late write does no harm, and use [`RedisPool::execute_repeatable`] only for commands
//! that may run twice.
//!
//! # Who owns what
//!
//! A [`RedisPool`] is a handle; its clones share one pool. Connection tasks and the maintenance task
//! run on the tokio runtime that [`RedisPool::connect`] was called on, and [`RedisPool::close`]
//! stops them. Calls may come from any runtime.
//!
//! # Example
//!
//! ```no_run
//! use weaver_pool::{RedisPoolConfig, close_redis_pool, get_redis_pool, init_redis_pool};
//! use fred::interfaces::ClientLike;
//!
//! # async fn run() -> Result<(), weaver_pool::PoolError> {
//! init_redis_pool(RedisPoolConfig { host: "localhost".into(), ..Default::default() }).await?;
//! let pool = get_redis_pool()?;
//! let pong: String = pool.execute(|client| async move { client.ping(None).await }).await?;
//! assert_eq!(pong, "PONG");
//! close_redis_pool().await;
//! # Ok(())
//! # }
//! ```

mod breaker;
mod client;
mod config;
mod connection;
mod error;
mod global;
mod maintenance;
mod pool;
mod retry;
mod slots;
mod stats;

pub use breaker::{BreakerReason, BreakerState, BreakerStats};
pub use config::{BreakerConfig, RedisPoolConfig, Topology};
pub use error::PoolError;
pub use global::{close_redis_pool, get_pool_stats, get_redis_pool, init_redis_pool};
pub use pool::RedisPool;
pub use stats::PoolStats;

/// The client that a command is given; see [`RedisPool::execute`].
pub use fred;
