//! A cache for the answers of language models.
//!
//! In goes a call, what is asked of which model with which parameters, and out comes the answer that
//! was given to the same call before, or a [`Ticket`] under which the one that is fetched now is
//! kept. How long it is kept depends on the class of the question ([`ClassConfig`]): a definition
//! for an hour, a calculation for a day, what is current for five minutes.
//!
//! - **The same call is the same key, another never is.** The key is BLAKE3 over an injective form
//!   of query, model and parameters: the order of a JSON object's members makes no difference, the
//!   type and value of everything does.
//! - **Only what is deterministic is kept** unless told otherwise: temperature 0 or a seed, and no
//!   tools ([`Bypass`] says why a call is not).
//! - **Users apart**: by default each user has answers of their own.
//! - **Two backends, one contract**: [`ModelCache::redis`] for all that share a Redis,
//!   [`ModelCache::embedded`] for one process. The same tests run against both.
//! - **One fetch for a key** in a process: [`Flights`], by which those who ask meanwhile share what
//!   comes in as it comes, and [`ModelCache::get_or_fetch`] on top.
//! - **A failure of Redis is a miss**, counted.
//! - **What is cleared or invalidated does not come back** by a fetch that began before: a ticket
//!   carries the state of the cache from before the fetch, and an answer is kept only if that still
//!   holds. There is no SCAN, and a time to live on every key.
//!
//! Neither queries nor names of users are stored: only answers, under a hash, keyed by
//! [`ModelCacheConfig::secret`] if there is one.
//!
//! # Example
//!
//! ```
//! use serde_json::json;
//! use weaver_model_cache::{Answer, Call, ModelCache, ModelCacheConfig, Usage};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), weaver_model_cache::ModelCacheError> {
//! let cache = ModelCache::embedded(ModelCacheConfig::default())?;
//! let call = Call::new("What is RAII?", "small-model").parameter("temperature", json!(0));
//! assert!(cache.get(&call).await.is_none());
//! let answer = Answer::text("A C++ idiom.").usage(Usage { prompt: 5, completion: 4 });
//! cache.set(&call, &answer).await;
//! let cached = cache.get(&call).await.expect("it was kept");
//! assert_eq!(&*cached.class, "static");
//! assert_eq!(&cached.answer.body[..], b"A C++ idiom.");
//! assert_eq!(cache.stats().tokens_saved, 9);
//! # Ok(())
//! # }
//! ```

mod answer;
mod cache;
mod call;
mod class;
mod codec;
mod config;
mod error;
mod flight;
mod key;
mod memory;
mod redis;
mod stats;
mod store;

pub use answer::{Answer, Cached, Usage};
pub use cache::{Fetched, Lookup, ModelCache, Source, Ticket, Wishes};
pub use call::{Bypass, Call, Kind};
pub use config::{ClassConfig, ModelCacheConfig, Price};
pub use error::ModelCacheError;
pub use flight::{Flights, Follower, Joined, Landed, Lead, Shared};
pub use key::Key;
pub use stats::ModelCacheStats;
