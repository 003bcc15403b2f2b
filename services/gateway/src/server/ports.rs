//! The two ports: what answers on them, and the connections that both have.

use super::http1::{Budget, Connection, Limits, Refuse, Worker};
use crate::{
    admin::{self, LocalAddress},
    handler,
    ingress::Ingress,
    problem::problem,
    proxy::Clients,
    state::State,
};
use actix_http::Request;
use actix_server::Server;
use actix_service::{
    IntoServiceFactory as _, Service, ServiceFactory as _, fn_factory, fn_service, map_config,
};
use actix_web::{
    App, Error, HttpMessage as _,
    dev::{AppConfig, ServiceResponse},
    web,
};
use std::{
    net::TcpListener,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch};
use weaver_cache::ResponseCache;

/// Connections to the admin port at once: probes, a scraper, operators, followers of events.
const MAX_ADMIN_CONNECTIONS: usize = 1024;

pub(super) fn public(
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

/// The service of one connection, with the address on which that came in.
struct WithLocalAddress<S> {
    service: Rc<S>,
    local: Option<LocalAddress>,
}

impl<S, B> Service<Request> for WithLocalAddress<S>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = S::Future;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, req: Request) -> S::Future {
        if let Some(local) = self.local {
            req.extensions_mut().insert(local);
        }
        self.service.call(req)
    }
}

/// The admin port. Its connections are those of the public one, because a proxy may share them
/// between operators, and stay while that one drains.
pub(super) fn admin(listener: TcpListener, state: Arc<State>) -> anyhow::Result<Server> {
    let limits = limits(&state.config.server);
    let budget = Arc::new(Budget::new(state.config.server.max_buffers));
    let builder = Server::build()
        .workers(1)
        .max_concurrent_connections(MAX_ADMIN_CONNECTIONS)
        .shutdown_timeout(1)
        .disable_signals();
    let never = Arc::new(watch::channel(false).0);
    let server = builder.listen("admin", listener, move || {
        let (state, budget, never) = (Arc::clone(&state), Arc::clone(&budget), Arc::clone(&never));
        fn_factory(move || {
            let (state, budget) = (Arc::clone(&state), Arc::clone(&budget));
            let never = Arc::clone(&never);
            async move {
                let app = App::new()
                    .app_data(web::Data::from(state))
                    .configure(admin::routes);
                let app = map_config(app.into_factory(), |_| AppConfig::default());
                let service = Rc::new(app.new_service(()).await?);
                Ok::<_, ()>(fn_service(move |tcp: TcpStream| {
                    let local = tcp.local_addr().ok();
                    let service = WithLocalAddress {
                        service: Rc::clone(&service),
                        local: local.map(|local| LocalAddress(local.ip().to_canonical())),
                    };
                    let refuse: Refuse = Box::new(problem);
                    let (budget, draining) = (Arc::clone(&budget), never.subscribe());
                    let worker = Worker::new(service, limits, refuse, budget, draining);
                    let connection = Connection::new(tcp, &Rc::new(worker));
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
