//! Several nodes that share a Redis fetch as one.

use crate::{client, eventually, field, nodes, ok, purge};
use anyhow::Result;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncWriteExt as _, sync::Barrier, task::JoinHandle, time::sleep};
use weaver_tests::{Gateway, Origin, Redis, RedisCluster};

fn config(redis: &Redis, origin: &Origin, cache: &str) -> String {
    format!(
        "{}socket_timeout = \"500ms\"\n[cache]\n{cache}\n{}",
        redis.section(),
        origin.route("")
    )
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

/// A client's request to a node that fetches now, the first to do so.
async fn fetching(node: &Gateway, origin: &Origin) -> JoinHandle<Result<(String, String)>> {
    let url = node.url("/");
    let asking = tokio::spawn(async move { get(&url).await });
    eventually("the node fetches", async || origin.requests() == 1).await;
    asking
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

/// Leases, entries, journal and roster are where a cluster wants them.
#[tokio::test]
async fn nodes_of_a_redis_cluster_fetch_as_one_too() -> Result<()> {
    let cluster = RedisCluster::start().await?;
    let (origin, _) = slow(Duration::from_millis(200), "cache-control: max-age=60\r\n").await?;
    let config = format!("{}\n{}", cluster.section(), origin.route(""));
    let nodes = nodes(2, &config).await?;
    for round in 1..=20 {
        crowd(&nodes, &format!("/{round}"), 20).await?;
        assert_eq!(origin.requests(), round);
    }
    let all = serde_json::json!({ "all": true });
    let answer = purge(&nodes[0], "?wait=applied", &all).await?;
    assert_eq!(answer["applied"], true, "{answer}");
    assert_eq!(
        answer["nodes"].as_array().map(Vec::len),
        Some(2),
        "{answer}"
    );
    for node in &nodes {
        // What the first of them fetched anew, or the other's own.
        assert_ne!(get(&node.url("/1")).await?.0, "answer 1");
    }
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
    let dying = fetching(&nodes[0], &origin).await;
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
    let sleeping = fetching(&nodes[0], &origin).await;
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

#[tokio::test]
async fn a_purge_waits_for_every_live_node_and_names_those_that_lag() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let config = config(&redis, &origin, "node = \"n\"");
    let nodes = nodes(3, &config).await?;
    let all = serde_json::json!({ "all": true });
    let answer = purge(&nodes[0], "?wait=applied", &all).await?;
    assert_eq!(answer["applied"], true, "{answer}");
    assert_eq!(
        answer["nodes"].as_array().map(Vec::len),
        Some(3),
        "{answer}"
    );
    for node in &nodes {
        get(&node.url("/")).await?;
    }
    nodes[2].process().signal("STOP")?;
    let answer = purge(&nodes[0], "?wait=applied&timeout=300ms", &all).await?;
    assert_eq!(answer["applied"], false, "{answer}");
    assert_eq!(
        answer["missing"].as_array().map(Vec::len),
        Some(1),
        "{answer}"
    );
    let lagging = answer["missing"][0].as_str().unwrap_or_default().to_owned();
    nodes[2].process().signal("CONT")?;
    let answer = purge(&nodes[0], "?wait=applied", &all).await?;
    assert_eq!(answer["applied"], true, "{answer}");
    assert!(answer.to_string().contains(&lagging), "{answer}");
    Ok(())
}

/// Its clients' requests lie in its sockets when it wakes, beside the purge.
#[tokio::test]
async fn a_node_that_was_frozen_across_a_purge_serves_nothing_purged() -> Result<()> {
    let redis = Redis::start().await?;
    let (origin, _) = slow(Duration::ZERO, "cache-control: max-age=600\r\n").await?;
    let config = config(&redis, &origin, "redis_deadline = \"2s\"");
    let nodes = nodes(2, &config).await?;
    // Purged at once, or after what it had asked of Redis was answered with nothing: that answer lies
    // in its socket too, and says nothing of what came later.
    for (before, after) in [(0, 700), (400, 300), (0, 1500), (600, 900), (0, 6500)] {
        let (old, _) = get(&nodes[1].url("/")).await?;
        assert_eq!(get(&nodes[1].url("/")).await?.0, old, "it is not a hit");
        nodes[1].process().signal("STOP")?;
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let url = nodes[1].url("/");
                tokio::spawn(async move { get(&url).await })
            })
            .collect();
        sleep(Duration::from_millis(before)).await;
        purge(&nodes[0], "", &serde_json::json!({ "all": true })).await?;
        sleep(Duration::from_millis(after)).await;
        nodes[1].process().signal("CONT")?;
        for asked in asking {
            let (body, status) = asked.await??;
            assert_ne!(body, old, "{status} after {before} and {after} ms");
        }
    }
    Ok(())
}

/// Memory goes on serving while Redis is frozen, and nobody waits longer than the deadline, once.
#[tokio::test]
async fn a_frozen_redis_does_not_keep_hits_waiting() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=600\r\n")).await?;
    let nodes = nodes(1, &config(&redis, &origin, "redis_deadline = \"100ms\"")).await?;
    get(&nodes[0].url("/")).await?;
    redis.freeze()?;
    sleep(Duration::from_millis(700)).await;
    // The first of these may wait for the deadline, the others for nothing.
    let began = std::time::Instant::now();
    for _ in 0..50 {
        let (_, status) = get(&nodes[0].url("/")).await?;
        assert!(status.contains("hit"), "{status}");
    }
    assert!(began.elapsed() < Duration::from_secs(4));
    redis.thaw()?;
    Ok(())
}

#[tokio::test]
async fn an_operator_purges_and_looks_from_the_command_line() -> Result<()> {
    let redis = Redis::start().await?;
    let fields = "cache-control: max-age=60\r\nvary: accept-language\r\ncache-tag: t\r\n";
    let origin = Origin::constant(ok("12345", fields)).await?;
    let nodes = nodes(2, &config(&redis, &origin, "")).await?;
    let admin = nodes[0].admin_url("");
    let run = async |arguments: &[&str]| -> Result<(bool, String)> {
        let mut command = tokio::process::Command::new(Gateway::program()?);
        command.args(arguments).args(["--admin", &admin]);
        let output = command.output().await?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    };
    let (_, text) = run(&["entry", "http://h/a"]).await?;
    assert!(text.contains("\"stored\": []"), "{text}");
    get(&nodes[1].url("/a")).await?;
    eventually("the entry is in redis", async || {
        run(&["entry", "http://h/a"])
            .await
            .is_ok_and(|(_, text)| text.contains("\"tier\": \"redis\""))
    })
    .await;
    let (_, text) = run(&["entry", "http://h/a"]).await?;
    for part in ["\"standing\": \"fresh\"", "accept-language", "\"bytes\": 5"] {
        assert!(text.contains(part), "{text}");
    }
    let (_, text) = run(&["entry", "http://h/a", "--header", "accept-language: de"]).await?;
    assert!(text.contains("\"selected\": false"), "{text}");
    for purge in [
        &["purge", "http://h/a", "--wait"][..],
        &["purge", "--tag", "t", "--soft"],
        &["purge", "--prefix", "/", "--wait", "2s"],
        &["purge", "--all", "--wait"],
    ] {
        let (done, text) = run(purge).await?;
        assert!(done && text.contains("\"position\""), "{purge:?}: {text}");
    }
    let (_, text) = run(&["entry", "http://h/a"]).await?;
    assert!(text.contains("\"standing\": \"purged\""), "{text}");
    for bad in [&["entry", "/a"][..], &["purge", "x"], &["purge"]] {
        let (done, text) = run(bad).await?;
        assert!(!done && !text.contains("panicked"), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_purge_does_not_wait_for_a_node_that_has_ended() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let mut nodes = nodes(2, &config(&redis, &origin, "")).await?;
    let all = serde_json::json!({ "all": true });
    let answer = purge(&nodes[0], "?wait=applied", &all).await?;
    assert_eq!(answer["nodes"].as_array().map(Vec::len), Some(2));
    nodes[1].process().signal("TERM")?;
    nodes[1].process_mut().wait(Duration::from_secs(10)).await?;
    let answer = purge(&nodes[0], "?wait=applied&timeout=60s", &all).await?;
    assert_eq!(answer["applied"], true, "{answer}");
    assert_eq!(answer["nodes"].as_array().map(Vec::len), Some(1));
    Ok(())
}
