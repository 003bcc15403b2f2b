use crate::{
    CacheConfig, CacheHandle, CacheStore, Rule,
    exchange::{self, Response},
    flight::{Budget, Flights},
    identity::Secret,
    journal::PurgeLog,
    memory::Memory,
    redis::RedisTier,
    respond::CacheBody,
    shared::{Rules, Shared},
};
use actix_http::body::{EitherBody, MessageBody};
use actix_service::{Service, Transform, forward_ready};
use actix_web::{
    Error,
    dev::{ServiceRequest, ServiceResponse},
};
use futures_util::future::LocalBoxFuture;
use std::{
    future::{Ready, ready},
    rc::Rc,
    sync::Arc,
};

/// The response cache, an Actix middleware.
///
/// Make one outside the application factory and clone it into every worker: clones share everything.
///
/// Where Redis is used it must be made on a tokio runtime, which runs the task that follows the
/// purge journal.
#[derive(Clone)]
pub struct ResponseCache {
    shared: Arc<Shared>,
}

impl ResponseCache {
    /// A cache with the patterns of its configuration.
    #[must_use]
    pub fn new(config: CacheConfig, store: CacheStore) -> Self {
        let patterns = config.rules();
        Self::with_rules(config, store, move |req| {
            let path = req.uri().path();
            patterns
                .iter()
                .find(|(pattern, _)| pattern.matches(path))
                .map(|(_, rule)| Arc::clone(rule))
        })
    }

    /// A cache that asks `rules` how to treat each request; `None` leaves a request alone. The
    /// patterns of the configuration are not used.
    #[must_use]
    pub fn with_rules(
        config: CacheConfig,
        store: CacheStore,
        rules: impl Fn(&ServiceRequest) -> Option<Arc<Rule>> + Send + Sync + 'static,
    ) -> Self {
        let rules: Box<Rules> = Box::new(rules);
        let log = Arc::new(PurgeLog::new());
        let memory = (config.memory > 0).then(|| Memory::new(config.memory));
        let redis = store.pool.map(|pool| {
            let emptied = memory.clone();
            RedisTier::new(
                pool,
                config.cache_prefix.clone(),
                config.redis_deadline,
                config.max_redis_writes,
                Arc::clone(&log),
                store.metrics.clone(),
                move || {
                    if let Some(memory) = &emptied {
                        memory.clear();
                    }
                },
            )
        });
        let shared = Shared {
            secret: Secret::new(config.identity_secret),
            flights: Flights::new(),
            markers: Shared::markers(&config),
            budget: Budget::new(config.max_filling),
            metrics: store.metrics,
            rules,
            memory,
            redis,
            log,
            config,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A handle to ask and to purge.
    #[must_use]
    pub fn handle(&self) -> CacheHandle {
        CacheHandle::new(Arc::clone(&self.shared))
    }
}

impl<S, B> Transform<S, ServiceRequest> for ResponseCache
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B, CacheBody>>;
    type Error = Error;
    type Transform = ResponseCacheService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, Self::InitError>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(ResponseCacheService {
            shared: Arc::clone(&self.shared),
            service: Rc::new(service),
        }))
    }
}

/// The service that [`ResponseCache`] makes.
pub struct ResponseCacheService<S> {
    shared: Arc<Shared>,
    service: Rc<S>,
}

impl<S, B> Service<ServiceRequest> for ResponseCacheService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    forward_ready!(service);

    fn call(&self, req: ServiceRequest) -> Self::Future {
        Box::pin(exchange::handle(
            Arc::clone(&self.shared),
            Rc::clone(&self.service),
            req,
        ))
    }
}
