//! `GET /v1/models`: the models of all upstreams that are asked for some.
//!
//! Every live upstream is asked, and once more if it fails: one that is just down must not make its
//! models vanish for whoever asks in that moment.

use super::{Caller, ModelRoute, Refusal, Who, fill};
use crate::proxy::{HttpClient, RequestBody, Upstream, send_own};
use actix_web::{
    HttpResponse,
    http::{Method, header},
};
use bytes::BytesMut;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// How long all of it may take; those that take longer are left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// Attempts at one upstream.
const ATTEMPTS: usize = 2;
/// Bytes of one upstream's list.
const MAX_LIST: usize = 4 << 20;
/// Upstreams of one table that are asked. Agents may be many, and have much the same.
const MAX_ASKED: usize = 32;
/// Upstreams that are asked at once.
const AT_ONCE: usize = 8;
/// Models of all upstreams.
const MAX_MODELS: usize = 10_000;

pub(crate) async fn list(caller: Caller<'_>) -> HttpResponse {
    if !matches!(*caller.req.method(), Method::GET | Method::HEAD) {
        return Refusal::method("GET, HEAD").respond();
    }
    if let Err(refusal) = Who::of(&caller) {
        return refusal.respond();
    }
    let until = Instant::now() + PATIENCE;
    let routes = caller.state.models.all();
    let questions = routes.iter().enumerate().flat_map(|(at, route)| {
        let upstreams = route.upstreams.live().into_iter().take(MAX_ASKED);
        upstreams.map(move |upstream| (at, route, upstream))
    });
    let questions: Vec<_> = questions.collect();
    let is_any_up = !questions.is_empty();
    let asking = questions.into_iter().map(|(at, route, upstream)| {
        let (config, caller) = (&route.config, &caller);
        let client = caller
            .clients
            .of(&config.to, config.connect_timeout, &config.tls);
        let fields = fill::fields(caller, config.key.as_ref());
        let max_head = caller.state.config.server.max_upstream_head;
        async move {
            let asked = ask_twice(client, route, &upstream, &fields, max_head);
            let models = timeout_at(until, asked).await.ok().flatten();
            if models.is_none() {
                let (models, upstream) = (&config.name, upstream.endpoint.dialled());
                tracing::warn!(models, upstream, "an upstream did not list its models");
            }
            (at, models)
        }
    });
    // In their order, so that the list has one too.
    let answers: Vec<_> = stream::iter(asking).buffered(AT_ONCE).collect().await;
    let mut is_known = vec![false; routes.len()];
    for (at, models) in &answers {
        is_known[*at] |= models.is_some();
    }
    if !is_known.contains(&true) {
        return Refusal::no_list(is_any_up).respond();
    }
    let data = merge(answers, |id| {
        let owner = routes.iter().position(|route| route.config.has(id))?;
        Some((owner, is_known[owner]))
    });
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(json!({ "object": "list", "data": data }))
}

/// Each model once. The first table that has a name answers for it, so that what others say of it does not
/// count, unless nothing is known of that table. `owner` tells which one it is, and whether it answered.
fn merge(
    answers: Vec<(usize, Option<Vec<Value>>)>,
    owner: impl Fn(&str) -> Option<(usize, bool)>,
) -> Vec<Value> {
    let (mut data, mut known) = (Vec::new(), HashSet::new());
    for (at, models) in answers {
        for model in models.unwrap_or_default() {
            let Some(id) = model.get("id").and_then(Value::as_str) else {
                continue;
            };
            let counts = owner(id).is_some_and(|(owner, is_known)| owner == at || !is_known);
            if counts && data.len() < MAX_MODELS && known.insert(id.to_owned()) {
                data.push(model);
            }
        }
    }
    data
}

async fn ask_twice(
    client: &HttpClient,
    route: &ModelRoute,
    upstream: &Arc<Upstream>,
    fields: &http::HeaderMap,
    max_head: u64,
) -> Option<Vec<Value>> {
    for _ in 0..ATTEMPTS {
        let models = ask(client, route, upstream, fields.clone(), max_head).await;
        if models.is_some() {
            return models;
        }
    }
    None
}

async fn ask(
    client: &HttpClient,
    route: &ModelRoute,
    upstream: &Arc<Upstream>,
    fields: http::HeaderMap,
    max_head: u64,
) -> Option<Vec<Value>> {
    let request = fill::request(
        upstream.endpoint.dialled(),
        "/v1/models",
        fields,
        RequestBody::Empty,
    )?;
    let response = match send_own(client, request, PATIENCE, max_head).await {
        Ok(response) => response,
        Err(failure) => {
            if failure.counts_against_upstream() {
                route.upstreams.failed(upstream);
            }
            return None;
        }
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_does_not_answer_leaves_its_names_to_others() {
        let models = |ids: &[&str]| Some(ids.iter().map(|id| json!({ "id": id })).collect());
        let ids = |answers, is_first_known| {
            // The first table has "a" and "b", the second everything else but "z".
            let owner = |id: &str| match id {
                "a" | "b" => Some((0, is_first_known)),
                "z" => None,
                _ => Some((1, true)),
            };
            let data = merge(answers, owner).into_iter();
            let ids = data.map(|model| model["id"].as_str().unwrap_or("").to_owned());
            ids.collect::<Vec<_>>()
        };
        let both = vec![
            (0, models(&["a"])),
            (0, None),
            (0, models(&["a", "b"])),
            (1, models(&["a", "c", "z"])),
            (1, models(&["c", "d"])),
        ];
        assert_eq!(ids(both, true), ["a", "b", "c", "d"]);
        let one = vec![(0, None), (1, models(&["a", "c", "z"]))];
        assert_eq!(ids(one, false), ["a", "c"]);
        let silent = vec![(0, models(&[])), (1, models(&["a", "c"]))];
        assert_eq!(ids(silent, true), ["c"]);
    }
}
