//! One request's way through the cache.

mod origin;

use crate::{
    Principal, Rule,
    entry::{Entry, Head, Index, MapFields},
    fill::{self, Fill, Reply},
    flight::{Flight, Joined, Landing, Lead, Reader},
    key::{self, Target},
    partial,
    respond::{self, CacheBody, Client, OwnBody},
    shared::{Found, Shared},
};
use actix_http::body::{EitherBody, MessageBody};
use actix_service::Service;
use actix_web::{
    Error, HttpMessage, HttpRequest, HttpResponse,
    dev::{ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap},
    },
};
use futures_util::future::LocalBoxFuture;
use std::{rc::Rc, sync::Arc, time::Instant};
use tokio::{sync::oneshot, time::timeout};
use weaver_cache_policy::{
    Bypass, Lifetime, Millis, Outcome, invalidation,
    reuse::{self, Decision, Wishes},
    status::{Forward, Member},
};
use weaver_metrics::Tier;

pub(crate) type Response<B> = ServiceResponse<EitherBody<B, CacheBody>>;

/// What the request's headers say, from one pass over them.
#[derive(Clone, Copy, Debug, Default)]
struct Traits {
    conditional: bool,
    for_origin: bool,
    range: bool,
    directives: bool,
    body: bool,
    upgrade: bool,
    authorization: bool,
}

impl Traits {
    fn of(headers: &HeaderMap) -> Self {
        let mut traits = Self::default();
        for (name, value) in headers {
            match *name {
                header::IF_NONE_MATCH | header::IF_MODIFIED_SINCE => traits.conditional = true,
                header::IF_MATCH | header::IF_UNMODIFIED_SINCE => traits.for_origin = true,
                header::RANGE => traits.range = true,
                header::CACHE_CONTROL | header::PRAGMA => traits.directives = true,
                header::CONTENT_LENGTH => traits.body |= value.as_bytes() != b"0",
                header::TRANSFER_ENCODING => traits.body = true,
                header::UPGRADE => traits.upgrade = true,
                header::AUTHORIZATION => traits.authorization = true,
                _ => {}
            }
        }
        traits
    }
}

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
    principal: bool,
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
    let traits = Traits::of(req.headers());
    if let Some(way) = past(shared, req.method(), traits) {
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
    let now = shared.now();
    let found = shared.find_equivalent_now(&mut exchange.key, req.headers());
    if let Some(found) = &found
        && let Some(entry) = &found.entry
    {
        let outcome = match exchange.decide(found, now) {
            Decision::Fresh => Some(Outcome::Hit),
            Decision::Stale => Some(Outcome::Stale),
            _ => None,
        };
        if let Some(outcome) = outcome {
            return Begun::Answered(exchange.answer(req, entry, Tier::Memory, outcome, now));
        }
    }
    Begun::Later(Box::pin(exchange.run(req, found)))
}

/// Ways past the cache.
enum Past {
    Unsafe,
    Bypass(Bypass, Forward),
}

fn past(shared: &Shared, method: &Method, traits: Traits) -> Option<Past> {
    if invalidation::is_unsafe(method.as_str()) {
        Some(Past::Unsafe)
    } else if !shared.config.cache_methods.contains(method)
        || !matches!(*method, Method::GET | Method::HEAD)
    {
        Some(Past::Bypass(Bypass::Method, Forward::Method))
    } else if traits.upgrade || traits.body {
        Some(Past::Bypass(Bypass::NotPlain, Forward::Bypass))
    } else if traits.for_origin {
        Some(Past::Bypass(Bypass::Precondition, Forward::Request))
    } else {
        None
    }
}

fn keyed(shared: &Shared, rule: &Rule, req: &ServiceRequest) -> (key::Keyed, bool) {
    let extensions = req.extensions();
    let principal = extensions.get::<Principal>();
    let uri = req.uri();
    let host = uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| {
            req.headers()
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
        })
        .unwrap_or("");
    let target = Target {
        host,
        path: uri.path(),
        query: uri.query(),
    };
    let keyed = key::build(&target, rule, req.headers(), principal, &shared.secret);
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
            shared: Arc::clone(shared),
            service: Rc::clone(service),
            principal,
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
                Decision::Fresh => {
                    return Ok(self.answer(req, entry, Tier::Memory, Outcome::Hit, now));
                }
                Decision::Stale => {
                    return Ok(self.answer(req, entry, Tier::Memory, Outcome::Stale, now));
                }
                Decision::StaleWhileRevalidate => {
                    let entry = Arc::clone(entry);
                    return Ok(self.answer_and_refresh(req, entry, found));
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
            return self.lead(req, Lead::solo(), found).await;
        }
        let insists = found.entry.is_some() && self.wishes.no_cache;
        if self.shared.is_marked(&self.exact).await {
            return self.lead(req, Lead::solo(), found).await;
        }
        let flight_key = self.flight_key(found.index.as_ref(), req.headers());
        for _ in 0..3 {
            match self.shared.flights.join(&flight_key) {
                Joined::Leads(lead) => {
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
                    return self.lead(req, lead, found).await;
                }
                // A fetch that began before this request does not satisfy its no-cache.
                Joined::Follows(_) if insists => break,
                Joined::Follows(flight) => match self.follow(&flight, &req).await {
                    Follow::Answer(response) => return Ok(self.own(req, response)),
                    Follow::Again => {}
                    Follow::Alone => break,
                },
            }
        }
        self.lead(req, Lead::solo(), found).await
    }

    fn decide(&self, found: &Found, now: Millis) -> Decision {
        let Some(entry) = &found.entry else {
            return Decision::Revalidate;
        };
        if found.softly_purged {
            // Its freshness ended with the purge; what it grants beyond still holds.
            let stale = Lifetime {
                fresh_for: 0,
                ..entry.head.lifetime
            };
            let as_if = Lifetime {
                initial_age: 0,
                received_at: now,
                ..stale
            };
            return reuse::decide(&as_if, &self.wishes, now);
        }
        reuse::decide(&entry.head.lifetime, &self.wishes, now)
    }

    /// Why the request goes forward, given what memory had.
    fn forward(&self, found: &Found) -> Forward {
        match (&found.entry, &found.index) {
            (Some(_), _) if self.wishes.no_cache => Forward::Request,
            (Some(_), _) if self.traits.directives && found_fresh(self, found) => Forward::Request,
            (Some(_), _) => Forward::Stale,
            (None, Some(_)) => Forward::VaryMiss,
            (None, None) => Forward::UriMiss,
        }
    }

    /// Requests for different variants of a URL do not wait for one another, once it is known that
    /// it has any.
    fn flight_key(&self, index: Option<&Arc<Index>>, headers: &HeaderMap) -> key::KeyBytes {
        let Some(latest) = index.and_then(|index| Some((index, index.variants.first()?))) else {
            return self.exact.clone();
        };
        let (index, latest) = latest;
        let variant = weaver_cache_policy::vary::Variant::new(
            self.shared.secret.bytes(),
            latest.names.clone(),
            &MapFields(headers),
            &MapFields(&HeaderMap::new()),
        );
        // Of just this URL: what comes may not answer for the others.
        key::of_variant(&self.exact, &index.nonce, &variant.digest)
    }

    fn own<B>(&self, req: ServiceRequest, response: HttpResponse<OwnBody>) -> Response<B> {
        req.into_response(response)
            .map_body(|_, body| EitherBody::right(CacheBody(body)))
    }

    fn client<'a>(&self, method: &'a Method, headers: &'a HeaderMap) -> Client<'a> {
        Client {
            method,
            headers,
            conditional: self.traits.conditional,
            range: self.traits.range,
        }
    }

    fn answer<B>(
        &self,
        req: ServiceRequest,
        entry: &Entry,
        tier: Tier,
        outcome: Outcome,
        now: Millis,
    ) -> Response<B> {
        let served = Served {
            tier,
            outcome,
            now,
            member: Member::default(),
        };
        let response = self.serve(req.method(), req.headers(), entry, served);
        self.own(req, response)
    }

    fn serve(
        &self,
        method: &Method,
        headers: &HeaderMap,
        entry: &Entry,
        served: Served,
    ) -> HttpResponse<OwnBody> {
        let Served {
            tier,
            outcome,
            now,
            member,
        } = served;
        let member = Member {
            ttl: Some(ttl(&entry.head, now)),
            ..member
        };
        if self.shared.config.track_stats {
            let counters = self.rule.counters(&self.shared.metrics);
            counters.count(tier, outcome.as_str());
            if matches!(outcome, Outcome::Hit | Outcome::Stale) {
                let took = self.started.elapsed().as_secs_f64();
                counters.saved(entry.fill_micros as f64 / 1e6 - took);
            }
        }
        respond::from_entry(
            entry,
            &self.client(method, headers),
            now,
            member,
            &self.shared.config.name,
        )
    }

    /// Answers a range request from a stored part, if there is a fresh one that has it.
    async fn answer_range(
        &self,
        headers: &HeaderMap,
        now: Millis,
    ) -> Option<HttpResponse<OwnBody>> {
        if self.wishes.no_cache {
            return None;
        }
        let key = partial::key(&self.key);
        for tier in [Tier::Memory, Tier::Redis] {
            let found = self.shared.find(tier, &key, headers).await;
            let Some(entry) = &found.entry else { continue };
            if self.decide(&found, now) != Decision::Fresh {
                continue;
            }
            let Some((held, part)) = partial::select(entry, headers, now) else {
                continue;
            };
            count(&self.shared, &self.rule, tier, Outcome::Hit);
            let member = Member {
                ttl: Some(ttl(&entry.head, now)),
                ..Member::default()
            };
            let name = &self.shared.config.name;
            return Some(respond::from_part(entry, held, part, now, member, name));
        }
        None
    }

    /// RFC 5861 §3: the client gets what is stored, and the request goes on to refresh it.
    fn answer_and_refresh<B>(
        self,
        req: ServiceRequest,
        entry: Arc<Entry>,
        found: Found,
    ) -> Response<B>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        let flight_key = self.flight_key(found.index.as_ref(), req.headers());
        let lead = match self.shared.flights.join(&flight_key) {
            Joined::Leads(lead) if *req.method() == Method::GET && !self.traits.range => lead,
            _ => {
                return {
                    let now = self.shared.now();
                    self.answer(req, &entry, Tier::Memory, Outcome::Stale, now)
                };
            }
        };
        let client = fill::stand_in(&req);
        let served = Served {
            tier: Tier::Memory,
            outcome: Outcome::Stale,
            now: self.shared.now(),
            member: Member::default(),
        };
        let response = self.serve(req.method(), req.headers(), &entry, served);
        let service = Rc::clone(&self.service);
        let fill = self.fill(lead, found);
        actix_rt::spawn(fill.run(service, req, None));
        ServiceResponse::new(client, response)
            .map_body(|_, body| EitherBody::right(CacheBody(body)))
    }

    fn fill(&self, lead: Lead, found: Found) -> Fill {
        let forward = self.forward(&found);
        Fill {
            shared: Arc::clone(&self.shared),
            rule: Arc::clone(&self.rule),
            exact: self.exact.clone(),
            key: self.key.clone(),
            partitioned: self.partitioned,
            authenticated: (self.principal || self.traits.authorization)
                && !self.rule.credentials_in_key(),
            wishes: self.wishes,
            forward,
            lead,
            stored: found.entry,
            softly_purged: found.softly_purged,
            index: found.index,
            ranged: self.traits.range,
        }
    }

    async fn lead<B>(
        self,
        req: ServiceRequest,
        lead: Lead,
        found: Found,
    ) -> Result<Response<B>, Error>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        // The fill takes the client's conditions off the request; they still shape this answer.
        let own_headers = self.traits.conditional.then(|| req.headers().clone());
        let (reply, answer) = oneshot::channel();
        let fill = self.fill(lead, found);
        actix_rt::spawn(fill.run(Rc::clone(&self.service), req, Some(reply)));
        let Ok(reply) = answer.await else {
            return Err(ErrorInternalServerError("the handler did not answer"));
        };
        self.deliver(reply, own_headers)
    }

    /// Makes the leader's response of what its fill has replied. `own_headers` are the client's,
    /// where the fill has changed them.
    fn deliver<B>(
        &self,
        reply: Reply<B>,
        own_headers: Option<HeaderMap>,
    ) -> Result<Response<B>, Error> {
        let respond = |req: HttpRequest, make: &dyn Fn(&HeaderMap) -> HttpResponse<OwnBody>| {
            let response = make(own_headers.as_ref().unwrap_or_else(|| req.headers()));
            ServiceResponse::new(req, response)
                .map_body(|_, body| EitherBody::right(CacheBody(body)))
        };
        match reply {
            Reply::Refused(error) => Err(error),
            Reply::Own(mut res, member, outcome) => {
                count(&self.shared, &self.rule, Tier::None, outcome);
                respond::add_status(res.headers_mut(), member, &self.shared.config.name);
                Ok(res.map_into_left_body())
            }
            Reply::Entry(req, entry, tier, outcome, member) => Ok(respond(req, &|headers| {
                let now = self.shared.now();
                let served = Served {
                    tier,
                    outcome,
                    now,
                    member,
                };
                self.serve(&Method::GET, headers, &entry, served)
            })),
            Reply::Stream(req, head, reader, member) => {
                count(&self.shared, &self.rule, Tier::None, Outcome::Miss);
                Ok(self.stream(req, &head, reader, member, own_headers.as_ref()))
            }
        }
    }

    /// The response to a client whose request began what is coming in.
    fn stream<B>(
        &self,
        req: HttpRequest,
        head: &Head,
        reader: Reader,
        member: Member,
        own_headers: Option<&HeaderMap>,
    ) -> Response<B> {
        let headers = own_headers.unwrap_or_else(|| req.headers());
        let response = self.join_flight(&Method::GET, headers, head, reader, member);
        ServiceResponse::new(req, response).map_body(|_, body| EitherBody::right(CacheBody(body)))
    }

    fn join_flight(
        &self,
        method: &Method,
        headers: &HeaderMap,
        head: &Head,
        reader: Reader,
        member: Member,
    ) -> HttpResponse<OwnBody> {
        let now = self.shared.now();
        let member = Member {
            ttl: Some(ttl(head, now)),
            ..member
        };
        let client = self.client(method, headers);
        respond::from_flight(head, reader, &client, now, member, &self.shared.config.name)
    }

    async fn follow(&self, flight: &Arc<Flight>, req: &ServiceRequest) -> Follow {
        let Ok(landing) = timeout(self.shared.config.collapse_timeout, flight.landed()).await
        else {
            return Follow::Alone;
        };
        let headers = req.headers();
        let selects = |head: &Head| {
            let secret = self.shared.secret.bytes();
            head.variant
                .as_ref()
                .is_none_or(|variant| variant.matches(secret, &MapFields(headers)))
        };
        let member = Member {
            forward: Some(Forward::UriMiss),
            collapsed: true,
            ..Member::default()
        };
        match landing {
            Landing::Entry(entry, tier, outcome) if selects(&entry.head) => {
                let hit = matches!(outcome, Outcome::Hit | Outcome::Stale);
                let member = if hit { Member::default() } else { member };
                let outcome = if hit { outcome } else { Outcome::Collapsed };
                let now = self.shared.now();
                let served = Served {
                    tier,
                    outcome,
                    now,
                    member,
                };
                Follow::Answer(self.serve(req.method(), headers, &entry, served))
            }
            Landing::Streaming(head, length) if selects(&head) => {
                let Some(reader) = flight.reader(length) else {
                    return Follow::Alone;
                };
                count(&self.shared, &self.rule, Tier::None, Outcome::Collapsed);
                Follow::Answer(self.join_flight(req.method(), headers, &head, reader, member))
            }
            Landing::Failed(status) => {
                count(&self.shared, &self.rule, Tier::None, Outcome::Collapsed);
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                Follow::Answer(self.problem(status, member))
            }
            Landing::Abandoned => Follow::Again,
            _ => Follow::Alone,
        }
    }

    /// RFC 9457.
    fn problem(&self, status: StatusCode, member: Member) -> HttpResponse<OwnBody> {
        let title = status.canonical_reason().unwrap_or("Error");
        let body = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{}}}"#,
            status.as_u16()
        );
        let mut response = HttpResponse::with_body(status, OwnBody::Full(Some(body.into())));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/problem+json"),
        );
        respond::add_status(response.headers_mut(), member, &self.shared.config.name);
        response
    }

    /// RFC 9111 §5.2.1.7.
    fn not_cached<B>(&self, req: ServiceRequest) -> Response<B> {
        count(&self.shared, &self.rule, Tier::None, Outcome::Bypass);
        let member = Member {
            detail: Some("only-if-cached"),
            forward: Some(Forward::Request),
            ..Member::default()
        };
        let response = self.problem(StatusCode::GATEWAY_TIMEOUT, member);
        self.own(req, response)
    }
}

/// How a stored response is served.
struct Served {
    tier: Tier,
    outcome: Outcome,
    now: Millis,
    member: Member,
}

/// What a follower does next.
enum Follow {
    Answer(HttpResponse<OwnBody>),
    Again,
    Alone,
}

fn found_fresh<S>(exchange: &Exchange<S>, found: &Found) -> bool {
    let now = exchange.shared.now();
    found
        .entry
        .as_ref()
        .is_some_and(|entry| entry.head.lifetime.ttl(now) > 0)
}

fn ttl(head: &Head, now: Millis) -> i64 {
    head.lifetime.ttl(now).div_euclid(1000)
}
