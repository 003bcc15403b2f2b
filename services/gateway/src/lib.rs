//! The gateway: wiring of Weaver's crates into a service.
//!
//! ```text
//! accept -> limits and host check -> request id, trace -> authenticate -> rate limit   (ingress)
//!        -> cache look-up -> (hit) answer                                              (weaver-cache)
//!                         -> (miss) fill task -> upstream or built-in handler          (handler, proxy)
//! ```
//!
//! | module | concern |
//! |---|---|
//! | [`config`] | what the gateway is told, checked as a whole |
//! | `cli` | the command line |
//! | `server` | listening, HTTP/1 connections, draining |
//! | `ingress` | everything before the cache |
//! | `routes` | which route and which cache rule a request has |
//! | `auth`, `limit` | who it is, and how much they may ask |
//! | `handler`, `builtin` | what answers behind the cache |
//! | `model`, `ask` | calls of language models, and the cache of their answers |
//! | `body` | bodies of requests that the gateway reads itself: limits, codings, a budget |
//! | `agents` | agents of the registry as upstreams |
//! | `proxy` | upstreams: choice, limits, deadlines, retries, bodies, upgrades |
//! | `admin` | the admin port |
//! | `access` | the access log |
//! | `telemetry` | logs and traces |
//! | `demo` | the sample upstream of `weaver-gateway demo` |
//!
//! The whole service starts in-process: [`server::start`] takes a [`config::Config`] and gives back
//! where it listens and a handle to stop it.

mod access;
mod admin;
mod agents;
mod ask;
mod auth;
mod body;
mod builtin;
pub mod cli;
pub mod config;
mod convert;
mod demo;
mod handler;
mod ingress;
mod limit;
mod model;
mod network;
mod problem;
mod proxy;
mod remote;
mod routes;
pub mod server;
mod state;
mod telemetry;
mod warm;
