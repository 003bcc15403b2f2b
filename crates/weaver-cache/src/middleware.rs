use crate::{
    CacheConfig, CacheHandle, CacheStore, Rule,
    exchange::{self, Begun, Response},
    explain,
    flight::{Budget, Flights},
    hot::share::Share,
    identity::{Secret, random_hex},
    journal::PurgeLog,
    memory::Memory,
    redis::RedisTier,
    respond::CacheBody,
    seal::Seal,
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
    future::{Ready, ready as ready_now},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};
use weaver_cache_policy::path::judge;

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
    /// A cache with the patterns of its configuration. They match a path as a strict reader resolves it
    /// ([`judge`](crate::policy::path::judge)); one that readers resolve differently goes past the
    /// cache.
    #[must_use]
    pub fn new(config: CacheConfig, store: CacheStore) -> Self {
        let patterns = config.rules();
        Self::with_rules(config, store, move |req| {
            let judged = judge(req.uri().path()).ok()?;
            if judged.has_dots || !judged.readings.is_empty() {
                return None;
            }
            patterns
                .iter()
                .find(|(pattern, _)| pattern.matches(&judged.path))
                .and_then(|(_, rule)| rule.clone())
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
        let rules: Arc<Rules> = Arc::new(rules);
        let log = Arc::new(PurgeLog::new());
        let memory = (config.memory > 0).then(|| Memory::new(config.memory));
        let hot_share = store.pool.clone().map(|pool| {
            let own = format!("{}.{}", config.node, random_hex::<4>());
            let seal = Seal::new(config.identity_secret.as_ref());
            Arc::new(Share::new(pool, &config.cache_prefix, own, seal))
        });
        let redis = store.pool.map(|pool| {
            let emptied = memory.clone();
            RedisTier::new(
                pool,
                &config,
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
            hot: Arc::default(),
            hot_share,
            rules,
            memory,
            journal: redis.clone(),
            redis,
            narrow: None,
            log,
            config,
        };
        Self {
            shared: Arc::new(shared.with_narrow()),
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
        ready_now(Ok(ResponseCacheService {
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
    type Future = CacheFuture<B>;

    forward_ready!(service);

    fn call(&self, req: ServiceRequest) -> Self::Future {
        match exchange::begin(&self.shared, &self.service, req) {
            Begun::Answered(response) => CacheFuture(State::Answered(Some(response))),
            Begun::Later(future) => CacheFuture(State::Later(future)),
        }
    }
}

/// The future of [`ResponseCacheService`]: for a hit in memory, the answer itself.
pub struct CacheFuture<B>(State<B>);

enum State<B> {
    Answered(Option<Response<B>>),
    Later(LocalBoxFuture<'static, Result<Response<B>, Error>>),
}

// Nothing in it is pinned in place: the response is moved out, the other future is boxed.
impl<B> Unpin for CacheFuture<B> {}

impl<B> Future for CacheFuture<B> {
    type Output = Result<Response<B>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.get_mut().0 {
            State::Later(future) => ready!(future.as_mut().poll(cx)),
            State::Answered(response) => match response.take() {
                Some(response) => Ok(response),
                // Polled after its end, which is the caller's fault and no reason to panic.
                None => return Poll::Pending,
            },
        };
        if let Ok(response) = &answer {
            explain::tell(response);
        }
        Poll::Ready(answer)
    }
}
