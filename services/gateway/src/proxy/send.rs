//! Sending a request and giving back its response: deadlines and retries.

use super::{
    body::{Pieces, Progress, RequestBody, ResponseBody, Whose},
    client::{Clients, HttpClient, OTHER_CONNECT_TIMEOUT},
    failure::{Attempt, Failure, unreachable},
    fields, framing,
    interim::{self, Event},
    target, tunnel,
    upstreams::{InFlight, Unavailable, Upstream},
};
use crate::{
    convert,
    ingress::{Mark, RequestContext},
    problem,
    routes::Route,
    server::http1::{Interim, TrailerSlot},
    state::State,
};
use actix_http::{
    Payload,
    body::{BodySize, BoxBody},
};
use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::{StatusCode, header},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::body::Incoming;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use weaver_cache::{Detached, OriginUnreachable, Replaceable};

/// How long the body of a request may take before its request gives its room back.
const UPLOAD: Duration = Duration::from_secs(1);
/// Pieces of a request's body between the client and the upstream.
const PIECES: usize = 8;

fn none_healthy(route: &Route) -> HttpResponse {
    let detail = "no upstream of this route is healthy";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let response = problem::of_upstream(status, detail, &route.config.name);
    unreachable(response, OriginUnreachable::Known)
}

/// No upstream has room. What is stored may stand in, as for upstreams that fail.
fn overloaded(route: &Route, retry_after: u64) -> HttpResponse {
    let detail = "the upstreams of this route have as much to do as they can; try again later";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = problem::of_upstream(status, detail, &route.config.name);
    let fields = response.headers_mut();
    fields.insert(header::RETRY_AFTER, header::HeaderValue::from(retry_after));
    let no_store = header::HeaderValue::from_static("no-store");
    fields.insert(header::CACHE_CONTROL, no_store);
    unreachable(response, OriginUnreachable::Known)
}

/// Forwards a request to an upstream of its route.
pub(crate) async fn forward(
    req: &HttpRequest,
    payload: Payload,
    context: &RequestContext,
    route: &Route,
    clients: &Clients,
    state: &State,
) -> HttpResponse {
    let Some(method) =
        convert::method(req.method()).filter(|method| *method != http::Method::CONNECT)
    else {
        return problem::problem(StatusCode::NOT_IMPLEMENTED, "CONNECT is not answered");
    };
    let config = &route.config;
    if req.extensions().contains::<Replaceable>() && route.upstreams.are_all_out() {
        return none_healthy(route);
    }
    let has_body = has_body(req);
    // Any other Upgrade stays here, and the request is one like all others.
    let websocket = context.canonical.hop.websocket;
    let mut fields = fields::of_request(req, context, &state.mark, config.host.as_deref());
    if has_body && content_length(req.headers()).is_none() {
        // By itself the client sends a GET without the body whose length it does not know.
        let chunked = http::HeaderValue::from_static("chunked");
        fields.insert(http::header::TRANSFER_ENCODING, chunked);
    }
    let progress = Progress::new();
    let mut payload = Some(payload);
    let body = payload.take_if(|_| has_body).map(|source| {
        let length = content_length(req.headers());
        let most = state.config.server.max_body;
        request_body(source, length, most, progress.clone())
    });
    let repeatable = !has_body && !websocket && is_idempotent(&method);
    route.upstreams.earn();
    let mut tried: Vec<Arc<Upstream>> = Vec::new();
    let mut last_failure: Option<Failure> = None;
    loop {
        // What is stored answers at once, while a queue might not.
        let wait = !req.extensions().contains::<Replaceable>();
        let acquired = route.upstreams.acquire(&tried, wait).await;
        let (upstream, mut in_flight) = match (acquired, &last_failure) {
            (Ok(acquired), _) => acquired,
            (Err(Unavailable::NoneHealthy), _) => return none_healthy(route),
            (Err(Unavailable::Full { .. }), Some(failure)) => return failure.respond(&config.name),
            (Err(Unavailable::Full { retry_after }), None) => {
                return overloaded(route, retry_after);
            }
        };
        let this_body = body.clone().map_or(RequestBody::Empty, RequestBody::Pieces);
        let retries_left = tried.len() < config.retries as usize;
        let strip = config.strip_prefix.as_deref();
        let url = (upstream.endpoint.dialled(), strip);
        if context.canonical.ambiguous && (strip.is_some() || target::has_path(url.0)) {
            // A dot segment would lead out of the upstream's path.
            let what = "the path of the request can be read in several ways";
            return problem::problem(StatusCode::BAD_REQUEST, what);
        }
        let Some(request) = request(req, &method, url, fields.clone(), this_body) else {
            return problem::problem(StatusCode::BAD_REQUEST, "the request target is not valid");
        };
        let client = clients.of(&config.to, config.connect_timeout, &config.tls);
        let began = std::time::Instant::now();
        let sending = send(client, request, config.first_byte_timeout, &progress, req);
        let sent = hold_while_sending(sending, &progress, &mut in_flight).await;
        match sent.and_then(|response| judge(req, response, websocket, clients.max_head)) {
            Ok((response, size)) => {
                if matches!(response.status().as_u16(), 502..=504) {
                    route.upstreams.failed(&upstream);
                } else {
                    route.upstreams.succeeded(&upstream);
                    in_flight.answered(began.max(progress.last()));
                }
                in_flight.stop_counting();
                context.upstream.note(&upstream, began);
                if let Some(payload) = payload.filter(|_| is_switch(&response)) {
                    return tunnel::open(response, payload, config.tunnel_idle_timeout, in_flight);
                }
                let limit = config.between_bytes_timeout;
                return respond(response, size, limit, in_flight, context);
            }
            Err(failure) => {
                if matches!(failure, Failure::FirstByte(_)) {
                    in_flight.answered(began.max(progress.last()));
                }
                drop(in_flight);
                context.upstream.note(&upstream, began);
                // One upstream that fails again and again fails a request once, for the log.
                if !tried.iter().any(|known| Arc::ptr_eq(known, &upstream)) {
                    failure.log(&Attempt {
                        upstream: upstream.endpoint.dialled(),
                        route: &config.name,
                        request_id: &context.request_id,
                        connect_timeout: config.connect_timeout,
                    });
                }
                if failure.counts_against_upstream() {
                    route.upstreams.failed(&upstream);
                }
                // Without a connection nobody has the request, and its body is still here.
                let is_here = body.as_ref().is_none_or(Pieces::is_untouched);
                let safe = repeatable || (failure.is_before_sending() && is_here);
                if !(safe
                    && failure.is_worth_another_attempt()
                    && retries_left
                    && route.upstreams.may_retry())
                {
                    return failure.respond(&config.name);
                }
                tried.push(upstream);
                last_failure = Some(failure);
            }
        }
    }
}

/// Sends a request that is not a client's own, and gives back its response if that can be read.
pub(crate) async fn send_own(
    client: &HttpClient,
    mut request: http::Request<RequestBody>,
    first_byte: Duration,
    max_head: u64,
) -> Result<http::Response<Incoming>, Failure> {
    let to_head = *request.method() == http::Method::HEAD;
    let mut events = interim::watch(&mut request, false);
    let sending = async {
        tokio::select! {
            biased;
            Some(_) = events.recv() => Err(Failure::Flood),
            outcome = client.request(request) => outcome.map_err(Failure::of),
        }
    };
    let sent = timeout_at(Instant::now() + first_byte, sending).await;
    let response = sent.unwrap_or(Err(Failure::FirstByte(first_byte)))?;
    if framing::head_size(response.headers()) > max_head {
        return Err(Failure::HeadTooLarge);
    }
    if is_switch(&response) {
        return Err(Failure::Unasked);
    }
    framing::of_response(to_head, response.status(), response.headers())
        .map_err(Failure::Misframed)?;
    Ok(response)
}

/// Waits for a request to be answered. One whose body takes longer than [`UPLOAD`] to come gives its
/// room in the upstream's limit back: clients that send slowly must not keep others out.
async fn hold_while_sending<T>(
    sending: impl Future<Output = T>,
    progress: &Progress,
    in_flight: &mut InFlight,
) -> T {
    let mut sending = std::pin::pin!(sending);
    if !progress.is_done() {
        match timeout(UPLOAD, &mut sending).await {
            Ok(sent) => return sent,
            Err(_) if !progress.is_done() => in_flight.stop_counting(),
            Err(_) => {}
        }
    }
    sending.await
}

/// Sends a question to the upstream that answers them.
pub(crate) async fn ask(
    req: &HttpRequest,
    question: Bytes,
    context: &RequestContext,
    upstream: &str,
    clients: &Clients,
    mark: &Mark,
) -> HttpResponse {
    const LIMIT: Duration = Duration::from_secs(120);
    let mut fields = fields::of_request(req, context, mark, None);
    let json = http::HeaderValue::from_static("application/json");
    fields.insert(http::header::CONTENT_TYPE, json);
    let body = RequestBody::Whole(Some(question));
    let Some(request) = request(req, &http::Method::POST, (upstream, None), fields, body) else {
        return problem::problem(StatusCode::BAD_REQUEST, "the request target is not valid");
    };
    let client = clients.other();
    let sent = send(client, request, LIMIT, &Progress::new(), req).await;
    match sent.and_then(|response| judge(req, response, false, clients.max_head)) {
        Ok((response, size)) => respond(response, size, LIMIT, InFlight::uncounted(), context),
        Err(failure) => {
            failure.log(&Attempt {
                upstream,
                route: "ask",
                request_id: &context.request_id,
                connect_timeout: OTHER_CONNECT_TIMEOUT,
            });
            failure.respond("ask")
        }
    }
}

fn has_body(req: &HttpRequest) -> bool {
    req.headers().contains_key(header::TRANSFER_ENCODING)
        || content_length(req.headers()).is_some_and(|length| length > 0)
}

fn content_length(headers: &header::HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &http::Method) -> bool {
    matches!(
        *method,
        http::Method::GET
            | http::Method::HEAD
            | http::Method::OPTIONS
            | http::Method::TRACE
            | http::Method::PUT
            | http::Method::DELETE
    )
}

/// A request to an upstream of this URL, without this prefix.
fn request(
    req: &HttpRequest,
    method: &http::Method,
    (base, strip): (&str, Option<&str>),
    fields: http::HeaderMap,
    body: RequestBody,
) -> Option<http::Request<RequestBody>> {
    let target = req
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let uri: http::Uri = target::url(base, target, strip)?.parse().ok()?;
    let mut request = http::Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = fields;
    Some(request)
}

/// Passes the client's body on, piece by piece, for as long as somebody takes it.
fn request_body(
    mut payload: Payload,
    length: Option<u64>,
    most: u64,
    progress: Progress,
) -> Pieces {
    progress.expect(length);
    let (sender, pieces) = mpsc::channel(PIECES);
    actix_rt::spawn(async move {
        let mut total = 0_u64;
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(|error| io::Error::other(error.to_string()));
            total += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            let piece = if total > most {
                Err(io::Error::other(
                    "the body of the request is larger than max_body",
                ))
            } else {
                piece
            };
            let broken = piece.is_err();
            // Nobody takes it any more once the upstream has answered early or failed.
            if sender.send(piece).await.is_err() || broken {
                return;
            }
        }
    });
    Pieces::new(pieces, length, progress)
}

/// Waits for the head of the response; interim responses go to the client as they come.
async fn send(
    client: &HttpClient,
    mut request: http::Request<RequestBody>,
    first_byte: Duration,
    progress: &Progress,
    req: &HttpRequest,
) -> Result<http::Response<Incoming>, Failure> {
    // A request that was answered from the cache already, and now only refreshes it, has no right
    // to the connection any more.
    let to_client = Interim::of(req).filter(|_| !req.extensions().contains::<Detached>());
    let mut events = interim::watch(&mut request, to_client.is_some());
    let mut sending = std::pin::pin!(client.request(request));
    let mut deadline = Instant::now() + first_byte;
    loop {
        let outcome = timeout_at(deadline, async {
            loop {
                tokio::select! {
                    biased;
                    Some(event) = events.recv() => pass_interim(event, to_client.as_ref())?,
                    outcome = &mut sending => return outcome.map_err(Failure::of),
                }
            }
        })
        .await;
        match outcome {
            Ok(outcome) => {
                while let Ok(event) = events.try_recv() {
                    pass_interim(event, to_client.as_ref())?;
                }
                return outcome;
            }
            Err(_) => {
                // As long as the request's body moves, the first byte is not late.
                let moved = Instant::from_std(progress.last()) + first_byte;
                if moved <= Instant::now() {
                    return Err(Failure::FirstByte(first_byte));
                }
                deadline = moved;
            }
        }
    }
}

fn pass_interim(event: Event, to_client: Option<&Interim>) -> Result<(), Failure> {
    match event {
        Event::Head(head) => {
            if let Some(to_client) = to_client {
                to_client.send(&head);
            }
            Ok(())
        }
        // What waits for the response is dropped, and the upstream's connection with it.
        Event::Flood => Err(Failure::Flood),
    }
}

fn is_switch(response: &http::Response<Incoming>) -> bool {
    response.status() == http::StatusCode::SWITCHING_PROTOCOLS
}

/// Whether a response can be passed on, and what becomes of its body.
fn judge(
    req: &HttpRequest,
    response: http::Response<Incoming>,
    websocket: bool,
    max_head: u64,
) -> Result<(http::Response<Incoming>, BodySize), Failure> {
    if framing::head_size(response.headers()) > max_head {
        return Err(Failure::HeadTooLarge);
    }
    if is_switch(&response) {
        return if websocket && tunnel::is_accepted(response.headers()) {
            Ok((response, BodySize::Stream))
        } else {
            Err(Failure::Unasked)
        };
    }
    let head = *req.method() == actix_web::http::Method::HEAD;
    let size = framing::of_response(head, response.status(), response.headers())
        .map_err(Failure::Misframed)?;
    Ok((response, size))
}

fn respond(
    response: http::Response<Incoming>,
    size: BodySize,
    limit: Duration,
    in_flight: InFlight,
    context: &RequestContext,
) -> HttpResponse {
    let status = convert::status(response.status());
    let (parts, incoming) = response.into_parts();
    let trailers = TrailerSlot::default();
    let body = if status == StatusCode::RESET_CONTENT {
        BoxBody::new(Bytes::new())
    } else {
        let slot = trailers.clone();
        let whose = Whose {
            target: context.matched.target.clone(),
            request_id: context.request_id.clone(),
        };
        BoxBody::new(ResponseBody::new(
            incoming, size, limit, slot, in_flight, whose,
        ))
    };
    let mut response = HttpResponse::with_body(status, body);
    let keep_length =
        status == StatusCode::NOT_MODIFIED && framing::length_of_none(&parts.headers).is_some();
    fields::of_response(&parts.headers, response.headers_mut(), keep_length);
    if size == BodySize::Stream {
        response.extensions_mut().insert(trailers);
    }
    response
}
