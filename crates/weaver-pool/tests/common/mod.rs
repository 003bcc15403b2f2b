//! Servers, ways to them that break, and callers.

#![allow(dead_code, unused_imports, reason = "not every test uses all of it")]

mod cluster;
mod proxy;
mod redis;
mod traffic;

pub(crate) use cluster::{Cluster, Watched};
pub(crate) use proxy::Proxy;
pub(crate) use redis::{Redis, cli, config};
pub(crate) use traffic::{DEADLINE, SLACK, Traffic, config_for_faults};
