//! The reverse proxy.
//!
//! In comes a request that was context and that no stored response answers; out goes the
//! upstream's response, streamed, or a problem that names the upstream. Each worker has its own
//! clients ([`Clients`]), because hyper's connection tasks live on the worker that opened them; what
//! is known of an upstream ([`Upstreams`]) is shared by all.

mod adaptive;
mod body;
mod cause;
mod client;
mod client_left;
mod connector;
mod failure;
mod fields;
mod follow_names;
mod framing;
mod gate;
mod health;
mod interim;
mod meter;
mod names;
mod resolver;
mod send;
mod target;
mod tunnel;
mod upstreams;

pub(crate) use body::RequestBody;
pub(crate) use client::{Clients, HttpClient};
pub(crate) use client_left::{client_closed_request, left as client_left, while_connected};
pub(crate) use failure::{Attempt, Failure};
pub(crate) use follow_names::follow as follow_names;
pub(crate) use health::check as check_health;
pub(crate) use names::Names;
pub(crate) use send::{ask, forward, send_own};
pub(crate) use upstreams::{Endpoint, InFlight, Unavailable, Upstream, Upstreams};
