//! `POST /ask`: a question for the configured upstream. Never in the HTTP response cache.

use crate::{
    front::Admitted,
    problem::problem,
    proxy::{self, Clients},
    state::State,
};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde_json::Value;

/// A question is text for a model; a megabyte is more than any takes.
const MAX_QUESTION: usize = 1 << 20;

pub(crate) async fn handle(
    req: &HttpRequest,
    payload: web::Payload,
    admitted: &Admitted,
    state: &State,
    clients: &Clients,
) -> HttpResponse {
    if *req.method() != Method::POST {
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "only POST is answered here");
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let question = match read(payload).await {
        Ok(question) => question,
        Err(response) => return response,
    };
    let query = serde_json::from_slice::<Value>(&question)
        .ok()
        .and_then(|value| value.get("query").map(Value::is_string));
    if query != Some(true) {
        let what = "the body is not a JSON object with the text \"query\"";
        return problem(StatusCode::BAD_REQUEST, what);
    }
    let Some(upstream) = &state.config.ask.upstream else {
        let what = "no upstream answers questions: ask.upstream is not configured";
        return problem(StatusCode::SERVICE_UNAVAILABLE, what);
    };
    let mut response = proxy::ask(req, question, admitted, upstream, clients).await;
    response.headers_mut().append(
        header::HeaderName::from_static("cache-status"),
        HeaderValue::from_static("weaver; fwd=bypass; detail=ask"),
    );
    response
}

async fn read(mut payload: web::Payload) -> Result<Bytes, HttpResponse> {
    let mut whole = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece
            .map_err(|_| problem(StatusCode::BAD_REQUEST, "the body of the request broke off"))?;
        if whole.len() + piece.len() > MAX_QUESTION {
            return Err(problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                "a question is at most 1 MiB",
            ));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
