//! An HTTP response cache for Actix.
//!
//! [`ResponseCache`] is a middleware that any Actix application can wrap around itself. It stores
//! what HTTP allows a shared cache to store (the decisions are those of
//! [`weaver_cache_policy`]), in this node's memory and, if wished, in a Redis that all nodes share.
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web};
//! use weaver_cache::{CacheConfig, CacheStore, ResponseCache};
//! use weaver_metrics::{CacheMetrics, Registry};
//!
//! #[actix_web::main]
//! async fn main() -> std::io::Result<()> {
//!     let metrics = CacheMetrics::new(&mut Registry::default());
//!     let cache = ResponseCache::new(CacheConfig::default(), CacheStore::memory(metrics));
//!     HttpServer::new(move || {
//!         App::new()
//!             .wrap(cache.clone())
//!             .route("/health", web::get().to(|| async { "ok" }))
//!     })
//!     .bind("127.0.0.1:8080")?
//!     .run()
//!     .await
//! }
//! ```
//!
//! # What comes in, what goes out, who owns what
//!
//! - A request's [`Rule`] says how it is cached; without one it passes untouched (`exchange`).
//! - A hit in memory is answered on the spot. Otherwise the request joins the `flight` for its
//!   key, or begins one.
//! - A flight belongs to its `fill` task, not to the client that asked first. The fill looks into
//!   Redis, then calls the handler, streams the body to all who wait, and stores it once it is
//!   whole. A client that leaves harms nobody; a body that breaks off breaks off for everyone, and is
//!   not stored.
//! - Every entry carries the place in the purge `journal` from before its fetch began, and is dead
//!   once a later purge matches it.
//! - A cache that fails is passed by: the failure is counted in `errors`, and the handler answers.
//!
//! # Security of a shared cache
//!
//! - A response to a request with credentials is shared only if it says so (RFC 9111 §3.5).
//! - With `per_user` each user has a store of its own, found under a keyed BLAKE3 hash of the
//!   [`Principal`] that the application authenticated, or else of what the rule lists as identity, or
//!   else of the Authorization header. Where nothing of it is there, nothing is stored. Neither tokens
//!   nor cookies, nor their plain hashes, reach a key, Redis or a log.
//! - The key has the scheme ([`Https`]), the host and the target in normal form
//!   ([`policy::url`]), and what the handler depends on besides must be in the key or in Vary. The
//!   application therefore settles first what a request is: a proxy's forwarding fields, fields that
//!   Connection lists, paths with dot segments.
//! - Keys are injective and entries carry theirs in full; an entry read from Redis that carries
//!   another is no entry.
//! - What lies in Redis carries a code keyed by `identity_secret`: who can write there and does not know
//!   the secret can delete and bring back, but neither change nor move. Without a secret it is a
//!   checksum.
//! - Requests that wait for another's fetch get what its response, once its head has come, allows them,
//!   and fetch for themselves otherwise.
//! - The application must authenticate before this middleware, or a hit answers whoever asks.
//!
//! # Limits
//!
//! Memory is bounded by `memory` for what is stored, by `max_filling` for what is on its way in, by
//! `max_redis_writes` for what is on its way out, by `max_object` for one body, and by constants for
//! variants, purges and markers.

mod clock;
mod codec;
mod compress;
mod config;
mod entry;
mod exchange;
mod explain;
mod fill;
mod flight;
#[cfg(test)]
mod fuzz;
mod handle;
mod hot;
mod identity;
mod inspect;
mod invalidate;
mod journal;
mod key;
mod lease;
mod memory;
mod middleware;
mod partial;
mod redis;
mod respond;
mod rule;
mod seal;
mod search;
mod shared;

pub use config::{CacheConfig, CachePattern};
pub use handle::{CacheHandle, CacheStore, PurgeError};
pub use hot::HotUrl;
pub use identity::{IdentitySource, Principal};
pub use inspect::{Standing, Stored};
pub use journal::{Position, Purge, TooLong, roster::Node};
pub use middleware::{CacheFuture, ResponseCache, ResponseCacheService};
pub use respond::CacheBody;
pub use rule::{Pattern, QueryRule, Rule, Tiers};
pub use weaver_cache_policy as policy;

/// Marks a response that a handler made because it could not reach the origin: put it into the
/// response's extensions. A stored response may then be served in its place, and requests that
/// wait for the same key get the same status instead of trying one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginUnreachable {
    /// It was asked, and did not answer.
    Asked,
    /// It has been failing, and was not asked. What is stored may then be served for as long as
    /// [`Policy::grace`](policy::Policy::grace) says.
    Known,
}

/// Marks a request that its client has made by https: the application puts it into the request's
/// extensions, before the cache sees the request. Where the application itself is configured as
/// secure, all requests count as such.
#[derive(Clone, Copy, Debug)]
pub struct Https;

/// Marks a request that goes past the cache, for this reason: the application puts it into the
/// request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct PassBy(pub policy::Bypass);

/// Marks a request for which a stored response may stand in, should the handler know that the
/// origin is failing: the cache puts it into the request's extensions. The handler may then answer
/// at once, with [`OriginUnreachable::Known`], rather than try an origin that it would otherwise
/// try for want of a better one.
#[derive(Clone, Copy, Debug)]
pub struct Replaceable;

/// Marks a request whose client has been answered from the store already, and that goes to the
/// handler only to refresh it: the cache puts it into the request's extensions. A handler must then
/// not write to the client's connection by other ways than its response.
#[derive(Clone, Copy, Debug)]
pub struct Detached;

/// Marks a request that goes on although its client has left, because others wait for its response
/// or because it may be stored: the cache puts it into the request's extensions. A request without it
/// is of use to its own client alone.
#[derive(Clone, Copy, Debug)]
pub struct Kept;
