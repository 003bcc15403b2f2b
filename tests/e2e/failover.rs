//! Redis fails over while purges are made.

use crate::{client, eventually, nodes, ok, purge};
use anyhow::Result;
use serde_json::json;
use std::{collections::HashMap, sync::Arc};
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, Redis, RedisSentinel};

/// Every answer is another.
async fn origin() -> Result<Origin> {
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Origin::start(move |_, mut stream| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            let answer = ok(
                &format!("answer {number}"),
                "cache-control: max-age=600\r\n",
            );
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await
}

async fn body(node: &Gateway, path: &str) -> Result<String> {
    let answer = client().get(node.url(path)).header("host", "h").send();
    Ok(answer.await?.error_for_status()?.text().await?)
}

/// Whether the purge was acknowledged.
async fn purged(node: &Gateway, path: &str) -> bool {
    let body = json!({ "url": path });
    let answer = client().post(node.admin_url("/purge")).json(&body).send();
    answer.await.is_ok_and(|answer| answer.status() == 200)
}

/// The replica has not seen what the primary acknowledged, and then the primary dies.
#[tokio::test]
async fn no_acknowledged_purge_is_lost_when_redis_fails_over() -> Result<()> {
    let mut redis = RedisSentinel::start().await?;
    let origin = origin().await?;
    let config = format!("{}\n{}", redis.section(), origin.route(""));
    let mut nodes = nodes(3, &config).await?;
    // One that the replica has, so that it is the same journal afterwards.
    purge(&nodes[0], "?wait=applied", &json!({ "url": "/before" })).await?;
    let mut old = HashMap::new();
    for number in 0..60 {
        let path = format!("/{number}");
        let body = body(&nodes[number % 3], &path).await?;
        old.insert(path, body);
    }
    let kept = body(&nodes[0], "/kept").await?;
    let keys = async || redis.replica().records().is_ok_and(|records| records >= 61);
    eventually("the replica has all entries", keys).await;

    // From here on the replica gets nothing more.
    redis.replica().freeze()?;
    redis
        .primary()
        .cli(&["CLIENT", "KILL", "TYPE", "replica"])?;
    let mut acknowledged = Vec::new();
    for number in 0..30 {
        let path = format!("/{number}");
        assert!(purged(&nodes[number % 3], &path).await);
        acknowledged.push(path);
    }
    redis.primary().kill();
    redis.replica().thaw()?;
    // During the failover some are acknowledged and some are not.
    for number in 30..60 {
        let path = format!("/{number}");
        if purged(&nodes[number % 3], &path).await {
            acknowledged.push(path);
        }
    }
    redis.failed_over().await?;
    for node in &nodes {
        node.ready_for_redis().await?;
    }
    // A node that has seen nothing of it knows what the journal says, and no more.
    nodes.push(Gateway::start(&config).await?);
    nodes[3].ready_for_redis().await?;
    for node in [3, 0, 1, 2] {
        for path in &acknowledged {
            let new = body(&nodes[node], path).await?;
            assert_ne!(old.get(path), Some(&new), "{path} at node {node}");
        }
    }
    // The cache was not emptied for it.
    assert_eq!(body(&nodes[3], "/kept").await?, kept);
    Ok(())
}

/// What was purged cannot be known any more, so that everything is, on all nodes.
#[tokio::test]
async fn a_journal_that_is_gone_purges_everything() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = origin().await?;
    let config = format!("{}\n{}", redis.section(), origin.route(""));
    let nodes = [
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    ];
    for node in &nodes {
        node.ready_for_redis().await?;
    }
    purge(&nodes[0], "?wait=applied", &json!({ "url": "/b" })).await?;
    let old = body(&nodes[0], "/a").await?;
    assert_eq!(body(&nodes[1], "/a").await?, old);
    redis.cli(&["DEL", "http_cache:journal"])?;
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"])?;
    for node in &nodes {
        let emptied = async || body(node, "/a").await.is_ok_and(|new| new != old);
        eventually("the node has emptied its cache", emptied).await;
    }
    eventually("the journal says it to others", async || {
        let journal = redis.cli(&["XRANGE", "http_cache:journal", "-", "+"]);
        journal.is_ok_and(|journal| journal.contains("all"))
    })
    .await;
    Ok(())
}

/// The node that knows what was lost cannot say so at once: it says so once it can, before it uses
/// Redis, and a node that knows nothing hears of it.
#[tokio::test]
async fn a_journal_that_is_gone_and_takes_nothing_yet_purges_everything_later() -> Result<()> {
    let mut redis = Redis::start().await?;
    let origin = origin().await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let nodes = nodes(2, &config).await?;
    let old = body(&nodes[1], "/a").await?;
    nodes[1].process().signal("STOP")?;
    // What it had asked for is answered with nothing before there is something.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert!(purged(&nodes[0], "/a").await);
    redis.kill();
    let no_writes = [
        "--user", "default", "on", "nopass", "~*", "&*", "+@all", "-xadd",
    ];
    redis.up_with(&no_writes).await?;
    eventually("the first node has seen what is lost", async || {
        let output = nodes[0].process().output();
        output.contains("redis has lost the purge journal")
    })
    .await;
    redis.cli(&["ACL", "SETUSER", "default", "+xadd"])?;
    nodes[0].ready_for_redis().await?;
    nodes[1].process().signal("CONT")?;
    assert_ne!(body(&nodes[1], "/a").await?, old);
    Ok(())
}
