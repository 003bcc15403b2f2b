//! Everything before the cache: the canonical request, limits, request id, authentication, rate limit,
//! CORS.
//!
//! In comes a request as a client wrote it. Out goes the canonical request: its head is rewritten to
//! what will go upstream ([`canonical`]), so that the cache's key and Vary, the handlers and the
//! upstream read the same request, and nothing else can be had of it.
//!
//! One middleware and not five, because each costs a hit an allocation and a poll. Its order is that
//! of the design: nothing is looked up for a request that is not allowed.

mod authority;
mod canonical;
mod client;
mod cors;
pub(crate) mod fields;
mod loops;
mod max_forwards;

use crate::{
    access::{Answerer, Line, Logged},
    auth::Identity,
    config::SecurityHeaders,
    limit::{Budget, Subject},
    problem::problem,
    routes::{Matched, Target},
    state::State,
};
use actix_http::body::{BoxBody, EitherBody, MessageBody};
use actix_service::{Service, Transform, forward_ready};
use actix_web::{
    Error, HttpMessage, HttpResponse,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
pub(crate) use canonical::{Canonical, judged_path};
pub(crate) use client::Client;
pub(crate) use loops::Mark;
use pin_project_lite::pin_project;
use std::{
    future::{Ready, ready as ready_now},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use weaver_cache::{
    Https, PassBy, Principal, Rule,
    policy::{Bypass, url::Scheme},
};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request once it is let in.
pub(crate) struct RequestContext {
    pub(crate) matched: Matched,
    pub(crate) identity: Option<Arc<Identity>>,
    /// What the request is, beside its head.
    pub(crate) canonical: Canonical,
    pub(crate) request_id: HeaderValue,
    /// Who answered behind the cache.
    pub(crate) upstream: Answerer,
}

/// The cache's rule for a request that was let in.
pub(crate) fn rule_of(req: &ServiceRequest) -> Option<Arc<Rule>> {
    req.extensions()
        .get::<Rc<RequestContext>>()
        .and_then(|context| context.matched.rule.clone())
}

pub(crate) struct Ingress {
    state: Arc<State>,
}

impl Ingress {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self { state }
    }
}

impl<S, B> Transform<S, ServiceRequest> for Ingress
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B, BoxBody>>;
    type Error = Error;
    type Transform = IngressService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready_now(Ok(IngressService {
            state: Arc::clone(&self.state),
            service,
        }))
    }
}

pub(crate) struct IngressService<S> {
    state: Arc<State>,
    service: S,
}

impl<S, B> Service<ServiceRequest> for IngressService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B, BoxBody>>;
    type Error = Error;
    type Future = IngressFuture<S::Future>;

    forward_ready!(service);

    fn call(&self, mut req: ServiceRequest) -> Self::Future {
        let started = Instant::now();
        let state = Arc::clone(&self.state);
        let request_id = request_id(req.headers());
        let context = admit(&state, &mut req, request_id.clone());
        let log = state.access_log.as_ref();
        let mut line = log.map(|log| log.begin(&req, started));
        let (context, budget) = match context {
            Ok(context) => context,
            Err(refused) => {
                let mut response = *refused;
                finish_own(&state, response.headers_mut(), &request_id);
                let path = judged_path(req.uri().path());
                let matched = state.routes.find(&path, false);
                matched
                    .metrics
                    .count(response.status().as_u16(), started.elapsed());
                if let Some(mut line) = line {
                    line.refused(matched.target.name());
                    line.answered(response.status(), response.headers());
                    response = response.map_body(|_, body| BoxBody::new(Logged::new(body, line)));
                }
                let response = req.into_response(response);
                return IngressFuture::Refused {
                    response: Some(response),
                };
            }
        };
        let context = Rc::new(context);
        let identity = context.identity.as_ref();
        let partition = identity.map(|identity| state.auth.partition(identity, req.headers()));
        if let Some(line) = &mut line {
            line.admitted(&context);
        }
        let finisher = ResponseFinisher {
            started,
            origin: cors::origin(&state.config.cors, req.headers()),
            line,
            context: Rc::clone(&context),
            budget,
            state,
        };
        {
            let mut extensions = req.extensions_mut();
            if let Some(partition) = partition {
                extensions.insert(Principal(partition));
            }
            if context.canonical.scheme == Scheme::Https {
                extensions.insert(Https);
            }
            if context.canonical.ambiguous {
                extensions.insert(PassBy(Bypass::AmbiguousPath));
            }
            extensions.insert(context);
        }
        IngressFuture::Inner {
            answer: self.service.call(req),
            finisher: Some(finisher),
        }
    }
}

pin_project! {
    /// A request's future in ingress: refused at once, or with the cache and what is behind it.
    #[project = IngressProject]
    pub(crate) enum IngressFuture<F> {
        Refused { response: Option<ServiceResponse> },
        Inner {
            #[pin]
            answer: F,
            finisher: Option<ResponseFinisher>,
        },
    }
}

impl<F, B> Future for IngressFuture<F>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
    B: MessageBody + 'static,
{
    type Output = Result<ServiceResponse<EitherBody<B, BoxBody>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            IngressProject::Refused { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map_into_right_body())),
                None => Poll::Pending,
            },
            IngressProject::Inner { answer, finisher } => {
                let res = ready!(answer.poll(cx))?;
                match finisher.take() {
                    Some(finisher) => Poll::Ready(Ok(finisher.finish(res))),
                    None => Poll::Pending,
                }
            }
        }
    }
}

/// What is left to do once there is a response.
pub(crate) struct ResponseFinisher {
    state: Arc<State>,
    context: Rc<RequestContext>,
    started: Instant,
    origin: Option<HeaderValue>,
    budget: Option<Budget>,
    line: Option<Line>,
}

impl ResponseFinisher {
    fn finish<B: MessageBody + 'static>(
        self,
        mut res: ServiceResponse<B>,
    ) -> ServiceResponse<EitherBody<B, BoxBody>> {
        let Self {
            state,
            context,
            started,
            origin,
            budget,
            line,
        } = self;
        let (status, took) = (res.status().as_u16(), started.elapsed());
        context.matched.metrics.count(status, took);
        let headers = res.headers_mut();
        headers.insert(X_REQUEST_ID, context.request_id.clone());
        let own = !matches!(context.matched.target, Target::Route(_));
        if own || state.config.server.security_headers == SecurityHeaders::All {
            security(&state, headers);
        }
        if let Some(origin) = &origin {
            cors::allow(&state.config.cors, origin, headers);
        }
        if let (Some(limiter), Some(budget)) = (&state.limiter, budget) {
            limit_fields(limiter, &budget, headers);
        }
        match line {
            Some(mut line) => {
                line.answered(res.status(), res.headers());
                res.map_body(|_, body| EitherBody::right(BoxBody::new(Logged::new(body, line))))
            }
            None => res.map_into_left_body(),
        }
    }
}

type Refused = Box<HttpResponse>;

fn admit(
    state: &State,
    req: &mut ServiceRequest,
    request_id: HeaderValue,
) -> Result<(RequestContext, Option<Budget>), Refused> {
    let server = &state.config.server;
    let head: usize = req
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if head as u64 > server.max_head {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(refuse(
            status,
            "the head of the request is larger than max_head",
        ));
    }
    let mut canonical = canonical::establish(state, req)?;
    let path = canonical::judged(req.uri().path())?;
    let headers = req.headers();
    if let Some(length) = headers.get(header::CONTENT_LENGTH)
        && length
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
            > Some(server.max_body)
    {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        return Err(refuse(
            status,
            "the body of the request is larger than max_body",
        ));
    }
    if let Some(preflight) = cors::preflight(&state.config.cors, req.method(), headers) {
        return Err(Box::new(preflight));
    }
    let wants_text = path.path == "/metrics" && crate::builtin::wants_text(headers);
    let matched = state.routes.find(&path.path, wants_text);
    canonical.ambiguous |= canonical::is_ambiguous(state, &path, &matched)?;
    drop(path);
    max_forwards::apply(req, &matched.target, server.trace)?;
    let headers = req.headers();
    let open = matches!(matched.target, Target::Health);
    let identity = if open {
        None
    } else {
        state.auth.authenticate(headers, canonical.client.address)?
    };
    let budget = match &state.limiter {
        // A probe that is refused restarts a healthy node.
        Some(limiter) if !open => Some(limit(limiter, identity.as_deref(), &canonical.client)?),
        _ => None,
    };
    canonical::keep_query_as_keyed(req, matched.rule.as_deref())?;
    Ok((
        RequestContext {
            matched,
            identity,
            canonical,
            request_id,
            upstream: Answerer::default(),
        },
        budget,
    ))
}

fn limit(
    limiter: &crate::limit::Limiter,
    identity: Option<&Identity>,
    client: &Client,
) -> Result<Budget, Refused> {
    let subject = match (identity, client.address) {
        (Some(identity), _) => Subject::User(Arc::clone(&identity.user)),
        (None, Some(address)) => Subject::address(address),
        (None, None) => Subject::Address(std::net::IpAddr::from([0, 0, 0, 0])),
    };
    limiter.check(&subject).map_err(|budget| {
        let mut refused = refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests");
        refused
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(budget.retry_after));
        limit_fields(limiter, &budget, refused.headers_mut());
        refused
    })
}

fn limit_fields(limiter: &crate::limit::Limiter, budget: &Budget, headers: &mut HeaderMap) {
    for (name, value) in limiter.fields(budget) {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

fn refuse(status: StatusCode, what: &str) -> Refused {
    Box::new(problem(status, what))
}

/// The client's id if it has the form of one, otherwise a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    if let Some(given) = headers.get(X_REQUEST_ID) {
        let bytes = given.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        if (1..=128).contains(&bytes.len()) && bytes.iter().all(plain) {
            return given.clone();
        }
    }
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        use std::hash::{BuildHasher, Hasher};
        std::hash::RandomState::new().build_hasher().finish()
    });
    // Distinct in a process by the count, between processes by the random part.
    let number = (u128::from(*PROCESS) << 64) | u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0_u8; 32];
    for (at, place) in text.iter_mut().enumerate() {
        *place = HEX[(number >> (124 - 4 * at)) as usize & 15];
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// The response to a request that has no valid head, or that the connection has no room for.
pub(crate) fn refusal(state: &State, status: StatusCode, what: &str) -> HttpResponse {
    let mut response = problem(status, what);
    finish_own(
        state,
        response.headers_mut(),
        &request_id(&HeaderMap::new()),
    );
    state
        .routes
        .unmatched()
        .count(status.as_u16(), Duration::ZERO);
    response
}

fn finish_own(state: &State, headers: &mut HeaderMap, request_id: &HeaderValue) {
    headers.insert(X_REQUEST_ID, request_id.clone());
    security(state, headers);
}

fn security(state: &State, headers: &mut HeaderMap) {
    if state.config.server.security_headers == SecurityHeaders::Off {
        return;
    }
    let fields = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fields {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}
