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
//!   with [`PoolError::NotConnected`], and the reason, instead of queueing.
//! - **When Redis fails or crawls, calls stop at once** with [`PoolError::CircuitOpen`] instead of
//!   waiting for a deadline each: a circuit breaker ([`BreakerConfig`]) looks at the share of failed
//!   and slow calls, and lets a few probes through after a while.
//! - **What is in use is counted, not estimated**: a connection is in use while a command is
//!   outstanding on it.
//!
//! A command whose deadline passed may still run at the server: it had been written already.
//! [`PoolError::has_not_run`] says when that is out of the question, and [`Call::run`] sends again
//! only what is safe to send again.
//!
//! # One interface over all servers
//!
//! [`Topology`] says which there are: one, over TCP or a Unix socket, with or without TLS; a primary
//! behind Sentinels; a cluster. In a cluster [`Call::key`] takes a command to its node without a
//! detour, MOVED and ASK are followed, and every node has connections and a breaker of its own, so
//! that one that is gone or frozen holds up nobody else.
//!
//! What needs a connection to itself has it: [`RedisPool::exclusive`] for WATCH and blocking
//! commands, [`RedisPool::subscriber`], [`RedisPool::stream_reader`].
//!
//! # Who owns what
//!
//! A [`RedisPool`] is a handle; its clones share one pool. A *group* is the connections to one
//! server (`group`, `slots`, `place`, `maintenance`, `breaker`); a pool has one, or in a cluster one
//! for each node (`cluster`). Tasks run on the tokio runtime that [`RedisPool::connect`] was called
//! on: two for each connection, one for each group, one for the cluster, one for the pool.
//! [`RedisPool::close`], or dropping the last handle, stops them. Calls may come from any runtime.
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
mod call;
mod client;
mod cluster;
mod commands;
mod config;
mod connection;
mod error;
mod exclusive;
mod global;
mod group;
mod health;
mod latency;
mod maintenance;
mod outage;
mod place;
mod pool;
mod retry;
mod script;
mod server;
mod slots;
mod stats;
mod stream;
mod subscriber;

pub use breaker::{BreakerReason, BreakerState, BreakerStats};
pub use call::Call;
pub use config::{BreakerConfig, Credentials, Protocol, RedisPoolConfig, TlsConfig, Topology};
pub use error::PoolError;
pub use exclusive::Exclusive;
pub use global::{close_redis_pool, get_pool_stats, get_redis_pool, init_redis_pool};
pub use health::Health;
pub use latency::LatencyHistogram;
pub use outage::{OutageLog, OutageNews};
pub use pool::RedisPool;
pub use script::Script;
pub use stats::PoolStats;
pub use stream::{StreamItem, StreamReader};
pub use subscriber::{Subscriber, SubscriberEvent};

/// The client that a command is given; see [`RedisPool::execute`].
pub use fred;
