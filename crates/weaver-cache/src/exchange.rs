//! One request's way through the cache.

mod answer;
mod early;
mod lead;
mod origin;
mod traits;

use crate::{
    Principal, Rule,
    entry::MapFields,
    flight::Lead,
    key::{self, RequestUrl},
    respond::CacheBody,
    shared::{Found, Shared, lifetime},
};
use actix_http::body::{EitherBody, MessageBody};
use actix_service::Service;
use actix_web::{
    Error, HttpMessage,
    dev::{ServiceRequest, ServiceResponse},
    http::Method,
};
use answer::Follow;
use futures_util::future::LocalBoxFuture;
use lead::Place;
use std::{rc::Rc, sync::Arc, time::Instant};
use traits::{Past, Traits, past};
use weaver_cache_policy::{
    Bypass, Millis, Outcome,
    reuse::{self, Decision, Wishes},
    status::{Forward, Member},
};
use weaver_metrics::Tier;

/// How many times `collapse_timeout` a request waits at most: each time one of those who wait takes
/// over, and the others wait for that one.
pub(crate) const ROUNDS: u32 = 3;
/// Flights that a request joins before it fetches for itself.
const MAX_JOINS: u32 = 8;

pub(crate) type Response<B> = ServiceResponse<EitherBody<B, CacheBody>>;

/// One request, with all that its answer depends on besides the store.
struct Exchange<S> {
    shared: Arc<Shared>,
    service: Rc<S>,
    rule: Arc<Rule>,
    started: Instant,
    traits: Traits,
    wishes: Wishes,
    /// The key of just this URL.
    exact: key::KeyBytes,
    /// The same, or that of a stored response which answers for this URL too.
    key: key::KeyBytes,
    partitioned: bool,
    /// Whether the rule keeps a store for each user, and nothing tells whose this request is.
    anonymous: bool,
    principal: bool,
    /// Whether what is stored is refreshed although it is fresh.
    early: bool,
    /// Whether responses for this key were not storable a moment ago.
    marked: bool,
}

/// What became of a request at once.
pub(crate) enum Begun<B> {
    /// A stored response answers it.
    Answered(Response<B>),
    /// Something has to be waited for.
    Later(LocalBoxFuture<'static, Result<Response<B>, Error>>),
}

/// Begins a request's way through the cache. A hit in memory ends it here, without a future: that is
/// the path whose cost counts.
pub(crate) fn begin<S, B>(shared: &Arc<Shared>, service: &Rc<S>, req: ServiceRequest) -> Begun<B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let rule = if shared.config.enabled {
        (shared.rules)(&req)
    } else {
        None
    };
    let Some(rule) = rule else {
        let answer = service.call(req);
        return Begun::Later(Box::pin(async move {
            answer.await.map(ServiceResponse::map_into_left_body)
        }));
    };
    let shared = shared.with_tiers(rule.tiers);
    let traits = Traits::of(req.headers());
    if let Some(way) = past(shared, &rule, &req, traits) {
        let (shared, service) = (Arc::clone(shared), Rc::clone(service));
        return Begun::Later(Box::pin(async move {
            count(&shared, &rule, Tier::None, Outcome::Bypass);
            match way {
                Past::Unsafe => origin::unsafe_request(shared, service, rule, traits, req).await,
                Past::Bypass(reason, forward) => {
                    let (forward, detail) = (Some(forward), Some(reason.as_str()));
                    let member = Member {
                        forward,
                        detail,
                        ..Member::default()
                    };
                    origin::pass(&shared, &*service, req, member).await
                }
            }
        }));
    }
    let mut exchange = Exchange::new(shared, service, rule, traits, &req);
    if exchange.anonymous {
        return Begun::Later(Box::pin(async move {
            count(
                &exchange.shared,
                &exchange.rule,
                Tier::None,
                Outcome::Bypass,
            );
            let member = Member {
                forward: Some(Forward::Bypass),
                detail: Some(Bypass::NoIdentity.as_str()),
                ..Member::default()
            };
            origin::pass(&exchange.shared, &*exchange.service, req, member).await
        }));
    }
    if shared.is_in_doubt(exchange.started) {
        return Begun::Later(Box::pin(async move {
            exchange.shared.settle().await;
            exchange.run(req, None).await
        }));
    }
    let now = shared.now();
    let found = shared.find_equivalent_now(&mut exchange.key, req.headers());
    if let Some(found) = &found
        && let Some(entry) = &found.entry
    {
        let outcome = match exchange.decide(found, now) {
            Decision::Fresh => {
                exchange.early = early::is_due(&exchange.rule, entry, now);
                (!exchange.early).then_some(Outcome::Hit)
            }
            Decision::Stale => Some(Outcome::Stale),
            _ => None,
        };
        if let Some(outcome) = outcome {
            return Begun::Answered(exchange.answer(req, entry, Tier::Memory, outcome, now));
        }
    }
    Begun::Later(Box::pin(exchange.run(req, found)))
}

fn keyed(shared: &Shared, rule: &Rule, req: &ServiceRequest) -> (key::Keyed, bool) {
    let url = RequestUrl::of(req);
    let extensions = req.extensions();
    let principal = extensions.get::<Principal>();
    let keyed = key::build(&url, rule, req.headers(), principal, &shared.secret);
    (keyed, principal.is_some())
}

fn count(shared: &Shared, rule: &Rule, tier: Tier, outcome: Outcome) {
    if shared.config.track_stats {
        rule.counters(&shared.metrics).count(tier, outcome.as_str());
    }
}

impl<S> Exchange<S> {
    fn new(
        shared: &Arc<Shared>,
        service: &Rc<S>,
        rule: Arc<Rule>,
        traits: Traits,
        req: &ServiceRequest,
    ) -> Self {
        let started = Instant::now();
        let (keyed, principal) = keyed(shared, &rule, req);
        Self {
            wishes: if traits.directives {
                Wishes::of(&MapFields(req.headers()), &rule.policy)
            } else {
                Wishes::none()
            },
            exact: keyed.key.clone(),
            key: keyed.key,
            partitioned: keyed.partitioned,
            anonymous: keyed.anonymous,
            shared: Arc::clone(shared),
            service: Rc::clone(service),
            principal,
            early: false,
            marked: false,
            started,
            rule,
            traits,
        }
    }

    /// Goes on from what memory had, which is nothing that answers at once.
    async fn run<B>(
        mut self,
        req: ServiceRequest,
        found: Option<Found>,
    ) -> Result<Response<B>, Error>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        let mut found = match found {
            Some(found) => found,
            None => {
                self.key.clone_from(&self.exact);
                self.shared
                    .find_equivalent(Tier::Memory, &mut self.key, req.headers())
                    .await
            }
        };
        let now = self.shared.now();
        if let Some(entry) = &found.entry {
            match self.decide(&found, now) {
                Decision::Fresh if self.early => {
                    let entry = Arc::clone(entry);
                    return Ok(self.answer_and_refresh(req, entry, found, Outcome::Hit));
                }
                Decision::Fresh => {
                    return Ok(self.answer(req, entry, Tier::Memory, Outcome::Hit, now));
                }
                Decision::Stale => {
                    return Ok(self.answer(req, entry, Tier::Memory, Outcome::Stale, now));
                }
                Decision::StaleWhileRevalidate => {
                    let entry = Arc::clone(entry);
                    return Ok(self.answer_and_refresh(req, entry, found, Outcome::Stale));
                }
                Decision::Revalidate => {}
            }
        }
        // Only a GET for the whole fills. Other requests look into both tiers, then pass.
        let fills = *req.method() == Method::GET && !self.traits.range;
        if !fills || self.wishes.only_if_cached {
            if !self.wishes.no_cache {
                let in_redis = self
                    .shared
                    .find_equivalent(Tier::Redis, &mut self.key, req.headers())
                    .await;
                let in_redis = self.shared.complete(in_redis).await;
                if let Some(entry) = &in_redis.entry
                    && self.decide(&in_redis, now) != Decision::Revalidate
                {
                    return Ok(self.answer(req, entry, Tier::Redis, Outcome::Hit, now));
                }
                if found.entry.is_none() {
                    found = in_redis;
                }
            }
            if self.traits.range
                && *req.method() == Method::GET
                && let Some(response) = self.answer_range(req.headers(), now).await
            {
                return Ok(self.own(req, response));
            }
            if self.wishes.only_if_cached {
                return Ok(self.not_cached(req));
            }
            if *req.method() == Method::HEAD {
                return self.head(req, found).await;
            }
            // What is stored and stale is validated by a request for the whole, not by one for a
            // range.
            let found = Found {
                entry: None,
                ..found
            };
            return self.lead(req, Lead::solo(), found, false).await;
        }
        self.fetch(req, found, now).await
    }

    /// Gets what has to be fetched: from another's fetch, or by one that others may join.
    async fn fetch<B>(
        mut self,
        req: ServiceRequest,
        mut found: Found,
        now: Millis,
    ) -> Result<Response<B>, Error>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        let requester = self.requester();
        self.marked = self.shared.is_marked(&self.exact, requester).await;
        if !self.rule.collapse || self.marked {
            return self.lead(req, Lead::solo(), found, false).await;
        }
        let flight_key = self
            .shared
            .flight_key(&self.exact, found.index.as_ref(), req.headers());
        let mut rounds = 0;
        for _ in 0..MAX_JOINS {
            match self.join(&flight_key) {
                Place::Leads(lead) => {
                    // A flight may have ended between our look and our joining.
                    let again = self
                        .shared
                        .find(Tier::Memory, &self.key, req.headers())
                        .await;
                    if let Some(entry) = &again.entry
                        && self.decide(&again, now) == Decision::Fresh
                    {
                        return Ok(self.answer(req, entry, Tier::Memory, Outcome::Hit, now));
                    }
                    if again.entry.is_some() {
                        found = again;
                    }
                    return self.lead(req, lead, found, rounds > 0).await;
                }
                // A fetch that began before this request does not satisfy its no-cache.
                Place::Follows(..) if self.wishes.no_cache => break,
                Place::Follows(flight, key) => match self.follow(&flight, &req, now).await {
                    Follow::Answer(response) => return Ok(self.own(req, response)),
                    Follow::Again => {}
                    Follow::Outdated => self.shared.flights.retire(&key, &flight),
                    Follow::TimedOut => {
                        self.shared.flights.retire(&key, &flight);
                        rounds += 1;
                        if rounds == ROUNDS {
                            break;
                        }
                    }
                    Follow::Alone => break,
                },
                Place::Alone => break,
            }
        }
        self.lead(req, Lead::solo(), found, false).await
    }

    fn decide(&self, found: &Found, now: Millis) -> Decision {
        let Some(entry) = &found.entry else {
            return Decision::Revalidate;
        };
        reuse::decide(&lifetime(entry, found.softly_purged), &self.wishes, now)
    }
}
