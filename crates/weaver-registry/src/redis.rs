//! The backend that all share: Redis, by scripts over keys of one hash slot.

mod scripts;

use crate::{
    AgentEvent, AgentInfo, AgentPage, AgentStatus, EventKind, EventPosition, Query, Registration,
    RegistryConfig, RegistryError, RegistryStats,
};
use fred::types::FromValue;
use scripts::Scripts;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use std::time::Duration;
use weaver_pool::{PoolError, RedisPool, Script, StreamItem, StreamReader};

/// Keys live at least this much longer than the longest that an agent is remembered.
const MARGIN: Duration = Duration::from_secs(86_400);
/// Agents that one sweep takes, so that it never holds the server up.
const SWEPT: usize = 200;

#[derive(Debug)]
pub(crate) struct Redis {
    pool: RedisPool,
    config: RegistryConfig,
    keys: Vec<String>,
    scripts: Scripts,
}

/// What is stored of an agent beside its type and capabilities, for programs only.
#[derive(Serialize, Deserialize)]
struct Stored {
    metadata: Map<String, serde_json::Value>,
    // Last, because the script puts the number in.
    registered_at: u64,
}

fn millis(of: Duration) -> String {
    of.as_millis().to_string()
}

impl Redis {
    pub(crate) fn new(pool: RedisPool, config: RegistryConfig) -> Self {
        let keys = scripts::KEYS.iter();
        Self {
            keys: keys
                .map(|name| format!("{0}:{{{0}}}:{name}", config.prefix))
                .collect(),
            scripts: Scripts::new(),
            pool,
            config,
        }
    }

    async fn run<T: FromValue>(
        &self,
        script: &Script,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<T, RegistryError> {
        let life = self.config.heartbeat_ttl + self.config.retention + MARGIN;
        let mut all = vec![self.config.max_events.to_string(), millis(life)];
        all.extend(arguments);
        let answer = self.pool.run_script(script, self.keys.clone(), all).await?;
        Ok(answer)
    }

    pub(crate) async fn register(&self, agent: Registration) -> Result<AgentInfo, RegistryError> {
        let stored = Stored {
            metadata: agent.metadata.clone(),
            registered_at: 0,
        };
        let json = serde_json::to_string(&stored)
            .map_err(|error| RegistryError::invalid("metadata", error.to_string()))?;
        let before = json.strip_suffix("0}").unwrap_or(&json).to_owned();
        let answer: String = self
            .run(
                &self.scripts.register,
                [
                    agent.agent_id.clone(),
                    agent.agent_type.clone(),
                    agent.capabilities.join("\u{1f}"),
                    before,
                    "}".to_owned(),
                    agent.status.as_str().to_owned(),
                    millis(self.config.heartbeat_ttl),
                    self.config.max_agents.to_string(),
                ],
            )
            .await?;
        if answer == "-1" {
            return Err(RegistryError::Full(self.config.max_agents));
        }
        let at = answer
            .parse()
            .map_err(|_| RegistryError::Unreadable(format!("a time {answer:?}")))?;
        Ok(AgentInfo {
            agent_id: agent.agent_id,
            agent_type: agent.agent_type,
            capabilities: agent.capabilities,
            status: agent.status,
            registered_at: at,
            last_heartbeat: at,
            metadata: agent.metadata,
        })
    }

    pub(crate) async fn unregister(&self, agent_id: &str) -> Result<bool, RegistryError> {
        let arguments = [agent_id.to_owned()];
        let was: i64 = self.run(&self.scripts.unregister, arguments).await?;
        Ok(was == 1)
    }

    pub(crate) async fn heartbeat(
        &self,
        agent_id: &str,
        status: Option<AgentStatus>,
    ) -> Result<(), RegistryError> {
        let arguments = [
            agent_id.to_owned(),
            status.map_or("", AgentStatus::as_str).to_owned(),
            millis(self.config.heartbeat_ttl),
        ];
        let known: i64 = self.run(&self.scripts.heartbeat, arguments).await?;
        if known == 1 {
            Ok(())
        } else {
            Err(RegistryError::NotRegistered(agent_id.to_owned()))
        }
    }

    pub(crate) async fn get(&self, agent_id: &str) -> Result<Option<AgentInfo>, RegistryError> {
        let answer = self.run(&self.scripts.get, [agent_id.to_owned()]).await?;
        Ok(views(answer)?.pop())
    }

    pub(crate) async fn find(&self, query: &Query) -> Result<Vec<AgentInfo>, RegistryError> {
        let flag = |flag: bool| u8::from(flag).to_string();
        let options = [
            flag(query.require_all),
            flag(query.only_online),
            query.limit.to_string(),
        ];
        let arguments = options.into_iter().chain(query.capabilities.clone());
        views(self.run(&self.scripts.find, arguments).await?)
    }

    pub(crate) async fn list(&self, after: &str, limit: usize) -> Result<AgentPage, RegistryError> {
        // One more tells whether there are more.
        let arguments = [after.to_owned(), (limit + 1).to_string()];
        let mut agents = views(self.run(&self.scripts.list, arguments).await?)?;
        let more = agents.len() > limit;
        agents.truncate(limit);
        let last = agents.last().map(|agent| agent.agent_id.clone());
        Ok(AgentPage {
            next: last.filter(|_| more),
            agents,
        })
    }

    pub(crate) async fn stats(&self) -> Result<RegistryStats, RegistryError> {
        let (total, online, counts): (u64, u64, Vec<String>) =
            self.run(&self.scripts.stats, []).await?;
        let mut stats = RegistryStats {
            total,
            online,
            offline: total.saturating_sub(online),
            ..RegistryStats::default()
        };
        for pair in counts.chunks_exact(2) {
            let Ok(count) = pair[1].parse() else { continue };
            if let Some(name) = pair[0].strip_prefix("t:") {
                stats.by_type.insert(name.to_owned(), count);
            } else if let Some(name) = pair[0].strip_prefix("c:") {
                stats.by_capability.insert(name.to_owned(), count);
            }
        }
        Ok(stats)
    }

    /// Whether there is more to sweep at once.
    pub(crate) async fn sweep(&self) -> Result<bool, RegistryError> {
        let arguments = [millis(self.config.retention), SWEPT.to_string()];
        let more: i64 = self.run(&self.scripts.sweep, arguments).await?;
        Ok(more == 1)
    }

    pub(crate) fn follow(&self, after: Option<&EventPosition>) -> RedisFollower {
        let key = self.keys.last().cloned().unwrap_or_default();
        let after = after.map_or("$", |after| &after.id);
        RedisFollower {
            reader: self.pool.stream_reader(key, after),
        }
    }
}

/// Reads what the scripts' `views` answers: the time, then four values for each agent.
fn views(answer: Vec<String>) -> Result<Vec<AgentInfo>, RegistryError> {
    let unreadable = |what: &str| RegistryError::Unreadable(what.to_owned());
    let (now, agents) = answer
        .split_first()
        .ok_or_else(|| unreadable("an empty answer"))?;
    let now: f64 = now.parse().map_err(|_| unreadable("the time"))?;
    agents
        .chunks_exact(4)
        // What was removed between, or was never there.
        .filter(|view| !view[1].is_empty())
        .map(|view| info(view, now).ok_or_else(|| unreadable(&format!("agent {:?}", view[0]))))
        .collect()
}

fn info(view: &[String], now: f64) -> Option<AgentInfo> {
    let [agent_id, value, said, late] = view else {
        return None;
    };
    let mut lines = value.splitn(3, '\n');
    let (agent_type, capabilities, json) = (lines.next()?, lines.next()?, lines.next()?);
    let stored: Stored = serde_json::from_str(json).ok()?;
    let (status, heartbeat) = said.split_once(' ')?;
    let capabilities = capabilities.split('\u{1f}').filter(|name| !name.is_empty());
    Some(AgentInfo {
        agent_id: agent_id.clone(),
        agent_type: agent_type.to_owned(),
        capabilities: capabilities.map(str::to_owned).collect(),
        status: if late.parse::<f64>().ok()? > now {
            AgentStatus::parse(status)?
        } else {
            AgentStatus::Offline
        },
        registered_at: stored.registered_at,
        last_heartbeat: heartbeat.parse().ok()?,
        metadata: stored.metadata,
    })
}

/// Reads the events from the stream.
#[derive(Debug)]
pub(crate) struct RedisFollower {
    reader: StreamReader,
}

impl RedisFollower {
    pub(crate) async fn next(&mut self) -> Result<Vec<AgentEvent>, PoolError> {
        let items = self.reader.next().await?;
        Ok(items.into_iter().filter_map(event).collect())
    }
}

fn event(item: StreamItem) -> Option<AgentEvent> {
    let field = |wanted: &str| {
        let (_, value) = item
            .fields
            .iter()
            .find(|(name, _)| &name[..] == wanted.as_bytes())?;
        std::str::from_utf8(value).ok()
    };
    Some(AgentEvent {
        position: EventPosition {
            number: field("number")?.parse().ok()?,
            id: item.id.clone(),
        },
        kind: EventKind::parse(field("kind")?)?,
        agent_id: field("agent")?.to_owned(),
        agent_type: field("type")?.to_owned(),
        at: field("at")?.parse().ok()?,
    })
}
