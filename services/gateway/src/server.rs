//! Starting, serving, draining.

pub(crate) mod http1;
mod tasks;

use crate::{
    admin,
    agents::AddressPolicy,
    auth::{Authenticator, FailureBudget},
    config::Config,
    handler,
    ingress::{Ingress, Mark},
    limit::Limiter,
    model::Models,
    proxy::{Clients, Names},
    routes::Routes,
    state::{self, State},
    warm::Warmer,
};
use actix_server::{Server, ServerHandle};
use actix_service::{
    IntoServiceFactory as _, ServiceFactory as _, fn_factory, fn_service, map_config,
};
use actix_web::{App, dev::AppConfig, web};
use anyhow::Context;
use http1::{Budget, Connection, Limits, Worker};
use parking_lot::RwLock;
use std::{
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
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

    /// Drains: `/readyz` turns 503, no new connection is accepted, running requests may finish
    /// within `shutdown_grace`, then everything stops.
    pub async fn stop(self) {
        self.state.draining.store(true, Ordering::Release);
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

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
///
/// What kept it from starting.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let running = start(config).await?;
    tracing::info!(public = %running.public(), admin = %running.admin(), "serving");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
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
        agent_metrics: AgentMetrics::new(&mut registry),
        event_streams: Arc::new(Semaphore::new(admin::MAX_STREAMS)),
        agents,
        warmer: Warmer::new(public_address),
        routes,
        mark: mark(&config),
        auth: Authenticator::new(&config.auth)?,
        admin_failures: FailureBudget::new(config.auth.failures_per_minute),
        agent_addresses: Arc::new(AddressPolicy::new(&config.agent_allow)),
        names: Names::new(&config.server.dns),
        limiter: Limiter::new(&config.rate_limit),
        cache: RwLock::new(None),
        registry: Arc::new(registry),
        draining: AtomicBool::new(false),
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
    let public_server = serve_public(public, Arc::clone(&state), cache, draining)?;
    let admin_server = serve_admin(admin, Arc::clone(&state))?;
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

fn serve_public(
    listener: TcpListener,
    state: Arc<State>,
    cache: ResponseCache,
    draining: watch::Receiver<bool>,
) -> anyhow::Result<Server> {
    let server = &state.config.server;
    let grace = server.shutdown_grace.as_secs().max(1);
    let per_worker = server.max_connections.div_ceil(server.workers);
    let builder = Server::build()
        .workers(server.workers)
        .max_concurrent_connections(per_worker)
        .shutdown_timeout(grace)
        .disable_signals();
    let budget = Arc::new(Budget::new(server.max_buffers));
    let limits = limits(server);
    let server = builder.listen("public", listener, move || {
        let (state, cache) = (Arc::clone(&state), cache.clone());
        let (budget, draining) = (Arc::clone(&budget), draining.clone());
        fn_factory(move || {
            let (state, cache) = (Arc::clone(&state), cache.clone());
            let (budget, draining) = (Arc::clone(&budget), draining.clone());
            async move {
                let clients = Clients::new(&state.config, &state.agent_addresses, &state.names);
                let app = App::new()
                    .app_data(web::Data::from(Arc::clone(&state)))
                    .app_data(web::Data::new(clients))
                    .wrap(cache)
                    .wrap(Ingress::new(Arc::clone(&state)))
                    .default_service(web::to(handler::handle));
                let app = map_config(app.into_factory(), |_| AppConfig::default());
                let service = app.new_service(()).await?;
                let refuse = Box::new(move |status, detail: &str| {
                    crate::ingress::refusal(&state, status, detail)
                });
                let worker = Rc::new(Worker::new(service, limits, refuse, budget, draining));
                Ok::<_, ()>(fn_service(move |tcp: TcpStream| {
                    // Small responses must not wait for an acknowledgement.
                    let _ = tcp.set_nodelay(true);
                    let connection = Connection::new(tcp, &worker);
                    async move {
                        match connection {
                            Some(connection) => connection.await,
                            None => Ok(()),
                        }
                    }
                }))
            }
        })
    })?;
    Ok(server.run())
}

fn limits(server: &crate::config::ServerConfig) -> Limits {
    let limit = |time: Duration| (!time.is_zero()).then_some(time);
    Limits {
        max_head: usize::try_from(server.max_head).unwrap_or(usize::MAX),
        request_timeout: limit(server.request_timeout),
        keep_alive: limit(server.keep_alive),
        body_timeout: limit(server.body_timeout),
        write_timeout: limit(server.write_timeout),
    }
}

fn serve_admin(listener: TcpListener, state: Arc<State>) -> anyhow::Result<Server> {
    let server = actix_web::HttpServer::new(move || {
        App::new()
            .app_data(web::Data::from(Arc::clone(&state)))
            .app_data(web::PayloadConfig::new(1 << 20))
            .configure(admin::routes)
    })
    .on_connect(admin::on_connect)
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?
    .run();
    Ok(server)
}
