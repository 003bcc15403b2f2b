//! The fill task: fetches for a key, streams to all who wait, and stores what came whole.
//!
//! It runs on the worker of the request that began it, because the handler's service lives there,
//! and belongs to the cache: the client that asked first may leave, and the fill goes on. It takes
//! the client's request, since only that can be given to the handler, and gives the part of it that
//! a response needs back with the reply.

mod cluster;
mod confirm;
mod judge;
mod keep;
mod remote;
mod rest;

use crate::{
    Detached, Kept, OriginUnreachable, Replaceable, Rule,
    entry::{Entry, Head, Index, StoredFields},
    flight::{Grounds, Landing, Lead, Reader, Requester},
    key::KeyBytes,
    lease::Lease,
    shared::Shared,
};
use actix_http::body::MessageBody;
use actix_service::Service;
use actix_web::{
    Error, HttpMessage, HttpRequest,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderValue},
    },
    test::TestRequest,
};
use cluster::Turn;
use keep::Begun;
use remote::{Held, outcome_of};
use std::{rc::Rc, sync::Arc, time::Instant};
use tokio::sync::oneshot;
use weaver_cache_policy::{
    Bypass, Millis, Outcome,
    reuse::{Decision, Failure, Wishes},
    status::{Forward, Member},
    validation,
};
use weaver_metrics::Tier;

/// What the client whose request began the fill is to be given.
pub(crate) enum Reply<B> {
    /// The handler's own response.
    Own(ServiceResponse<B>, Member, Outcome),
    /// A stored response.
    Entry(HttpRequest, Arc<Entry>, Tier, Outcome, Member),
    /// A response that is being stored.
    Stream(HttpRequest, Arc<Head>, Reader, Member),
    /// A stored response that comes in from Redis, and what filling it took, in microseconds.
    Held(HttpRequest, Arc<Head>, Reader, Outcome, u64),
    /// The handler's error.
    Refused(Error),
}

type Sender<B> = Option<oneshot::Sender<Reply<B>>>;

pub(crate) struct Fill {
    pub(crate) shared: Arc<Shared>,
    pub(crate) rule: Arc<Rule>,
    /// The key of just the URL that is asked for.
    pub(crate) exact: KeyBytes,
    /// The key of what is stored, which may be of an equivalent URL.
    pub(crate) key: KeyBytes,
    pub(crate) partitioned: bool,
    pub(crate) authenticated: bool,
    pub(crate) requester: Requester,
    pub(crate) wishes: Wishes,
    pub(crate) forward: Forward,
    pub(crate) lead: Lead,
    /// Whether it takes the place of a fetch that takes too long, in this node or another.
    pub(crate) takes_over: bool,
    /// What says to the other nodes that this one fetches.
    pub(crate) lease: Option<Lease>,
    /// What is stored, and has to be validated.
    pub(crate) stored: Option<Arc<Entry>>,
    /// When a soft purge ended its freshness.
    pub(crate) softly_purged: Option<Millis>,
    pub(crate) index: Option<Arc<Index>>,
    /// Whether the client asked for a range, which goes to the origin as it is.
    pub(crate) ranged: bool,
    /// Whether what is stored is fresh, and to be refreshed all the same.
    pub(crate) early: bool,
    /// Whether its response may be stored, as far as that can be known before it has come.
    pub(crate) may_be_stored: bool,
}

/// When a fetch was sent and its head received.
pub(crate) struct Times {
    pub(crate) position: crate::Position,
    pub(crate) begun: Instant,
    pub(crate) requested_at: Millis,
    pub(crate) received_at: Millis,
}

impl Times {
    /// A fetch that begins now.
    pub(crate) fn begin(shared: &Shared) -> Self {
        let now = shared.now();
        Self {
            position: shared.log.head(),
            begun: Instant::now(),
            requested_at: now,
            received_at: now,
        }
    }

    /// The same, with its head received now.
    pub(crate) fn received(self, shared: &Shared) -> Self {
        Self {
            received_at: shared.now(),
            ..self
        }
    }
}

impl Fill {
    pub(crate) async fn run<S, B>(
        mut self,
        service: Rc<S>,
        mut req: ServiceRequest,
        mut reply: Sender<B>,
    ) where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        match self.look_into_redis(&req).await {
            Some((Held::Here(entry), Decision::StaleWhileRevalidate)) => {
                let client = stand_in(&req);
                let how = (Outcome::Stale, Grounds::Stored);
                self.answer(client, &entry, how, Member::default(), &mut reply);
                self.stored = Some(entry);
            }
            Some((Held::Here(entry), decision)) => {
                let client = req.into_parts().0;
                let how = (outcome_of(decision), Grounds::Stored);
                return self.answer(client, &entry, how, Member::default(), &mut reply);
            }
            Some((Held::InParts(remote), decision)) => {
                let outcome = outcome_of(decision);
                match self.stream_parts(req, &remote, outcome, &mut reply).await {
                    Ok(()) => return,
                    Err(back) => req = back,
                }
            }
            None => {}
        }
        match self.take_turn(&req, reply.is_some()).await {
            Turn::Fetch => {}
            Turn::Leave => return,
            Turn::Fetched(entry) => {
                let client = req.into_parts().0;
                let member = Member {
                    forward: Some(self.forward),
                    collapsed: true,
                    ..Member::default()
                };
                let how = (Outcome::Collapsed, Grounds::Fetched);
                return self.answer(client, &entry, how, member, &mut reply);
            }
        }
        if reply.is_none() {
            req.extensions_mut().insert(Detached);
        }
        if reply.is_none() || self.may_be_stored {
            req.extensions_mut().insert(Kept);
        }
        if let Some(stored) = &self.stored
            && self.may_replace(stored, self.shared.now(), Failure::Known)
        {
            req.extensions_mut().insert(Replaceable);
        }
        let mut times = Times::begin(&self.shared);
        let mut beginning = None;
        if !self.ranged {
            prepare(req.headers_mut(), self.stored.as_deref());
            beginning = self.stored_beginning(&mut req).await;
        }
        let mut answer = service.call(req).await;
        if let (Some(part), Ok(res)) = (&beginning, &answer)
            && matches!(res.status().as_u16(), 206 | 416)
            && self.whole_of(part, res, &times).is_none()
            && let Ok(res) = answer
        {
            // What came does not go with what is stored: once more, for the whole.
            let mut req = ServiceRequest::from_request(res.into_parts().0);
            req.match_info_mut().reset();
            prepare(req.headers_mut(), None);
            beginning = None;
            times = Times::begin(&self.shared);
            answer = service.call(req).await;
        }
        let res = match answer {
            Ok(res) => res,
            Err(error) => {
                self.lead.flight.land(Landing::Alone);
                send(&mut reply, Reply::Refused(error));
                return;
            }
        };
        let times = times.received(&self.shared);
        let whole = beginning
            .filter(|_| res.status() == StatusCode::PARTIAL_CONTENT)
            .and_then(|part| Some((self.whole_of(&part, &res, &times)?, part)));
        match whole {
            // RFC 9111 §3.4: the two make one response.
            Some(((whole, lifetime), part)) => {
                let mut res = res;
                *res.response_mut().status_mut() = StatusCode::OK;
                res.headers_mut().remove(header::CONTENT_RANGE);
                let begun = Begun {
                    bytes: part.body.clone(),
                    whole,
                };
                self.keep(res, lifetime, times, reply, Some(begun)).await;
            }
            None => self.received(res, times, reply).await,
        }
    }

    /// Gives what Redis had to the client and to all who wait.
    fn answer<B>(
        &self,
        client: HttpRequest,
        entry: &Arc<Entry>,
        (outcome, grounds): (Outcome, Grounds),
        member: Member,
        reply: &mut Sender<B>,
    ) {
        let landing = Landing::Entry(Arc::clone(entry), Tier::Redis, outcome, grounds);
        self.lead.flight.land(landing);
        let answer = Reply::Entry(client, Arc::clone(entry), Tier::Redis, outcome, member);
        send(reply, answer);
    }

    /// A response has come: it replaces, confirms or is replaced by what is stored.
    pub(crate) async fn received<B>(
        mut self,
        res: ServiceResponse<B>,
        times: Times,
        mut reply: Sender<B>,
    ) where
        B: MessageBody + 'static,
    {
        let status = res.status();
        if let Some(stored) = self.stored.take() {
            if status == StatusCode::NOT_MODIFIED {
                return self.confirmed(&stored, res, &times, reply).await;
            }
            let unreachable = res
                .response()
                .extensions()
                .get::<OriginUnreachable>()
                .copied();
            let failure = match unreachable {
                Some(OriginUnreachable::Known) => Some(Failure::Known),
                Some(OriginUnreachable::Asked) => Some(Failure::Answer),
                None => matches!(status.as_u16(), 500 | 502 | 503 | 504).then_some(Failure::Answer),
            };
            if let Some(failure) = failure
                && self.may_replace(&stored, times.received_at, failure)
            {
                let req = res.into_parts().0;
                self.lead.flight.land(Landing::Entry(
                    Arc::clone(&stored),
                    Tier::Memory,
                    Outcome::Stale,
                    Grounds::Failed(failure),
                ));
                let member = Member {
                    forward: Some(self.forward),
                    forward_status: Some(status.as_u16()),
                    detail: Some(match failure {
                        Failure::Answer => "stale-if-error",
                        Failure::Known => "grace",
                    }),
                    ..Member::default()
                };
                send(
                    &mut reply,
                    Reply::Entry(req, stored, Tier::Memory, Outcome::Stale, member),
                );
                return;
            }
        }
        match self.assess(&res, &times) {
            Ok(lifetime) => self.keep(res, lifetime, times, reply, None).await,
            Err(reason) => self.pass(res, reason, reply).await,
        }
    }

    /// Remembers, in all nodes, that requesters like this one have nothing to wait for under this
    /// key.
    pub(crate) async fn mark(&mut self) {
        self.shared.mark(&self.exact, self.requester).await;
        if let Some(lease) = self.lease.take() {
            lease.pass(self.shared.config.hit_for_miss);
        }
    }

    /// [`Self::mark`], as far as the reason says something about other requests.
    async fn mark_for(&mut self, reason: Bypass) {
        if self.ranged {
            return;
        }
        match reason {
            // Of this node alone, and of this moment.
            Bypass::NoRoom => self.shared.mark(&self.exact, self.requester).await,
            // Which requests with credentials share.
            Bypass::Authenticated => self.mark().await,
            reason if reason.is_of_request() => {}
            _ => self.mark().await,
        }
    }

    /// A response that is not stored goes to the client whose request it answers, as it comes.
    async fn pass<B: MessageBody>(
        mut self,
        res: ServiceResponse<B>,
        reason: Bypass,
        mut reply: Sender<B>,
    ) {
        if res
            .response()
            .extensions()
            .get::<OriginUnreachable>()
            .is_some()
        {
            self.lead
                .flight
                .land(Landing::Failed(res.status().as_u16()));
        } else {
            self.mark_for(reason).await;
            self.lead.flight.land(Landing::Alone);
        }
        let member = Member {
            forward: Some(self.forward),
            detail: Some(reason.as_str()),
            ..Member::default()
        };
        // A client that has left drops the response, and with it the fetch.
        send(&mut reply, Reply::Own(res, member, Outcome::Miss));
    }
}

fn send<B>(reply: &mut Sender<B>, what: Reply<B>) {
    if let Some(reply) = reply.take() {
        // The client may have left; then what it would have got is dropped.
        let _ = reply.send(what);
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Makes of a client's request the one that fills: for the whole, and conditional only on what is
/// stored (RFC 9111 §4.3.1).
fn prepare(headers: &mut HeaderMap, stored: Option<&Entry>) {
    for name in [
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_RANGE,
        header::RANGE,
    ] {
        headers.remove(name);
    }
    let Some(stored) = stored else { return };
    for (name, value) in validation::precondition(&StoredFields(&stored.head.fields)) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(header::HeaderName::from_static(name), value);
        }
    }
}

/// A request that looks like the client's, for a response that goes out while the client's own
/// request is with the handler. Actix gives no other way to make one.
pub(crate) fn stand_in(req: &ServiceRequest) -> HttpRequest {
    let mut made = TestRequest::default()
        .method(req.method().clone())
        .uri(&req.uri().to_string())
        .version(req.version());
    if let Some(peer) = req.peer_addr() {
        made = made.peer_addr(peer);
    }
    for (name, value) in req.headers() {
        made = made.append_header((name.clone(), value.clone()));
    }
    made.to_http_request()
}
