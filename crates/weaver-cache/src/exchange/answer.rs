//! Answers: of what is stored, of what comes in for another, and of our own.

use super::{Exchange, Response, count};
use crate::{
    entry::{Entry, Head, MapFields},
    fill::Reply,
    flight::{Flight, Grounds, Landing, Reader},
    journal::Verdict,
    partial,
    respond::{self, CacheBody, Client, OwnBody},
    shared::lifetime,
};
use actix_http::body::EitherBody;
use actix_web::{
    Error, HttpRequest, HttpResponse,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap},
    },
};
use std::sync::Arc;
use tokio::time::timeout;
use weaver_cache_policy::{
    Lifetime, Millis, Outcome,
    reuse::{self, Decision},
    status::{Forward, Member},
};
use weaver_metrics::Tier;

/// How a stored response is served.
pub(super) struct Served {
    pub(super) tier: Tier,
    pub(super) outcome: Outcome,
    pub(super) now: Millis,
    pub(super) member: Member,
}

/// What a follower does next.
pub(super) enum Follow {
    Answer(HttpResponse<OwnBody>),
    Again,
    /// What the flight brings was purged since it began; the flight is for nobody who comes now.
    Outdated,
    /// The flight takes too long; one of those who wait takes over.
    TimedOut,
    Alone,
}

impl<S> Exchange<S> {
    pub(super) fn own<B>(
        &self,
        req: ServiceRequest,
        response: HttpResponse<OwnBody>,
    ) -> Response<B> {
        with(req.into_parts().0, response)
    }

    pub(super) fn client<'a>(&self, method: &'a Method, headers: &'a HeaderMap) -> Client<'a> {
        Client {
            method,
            headers,
            conditional: self.traits.conditional,
            range: self.traits.range,
        }
    }

    pub(super) fn answer<B>(
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

    pub(super) fn serve(
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
        let ttl = ttl(&entry.head, now);
        let member = Member {
            // What was purged softly has freshness left that it is not served for.
            ttl: Some(if outcome == Outcome::Stale {
                ttl.min(0)
            } else {
                ttl
            }),
            ..member
        };
        self.tally(tier, outcome, entry.fill_micros);
        respond::from_entry(
            entry,
            &self.client(method, headers),
            now,
            member,
            &self.shared.config.name,
        )
    }

    /// Counts what is served from the store.
    fn tally(&self, tier: Tier, outcome: Outcome, fill_micros: u64) {
        let hit = matches!(outcome, Outcome::Hit | Outcome::Stale);
        if self.shared.config.track_stats {
            let counters = self.rule.counters(&self.shared.metrics);
            counters.count(tier, outcome.as_str());
            if hit {
                let took = self.started.elapsed().as_secs_f64();
                counters.saved(fill_micros as f64 / 1e6 - took);
            }
        }
        if hit {
            self.shared.hot.hit(&self.exact);
        }
    }

    /// Answers a range request from a stored part, if there is a fresh one that has it.
    pub(super) async fn answer_range(
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
            let found = self.shared.complete(found).await;
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

    /// Makes the leader's response of what its fill has replied. `own_headers` are the client's,
    /// where the fill has changed them.
    pub(super) fn deliver<B>(
        &self,
        reply: Reply<B>,
        own_headers: Option<HeaderMap>,
    ) -> Result<Response<B>, Error> {
        match reply {
            Reply::Refused(error) => Err(error),
            Reply::Own(mut res, member, outcome) => {
                count(&self.shared, &self.rule, Tier::None, outcome);
                respond::add_status(res.headers_mut(), member, &self.shared.config.name);
                Ok(res.map_into_left_body())
            }
            Reply::Entry(req, entry, tier, outcome, member) => {
                let now = self.shared.now();
                let served = Served {
                    tier,
                    outcome,
                    now,
                    member,
                };
                let headers = own_headers.as_ref().unwrap_or_else(|| req.headers());
                let response = self.serve(&Method::GET, headers, &entry, served);
                Ok(with(req, response))
            }
            Reply::Stream(req, head, reader, member) => {
                count(&self.shared, &self.rule, Tier::None, Outcome::Miss);
                Ok(self.stream(req, &head, reader, member, own_headers.as_ref()))
            }
            Reply::Held(req, head, reader, outcome, fill_micros) => {
                self.tally(Tier::Redis, outcome, fill_micros);
                let member = Member::default();
                Ok(self.stream(req, &head, reader, member, own_headers.as_ref()))
            }
        }
    }

    /// The response to a client whose request began what is coming in.
    pub(super) fn stream<B>(
        &self,
        req: HttpRequest,
        head: &Head,
        reader: Reader,
        member: Member,
        own_headers: Option<&HeaderMap>,
    ) -> Response<B> {
        let headers = own_headers.unwrap_or_else(|| req.headers());
        let response = self.join_flight(&Method::GET, headers, head, reader, member);
        with(req, response)
    }

    pub(super) fn join_flight(
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

    /// Why a landed response does not answer this request, which came at `asked_at`, if it does not.
    fn refuses(&self, lifetime: &Lifetime, grounds: Grounds, asked_at: Millis) -> Option<Follow> {
        let now = self.shared.now();
        let (wishes, is_late) = (&self.wishes, lifetime.received_at < asked_at);
        match grounds {
            Grounds::Fetched if !reuse::may_answer_others(lifetime) => Some(Follow::Alone),
            // What is stale at once answers those who asked before it came, and nobody later.
            Grounds::Fetched if is_late && lifetime.ttl(now) <= 0 => Some(Follow::Outdated),
            Grounds::Fetched => (!reuse::accepts(lifetime, wishes, now)).then_some(Follow::Alone),
            Grounds::Stored => (reuse::decide(lifetime, wishes, now) == Decision::Revalidate)
                .then_some(Follow::Outdated),
            Grounds::Failed(failure) => {
                (!reuse::may_replace_error(lifetime, wishes, now, failure)).then_some(Follow::Alone)
            }
        }
    }

    pub(super) async fn follow(
        &self,
        flight: &Arc<Flight>,
        req: &ServiceRequest,
        asked_at: Millis,
    ) -> Follow {
        let log = &self.shared.log;
        if log.judge_fetch(&self.exact, flight.position()) != Verdict::Alive {
            return Follow::Outdated;
        }
        let Ok(landing) = timeout(self.shared.config.collapse_timeout, flight.landed()).await
        else {
            return Follow::TimedOut;
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
        // A purge that came before this request, and perhaps some that came while it waited.
        let outdated = match &landing {
            Landing::Entry(entry, ..) => log.judge(entry) == Verdict::Dead,
            Landing::Streaming(head, ..) => log.judge_head(&self.exact, head) != Verdict::Alive,
            _ => false,
        };
        if outdated {
            return Follow::Outdated;
        }
        let refused = match &landing {
            Landing::Entry(entry, _, _, grounds) => {
                let lifetime = lifetime(entry, log.judge(entry).freshness_ended());
                self.refuses(&lifetime, *grounds, asked_at)
            }
            Landing::Streaming(head, _, None) => {
                self.refuses(&head.lifetime, Grounds::Fetched, asked_at)
            }
            Landing::Streaming(head, _, Some(_)) => {
                self.refuses(&head.lifetime, Grounds::Stored, asked_at)
            }
            _ => None,
        };
        if let Some(refused) = refused {
            return refused;
        }
        match landing {
            Landing::Entry(entry, tier, outcome, _) if selects(&entry.head) => {
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
            Landing::Streaming(head, length, held) if selects(&head) => {
                let Some(reader) = flight.reader(length) else {
                    return Follow::Alone;
                };
                let member = match held {
                    Some(outcome) => {
                        self.tally(Tier::Redis, outcome, 0);
                        Member::default()
                    }
                    None => {
                        count(&self.shared, &self.rule, Tier::None, Outcome::Collapsed);
                        member
                    }
                };
                Follow::Answer(self.join_flight(req.method(), headers, &head, reader, member))
            }
            Landing::Failed(status) => {
                count(&self.shared, &self.rule, Tier::None, Outcome::Collapsed);
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                let mut response = self.problem(status, member);
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    let soon = header::HeaderValue::from_static("1");
                    response.headers_mut().insert(header::RETRY_AFTER, soon);
                }
                Follow::Answer(response)
            }
            Landing::Abandoned => Follow::Again,
            _ => Follow::Alone,
        }
    }

    /// RFC 9457.
    pub(super) fn problem(&self, status: StatusCode, member: Member) -> HttpResponse<OwnBody> {
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
    pub(super) fn not_cached<B>(&self, req: ServiceRequest) -> Response<B> {
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

/// A response of the cache's own to a request.
pub(super) fn with<B>(req: HttpRequest, response: HttpResponse<OwnBody>) -> Response<B> {
    ServiceResponse::new(req, response).map_body(|_, body| EitherBody::right(CacheBody(body)))
}

fn ttl(head: &Head, now: Millis) -> i64 {
    head.lifetime.ttl(now).div_euclid(1000)
}
