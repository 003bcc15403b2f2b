//! Servers, ways to them that break, and callers.

#![allow(dead_code, unused_imports, reason = "not every test uses all of it")]

mod cluster;
#[path = "../../../../tests/src/port.rs"]
#[allow(
    unreachable_pub,
    reason = "the file is of another crate too, which has it public"
)]
mod port;
mod proxy;
mod redis;
mod traffic;

pub(crate) use cluster::{Cluster, Watched};
pub(crate) use port::free_port;
pub(crate) use proxy::Proxy;
pub(crate) use redis::{Redis, cli, config};
pub(crate) use traffic::{DEADLINE, SLACK, Traffic, config_for_faults};
