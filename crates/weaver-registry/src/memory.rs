//! The embedded backend: one process, nothing outlives it.

use crate::{
    AgentEvent, AgentInfo, AgentPage, AgentStatus, EventKind, EventPosition, Query, Registration,
    RegistryConfig, RegistryError, RegistryStats,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{sync::Notify, time::Instant};

#[derive(Debug)]
pub(crate) struct Memory {
    config: RegistryConfig,
    state: Mutex<State>,
    happened: Notify,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<String, Agent>,
    /// Capability and agent.
    index: BTreeSet<(String, String)>,
    events: VecDeque<AgentEvent>,
    happened: u64,
}

#[derive(Debug)]
struct Agent {
    info: AgentInfo,
    /// When its heartbeat is late; from then on it is offline.
    late_at: Instant,
    /// Whether that has been told.
    expired: bool,
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

impl Agent {
    fn is_online(&self, now: Instant) -> bool {
        now < self.late_at
    }

    fn view(&self, now: Instant) -> AgentInfo {
        let mut info = self.info.clone();
        if !self.is_online(now) {
            info.status = AgentStatus::Offline;
        }
        info
    }
}

impl State {
    fn tell(&mut self, kind: EventKind, agent_id: &str, agent_type: &str, most: usize) {
        self.happened += 1;
        let at = unix_millis();
        self.events.push_back(AgentEvent {
            position: EventPosition {
                id: format!("{}-0", self.happened),
                number: self.happened,
            },
            kind,
            agent_id: agent_id.to_owned(),
            agent_type: agent_type.to_owned(),
            at,
        });
        while self.events.len() > most {
            self.events.pop_front();
        }
    }

    fn remove(&mut self, agent_id: &str) -> Option<Agent> {
        let agent = self.agents.remove(agent_id)?;
        for capability in &agent.info.capabilities {
            self.index
                .remove(&(capability.clone(), agent_id.to_owned()));
        }
        Some(agent)
    }

    fn capable(&self, capability: &str) -> BTreeSet<&str> {
        let first = (capability.to_owned(), String::new());
        self.index
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(known, _)| known == capability)
            .map(|(_, agent)| agent.as_str())
            .collect()
    }
}

impl Memory {
    pub(crate) fn new(config: RegistryConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            state: Mutex::default(),
            happened: Notify::new(),
        })
    }

    pub(crate) fn register(&self, agent: Registration) -> Result<AgentInfo, RegistryError> {
        let mut state = self.state.lock();
        let is_new = !state.agents.contains_key(&agent.agent_id);
        if is_new && state.agents.len() >= self.config.max_agents {
            return Err(RegistryError::Full(self.config.max_agents));
        }
        state.remove(&agent.agent_id);
        let now = unix_millis();
        let info = AgentInfo {
            agent_id: agent.agent_id,
            agent_type: agent.agent_type,
            capabilities: agent.capabilities,
            status: agent.status,
            registered_at: now,
            last_heartbeat: now,
            metadata: agent.metadata,
        };
        for capability in &info.capabilities {
            state
                .index
                .insert((capability.clone(), info.agent_id.clone()));
        }
        let registered = Agent {
            info: info.clone(),
            late_at: Instant::now() + self.config.heartbeat_ttl,
            expired: false,
        };
        state.agents.insert(info.agent_id.clone(), registered);
        self.tell(&mut state, EventKind::Registered, &info);
        Ok(info)
    }

    fn tell(&self, state: &mut State, kind: EventKind, info: &AgentInfo) {
        let most = self.config.max_events;
        state.tell(kind, &info.agent_id, &info.agent_type, most);
        self.happened.notify_waiters();
    }

    pub(crate) fn unregister(&self, agent_id: &str) -> bool {
        let mut state = self.state.lock();
        let Some(agent) = state.remove(agent_id) else {
            return false;
        };
        self.tell(&mut state, EventKind::Unregistered, &agent.info);
        true
    }

    pub(crate) fn heartbeat(
        &self,
        agent_id: &str,
        status: Option<AgentStatus>,
    ) -> Result<(), RegistryError> {
        let mut state = self.state.lock();
        let Some(agent) = state.agents.get_mut(agent_id) else {
            return Err(RegistryError::NotRegistered(agent_id.to_owned()));
        };
        agent.late_at = Instant::now() + self.config.heartbeat_ttl;
        agent.info.last_heartbeat = unix_millis();
        if let Some(status) = status {
            agent.info.status = status;
        }
        if std::mem::take(&mut agent.expired) {
            let info = agent.info.clone();
            self.tell(&mut state, EventKind::Registered, &info);
        }
        Ok(())
    }

    pub(crate) fn get(&self, agent_id: &str) -> Option<AgentInfo> {
        let state = self.state.lock();
        Some(state.agents.get(agent_id)?.view(Instant::now()))
    }

    pub(crate) fn find(&self, query: &Query) -> Vec<AgentInfo> {
        let (state, now) = (self.state.lock(), Instant::now());
        let mut sets = query.capabilities.iter().map(|name| state.capable(name));
        let mut found = sets.next().unwrap_or_default();
        for set in sets {
            if query.require_all {
                found.retain(|agent| set.contains(agent));
            } else {
                found.extend(set);
            }
        }
        found
            .into_iter()
            .filter_map(|agent| state.agents.get(agent))
            .filter(|agent| !query.only_online || agent.is_online(now))
            .take(query.limit)
            .map(|agent| agent.view(now))
            .collect()
    }

    pub(crate) fn list(&self, after: &str, limit: usize) -> AgentPage {
        let (state, now) = (self.state.lock(), Instant::now());
        let from = (Bound::Excluded(after), Bound::Unbounded);
        let mut agents = state.agents.range::<str, _>(from);
        let page: Vec<_> = agents
            .by_ref()
            .take(limit)
            .map(|(_, agent)| agent.view(now))
            .collect();
        let more = agents.next().is_some();
        let last = page.last().map(|agent| agent.agent_id.clone());
        AgentPage {
            next: last.filter(|_| more),
            agents: page,
        }
    }

    pub(crate) fn stats(&self) -> RegistryStats {
        let (state, now) = (self.state.lock(), Instant::now());
        let mut stats = RegistryStats::default();
        for agent in state.agents.values() {
            stats.total += 1;
            if agent.is_online(now) {
                stats.online += 1;
            } else {
                stats.offline += 1;
            }
            let of_type = stats.by_type.entry(agent.info.agent_type.clone());
            *of_type.or_default() += 1;
        }
        for (capability, _) in &state.index {
            *stats.by_capability.entry(capability.clone()).or_default() += 1;
        }
        stats
    }

    pub(crate) fn sweep(&self) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let late: Vec<(String, bool)> = state
            .agents
            .iter()
            .filter(|(_, agent)| !agent.is_online(now))
            .map(|(id, agent)| {
                let silent = now.saturating_duration_since(agent.late_at);
                (id.clone(), silent >= self.config.retention)
            })
            .collect();
        for (id, is_old) in late {
            if let Some(agent) = state.agents.get_mut(&id)
                && !agent.expired
            {
                agent.expired = true;
                let info = agent.info.clone();
                self.tell(&mut state, EventKind::Expired, &info);
            }
            if is_old && let Some(agent) = state.remove(&id) {
                self.tell(&mut state, EventKind::Unregistered, &agent.info);
            }
        }
    }
}

/// Reads the events from a number on.
#[derive(Debug)]
pub(crate) struct MemoryFollower {
    memory: Arc<Memory>,
    last: u64,
}

impl MemoryFollower {
    pub(crate) fn new(memory: &Arc<Memory>, after: Option<u64>) -> Self {
        let newest = memory.state.lock().happened;
        let last = match after {
            None => newest,
            // A number from another life is none of this one.
            Some(after) if after > newest => 0,
            Some(after) => after,
        };
        Self {
            last,
            memory: Arc::clone(memory),
        }
    }

    pub(crate) async fn next(&mut self) -> Vec<AgentEvent> {
        loop {
            let memory = Arc::clone(&self.memory);
            let mut happened = std::pin::pin!(memory.happened.notified());
            // Counts from here on, so that nothing between the look and the wait is missed.
            happened.as_mut().enable();
            let events: Vec<AgentEvent> = {
                let state = memory.state.lock();
                let new = |event: &&AgentEvent| event.position.number > self.last;
                state.events.iter().filter(new).cloned().collect()
            };
            if let Some(newest) = events.last() {
                self.last = newest.position.number;
                return events;
            }
            happened.await;
        }
    }
}
