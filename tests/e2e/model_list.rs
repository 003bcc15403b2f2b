//! `GET /v1/models`: what all upstreams have that are up.

use crate::{client, ok};
use anyhow::Result;
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, free_port};

fn listed(ids: &[&str]) -> String {
    let data: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
    let list = json!({ "object": "list", "data": data }).to_string();
    ok(&list, "content-type: application/json\r\n")
}

fn table(models: &[&str], ports: &[u16]) -> String {
    let upstreams = ports.iter().map(|port| format!("http://127.0.0.1:{port}"));
    let upstreams: Vec<_> = upstreams.collect();
    format!("[[models]]\nmodels = {models:?}\nupstreams = {upstreams:?}\n")
}

/// The status, and the models in their order.
async fn list(gateway: &Gateway) -> Result<(u16, Vec<String>)> {
    let answer = client().get(gateway.url("/v1/models")).send().await?;
    let status = answer.status().as_u16();
    let body: Value = answer.json().await?;
    let data = body["data"].as_array().cloned().unwrap_or_default();
    let ids = data.iter().filter_map(|model| model["id"].as_str());
    Ok((status, ids.map(str::to_owned).collect()))
}

#[tokio::test]
async fn the_models_of_all_upstreams_that_are_up_are_listed_every_time() -> Result<()> {
    let one = Origin::constant(listed(&["a", "b"])).await?;
    let other = Origin::constant(listed(&["b", "c"])).await?;
    let third = Origin::constant(listed(&["d", "a"])).await?;
    let first = table(&["a", "b", "c"], &[free_port(), one.port(), other.port()]);
    let gateway = Gateway::start(&format!("{first}{}", table(&["*"], &[third.port()]))).await?;
    for round in 0..6 {
        let (status, ids) = list(&gateway).await?;
        assert_eq!(status, 200, "{round}");
        assert_eq!(ids, ["a", "b", "c", "d"], "{round}");
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_fails_once_is_asked_again() -> Result<()> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = Origin::start(move |_, mut stream| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let answer = match number % 2 {
                0 => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
                _ => listed(&["a"]),
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let gateway = Gateway::start(&table(&["*"], &[origin.port()])).await?;
    for _ in 0..3 {
        assert_eq!(list(&gateway).await?, (200, vec!["a".to_owned()]));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 6);
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_down_does_not_take_its_names_from_others() -> Result<()> {
    let origin = Origin::constant(listed(&["a", "b"])).await?;
    let dead = table(&["a"], &[free_port()]);
    let gateway = Gateway::start(&format!("{dead}{}", table(&["*"], &[origin.port()]))).await?;
    for _ in 0..3 {
        let (status, ids) = list(&gateway).await?;
        assert_eq!((status, ids), (200, vec!["a".to_owned(), "b".to_owned()]));
    }
    let gateway = Gateway::start(&dead).await?;
    let (status, ids) = list(&gateway).await?;
    assert!(status == 502 && ids.is_empty(), "{status} {ids:?}");
    Ok(())
}
