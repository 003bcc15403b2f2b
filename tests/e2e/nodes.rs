//! Several nodes that share a Redis fetch as one.

use crate::{client, eventually, field, ok};
use anyhow::Result;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncWriteExt as _, sync::Barrier, time::sleep};
use weaver_tests::{Gateway, Origin, Redis};

fn config(redis: &Redis, origin: &Origin, cache: &str) -> String {
    format!(
        "[redis]\nmode = \"standalone\"\nport = {}\nsocket_timeout = \"500ms\"\n[cache]\n{cache}\n{}",
        redis.port(),
        origin.route("")
    )
}

async fn nodes(count: usize, config: &str) -> Result<Vec<Gateway>> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Gateway::start(config).await?);
    }
    for node in &nodes {
        node.ready_for_redis().await?;
    }
    Ok(nodes)
}

/// An origin that takes its time, and tells each answer apart.
async fn slow(takes: Duration, fields: &'static str) -> Result<(Origin, Arc<AtomicUsize>)> {
    let most = Arc::new(AtomicUsize::new(0));
    let (at_once, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let origin = Origin::start(move |_, mut stream| {
        let (at_once, asked, seen) = (at_once.clone(), asked.clone(), seen.clone());
        async move {
            let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
            seen.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(takes).await;
            at_once.fetch_sub(1, Ordering::SeqCst);
            let answer = ok(&format!("answer {number}"), fields);
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    Ok((origin, most))
}

async fn get(url: &str) -> Result<(String, String)> {
    let answer = client().get(url).header("host", "h").send().await?;
    let status = field(&answer, "cache-status").to_owned();
    Ok((answer.text().await?, status))
}

/// The bodies that `count` clients got, who asked the nodes in turn and all at once.
async fn crowd(nodes: &[Gateway], path: &str, count: usize) -> Result<Vec<String>> {
    let barrier = Arc::new(Barrier::new(count));
    let client = client();
    let tasks: Vec<_> = (0..count)
        .map(|at| {
            let (url, barrier) = (nodes[at % nodes.len()].url(path), Arc::clone(&barrier));
            let client = client.clone();
            tokio::spawn(async move {
                barrier.wait().await;
                let answer = client.get(url).header("host", "h").send().await?;
                answer.error_for_status()?.text().await
            })
        })
        .collect();
    let mut bodies = Vec::new();
    for task in tasks {
        bodies.push(task.await??);
    }
    Ok(bodies)
}

#[tokio::test]
async fn a_thousand_clients_of_three_nodes_cost_one_request() -> Result<()> {
    let redis = Redis::start().await?;
    let (origin, _) = slow(Duration::from_millis(400), "cache-control: max-age=60\r\n").await?;
    let nodes = nodes(3, &config(&redis, &origin, "")).await?;
    for round in 1..=3 {
        let bodies = crowd(&nodes, &format!("/{round}"), 1000).await?;
        assert_eq!(bodies.len(), 1000);
        assert!(bodies.iter().all(|body| *body == format!("answer {round}")));
        assert_eq!(origin.requests(), round);
    }
    // The leases are gone: ended, not expired.
    let keys = redis.cli(&["--raw", "KEYS", "*lease*"])?;
    assert_eq!(keys.trim(), "");
    Ok(())
}

/// What must be asked for each time is asked for once by all who wait at the same time.
#[tokio::test]
async fn what_is_stale_at_once_is_shared_by_those_who_wait() -> Result<()> {
    let redis = Redis::start().await?;
    let fields = "cache-control: max-age=0\r\netag: \"a\"\r\n";
    let (origin, _) = slow(Duration::from_millis(400), fields).await?;
    let nodes = nodes(3, &config(&redis, &origin, "")).await?;
    crowd(&nodes, "/", 90).await?;
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn nobody_waits_for_what_is_not_shared() -> Result<()> {
    let redis = Redis::start().await?;
    let (origin, most) = slow(Duration::from_millis(300), "cache-control: no-store\r\n").await?;
    let nodes = nodes(3, &config(&redis, &origin, "")).await?;
    crowd(&nodes, "/", 3).await?;
    // The first of them was waited for; from then on all go at once.
    crowd(&nodes, "/", 9).await?;
    assert_eq!(origin.requests(), 12);
    assert_eq!(most.load(Ordering::SeqCst), 9);
    Ok(())
}

#[tokio::test]
async fn a_node_that_dies_with_the_lease_costs_the_others_its_rest() -> Result<()> {
    let redis = Redis::start().await?;
    let (origin, _) = slow(Duration::from_secs(1), "cache-control: max-age=60\r\n").await?;
    let config = config(&redis, &origin, "lease = \"500ms\"");
    let mut nodes = nodes(2, &config).await?;
    let first = nodes[0].url("/");
    let dying = tokio::spawn(async move { get(&first).await });
    eventually("the first node fetches", async || origin.requests() == 1).await;
    let second = nodes[1].url("/");
    let waiting = tokio::spawn(async move { get(&second).await });
    sleep(Duration::from_millis(100)).await;
    assert_eq!(origin.requests(), 1, "the second did not wait");
    drop(nodes.remove(0));
    assert!(dying.await?.is_err());
    assert_eq!(waiting.await??.0, "answer 2");
    Ok(())
}

/// The fence: a node that slept through its lease does not overwrite what came later.
#[tokio::test]
async fn a_node_that_sleeps_through_its_lease_overwrites_nothing() -> Result<()> {
    let redis = Redis::start().await?;
    let (origin, _) = slow(Duration::from_millis(500), "cache-control: max-age=60\r\n").await?;
    let config = config(&redis, &origin, "lease = \"300ms\"");
    let nodes = nodes(3, &config).await?;
    let first = nodes[0].url("/");
    let sleeping = tokio::spawn(async move { get(&first).await });
    eventually("the first node fetches", async || origin.requests() == 1).await;
    nodes[0].process().signal("STOP")?;
    assert_eq!(get(&nodes[1].url("/")).await?.0, "answer 2");
    nodes[0].process().signal("CONT")?;
    // Its client gets what it fetched; the others do not.
    assert_eq!(sleeping.await??.0, "answer 1");
    sleep(Duration::from_millis(200)).await;
    let (body, status) = get(&nodes[2].url("/")).await?;
    assert_eq!(body, "answer 2", "{status}");
    assert_eq!(origin.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn without_redis_each_node_fetches_for_itself() -> Result<()> {
    let mut redis = Redis::start().await?;
    let (origin, _) = slow(Duration::from_millis(300), "cache-control: max-age=60\r\n").await?;
    let nodes = nodes(3, &config(&redis, &origin, "")).await?;
    redis.kill();
    crowd(&nodes, "/", 90).await?;
    assert!((1..=3).contains(&origin.requests()));
    Ok(())
}

#[tokio::test]
async fn redis_lost_in_the_middle_of_a_fetch_strands_nobody() -> Result<()> {
    let mut redis = Redis::start().await?;
    let (origin, _) = slow(Duration::from_millis(500), "cache-control: max-age=60\r\n").await?;
    let nodes = nodes(3, &config(&redis, &origin, "")).await?;
    let killing = async {
        eventually("a node fetches", async || origin.requests() >= 1).await;
        sleep(Duration::from_millis(50)).await;
        redis.kill();
        anyhow::Ok(())
    };
    let (bodies, killed) = tokio::join!(crowd(&nodes, "/", 90), killing);
    killed?;
    assert_eq!(bodies?.len(), 90);
    assert!((1..=3).contains(&origin.requests()));
    Ok(())
}
