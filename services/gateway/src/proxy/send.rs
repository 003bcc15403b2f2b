//! Sending a request and giving back its response: deadlines, retries, and what to say of failure.

use super::{
    body::{Progress, RequestBody, ResponseBody},
    client::{Clients, HttpClient},
    fields, tunnel,
    upstreams::{InFlight, Upstream},
};
use crate::{
    convert,
    ingress::{Mark, RequestContext},
    problem,
    routes::Route,
    server::http1::{Interim, TrailerSlot},
    state::State,
};
use actix_http::{Payload, body::BodySize};
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
    time::{Instant, timeout_at},
};
use weaver_cache::{Detached, OriginUnreachable, Replaceable};

/// Pieces of a request's body between the client and the upstream.
const PIECES: usize = 8;

/// Why there is no response.
pub(crate) enum Failure {
    Connect(hyper_util::client::legacy::Error),
    ConnectTimeout,
    FirstByte(Duration),
    Broken(hyper_util::client::legacy::Error),
}

impl Failure {
    pub(crate) fn of(error: hyper_util::client::legacy::Error) -> Self {
        if !error.is_connect() {
            return Self::Broken(error);
        }
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(cause) = source {
            if cause
                .downcast_ref::<io::Error>()
                .is_some_and(|io| io.kind() == io::ErrorKind::TimedOut)
            {
                return Self::ConnectTimeout;
            }
            source = cause.source();
        }
        Self::Connect(error)
    }

    /// Whether nothing of the request can have reached the upstream.
    pub(crate) fn is_before_sending(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout)
    }

    /// What a client is told of it.
    pub(crate) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Connect(_) => (StatusCode::BAD_GATEWAY, "the upstream could not be reached"),
            Self::ConnectTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "the upstream did not accept a connection in time",
            ),
            Self::FirstByte(_) => (
                StatusCode::GATEWAY_TIMEOUT,
                "the upstream did not answer in time",
            ),
            Self::Broken(_) => (
                StatusCode::BAD_GATEWAY,
                "the upstream broke off before it had answered",
            ),
        }
    }

    fn respond(&self, upstream: &str) -> HttpResponse {
        let (status, detail) = self.status();
        unreachable(
            problem::of_upstream(status, detail, upstream),
            OriginUnreachable::Asked,
        )
    }

    pub(crate) fn log(&self, upstream: &str) {
        match self {
            Self::Connect(error) | Self::Broken(error) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::warn!(upstream, %error, cause, "upstream failed");
            }
            Self::ConnectTimeout => tracing::warn!(upstream, "upstream failed: connect timeout"),
            Self::FirstByte(limit) => {
                tracing::warn!(upstream, ?limit, "upstream failed: no first byte in time");
            }
        }
    }
}

fn unreachable(mut response: HttpResponse, how: OriginUnreachable) -> HttpResponse {
    response.extensions_mut().insert(how);
    response
}

fn none_healthy(route: &Route) -> HttpResponse {
    let detail = "no upstream of this route is healthy";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let response = problem::of_upstream(status, detail, &route.config.name);
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
    let upgrade = context.canonical.hop.websocket;
    let has_body = has_body(req);
    let mut fields = fields::of_request(req, context, &state.mark, config.host.as_deref());
    if has_body && content_length(req.headers()).is_none() {
        // By itself the client sends a GET without the body whose length it does not know.
        let chunked = http::HeaderValue::from_static("chunked");
        fields.insert(http::header::TRANSFER_ENCODING, chunked);
    }
    let progress = Progress::new();
    let mut payload = Some(payload);
    let mut body = Some(if has_body && !upgrade {
        let length = content_length(req.headers());
        let source = payload.take().unwrap_or(Payload::None);
        request_body(
            source,
            length,
            state.config.server.max_body,
            progress.clone(),
        )
    } else {
        RequestBody::Empty
    });
    let repeatable = !has_body && !upgrade && is_idempotent(&method);
    route.upstreams.earn();
    let mut tried: Vec<Arc<Upstream>> = Vec::new();
    loop {
        let Some((upstream, in_flight)) = route.upstreams.choose(&tried) else {
            return none_healthy(route);
        };
        let Some(this_body) = body.take() else {
            return problem::problem(StatusCode::BAD_GATEWAY, "the request cannot be sent again");
        };
        let retries_left = tried.len() < config.retries as usize;
        let Some(request) = request(req, &method, &upstream.base, fields.clone(), this_body) else {
            return problem::problem(StatusCode::BAD_REQUEST, "the request target is not valid");
        };
        let client = clients.of(&config.to, config.connect_timeout);
        let sent = send(client, request, config.first_byte_timeout, &progress, req).await;
        match sent {
            Ok(response) => {
                if matches!(response.status().as_u16(), 502..=504) {
                    route.upstreams.failed(&upstream);
                } else {
                    route.upstreams.succeeded(&upstream);
                }
                let limit = config.between_bytes_timeout;
                return respond(req, response, payload, limit, in_flight);
            }
            Err(failure) => {
                drop(in_flight);
                failure.log(&config.name);
                route.upstreams.failed(&upstream);
                let safe = repeatable || (failure.is_before_sending() && !has_body);
                if !(safe && retries_left && route.upstreams.may_retry()) {
                    return failure.respond(&config.name);
                }
                body = Some(RequestBody::Empty);
                tried.push(upstream);
            }
        }
    }
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
    let Some(request) = request(req, &http::Method::POST, upstream, fields, body) else {
        return problem::problem(StatusCode::BAD_REQUEST, "the request target is not valid");
    };
    let client = clients.other();
    match send(client, request, LIMIT, &Progress::new(), req).await {
        Ok(response) => respond(req, response, None, LIMIT, InFlight::uncounted()),
        Err(failure) => {
            failure.log("ask");
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

/// The path and query go up byte for byte as they came.
fn request(
    req: &HttpRequest,
    method: &http::Method,
    base: &str,
    fields: http::HeaderMap,
    body: RequestBody,
) -> Option<http::Request<RequestBody>> {
    let target = req
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let uri: http::Uri = format!("{base}{target}").parse().ok()?;
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
) -> RequestBody {
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
    RequestBody::Pieces {
        pieces,
        length,
        progress,
    }
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
    let (sender, mut interim) = mpsc::channel::<Vec<u8>>(16);
    if to_client.is_some() {
        hyper::ext::on_informational(&mut request, move |response| {
            // A client that sends more of them than we can hold loses some, as it may.
            let _ = sender.try_send(interim_head(response.status(), response.headers()));
        });
    } else {
        drop(sender);
    }
    let mut sending = std::pin::pin!(client.request(request));
    let mut deadline = Instant::now() + first_byte;
    loop {
        let outcome = timeout_at(deadline, async {
            loop {
                tokio::select! {
                    biased;
                    Some(head) = interim.recv() => {
                        if let Some(to_client) = &to_client {
                            to_client.send(&head);
                        }
                    }
                    outcome = &mut sending => return outcome,
                }
            }
        })
        .await;
        match outcome {
            Ok(outcome) => {
                while let Ok(head) = interim.try_recv() {
                    if let Some(to_client) = &to_client {
                        to_client.send(&head);
                    }
                }
                return outcome.map_err(Failure::of);
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

fn interim_head(status: http::StatusCode, fields: &http::HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {}\r\n", status).into_bytes();
    if status == http::StatusCode::CONTINUE {
        // The connection sends its own.
        return Vec::new();
    }
    for (name, value) in fields {
        let hop = weaver_cache::policy::validation::HOP_BY_HOP.contains(&name.as_str());
        if !hop && name != http::header::CONTENT_LENGTH {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn respond(
    req: &HttpRequest,
    response: http::Response<Incoming>,
    payload: Option<Payload>,
    limit: Duration,
    in_flight: InFlight,
) -> HttpResponse {
    let status = convert::status(response.status());
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return tunnel::open(response, payload, in_flight);
    }
    let head = *req.method() == actix_web::http::Method::HEAD;
    let length = response
        .headers()
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let size = match (status, length) {
        (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT, _) => {
            BodySize::None
        }
        (_, Some(length)) => BodySize::Sized(length),
        (_, None) if head => BodySize::None,
        (_, None) => BodySize::Stream,
    };
    let (parts, incoming) = response.into_parts();
    let trailers = TrailerSlot::default();
    let body = ResponseBody::new(incoming, size, limit, trailers.clone(), in_flight);
    let mut response = HttpResponse::with_body(status, body).map_into_boxed_body();
    fields::of_response(
        &parts.headers,
        response.headers_mut(),
        status == StatusCode::NOT_MODIFIED,
    );
    if size == BodySize::Stream {
        response.extensions_mut().insert(trailers);
    }
    response
}
