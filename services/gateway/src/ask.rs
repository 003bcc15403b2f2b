//! `POST /ask`: a question in words, for a model or for an upstream of its own. Never in the HTTP
//! response cache.

use crate::{
    body::{self, Held},
    model::{self, Asked, Caller, Endpoint, How, Refusal, Said, Served, Who},
    problem::problem,
    proxy,
};
use actix_web::{
    HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
    web,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A question is text for a model; a megabyte is more than any takes.
const MAX_QUESTION: usize = 1 << 20;
/// Bytes of an answer.
const MAX_ANSWER: usize = 16 << 20;

/// `{"query", "model"?, "user_id"?, "parameters"?, …}`: further members are parameters too.
#[derive(Deserialize)]
struct Question {
    query: String,
    model: Option<String>,
    user_id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

pub(crate) async fn handle(caller: Caller<'_>, payload: web::Payload) -> HttpResponse {
    let req = caller.req;
    if *req.method() != Method::POST {
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "only POST is answered here");
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let headers = req.headers();
    let received = body::receive(&caller.state.bodies, headers, payload, MAX_QUESTION).await;
    let received = match received {
        Ok(received) => received,
        Err(error) => return error.problem(),
    };
    // The upstream gets the body with the fields that describe it, its coding among them.
    let body = received.encoded();
    let parse = |bytes: Bytes| {
        let question = serde_json::from_slice::<Question>(&bytes).ok()?;
        Some((question, bytes.len()))
    };
    let (parsed, held) = match received.parse(parse).await {
        Ok(parsed) => parsed,
        Err(error) => return error.problem(),
    };
    let Some((question, length)) = parsed else {
        let what = "the body is not a JSON object with the text \"query\"";
        return problem(StatusCode::BAD_REQUEST, what);
    };
    if let Some(upstream) = &caller.state.config.ask.upstream {
        let asking = proxy::ask(
            req,
            body,
            caller.context,
            upstream,
            caller.clients,
            &caller.state.mark,
        );
        let half_close = caller.state.config.server.half_close;
        let mut response = proxy::while_connected(req, half_close, "ask", asking).await;
        response.headers_mut().append(
            header::HeaderName::from_static("cache-status"),
            HeaderValue::from_static("weaver; fwd=bypass; detail=ask"),
        );
        return response;
    }
    match answer(&caller, question, length, held).await {
        Ok(response) => response,
        Err(refusal) => refusal.problem(),
    }
}

/// Asks the model, and gives its text with what the cache did.
async fn answer(
    caller: &Caller<'_>,
    question: Question,
    length: usize,
    held: Held,
) -> Result<HttpResponse, Refusal> {
    let config = &caller.state.config;
    let Some(model) = question.model.clone().or_else(|| config.ask.model.clone()) else {
        return Err(if config.models.is_empty() {
            let what =
                "nothing answers questions: neither ask.upstream nor [[models]] is configured";
            Refusal::of_ask(StatusCode::SERVICE_UNAVAILABLE, what)
        } else {
            let what = "model is missing, and ask.model is not configured";
            Refusal::of_ask(StatusCode::BAD_REQUEST, what)
        });
    };
    let who = who(caller, question.user_id.as_deref())?;
    let (said, cache) = (
        Said::of(caller.req.headers()),
        caller.state.models.cache.clone(),
    );
    let prepare = move || {
        let asked = asked(question, &model, who, said)?;
        Ok::<_, Refusal>(asked.prepare(cache.as_ref()))
    };
    let prepared = caller.state.bodies.work(length, prepare).await;
    let prepared = prepared.map_err(Refusal::of_body)??;
    let served = model::serve(caller, prepared.holding(held)).await?;
    let (status_field, cache) = (served.status_field(), view(&served));
    let shaped = shape(served, cache).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response.insert_header(("cache-status", status_field));
    Ok(response.json(shaped))
}

/// The call that a question is.
fn asked(question: Question, model: &str, who: Who, said: Said) -> Result<Asked, Refusal> {
    let mut members = question.more;
    members.extend(question.parameters);
    members.remove("stream");
    // An answer in words is asked for once: the same question gets the same answer.
    if !["temperature", "seed"]
        .iter()
        .any(|name| members.contains_key(*name))
    {
        members.insert("temperature".to_owned(), json!(0));
    }
    members.insert("model".to_owned(), json!(model));
    members.insert(
        "messages".to_owned(),
        json!([{ "role": "user", "content": question.query }]),
    );
    let body = Bytes::from(Value::Object(members.clone()).to_string());
    Asked::of(Endpoint::Chat, body, members, who, said)
}

/// Who asks: the authenticated user, who may not ask for another.
fn who(caller: &Caller<'_>, named: Option<&str>) -> Result<Who, Refusal> {
    if let (Some(identity), Some(named)) = (&caller.context.identity, named)
        && *identity.user != *named
    {
        let what = "user_id names another user than the credentials";
        return Err(Refusal::of_ask(StatusCode::FORBIDDEN, what));
    }
    Ok(Who::of(caller)?.or_named(named))
}

async fn shape(served: Served, cache: Value) -> Result<Value, Refusal> {
    let broken = |what: &str| Refusal::of_ask(StatusCode::BAD_GATEWAY, what);
    let Some((status, bytes)) = served.whole(MAX_ANSWER).await else {
        return Err(broken("the model's answer broke off or is too long"));
    };
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status != StatusCode::OK {
        let said = value.pointer("/error/message").and_then(Value::as_str);
        let what = said.unwrap_or("the model answered with an error");
        let status = if status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE {
            status
        } else {
            StatusCode::BAD_GATEWAY
        };
        return Err(Refusal::of_ask(status, what));
    }
    let text = value
        .pointer("/choices/0/message/content")
        .and_then(Value::as_str);
    let Some(text) = text else {
        return Err(broken("the model's answer has no text"));
    };
    Ok(json!({
        "answer": text,
        "model": value.get("model"),
        "usage": value.get("usage"),
        "cache": cache,
    }))
}

fn view(served: &Served) -> Value {
    match &served.how {
        How::Hit { class, age, ttl } => json!({
            "status": "hit",
            "class": &**class,
            "age_seconds": age.as_secs(),
            "ttl_seconds": ttl.as_secs(),
        }),
        How::Miss { class, ttl } => json!({
            "status": "miss",
            "class": &**class,
            "ttl_seconds": ttl.as_secs(),
        }),
        How::Shared { class, ttl } => json!({
            "status": "shared",
            "class": &**class,
            "ttl_seconds": ttl.as_secs(),
        }),
        How::Bypass(why) => json!({ "status": "bypass", "reason": why }),
    }
}
