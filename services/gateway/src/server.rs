//! Starting, serving, draining.

pub(crate) mod http1;
mod ports;
mod ready;
mod signals;
mod tasks;

use crate::{
    access::AccessLog,
    admin,
    agents::AddressPolicy,
    auth::{Authenticator, FailureBudget},
    body::Bodies,
    config::Config,
    ingress::Mark,
    limit::Limiter,
    model::Models,
    proxy::Names,
    routes::Routes,
    state::{self, State},
    warm::Warmer,
};
use actix_server::ServerHandle;
use anyhow::Context;
use parking_lot::RwLock;
pub(crate) use signals::Signals;
use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use weaver_cache::{CacheStore, ResponseCache};
use weaver_metrics::{
    AgentMetrics, CacheMetrics, HttpMetrics, ModelCacheMetrics, ModelMetrics, RedisPoolMetrics,
    Registry, UpstreamMetrics,
};
use weaver_model_cache::ModelCache;
use weaver_pool::RedisPool;
use weaver_registry::AgentRegistry;

/// Pending connections that the kernel keeps for us.
const BACKLOG: i32 = 4096;
/// For the last that is written to Redis.
const LEAVING: Duration = Duration::from_secs(2);

/// A gateway that serves.
pub struct Running {
    public: SocketAddr,
    admin: SocketAddr,
    state: Arc<State>,
    drain: watch::Sender<bool>,
    servers: [(ServerHandle, JoinHandle<std::io::Result<()>>); 2],
    tasks: tasks::Tasks,
}

impl Running {
    /// Where the public port listens.
    #[must_use]
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where the admin port listens.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// `/readyz` turns 503, and everything else goes on.
    pub fn announce_stop(&self) {
        self.state.draining.store(true, Ordering::Release);
    }

    /// Drains: `/readyz` turns 503, no new connection is accepted, running requests may finish
    /// within `shutdown_grace`, then everything stops.
    pub async fn stop(self) {
        self.announce_stop();
        self.drain.send_replace(true);
        self.state.warmer.stop();
        let [(public, public_task), (admin, admin_task)] = self.servers;
        public.stop(true).await;
        let _ = public_task.await;
        // The admin port tells until the end that we are not ready.
        admin.stop(false).await;
        let _ = admin_task.await;
        drop(self.tasks);
        if let Some(cache) = self.state.cache() {
            // Best effort: without it a purge waits for us for a few seconds.
            let _ = timeout(LEAVING, cache.leave()).await;
        }
        if let Some(pool) = &self.state.redis {
            pool.close().await;
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains: after `server.drain_delay`, or a second signal.
///
/// # Errors
///
/// What kept it from starting.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let delay = config.server.drain_delay;
    let running = start(config).await?;
    tracing::info!(public = %running.public(), admin = %running.admin(), "serving");
    signals.stop().await;
    if !delay.is_zero() {
        running.announce_stop();
        tracing::info!(?delay, "not ready; new connections are still accepted");
        // Those who wait for the end do not wait for the delay if they ask once more.
        let _ = timeout(delay, signals.stop()).await;
    }
    tracing::info!("draining");
    running.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Starts to serve, on the Actix system that it is called on.
///
/// # Errors
///
/// What kept it from starting: an address in use, a key file that cannot be read.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let public = listen(config.server.listen).context("server.listen")?;
    let admin = listen(config.server.admin_listen).context("server.admin_listen")?;
    let (public_address, admin_address) = (public.local_addr()?, admin.local_addr()?);

    let redis = config
        .redis
        .clone()
        .map(RedisPool::connect_in_background)
        .transpose()?;
    let mut registry = Registry::default();
    let cache_metrics = CacheMetrics::new(&mut registry);
    let http_metrics = HttpMetrics::new(&mut registry);
    if let Some(pool) = redis.clone() {
        RedisPoolMetrics::register(&mut registry, move || state::snapshot(&pool));
    }
    let answers = match (config.model_cache.clone(), redis.clone()) {
        // Without models nothing would be in it.
        _ if config.models.is_empty() => None,
        (None, _) => None,
        (Some(answers), Some(pool)) => Some(ModelCache::redis(pool, answers)?),
        (Some(answers), None) => Some(ModelCache::embedded(answers)?),
    };
    let model_metrics = ModelMetrics::new(&mut registry);
    if let Some(answers) = answers.clone() {
        ModelCacheMetrics::register(&mut registry, move || state::model_snapshot(&answers));
    }
    let agents = match redis.clone() {
        Some(pool) => AgentRegistry::redis(pool, config.agents.clone())?,
        None => AgentRegistry::embedded(config.agents.clone())?,
    };
    let models = Models::new(&config, answers, redis.clone(), model_metrics);
    let routes = Routes::new(&config, &http_metrics);
    let watched = (routes.all().to_vec(), models.all().to_vec());
    UpstreamMetrics::register(&mut registry, move || state::loads(&watched.0, &watched.1));
    let state = Arc::new(State {
        models,
        bodies: Bodies::new(config.server.max_parsed_bodies, config.server.workers),
        agent_metrics: AgentMetrics::new(&mut registry),
        event_streams: Arc::new(Semaphore::new(admin::MAX_STREAMS)),
        agents,
        warmer: Warmer::new(public_address),
        routes,
        mark: mark(&config),
        access_log: AccessLog::new(&config),
        auth: Authenticator::new(&config.auth)?,
        admin_failures: FailureBudget::new(config.auth.failures_per_minute),
        agent_addresses: Arc::new(AddressPolicy::new(&config.agent_allow)),
        names: Names::new(&config.server.dns),
        limiter: Limiter::new(&config.rate_limit),
        cache: RwLock::new(None),
        registry: Arc::new(registry),
        draining: AtomicBool::new(false),
        awaits_redis: AtomicBool::new(ready::awaits_redis(&config)),
        warming: AtomicBool::new(config.warm.is_needed()),
        cache_metrics,
        redis,
        config,
    });
    let store = match &state.redis {
        Some(pool) => CacheStore::with_redis(state.cache_metrics.clone(), pool.clone()),
        None => CacheStore::memory(state.cache_metrics.clone()),
    };
    let cache =
        ResponseCache::with_rules(state.config.cache.clone(), store, crate::ingress::rule_of);
    *state.cache.write() = Some(cache.handle());

    let (drain, draining) = watch::channel(false);
    let public_server = ports::public(public, Arc::clone(&state), cache, draining)?;
    let admin_server = ports::admin(admin, Arc::clone(&state))?;
    let servers = [public_server, admin_server].map(|server| {
        let handle = server.handle();
        (handle, tokio::spawn(server))
    });
    let tasks = tasks::Tasks::start(&state);
    Ok(Running {
        public: public_address,
        admin: admin_address,
        state,
        drain,
        servers,
        tasks,
    })
}

/// Nodes that share a Redis wait for one another's fetches, so that a loop through any of them is one.
fn mark(config: &Config) -> Mark {
    let shared = config.redis.as_ref().map(|redis| {
        let (host, port, prefix) = (&redis.host, redis.port, &config.cache.cache_prefix);
        let secret = config.cache.identity_secret.unwrap_or_default();
        let mut material = format!("{host}:{port}/{}/{prefix}/", redis.db).into_bytes();
        material.extend_from_slice(&secret);
        material
    });
    Mark::new(shared.as_deref())
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    // A restart must not wait for connections of the process before it.
    socket.set_reuse_address(true)?;
    socket
        .bind(&address.into())
        .with_context(|| format!("cannot listen on {address}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
