//! A registry of agents: who there is, what they can do, and whether they live.
//!
//! An agent registers with its capabilities and then sends heartbeats. It is online until a
//! heartbeat is late by more than [`RegistryConfig::heartbeat_ttl`]; then it is offline, still
//! known, and listed as such. After [`RegistryConfig::retention`] without one it is forgotten, with
//! every trace of it.
//!
//! ```text
//! register, heartbeat, unregister, find, list          events
//!              |                                          ^
//!      AgentRegistry ----- sweeps once a second --------+ |
//!        |        \                                     | |
//!     memory     Redis: one hash slot, one script for each operation
//! ```
//!
//! - **Two backends, one contract.** [`AgentRegistry::embedded`] is for one process,
//!   [`AgentRegistry::redis`] for all that share a Redis. The same tests run against both.
//! - **Atomic.** Each operation is one script over keys of one hash slot: an agent is never half
//!   registered, nor found by a capability that it has given up. It works on a Redis Cluster.
//! - **Few round trips.** Listing a page of agents, or finding those that are capable, is one.
//! - **Nothing leaks.** What an agent's registration wrote goes with it, also when it dies; every
//!   key has a time to live.
//! - **Events** are a stream with places: whoever follows from the last place misses nothing across
//!   a reconnect, and is told if what was missed is not there any more.
//! - **The clock is the server's.** Whether an agent lives does not depend on whose clock is right.
//!
//! # Who owns what
//!
//! An [`AgentRegistry`] is a handle; its clones share one backend. It owns one task, the sweeper,
//! on the runtime that it was made on; dropping the last handle ends it. [`AgentEvents`] with Redis
//! takes one of the pool's dedicated connections while it is followed.
//!
//! # Example
//!
//! ```
//! use weaver_registry::{AgentRegistry, Query, Registration, RegistryConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), weaver_registry::RegistryError> {
//! let registry = AgentRegistry::embedded(RegistryConfig::default())?;
//! let agent = Registration::new("translator-1", "worker").capability("translate:de");
//! registry.register(agent).await?;
//! let query = Query::any(["translate:de"]).only_online(true);
//! let found = registry.find_capable_agents(&query).await?;
//! assert_eq!(found[0].agent_id, "translator-1");
//! assert_eq!(found[0].capabilities, ["translate_de"]);
//! # Ok(())
//! # }
//! ```

mod agent;
mod config;
mod error;
mod event;
mod memory;
mod query;
mod redis;
mod registry;

pub use agent::{
    AgentInfo, AgentStatus, MAX_CAPABILITIES, MAX_ID, MAX_METADATA, MAX_WORD, Registration,
};
pub use config::RegistryConfig;
pub use error::RegistryError;
pub use event::{AgentEvent, AgentEvents, EventKind, EventPosition, Followed};
pub use query::{AgentPage, MAX_PAGE, Query, RegistryStats};
pub use registry::AgentRegistry;
