//! No-Vary-Search (RFC 9875): one stored response for equivalent queries.

use crate::{client, eventually, field, ok};
use anyhow::Result;
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, Redis};

/// Answers with the value of `id`, which alone matters; `/plain` says nothing of that.
async fn catalogue() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let target = head.split(' ').nth(1).unwrap_or("").to_owned();
        let id = target
            .split(['?', '&'])
            .find_map(|part| part.strip_prefix("id="))
            .unwrap_or("-")
            .to_owned();
        let fields = if target.starts_with("/plain") {
            "cache-control: max-age=60\r\n"
        } else {
            "cache-control: max-age=60\r\nno-vary-search: params, except=(\"id\")\r\n"
        };
        stream.write_all(ok(&id, fields).as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

async fn ask(node: &Gateway, target: &str) -> Result<(bool, String)> {
    let answer = client()
        .get(node.url(target))
        .header("host", "h")
        .send()
        .await?;
    let hit = field(&answer, "cache-status").starts_with("weaver; hit");
    Ok((hit, answer.text().await?))
}

#[tokio::test]
async fn equivalent_queries_share_a_response_and_others_do_not() -> Result<()> {
    let origin = catalogue().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    assert_eq!(ask(&gateway, "/a?id=1&utm=x").await?, (false, "1".into()));
    assert_eq!(ask(&gateway, "/a?utm=y&id=1").await?, (true, "1".into()));
    assert_eq!(ask(&gateway, "/a?id=1").await?, (true, "1".into()));
    assert_eq!(ask(&gateway, "/a?id=2&utm=x").await?, (false, "2".into()));
    assert_eq!(ask(&gateway, "/a?utm=1").await?, (false, "-".into()));
    assert_eq!(ask(&gateway, "/a").await?, (true, "-".into()));
    // Another path has no part in it.
    assert_eq!(ask(&gateway, "/b?id=1").await?, (false, "1".into()));
    assert_eq!(ask(&gateway, "/plain?id=1").await?, (false, "1".into()));
    assert_eq!(ask(&gateway, "/plain?id=1&x").await?, (false, "1".into()));
    Ok(())
}

#[tokio::test]
async fn a_purge_of_an_equivalent_url_purges_what_stands_for_both() -> Result<()> {
    let origin = catalogue().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for purge in [
        r#"{"url":"http://h/a?id=1&utm=never-seen"}"#,
        r#"{"prefix":"/a?id"}"#,
        r#"{"all":true}"#,
    ] {
        ask(&gateway, "/a?id=1&utm=x").await?;
        assert!(ask(&gateway, "/a?id=1&utm=y").await?.0);
        let answer = client()
            .post(gateway.admin_url("/purge"))
            .header("content-type", "application/json")
            .body(purge)
            .send()
            .await?;
        assert!(answer.status().is_success(), "{purge}: {answer:?}");
        assert!(!ask(&gateway, "/a?id=1&utm=z").await?.0, "{purge}");
    }
    Ok(())
}

#[tokio::test]
async fn another_node_finds_it_by_an_equivalent_query() -> Result<()> {
    let (redis, origin) = (Redis::start().await?, catalogue().await?);
    let config = |memory| format!("{}[cache]\n{memory}\n{}", redis.section(), origin.route(""));
    let one = Gateway::start(&config("")).await?;
    one.ready_for_redis().await?;
    ask(&one, "/a?id=1&utm=x").await?;
    eventually(
        "the response and the record of its path are in redis",
        async || redis.records().is_ok_and(|records| records == 2),
    )
    .await;
    for memory in ["", "memory = 0"] {
        let two = Gateway::start(&config(memory)).await?;
        two.ready_for_redis().await?;
        assert_eq!(ask(&two, "/a?utm=y&id=1").await?, (true, "1".into()));
        assert_eq!(ask(&two, "/a?utm=z&id=1").await?, (true, "1".into()));
    }
    assert_eq!(origin.requests(), 1);
    Ok(())
}
