//! Calls of language models: the OpenAI-compatible endpoints, and the model behind `/ask`.
//!
//! ```text
//! call ([`request`]) -> look-up (weaver-model-cache) -> (hit) the recorded answer
//!                                -> (miss) join the flight, or lead it
//!                                     -> budget ([`budget`]) -> fill task ([`fill`]) -> upstream
//!                                -> (uncacheable) fill task that records nothing
//! ```
//!
//! In comes a call that was context; out goes an answer ([`served`]), streamed as it comes. The
//! fill task belongs to the gateway: a client that leaves does not end a fetch whose answer is to be
//! recorded. What is recorded has come whole and is well-formed ([`record`]), and each of its choices
//! has come to its end ([`complete`]); a stream is replayed byte for byte. Nothing here goes through
//! the HTTP response cache.
//!
//! The upstream gets its own key, from the environment, and none of the client's credentials. Where
//! a route has no key and nobody is authenticated here, the client's Authorization is passed on, and
//! answers are its own.

mod budget;
mod complete;
mod fill;
mod list;
mod prepared;
mod problem;
mod record;
mod request;
mod served;
mod who;

pub(crate) use budget::Budgets;
pub(crate) use list::list;
pub(crate) use prepared::Prepared;
pub(crate) use problem::Refusal;
pub(crate) use request::{Asked, Endpoint, Said};
pub(crate) use served::{Head, How, Served};
pub(crate) use who::Who;

use crate::{
    body,
    config::{Config, ModelRouteConfig},
    ingress::RequestContext,
    limit::Subject,
    proxy::{Clients, Upstreams, client_left},
    state::State,
};
use actix_web::{HttpRequest, HttpResponse, web};
use fill::Fill;
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::timeout};
use weaver_metrics::ModelMetrics;
use weaver_model_cache::{
    Flights, Joined, Landed, Lead, Lookup, ModelCache, ModelCacheConfig, Ticket,
};
use weaver_pool::RedisPool;

/// Bytes of a call: with pictures in it, it is large.
const MAX_CALL: usize = 32 << 20;
/// How long a call waits for another's answer to begin.
const COLLAPSE: Duration = Duration::from_secs(120);

/// The models that are configured, and what is known of their use.
pub(crate) struct Models {
    routes: Vec<Arc<ModelRoute>>,
    pub(crate) cache: Option<ModelCache>,
    flights: Flights<Head>,
    pub(crate) budgets: Option<Budgets>,
    metrics: ModelMetrics,
    prices: ModelCacheConfig,
}

/// A configured `[[models]]`.
pub(crate) struct ModelRoute {
    pub(crate) config: ModelRouteConfig,
    pub(crate) upstreams: Upstreams,
}

impl Models {
    pub(crate) fn new(
        config: &Config,
        cache: Option<ModelCache>,
        redis: Option<RedisPool>,
        metrics: ModelMetrics,
    ) -> Self {
        let routes = config.models.iter().map(|route| {
            Arc::new(ModelRoute {
                upstreams: Upstreams::new(
                    &route.to,
                    route.eject_after,
                    route.eject_for,
                    route.gate,
                ),
                config: route.clone(),
            })
        });
        let limits = cache.as_ref().map(|cache| {
            let config = cache.config();
            (config.max_answer, config.max_filling)
        });
        let (max_answer, max_filling) = limits.unwrap_or((0, 0));
        // The price table, and where budgets are in Redis, hold whether or not answers are kept.
        let prices = config.model_cache.clone().unwrap_or_default();
        let secret = config.cache.identity_secret;
        Self {
            routes: routes.collect(),
            flights: Flights::new(max_answer, max_filling),
            budgets: Budgets::new(&config.model_limits, redis, &prices.prefix, secret),
            prices,
            cache,
            metrics,
        }
    }

    pub(crate) fn all(&self) -> &[Arc<ModelRoute>] {
        &self.routes
    }

    pub(crate) fn price(&self, model: &str) -> Option<weaver_model_cache::Price> {
        self.prices.price(model)
    }

    fn route(&self, model: &str) -> Option<&Arc<ModelRoute>> {
        self.routes.iter().find(|route| route.config.has(model))
    }
}

/// A call, and what it is answered with.
pub(crate) struct Caller<'a> {
    pub(crate) req: &'a HttpRequest,
    pub(crate) context: &'a RequestContext,
    pub(crate) state: &'a web::Data<State>,
    pub(crate) clients: &'a Clients,
}

/// `POST /v1/…`
pub(crate) async fn handle(
    caller: Caller<'_>,
    payload: web::Payload,
    endpoint: Endpoint,
) -> HttpResponse {
    let outcome = async {
        request::only_post(caller.req)?;
        let headers = caller.req.headers();
        let received = body::receive(&caller.state.bodies, headers, payload, MAX_CALL).await;
        let received = received.map_err(Refusal::of_body)?;
        let (who, said) = (Who::of(&caller)?, Said::of(headers));
        let cache = caller.state.models.cache.clone();
        let prepare = move |bytes| {
            let asked = Asked::read(endpoint, bytes, who, said)?;
            Ok::<_, Refusal>(asked.prepare(cache.as_ref()))
        };
        let (prepared, held) = received.parse(prepare).await.map_err(Refusal::of_body)?;
        serve(&caller, prepared?.holding(held)).await
    };
    match outcome.await {
        Ok(served) => served.respond(),
        Err(refusal) => {
            let metrics = &caller.state.models.metrics;
            metrics.call(endpoint.as_str(), "refused");
            refusal.respond()
        }
    }
}

/// Answers a call, from the cache or by an upstream.
pub(crate) async fn serve(caller: &Caller<'_>, mut asked: Prepared) -> Result<Served, Refusal> {
    let models = &caller.state.models;
    let route = models
        .route(&asked.model)
        .ok_or_else(|| Refusal::unknown_model(&asked.model))?;
    let route = Arc::clone(route);
    let endpoint = asked.endpoint.as_str();
    let count = |outcome| models.metrics.call(endpoint, outcome);
    let wishes = asked.said.wishes;
    let ticket = std::mem::replace(&mut asked.ticket, Err("asked"));
    let (cache, ticket) = match (&models.cache, ticket) {
        (Some(cache), Ok(ticket)) => (cache, ticket),
        (Some(_), Err(_)) if asked.said.only_if_cached => return Err(Refusal::not_cached()),
        (_, why) => {
            count("bypass");
            let how = How::Bypass(why.err().unwrap_or("off"));
            let lead = models.flights.passing();
            return lead_fetch(caller, route, asked, lead, None, how).await;
        }
    };
    let mut ticket = match cache.look_up_by(ticket, wishes).await {
        Lookup::Hit(cached) => {
            count("hit");
            return Ok(Served::cached(cached));
        }
        Lookup::Bypass(_) if asked.said.only_if_cached => return Err(Refusal::not_cached()),
        Lookup::Bypass(why) => {
            count("bypass");
            let (lead, how) = (models.flights.passing(), How::Bypass(why.as_str()));
            return lead_fetch(caller, route, asked, lead, None, how).await;
        }
        Lookup::Miss(_) if asked.said.only_if_cached => return Err(Refusal::not_cached()),
        Lookup::Miss(ticket) => ticket,
    };
    let lead = loop {
        // A fetch that began before does not satisfy a call that wants a new answer.
        if wishes.no_cache || wishes.max_age == Some(Duration::ZERO) {
            break models.flights.alone();
        }
        match models.flights.join(ticket.flight()) {
            Joined::Leads(lead) => {
                // A fetch may have ended between the look and the joining.
                if let Some(cached) = cache.look_again(&mut ticket, wishes).await {
                    drop(lead);
                    count("hit");
                    return Ok(Served::cached(cached));
                }
                break lead;
            }
            Joined::Follows(follower) => match timeout(COLLAPSE, follower.landed()).await {
                Ok(Landed::Shared(head, body)) => {
                    count("shared");
                    cache.count_shared();
                    return Ok(Served::shared(head, body, &ticket));
                }
                Ok(Landed::Abandoned) => {}
                Ok(Landed::Alone) | Err(_) => break models.flights.alone(),
            },
        }
    };
    count("miss");
    let how = How::Miss {
        class: Arc::clone(ticket.class()),
        ttl: ticket.ttl(),
    };
    lead_fetch(caller, route, asked, lead, Some(ticket), how).await
}

/// Begins a fetch, and waits for the head of its answer.
async fn lead_fetch(
    caller: &Caller<'_>,
    route: Arc<ModelRoute>,
    asked: Prepared,
    lead: Lead<Head>,
    ticket: Option<Ticket>,
    how: How,
) -> Result<Served, Refusal> {
    let models = &caller.state.models;
    let reservation = match &models.budgets {
        Some(budgets) => Some(
            budgets
                .reserve(subject(caller.context), asked.prompt_estimate)
                .await?,
        ),
        None => None,
    };
    let Some(body) = lead.reader() else {
        return Err(Refusal::internal());
    };
    let (reply, head) = oneshot::channel();
    let fill = Fill {
        client: caller
            .clients
            .of(
                &route.config.to,
                route.config.connect_timeout,
                &route.config.tls,
            )
            .clone(),
        fields: fill::call_fields(caller, &asked, route.config.key.as_ref()),
        state: caller.state.clone().into_inner(),
        route,
        asked,
        ticket,
        reservation,
        request_id: caller.context.request_id.clone(),
    };
    let is_kept = fill.ticket.is_some();
    actix_rt::spawn(fill.run(lead, reply));
    let left = async {
        if is_kept {
            return std::future::pending().await;
        }
        client_left(caller.req, caller.state.config.server.half_close).await;
    };
    tokio::select! {
        biased;
        head = head => match head {
            Ok(Ok(head)) => Ok(Served::coming(head, body, how)),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::internal()),
        },
        // The fill sees that nobody waits for it.
        () = left => Err(Refusal::client_left()),
    }
}

/// Whose budget a call is on.
fn subject(context: &RequestContext) -> Subject {
    match (&context.identity, context.canonical.client.address) {
        (Some(identity), _) => Subject::User(Arc::clone(&identity.user)),
        (None, Some(address)) => Subject::address(address),
        (None, None) => Subject::Address(std::net::IpAddr::from([0, 0, 0, 0])),
    }
}
