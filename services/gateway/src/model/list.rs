//! `GET /v1/models`: the models of all upstreams that are asked for some.

use super::{Caller, ModelRoute, Refusal, Who, fill};
use crate::proxy::{HttpClient, RequestBody};
use actix_web::{
    HttpResponse,
    http::{Method, header},
};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// How long one upstream may take; those that take longer are left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of one upstream's list.
const MAX_LIST: usize = 4 << 20;

pub(crate) async fn list(caller: Caller<'_>) -> HttpResponse {
    if !matches!(*caller.req.method(), Method::GET | Method::HEAD) {
        return Refusal::method("GET, HEAD").respond();
    }
    if let Err(refusal) = Who::of(&caller) {
        return refusal.respond();
    }
    let asked = caller.state.models.all().iter().map(|route| {
        let client = caller.clients.of(
            &route.config.to,
            route.config.connect_timeout,
            &route.config.tls,
        );
        let fields = fill::fields(&caller, route.config.key.as_ref());
        async move {
            let asked = timeout(PATIENCE, ask(client, route, fields)).await;
            let models = asked.ok().flatten();
            if models.is_none() {
                tracing::warn!(
                    models = route.config.name,
                    "an upstream did not list its models"
                );
            }
            (route, models)
        }
    });
    let answers = futures_util::future::join_all(asked).await;
    if answers.iter().all(|(_, models)| models.is_none()) {
        return Refusal::no_list().respond();
    }
    let mut data: Vec<Value> = Vec::new();
    for (route, models) in answers {
        for model in models.unwrap_or_default() {
            let id = model.get("id").and_then(Value::as_str);
            // The first route that has it answers for it.
            let is_here = id.and_then(|id| caller.state.models.route(id));
            let is_here = is_here.is_some_and(|first| std::sync::Arc::ptr_eq(first, route));
            if is_here && !data.iter().any(|known| known.get("id") == model.get("id")) {
                data.push(model);
            }
        }
    }
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(json!({ "object": "list", "data": data }))
}

async fn ask(
    client: &HttpClient,
    route: &ModelRoute,
    fields: http::HeaderMap,
) -> Option<Vec<Value>> {
    let (upstream, _in_flight) = route.upstreams.choose()?;
    let request = fill::request(
        upstream.endpoint.dialled(),
        "/v1/models",
        fields,
        RequestBody::Empty,
    )?;
    let response = client.request(request).await.ok()?;
    if response.status() != http::StatusCode::OK {
        return None;
    }
    let (mut body, mut whole) = (response.into_body(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > MAX_LIST {
            return None;
        }
        whole.extend_from_slice(&data);
    }
    let list: Value = serde_json::from_slice(&whole).ok()?;
    Some(list.get("data")?.as_array()?.clone())
}
