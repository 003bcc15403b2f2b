//! `/agents`: registers, lists, finds, heartbeats and removes agents.

use super::posted::Posted;
use crate::{problem::problem, state::State};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};
use weaver_registry::{
    AgentEvents, AgentInfo, AgentPage, AgentStatus, EventPosition, Followed, Query, Registration,
    RegistryError, RegistryStats,
};

/// Agents of one answer, where nothing is said.
const PAGE: usize = 100;
/// Streams of events at once: with Redis each has a connection to itself, of which the pool has few,
/// and the purge journal needs one.
pub(crate) const MAX_STREAMS: usize = 8;
/// Between two signs of life of a stream of events.
const ALIVE: Duration = Duration::from_secs(15);
/// Between two attempts to reach the registry.
const RETRY: Duration = Duration::from_millis(500);

/// The description of these endpoints.
#[derive(OpenApi)]
#[openapi(
    info(title = "Weaver admin port: agents", description = "Registers, lists, finds and removes agents."),
    paths(register, list, find_one, remove, heartbeat, stats, events),
    components(schemas(
        AgentInfo, AgentPage, AgentStatus, Registration, RegistryStats, Heartbeat, Problem
    )),
    modifiers(&Security)
)]
struct Description;

/// The bearer token of the admin port.
struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let components = openapi.components.get_or_insert_default();
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("token", bearer);
    }
}

/// `GET /openapi.json`
pub(super) async fn description() -> HttpResponse {
    HttpResponse::Ok().json(Description::openapi())
}

/// What any of them may answer.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes what problem() writes")]
enum Refusals {
    /// A parameter or a field is not allowed
    #[response(status = 400, content_type = "application/problem+json")]
    Invalid(#[to_schema] Problem),
    /// The admin token is missing or wrong
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(#[to_schema] Problem),
    /// The request comes from a page of another site
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] Problem),
    /// The body is not declared as JSON
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(#[to_schema] Problem),
    /// The Host is not one of the admin port's
    #[response(status = 421, content_type = "application/problem+json")]
    Misdirected(#[to_schema] Problem),
    /// Too many wrong admin tokens came from this address
    #[response(status = 429, content_type = "application/problem+json")]
    TooManyFailures(#[to_schema] Problem),
    /// The registry is out of reach
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] Problem),
}

/// RFC 9457
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "describes what problem() writes")]
struct Problem {
    r#type: String,
    title: String,
    status: u16,
    detail: Option<String>,
}

fn failed(error: &RegistryError) -> HttpResponse {
    let status = match error {
        RegistryError::Invalid { .. } => StatusCode::BAD_REQUEST,
        RegistryError::NotRegistered(_) => StatusCode::NOT_FOUND,
        RegistryError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(status, &error.to_string())
}

fn answer(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(body)
}

/// Registers an agent, or registers it anew
#[utoipa::path(
    post, path = "/agents", tag = "agents",
    request_body = Registration,
    responses(
        (status = 201, description = "It is registered, and online", body = AgentInfo),
        (status = 507, description = "The registry is full", body = Problem, content_type = "application/problem+json"),
        Refusals,
    ),
    security((), ("token" = []))
)]
pub(super) async fn register(state: web::Data<State>, body: Posted) -> HttpResponse {
    let agent = match body.json::<Registration>().await {
        Ok(agent) => agent,
        Err(refused) => return refused,
    };
    if let Err(what) = crate::agents::check_metadata(&agent.metadata, &state.agent_addresses) {
        return problem(StatusCode::BAD_REQUEST, &what);
    }
    match state.agents.register(agent).await {
        Ok(agent) => answer(StatusCode::CREATED, &agent),
        Err(error) => failed(&error),
    }
}

/// What is listed or found.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes what Listed reads")]
struct Listing {
    /// Only agents that have this capability; may be given several times
    capability: Option<Vec<String>>,
    /// Whether all of the capabilities are wanted, and not just any
    all: Option<bool>,
    /// Whether only agents that are online are wanted; with capabilities only
    online: Option<bool>,
    /// How many at most
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only agents whose ids come after this one; without capabilities only
    after: Option<String>,
}

#[derive(Default)]
struct Listed {
    capabilities: Vec<String>,
    all: bool,
    online: bool,
    limit: Option<usize>,
    after: Option<String>,
}

impl Listed {
    fn read(query: &str) -> Result<Self, String> {
        let mut listed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let flag = || match &*value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                other => Err(format!("{name}={other:?} is neither true nor false")),
            };
            match &*name {
                "capability" => listed.capabilities.push(value.into_owned()),
                "all" => listed.all = flag()?,
                "online" => listed.online = flag()?,
                "limit" => {
                    let limit = value.parse();
                    let limit = limit.map_err(|_| format!("limit={value:?} is no number"))?;
                    listed.limit = Some(limit);
                }
                "after" => listed.after = Some(value.into_owned()),
                other => {
                    return Err(format!(
                        "{other:?} is none of capability, all, online, limit, after"
                    ));
                }
            }
        }
        let finds = !listed.capabilities.is_empty();
        match (finds, listed.after.is_some(), listed.all || listed.online) {
            (true, true, _) => Err("after goes with no capability".to_owned()),
            (false, _, true) => Err("all and online go with a capability".to_owned()),
            _ => Ok(listed),
        }
    }
}

/// Lists agents by id, or finds those that are capable
#[utoipa::path(
    get, path = "/agents", tag = "agents",
    params(Listing),
    responses(
        (status = 200, description = "A page of agents, by id; next is what to give as after for those that follow", body = AgentPage),
        Refusals,
    ),
    security((), ("token" = []))
)]
pub(super) async fn list(req: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let listed = match Listed::read(req.query_string()) {
        Ok(listed) => listed,
        Err(what) => return problem(StatusCode::BAD_REQUEST, &what),
    };
    let limit = listed.limit.unwrap_or(PAGE);
    let page = if listed.capabilities.is_empty() {
        state
            .agents
            .list_agents(listed.after.as_deref(), limit)
            .await
    } else {
        let query = if listed.all {
            Query::all(listed.capabilities)
        } else {
            Query::any(listed.capabilities)
        };
        let query = query.only_online(listed.online).limit(limit);
        let found = state.agents.find_capable_agents(&query).await;
        found.map(|agents| AgentPage { agents, next: None })
    };
    match page {
        Ok(page) => answer(StatusCode::OK, &page),
        Err(error) => failed(&error),
    }
}

/// Tells what is known of an agent
#[utoipa::path(
    get, path = "/agents/{agent_id}", tag = "agents",
    params(("agent_id" = String, Path, description = "Percent-encoded")),
    responses(
        (status = 200, description = "It is registered", body = AgentInfo),
        (status = 404, description = "It is not registered", body = Problem, content_type = "application/problem+json"),
        Refusals,
    ),
    security((), ("token" = []))
)]
pub(super) async fn find_one(state: web::Data<State>, id: web::Path<String>) -> HttpResponse {
    match state.agents.get_agent_info(&id).await {
        Ok(Some(agent)) => answer(StatusCode::OK, &agent),
        Ok(None) => failed(&RegistryError::NotRegistered(id.into_inner())),
        Err(error) => failed(&error),
    }
}

/// Removes an agent
#[utoipa::path(
    delete, path = "/agents/{agent_id}", tag = "agents",
    params(("agent_id" = String, Path, description = "Percent-encoded")),
    responses(
        (status = 204, description = "It was registered, and is not any more"),
        (status = 404, description = "It is not registered", body = Problem, content_type = "application/problem+json"),
        Refusals,
    ),
    security((), ("token" = []))
)]
pub(super) async fn remove(state: web::Data<State>, id: web::Path<String>) -> HttpResponse {
    match state.agents.unregister(&id).await {
        Ok(true) => HttpResponse::NoContent().finish(),
        Ok(false) => failed(&RegistryError::NotRegistered(id.into_inner())),
        Err(error) => failed(&error),
    }
}

/// A sign of life.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Heartbeat {
    /// How it is, if that has changed.
    status: Option<AgentStatus>,
}

/// Says that an agent lives
#[utoipa::path(
    post, path = "/agents/{agent_id}/heartbeat", tag = "agents",
    params(("agent_id" = String, Path, description = "Percent-encoded")),
    request_body(content = Option<Heartbeat>),
    responses(
        (status = 204, description = "It is online"),
        (status = 404, description = "It is not registered (any more), and has to register", body = Problem, content_type = "application/problem+json"),
        Refusals,
    ),
    security((), ("token" = []))
)]
pub(super) async fn heartbeat(
    state: web::Data<State>,
    id: web::Path<String>,
    body: Posted,
) -> HttpResponse {
    let heartbeat = if body.is_empty() {
        Ok(None)
    } else {
        body.json::<Option<Heartbeat>>().await
    };
    let heartbeat = match heartbeat {
        Ok(heartbeat) => heartbeat.unwrap_or_default(),
        Err(refused) => return refused,
    };
    match state.agents.heartbeat(&id, heartbeat.status).await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => failed(&error),
    }
}

/// Tells how many agents there are
#[utoipa::path(
    get, path = "/agent-stats", tag = "agents",
    responses(
        (status = 200, description = "Counts, by type and capability", body = RegistryStats),
        Refusals,
    ),
    security((), ("token" = []))
)]
pub(super) async fn stats(state: web::Data<State>) -> HttpResponse {
    match state.agents.get_stats().await {
        Ok(stats) => answer(StatusCode::OK, &stats),
        Err(error) => failed(&error),
    }
}

/// Tells what happens to agents, as server-sent events
///
/// `agent:registered`, `agent:unregistered`, `agent:expired`. Whoever sends Last-Event-ID goes on
/// behind that event; `missed` says that some are gone.
#[utoipa::path(
    get, path = "/agent-events", tag = "agents",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event; 0-0/0 for all there are")),
    responses(
        (status = 200, description = "Events, as they happen", content_type = "text/event-stream", body = String),
        Refusals,
    ),
    security((), ("token" = []))
)]
pub(super) async fn events(req: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let after = match req.headers().get("last-event-id").map(|id| id.to_str()) {
        None => None,
        Some(id) => match id.ok().and_then(EventPosition::parse) {
            Some(after) => Some(after),
            None => {
                let what = "Last-Event-ID is no id of an event, such as 0-0/0";
                return problem(StatusCode::BAD_REQUEST, what);
            }
        },
    };
    let Ok(place) = Arc::clone(&state.event_streams).try_acquire_owned() else {
        let what = format!("{MAX_STREAMS} follow the events already");
        return problem(StatusCode::SERVICE_UNAVAILABLE, &what);
    };
    let events = (state.agents.events(after), place);
    let told = stream::unfold(events, |(mut events, place)| async move {
        let text = next(&mut events).await;
        Some((Ok::<_, std::convert::Infallible>(text), (events, place)))
    });
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .streaming(told)
}

async fn next(events: &mut AgentEvents) -> Bytes {
    match timeout(ALIVE, events.next()).await {
        Err(_) => Bytes::from_static(b": alive\n\n"),
        Ok(Err(_)) => {
            tokio::time::sleep(RETRY).await;
            Bytes::from_static(b": the registry is out of reach\n\n")
        }
        Ok(Ok(Followed::Missed(count))) => {
            format!("event: missed\ndata: {}\n\n", json!({ "events": count })).into()
        }
        Ok(Ok(Followed::Event(event))) => {
            let (id, kind) = (&event.position, event.kind.as_str());
            let data = json!({
                "agent_id": event.agent_id,
                "agent_type": event.agent_type,
                "at": event.at,
            });
            format!("id: {id}\nevent: {kind}\ndata: {data}\n\n").into()
        }
    }
}
