//! What Weaver's end-to-end tests and benchmarks stand on: real servers as child processes, an
//! origin that misbehaves on request, and a client that sees bytes.
//!
//! Everything listens on a free port and lives in a directory of its own, and ends with its value.

#![allow(
    clippy::expect_used,
    reason = "a test that cannot have a port or a directory cannot go on"
)]

mod dns;
mod gateway;
mod model;
mod nginx;
mod origin;
mod port;
mod process;
mod raw;
mod redis;
mod sentinel;
mod splitter;

pub use dns::NameServer;
pub use gateway::Gateway;
pub use model::SampleModel;
pub use nginx::Nginx;
pub use origin::{Origin, Reply, Script};
pub use port::free_port;
pub use process::{Process, scratch, wait_for_port};
pub use raw::{Exchange, exchange, exchange_on};
pub use redis::{Redis, RedisCluster};
pub use sentinel::RedisSentinel;
pub use splitter::Splitter;
