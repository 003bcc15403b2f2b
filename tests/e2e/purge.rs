use crate::{client, eventually, field, ok, purge};
use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{io::AsyncWriteExt as _, time::sleep};
use weaver_tests::{Gateway, Origin, Redis};

async fn is_hit(gateway: &Gateway, path: &str) -> Result<bool> {
    let answer = client()
        .get(gateway.url(path))
        .header("host", "h")
        .send()
        .await?;
    let hit = field(&answer, "cache-status").starts_with("weaver; hit; ttl=")
        && !field(&answer, "cache-status").contains("ttl=-");
    answer.bytes().await?;
    Ok(hit)
}

#[tokio::test]
async fn urls_tags_prefixes_and_everything_can_be_purged() -> Result<()> {
    let origin = Origin::constant(ok(
        "x",
        "cache-control: max-age=60\r\nsurrogate-key: t1 t2\r\n",
    ))
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for (what, path) in [
        (json!({ "url": "/a/b?c" }), "/a/b?c"),
        (json!({ "url": "http://h/a/b?c" }), "/a/b?c"),
        (json!({ "tags": ["t2"] }), "/t"),
        (json!({ "prefix": "/a/" }), "/a/b"),
        (json!({ "all": true }), "/all"),
    ] {
        is_hit(&gateway, path).await?;
        assert!(is_hit(&gateway, path).await?, "{what}");
        let answer = purge(&gateway, "?wait=applied", &what).await?;
        assert!(answer["position"].is_string(), "{answer}");
        assert!(!is_hit(&gateway, path).await?, "{what}");
    }
    for bad in [
        json!({}),
        json!({ "url": "/a", "all": true }),
        json!({ "tags": [] }),
        json!({ "url": "x" }),
        json!({ "urll": "/" }),
    ] {
        let answer = client()
            .post(gateway.admin_url("/purge"))
            .json(&bad)
            .send()
            .await?;
        assert_eq!(answer.status(), 400, "{bad}");
    }
    Ok(())
}

#[tokio::test]
async fn a_purge_reaches_every_node_and_a_slow_fill_brings_nothing_back() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::start(|head, mut stream| async move {
        if head.starts_with("GET /slow") {
            sleep(Duration::from_millis(600)).await;
        }
        stream
            .write_all(ok("x", "cache-control: max-age=60\r\n").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let (one, two) = (
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    );
    sleep(Duration::from_millis(500)).await;
    for gateway in [&one, &two] {
        is_hit(gateway, "/a").await?;
        assert!(is_hit(gateway, "/a").await?);
    }
    purge(&one, "?wait=applied", &json!({ "url": "/a" })).await?;
    sleep(Duration::from_millis(300)).await;
    let before = origin.requests();
    is_hit(&two, "/a").await?;
    assert_eq!(origin.requests(), before + 1, "the other node still had it");

    // The fetch begins, the purge comes, the fetch ends: what it brought is not kept.
    let url = one.url("/slow");
    let slow = tokio::spawn(async move {
        client()
            .get(url)
            .header("host", "h")
            .send()
            .await?
            .text()
            .await
    });
    sleep(Duration::from_millis(200)).await;
    purge(&two, "?wait=applied", &json!({ "url": "/slow" })).await?;
    slow.await??;
    let before = origin.requests();
    is_hit(&one, "/slow").await?;
    assert_eq!(origin.requests(), before + 1, "a purged fill was kept");
    Ok(())
}

#[tokio::test]
async fn a_purge_that_the_journal_does_not_take_says_so_and_holds_here() -> Result<()> {
    let mut redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let config = format!(
        "{}socket_timeout = \"300ms\"\n{}",
        redis.section(),
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    sleep(Duration::from_millis(300)).await;
    is_hit(&gateway, "/a").await?;
    redis.kill();
    sleep(Duration::from_millis(200)).await;
    let answer = client()
        .post(gateway.admin_url("/purge"))
        .json(&json!({ "url": "/a" }))
        .send()
        .await?;
    assert_eq!(answer.status(), 503);
    assert!(!is_hit(&gateway, "/a").await?);
    Ok(())
}

#[tokio::test]
async fn a_purge_that_the_journal_did_not_take_reaches_the_others_later() -> Result<()> {
    let redis = Redis::start().await?;
    let fields = "cache-control: max-age=60\r\ncache-tag: a, b\r\n";
    let origin = Origin::constant(ok("x", fields)).await?;
    let config = format!(
        "{}socket_timeout = \"300ms\"\n{}",
        redis.section(),
        origin.route("")
    );
    let (one, two) = (
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    );
    for node in [&one, &two] {
        node.ready_for_redis().await?;
        is_hit(node, "/a").await?;
    }
    redis.freeze()?;
    let answer = client()
        .post(one.admin_url("/purge"))
        .json(&json!({ "tags": ["nothing", "b"] }))
        .send()
        .await?;
    assert_eq!(answer.status(), 503);
    assert!(!is_hit(&one, "/a").await?, "it holds where it was made");
    assert!(is_hit(&two, "/a").await?, "the other has not heard of it");
    redis.thaw()?;
    eventually("the other hears of it", async || {
        !is_hit(&two, "/a").await.expect("an answer")
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn purging_needs_the_token_where_there_is_one() -> Result<()> {
    let origin = Origin::constant(ok("x", "")).await?;
    let gateway =
        Gateway::start(&format!("[admin]\ntoken = \"t0k3n\"\n{}", origin.route(""))).await?;
    let ask = async |token: &str| {
        let request = client()
            .post(gateway.admin_url("/purge"))
            .json(&json!({ "all": true }));
        Ok::<_, anyhow::Error>(
            request
                .header("authorization", token)
                .send()
                .await?
                .status()
                .as_u16(),
        )
    };
    assert_eq!(ask("").await?, 401);
    assert_eq!(ask("Bearer t0k3").await?, 401);
    assert_eq!(ask("Bearer t0k3n").await?, 200);
    assert_eq!(
        client()
            .get(gateway.admin_url("/livez"))
            .send()
            .await?
            .status(),
        200
    );
    Ok(())
}

/// A node reads purges that come in quick succession many at a time: it must not spend its
/// processor on them that its hits need.
#[tokio::test]
async fn many_purges_are_read_in_few_questions() -> Result<()> {
    const PURGES: usize = 2000;
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let nodes = crate::nodes(2, &config).await?;
    let (one, two) = (&nodes[0], &nodes[1]);
    for gateway in &nodes {
        is_hit(gateway, "/a").await?;
    }
    let before = questions(&redis)?;
    let began = Instant::now();
    futures_util::stream::iter(0..PURGES)
        .map(|number| {
            let path = format!("/other/{number}");
            async move { purge(one, "", &json!({ "url": path })).await }
        })
        .buffer_unordered(64)
        .try_collect::<Vec<_>>()
        .await?;
    assert!(is_hit(two, "/a").await?);
    let answer = purge(one, "?wait=applied", &json!({ "url": "/a" })).await?;
    assert_eq!(answer["applied"], json!(true), "{answer}");
    assert!(!is_hit(two, "/a").await?);
    let asked = questions(&redis)? - before;
    // Of each node one in 5 ms, one in 100 ms without news, and a few at the end.
    let allowed = 2 * (began.elapsed().as_millis() / 5 + 20);
    assert!(u128::from(asked) <= allowed, "{asked} of {allowed}");
    assert!(asked < PURGES as u64, "{asked}");
    Ok(())
}

/// How often the journal was read.
fn questions(redis: &Redis) -> Result<u64> {
    let stats = redis.cli(&["INFO", "commandstats"])?;
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_xread:calls=")?.split(',').next());
    Ok(calls.context("XREAD in the statistics")?.parse()?)
}

/// What was purged softly is stale from then on: served while it is refreshed for as long as it grants,
/// counted from the purge, and not a moment longer however often it is asked for.
#[tokio::test]
async fn what_was_purged_softly_is_stale_from_the_purge_on() -> Result<()> {
    for with_redis in [false, true] {
        let redis = Redis::start().await?;
        let origin = Origin::start(|head, mut stream| async move {
            let failing = head.contains("x-probe");
            let answer = ok(
                "x",
                "cache-control: max-age=600, stale-while-revalidate=1, stale-if-error=0\r\n",
            );
            let failure = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n";
            let answer = if failing { failure } else { &answer };
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        })
        .await?;
        let section = if with_redis {
            redis.section()
        } else {
            String::new()
        };
        let gateway = Gateway::start(&format!("{section}{}", origin.route(""))).await?;
        if with_redis {
            gateway.ready_for_redis().await?;
        }
        is_hit(&gateway, "/a").await?;
        assert!(is_hit(&gateway, "/a").await?);
        let purged_at = Instant::now();
        purge(
            &gateway,
            "?wait=applied",
            &json!({ "url": "/a", "soft": true }),
        )
        .await?;
        let ask = async |more: Option<&str>| {
            let asked = client().get(gateway.url("/a")).header("host", "h");
            // The origin fails from now on.
            let asked = asked.header("x-probe", "1");
            match more {
                Some(directives) => asked.header("cache-control", directives),
                None => asked,
            }
            .send()
            .await
        };
        // Its age has not changed, and who wants nothing that old does not get it.
        assert_eq!(ask(Some("max-age=0")).await?.status(), 500);
        let mut served = 0;
        loop {
            let asked_after = purged_at.elapsed();
            let answer = ask(None).await?;
            if answer.status() != 200 {
                assert!(asked_after > Duration::from_millis(900), "{asked_after:?}");
                break;
            }
            let status = field(&answer, "cache-status");
            assert!(status.starts_with("weaver; hit; ttl=0"), "{status}");
            assert!(asked_after < Duration::from_secs(3), "still served");
            served += 1;
            sleep(Duration::from_millis(50)).await;
        }
        assert!(served > 0);
    }
    Ok(())
}

/// One node refreshes what was purged softly, and the others get that.
#[tokio::test]
async fn nodes_refresh_what_was_purged_softly_once() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=600\r\n")).await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let nodes = crate::nodes(3, &config).await?;
    for node in &nodes {
        is_hit(node, "/a").await?;
        assert!(is_hit(node, "/a").await?);
    }
    assert_eq!(origin.requests(), 1);
    let what = json!({ "url": "/a", "soft": true });
    purge(&nodes[0], "?wait=applied", &what).await?;
    for node in &nodes {
        is_hit(node, "/a").await?;
        assert!(is_hit(node, "/a").await?);
    }
    assert_eq!(origin.requests(), 2);
    Ok(())
}
