//! The fill task: asks an upstream, passes its answer on as it comes, and records what came whole.
//!
//! It runs on the worker of the call that began it, whose client it uses, and goes on without that
//! call's client where the answer is to be recorded.

use super::{Caller, ModelRoute, Refusal, budget::Reservation, record, request, served::Head};
use crate::{
    config::ModelKey,
    convert,
    proxy::{Attempt, Failure, HttpClient, InFlight, RequestBody, Unavailable, send_own},
    state::State,
};
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::{sync::Arc, time::Instant};
use tokio::{sync::oneshot, time::timeout};
use weaver_cache::policy::validation::HOP_BY_HOP;
use weaver_model_cache::{Answer, Lead, Ticket, Usage};

/// Bytes of an answer that is not recorded that are looked at for what it cost.
const INSPECTED: u64 = 1 << 20;
/// The client's fields that an upstream of models may see. No credentials are among them.
const PASSED: [&str; 8] = [
    "accept",
    "cdn-loop",
    "openai-organization",
    "openai-project",
    "openai-beta",
    "traceparent",
    "tracestate",
    "via",
];

pub(super) struct Fill {
    pub(super) client: HttpClient,
    pub(super) fields: http::HeaderMap,
    pub(super) state: Arc<State>,
    pub(super) route: Arc<ModelRoute>,
    pub(super) asked: super::Prepared,
    pub(super) ticket: Option<Ticket>,
    pub(super) reservation: Option<Reservation>,
    pub(super) request_id: HeaderValue,
}

/// What has come of an answer.
#[derive(Default)]
struct Seen {
    total: u64,
    /// The beginning of one that is not kept, up to a limit.
    beginning: BytesMut,
}

type Reply = oneshot::Sender<Result<Head, Refusal>>;

/// The fields of a call's request to the upstream, but for its Host.
pub(super) fn call_fields(
    caller: &Caller<'_>,
    asked: &super::Prepared,
    key: Option<&ModelKey>,
) -> http::HeaderMap {
    let mut fields = fields(caller, key);
    let json = http::HeaderValue::from_static("application/json");
    fields.insert(http::header::CONTENT_TYPE, json);
    let length = http::HeaderValue::from(asked.body.len());
    fields.insert(http::header::CONTENT_LENGTH, length);
    fields
}

/// The fields of any request to the upstream, but for its Host.
pub(super) fn fields(caller: &Caller<'_>, key: Option<&ModelKey>) -> http::HeaderMap {
    let given = caller.req.headers();
    let mut fields = http::HeaderMap::with_capacity(10);
    for name in PASSED {
        for value in given.get_all(name) {
            if let Some((name, value)) = convert::field(&HeaderName::from_static(name), value) {
                fields.append(name, value);
            }
        }
    }
    // By these the call is known should the upstream lead back here.
    let mark = caller.state.mark.name();
    for (name, text) in [
        ("via", format!("1.1 {mark}")),
        ("cdn-loop", mark.to_owned()),
    ] {
        if let Ok(value) = http::HeaderValue::try_from(text) {
            fields.append(name, value);
        }
    }
    let mut put = |name: &'static str, text: &str| {
        if let Ok(value) = http::HeaderValue::try_from(text) {
            fields.insert(name, value);
        }
    };
    put(
        "user-agent",
        concat!("weaver-gateway/", env!("CARGO_PKG_VERSION")),
    );
    put(
        "x-request-id",
        caller.context.request_id.to_str().unwrap_or(""),
    );
    // The client's own credentials are for the upstream only where nobody checks them here.
    let own = given
        .get("authorization")
        .filter(|_| caller.context.identity.is_none());
    let authorization = match key {
        Some(ModelKey(key)) => http::HeaderValue::try_from(format!("Bearer {key}")).ok(),
        None => own.and_then(|own| http::HeaderValue::from_bytes(own.as_bytes()).ok()),
    };
    if let Some(mut authorization) = authorization {
        authorization.set_sensitive(true);
        fields.insert(http::header::AUTHORIZATION, authorization);
    }
    fields
}

/// Where an endpoint is at an upstream. A URL whose path says a version, such as
/// `https://host/openai/v1`, is what OpenAI's clients call the base URL: it stands for the `/v1` of our
/// own paths.
fn url(base: &str, path: &str) -> String {
    let is_version = |segment: &str| {
        let mut rest = segment.strip_prefix('v').unwrap_or("").chars();
        rest.next().is_some_and(|first| first.is_ascii_digit())
            && rest.all(|letter| letter.is_ascii_alphanumeric())
    };
    let (_, rest) = base.split_once("://").unwrap_or(("", base));
    let own = rest.split('/').skip(1).any(is_version);
    let path = path.strip_prefix("/v1").filter(|_| own).unwrap_or(path);
    format!("{base}{path}")
}

/// A GET at an upstream, whose name is its Host.
pub(super) fn request(
    base: &str,
    path: &str,
    fields: http::HeaderMap,
    body: RequestBody,
) -> Option<http::Request<RequestBody>> {
    let uri: http::Uri = url(base, path).parse().ok()?;
    let host = uri.authority()?.as_str().rsplit('@').next()?;
    let host = http::HeaderValue::try_from(host).ok()?;
    let mut request = http::Request::new(body);
    *request.uri_mut() = uri;
    *request.headers_mut() = fields;
    request.headers_mut().insert(http::header::HOST, host);
    Some(request)
}

impl Fill {
    pub(super) async fn run(mut self, mut lead: Lead<Head>, mut reply: Reply) {
        let began = Instant::now();
        let (is_kept, mut has_left) = (self.ticket.is_some(), false);
        let fetched = tokio::select! {
            biased;
            fetched = self.fetch() => fetched,
            // What nothing keeps is of use to its own client alone.
            () = reply.closed(), if !is_kept => {
                has_left = true;
                Err(Refusal::client_left())
            }
        };
        let (response, in_flight) = match fetched {
            Ok(fetched) => fetched,
            Err(refusal) => {
                // Those who wait get the same, and do not try one after another.
                lead.land(refusal.head());
                lead.push(refusal.body()).await;
                lead.finish();
                // The call may have left.
                let _ = reply.send(Err(refusal));
                // An upstream that was left may have begun to answer: leaving is not free.
                let prompt = if has_left {
                    self.asked.prompt_estimate
                } else {
                    0
                };
                if let Some(reservation) = self.reservation.take() {
                    let price = self.state.models.price(&self.asked.model);
                    let completion = 0;
                    let cost = price.map_or(0.0, |price| price.of(Usage { prompt, completion }));
                    reservation.settle(prompt, cost).await;
                }
                return;
            }
        };
        let head = head(&response);
        let media_type = head.media_type().to_owned();
        let is_ok = head.status == actix_web::http::StatusCode::OK;
        lead.land(head.clone());
        let _ = reply.send(Ok(head));
        let mut seen = Seen::default();
        let came = self.pump(response, &mut lead, &mut seen).await;
        drop(in_flight);
        let took = began.elapsed();
        let whole = lead.whole();
        let body = whole.clone().unwrap_or_else(|| seen.beginning.freeze());
        let (kind, expected) = (media_type.clone(), self.asked.expected);
        let body_length = body.len();
        let inspect = move || record::inspect(&kind, &body, expected);
        let inspected = self.state.bodies.work(body_length, inspect).await;
        // What was not looked at is not recorded, and costs what its length says.
        let finding = inspected.unwrap_or_default();
        let usage = self.settle(is_ok, &finding, seen.total, took).await;
        if !came {
            // Dropped before its end: those who read find it broken.
            return;
        }
        lead.end();
        if let Some(ticket) = &self.ticket
            && let Some(cache) = &self.state.models.cache
            && let Some(body) = whole.filter(|_| is_ok && finding.complete)
        {
            let answer = Answer {
                body,
                media_type,
                usage,
                took,
            };
            cache.keep(ticket, answer).await;
        }
        lead.finish();
    }

    /// Asks one upstream, or the next if the first was not reached: nothing is asked twice.
    async fn fetch(&self) -> Result<(http::Response<Incoming>, InFlight), Refusal> {
        let config = &self.route.config;
        let upstreams = &self.route.upstreams;
        let refuse = |status: u16, what: &str| {
            let status = actix_web::http::StatusCode::from_u16(status);
            let status = status.unwrap_or(actix_web::http::StatusCode::BAD_GATEWAY);
            Refusal::upstream(status, &config.name, what)
        };
        let mut tried = Vec::new();
        loop {
            let began = Instant::now();
            let (upstream, mut in_flight) = match upstreams.acquire(&tried, true).await {
                Ok(acquired) => acquired,
                Err(Unavailable::NoneHealthy) => return Err(refuse(503, "no upstream is online")),
                Err(Unavailable::Full { retry_after }) => {
                    return Err(Refusal::overloaded(&config.name, retry_after));
                }
            };
            if tried.iter().any(|known| Arc::ptr_eq(known, &upstream)) {
                return Err(refuse(502, "no upstream could be reached"));
            }
            let Some(request) = self.request(upstream.endpoint.dialled()) else {
                return Err(Refusal::internal());
            };
            let sent = send_own(
                &self.client,
                request,
                config.first_byte_timeout,
                self.state.config.server.max_upstream_head,
            )
            .await;
            let failure = match sent {
                Ok(response) => {
                    if matches!(response.status().as_u16(), 502..=504) {
                        upstreams.failed(&upstream);
                    } else {
                        upstreams.succeeded(&upstream);
                        in_flight.answered(began);
                    }
                    in_flight.stop_counting();
                    return Ok((response, in_flight));
                }
                Err(failure) => failure,
            };
            if matches!(failure, Failure::FirstByte(_)) {
                in_flight.answered(began);
            }
            drop(in_flight);
            failure.log(&Attempt {
                upstream: upstream.endpoint.dialled(),
                route: &config.name,
                request_id: &self.request_id,
                connect_timeout: config.connect_timeout,
            });
            if failure.counts_against_upstream() {
                upstreams.failed(&upstream);
            }
            if !failure.is_before_sending() {
                let (status, what) = failure.status();
                return Err(refuse(status.as_u16(), what));
            }
            tried.push(upstream);
        }
    }

    fn request(&self, base: &str) -> Option<http::Request<RequestBody>> {
        let body = RequestBody::Whole(Some(self.asked.body.clone()));
        let path = self.asked.endpoint.path();
        let mut request = request(base, path, self.fields.clone(), body)?;
        *request.method_mut() = http::Method::POST;
        Some(request)
    }

    /// Passes the body on; `false` if it broke off, or nobody wants it any more.
    async fn pump(
        &self,
        response: http::Response<Incoming>,
        lead: &mut Lead<Head>,
        seen: &mut Seen,
    ) -> bool {
        let mut incoming = response.into_body();
        let limit = self.route.config.between_bytes_timeout;
        loop {
            let frame = match timeout(limit, incoming.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return true,
                Ok(Some(Err(error))) => {
                    let name = &self.route.config.name;
                    let request_id = self.request_id.to_str().unwrap_or("");
                    tracing::warn!(models = name, request_id, %error, "an answer broke off");
                    return false;
                }
                Err(_) => {
                    let name = &self.route.config.name;
                    let request_id = self.request_id.to_str().unwrap_or("");
                    tracing::warn!(models = name, request_id, ?limit, "an answer fell silent");
                    return false;
                }
            };
            // Actix takes an empty chunk for the end.
            let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) else {
                continue;
            };
            seen.total += data.len() as u64;
            // What is kept is there anyway.
            if !lead.is_kept() && seen.total <= INSPECTED {
                seen.beginning.extend_from_slice(&data);
            }
            if !lead.push(data).await {
                return false;
            }
        }
    }

    /// Counts what the answer cost, by its own word or by its length.
    async fn settle(
        &mut self,
        is_ok: bool,
        finding: &record::Finding,
        length: u64,
        took: std::time::Duration,
    ) -> Usage {
        let usage = match finding.usage {
            Some(usage) => usage,
            // An error costs nothing.
            None if !is_ok => Usage::default(),
            None => Usage {
                prompt: self.asked.prompt_estimate,
                completion: match finding.pieces {
                    0 => length / request::BYTES_PER_TOKEN,
                    pieces => pieces,
                },
            },
        };
        let models = &self.state.models;
        let price = models.price(&self.asked.model);
        let cost = price.map_or(0.0, |price| price.of(usage));
        models
            .metrics
            .spent(usage.prompt, usage.completion, cost, took);
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(usage.total(), cost).await;
        }
        usage
    }
}

fn head(response: &http::Response<Incoming>) -> Head {
    let fields = response.headers().iter();
    let fields = fields.filter(|(name, _)| {
        let name = name.as_str();
        !HOP_BY_HOP.contains(&name) && !matches!(name, "content-length" | "set-cookie" | "age")
    });
    Head {
        status: convert::status(response.status()),
        length: response
            .headers()
            .get(http::header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok()),
        fields: fields
            .filter_map(|(name, value)| convert::field_back(name, value))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn a_base_that_says_its_version_stands_for_ours() {
        for (base, expected) in [
            ("http://h", "http://h/v1/models"),
            ("http://v1", "http://v1/v1/models"),
            ("http://h/proxy", "http://h/proxy/v1/models"),
            ("https://h/openai/v1", "https://h/openai/v1/models"),
            ("https://h/v1beta/openai", "https://h/v1beta/openai/models"),
        ] {
            assert_eq!(url(base, "/v1/models"), expected);
        }
    }
}
