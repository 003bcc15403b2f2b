//! Agents of the registry as upstreams of routes.
//!
//! One task follows the registry's events, for all routes that go to agents, and asks anew for who is
//! online and capable whenever something has happened. A registry that is out of reach changes
//! nothing: those who were online last are tried on, and ejected if they fail.

mod address;

pub(crate) use address::AddressPolicy;

use crate::{
    config::Destination,
    proxy::{Endpoint, Upstreams},
    state::State,
};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weaver_registry::{AgentInfo, AgentStatus, Query};

/// How long to wait for an event before asking anew all the same: an agent's status changes without.
const RESYNC: Duration = Duration::from_secs(2);
/// What happens within this is looked at together.
const TOGETHER: Duration = Duration::from_millis(10);
/// So many events at most.
const AT_ONCE: usize = 1000;
/// Between two attempts to reach the registry.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps the upstreams of all routes that go to agents up to date, for ever; ends at once where
/// there are none.
pub(crate) async fn follow(state: &State) {
    let routes = state.routes.all().iter();
    let routes = routes.map(|route| (&route.config.to, &route.upstreams));
    let models = state.models.all().iter();
    let models = models.map(|route| (&route.config.to, &route.upstreams));
    let agents: Vec<(&str, &Upstreams)> = routes
        .chain(models)
        .filter_map(|(to, upstreams)| match to {
            Destination::Agent(capability) => Some((capability.as_str(), upstreams)),
            Destination::Upstreams(_) => None,
        })
        .collect();
    if agents.is_empty() {
        return;
    }
    let mut events = state.agents.events(None);
    loop {
        for (capability, upstreams) in &agents {
            sync(state, capability, upstreams).await;
        }
        match timeout(RESYNC, events.next()).await {
            Ok(Ok(_)) => {
                // A restart of many agents is many events.
                sleep(TOGETHER).await;
                for _ in 0..AT_ONCE {
                    if timeout(Duration::ZERO, events.next()).await.is_err() {
                        break;
                    }
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the agents' events");
                sleep(RETRY).await;
            }
            Err(_) => {}
        }
    }
}

async fn sync(state: &State, capability: &str, upstreams: &Upstreams) {
    let query = Query::any([capability]).only_online(true);
    match state.agents.find_capable_agents(&query).await {
        Ok(agents) => {
            let found: Vec<_> = agents
                .iter()
                .filter_map(|agent| upstream(agent, &state.agent_addresses))
                .collect();
            upstreams.replace(&found);
        }
        Err(error) => tracing::debug!(capability, %error, "agents could not be looked for"),
    }
}

/// Whether an agent may register with this metadata: its `url` is what requests are sent to.
pub(crate) fn check_metadata(
    metadata: &serde_json::Map<String, serde_json::Value>,
    policy: &AddressPolicy,
) -> Result<(), String> {
    match metadata.get("url") {
        None => Ok(()),
        Some(url) => {
            let url = url.as_str().ok_or("metadata.url is no text")?;
            let base = policy.base(url);
            base.map(|_| ())
                .map_err(|fault| format!("metadata.url: {fault}"))
        }
    }
}

/// Where an agent listens, and whether it is busy; `None` if it takes no work.
fn upstream(agent: &AgentInfo, policy: &AddressPolicy) -> Option<(Endpoint, bool)> {
    if !matches!(agent.status, AgentStatus::Online | AgentStatus::Busy) {
        return None;
    }
    let url = agent.metadata.get("url")?.as_str()?;
    match policy.base(url) {
        Ok(base) => Some((Endpoint::of(&base), agent.status == AgentStatus::Busy)),
        Err(fault) => {
            tracing::warn!(agent = agent.agent_id, fault, "the url of an agent");
            None
        }
    }
}
