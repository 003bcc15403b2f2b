use crate::{
    AgentEvents, AgentInfo, AgentPage, AgentStatus, EventPosition, Query, Registration,
    RegistryConfig, RegistryError, RegistryStats,
    agent::{check_id, check_status},
    event::Source,
    memory::Memory,
    query::check_limit,
    redis::Redis,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use weaver_pool::RedisPool;

/// The registry; a handle, cheap to clone.
///
/// See the crate's documentation for what it promises.
#[derive(Clone, Debug)]
pub struct AgentRegistry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backend: Backend,
    sweeper: JoinHandle<()>,
}

#[derive(Clone, Debug)]
enum Backend {
    Memory(Arc<Memory>),
    Redis(Arc<Redis>),
}

impl AgentRegistry {
    /// A registry in this process alone. Must be called on a tokio runtime, on which it sweeps.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Config`] if a field of the configuration is out of its range.
    pub fn embedded(config: RegistryConfig) -> Result<Self, RegistryError> {
        config.validate()?;
        let every = config.sweep_interval;
        Ok(Self::of(Backend::Memory(Memory::new(config)), every))
    }

    /// A registry that all share who have the same Redis and prefix. Must be called on a tokio
    /// runtime, on which it sweeps. Redis need not be there yet.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Config`] if a field of the configuration is out of its range.
    pub fn redis(pool: RedisPool, config: RegistryConfig) -> Result<Self, RegistryError> {
        config.validate()?;
        let every = config.sweep_interval;
        let redis = Redis::new(pool, config);
        Ok(Self::of(Backend::Redis(Arc::new(redis)), every))
    }

    fn of(backend: Backend, every: Duration) -> Self {
        let sweeper = tokio::spawn(sweep(backend.clone(), every));
        Self {
            inner: Arc::new(Inner { backend, sweeper }),
        }
    }

    /// Registers an agent, or registers it anew with what it says now. It is online from here on.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Invalid`] if a field is not allowed, [`RegistryError::Full`],
    /// [`RegistryError::Redis`].
    pub async fn register(&self, agent: Registration) -> Result<AgentInfo, RegistryError> {
        let agent = agent.checked()?;
        match &self.inner.backend {
            Backend::Memory(memory) => memory.register(agent),
            Backend::Redis(redis) => redis.register(agent).await,
        }
    }

    /// Removes an agent; returns whether it was registered.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Invalid`] if it is no id, [`RegistryError::Redis`].
    pub async fn unregister(&self, agent_id: &str) -> Result<bool, RegistryError> {
        check_id(agent_id)?;
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.unregister(agent_id)),
            Backend::Redis(redis) => redis.unregister(agent_id).await,
        }
    }

    /// Says that an agent lives, and how it is if that has changed. One that had expired is online
    /// again.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotRegistered`] if it has to register (again), [`RegistryError::Invalid`],
    /// [`RegistryError::Redis`].
    pub async fn heartbeat(
        &self,
        agent_id: &str,
        status: Option<AgentStatus>,
    ) -> Result<(), RegistryError> {
        check_id(agent_id)?;
        check_status(status.unwrap_or_default())?;
        match &self.inner.backend {
            Backend::Memory(memory) => memory.heartbeat(agent_id, status),
            Backend::Redis(redis) => redis.heartbeat(agent_id, status).await,
        }
    }

    /// The agents that are capable of what is asked for, in the order of their ids. One round trip.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Invalid`] if there is no capability, or one that is none,
    /// [`RegistryError::Redis`].
    pub async fn find_capable_agents(
        &self,
        query: &Query,
    ) -> Result<Vec<AgentInfo>, RegistryError> {
        let query = query.checked()?;
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.find(&query)),
            Backend::Redis(redis) => redis.find(&query).await,
        }
    }

    /// Whether an agent is registered and its heartbeat not late.
    ///
    /// # Errors
    ///
    /// As [`get_agent_info`](Self::get_agent_info).
    pub async fn is_online(&self, agent_id: &str) -> Result<bool, RegistryError> {
        let agent = self.get_agent_info(agent_id).await?;
        Ok(agent.is_some_and(|agent| agent.is_online()))
    }

    /// What is known of an agent.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Invalid`] if it is no id, [`RegistryError::Redis`],
    /// [`RegistryError::Unreadable`].
    pub async fn get_agent_info(&self, agent_id: &str) -> Result<Option<AgentInfo>, RegistryError> {
        check_id(agent_id)?;
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.get(agent_id)),
            Backend::Redis(redis) => redis.get(agent_id).await,
        }
    }

    /// A page of the agents, online or not, by id: those after `after`, `limit` at most. One round
    /// trip.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Invalid`] if `limit` is not 1 to [`MAX_PAGE`](crate::MAX_PAGE) or `after` no
    /// id, [`RegistryError::Redis`], [`RegistryError::Unreadable`].
    pub async fn list_agents(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<AgentPage, RegistryError> {
        check_limit(limit)?;
        after.map_or(Ok(()), check_id)?;
        let after = after.unwrap_or("");
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.list(after, limit)),
            Backend::Redis(redis) => redis.list(after, limit).await,
        }
    }

    /// How many agents there are.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Redis`].
    pub async fn get_stats(&self) -> Result<RegistryStats, RegistryError> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.stats()),
            Backend::Redis(redis) => redis.stats().await,
        }
    }

    /// Follows what happens: after a place that was given before, or from here on. With Redis "here"
    /// is where the events stand when the first [`AgentEvents::next`] has connected.
    #[must_use]
    pub fn events(&self, after: Option<EventPosition>) -> AgentEvents {
        match &self.inner.backend {
            Backend::Memory(memory) => AgentEvents::memory(memory, after),
            Backend::Redis(redis) => {
                let follower = redis.follow(after.as_ref());
                AgentEvents::new(Source::Redis(Box::new(follower)), after)
            }
        }
    }

    /// Whether the backend answers.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Redis`], with the reason.
    pub async fn health(&self) -> Result<(), RegistryError> {
        self.get_stats().await.map(|_| ())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

async fn sweep(backend: Backend, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match &backend {
            Backend::Memory(memory) => memory.sweep(),
            Backend::Redis(redis) => loop {
                match redis.sweep().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::debug!(%error, "the registry could not be swept");
                        break;
                    }
                }
            },
        }
    }
}
