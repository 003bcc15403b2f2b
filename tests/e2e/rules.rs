//! What a route's own keys do.

use crate::{client, eventually, field, ok, purge};
use anyhow::Result;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt as _, time::sleep};
use weaver_tests::{Gateway, Origin, Redis};

async fn status(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Result<String> {
    let mut request = client().get(gateway.url(path)).header("host", "h");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    let status = field(&answer, "cache-status").to_owned();
    answer.bytes().await?;
    Ok(status)
}

#[tokio::test]
async fn a_route_may_use_one_tier_alone() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    for (tiers, shared, local) in [("memory", false, true), ("redis", true, false)] {
        let route = origin.route(&format!("tiers = \"{tiers}\""));
        let config = format!("{}{route}", redis.section());
        let (one, two) = (
            Gateway::start(&config).await?,
            Gateway::start(&config).await?,
        );
        one.ready_for_redis().await?;
        two.ready_for_redis().await?;
        let path = format!("/{tiers}");
        status(&one, &path, &[]).await?;
        let entry = async |gateway: &Gateway| -> Result<String> {
            let url = gateway.admin_url(&format!("/entry?url=http://h{path}"));
            Ok(client().get(url).send().await?.text().await?)
        };
        if shared {
            eventually("it is in redis", async || {
                entry(&one).await.is_ok_and(|text| text.contains("redis"))
            })
            .await;
        }
        assert_eq!(entry(&one).await?.contains("\"redis\""), shared, "{tiers}");
        assert_eq!(entry(&one).await?.contains("\"memory\""), local, "{tiers}");
        assert!(status(&one, &path, &[]).await?.contains("hit"), "{tiers}");
        assert_eq!(status(&two, &path, &[]).await?.contains("hit"), shared);
        // Whatever the tier, a purge at one node reaches the other.
        purge(&one, "?wait=applied", &json!({ "all": true })).await?;
        assert!(!status(&two, &path, &[]).await?.contains("hit"), "{tiers}");
    }
    Ok(())
}

#[tokio::test]
async fn headers_and_cookies_may_send_a_request_past_the_cache() -> Result<()> {
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let keys = "bypass_headers = [\"X-Preview\"]\nbypass_cookies = [\"session\"]";
    let gateway = Gateway::start(&origin.route(keys)).await?;
    status(&gateway, "/", &[]).await?;
    for (header, passes) in [
        (("x-preview", "1"), true),
        (("cookie", "a=1; session=2"), true),
        (("cookie", "a=session; sessions=2"), false),
        (("x-other", "1"), false),
    ] {
        let said = status(&gateway, "/", &[header]).await?;
        assert_eq!(said.contains("fwd=bypass"), passes, "{header:?}: {said}");
        assert_eq!(said.contains("hit"), !passes, "{header:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_order_of_parameters_may_make_no_difference_and_a_purge_finds_them() -> Result<()> {
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let gateway =
        Gateway::start(&origin.route("sort_query = true\nquery_except = [\"utm\"]")).await?;
    let url = "/p?b=1&a=2&utm=x";
    status(&gateway, url, &[]).await?;
    assert!(
        status(&gateway, "/p?utm=y&a=2&b=1", &[])
            .await?
            .contains("hit")
    );
    assert!(!status(&gateway, "/p?a=3&b=1", &[]).await?.contains("hit"));
    // By any of the URLs that it answers for.
    purge(&gateway, "", &json!({ "url": url })).await?;
    assert!(!status(&gateway, "/p?a=2&b=1", &[]).await?.contains("hit"));
    Ok(())
}

#[tokio::test]
async fn errors_may_be_kept_for_a_while() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let code = head
            .split('/')
            .nth(1)
            .and_then(|path| path.split(' ').next());
        let answer = format!(
            "HTTP/1.1 {} Sorry\r\ncontent-length: 0\r\n\r\n",
            code.unwrap_or("404")
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let route = origin.route("negative_ttl = { 404 = \"10s\", 503 = 1 }");
    let gateway = Gateway::start(&route).await?;
    for (path, kept) in [("/404", true), ("/503", true), ("/500", false)] {
        status(&gateway, path, &[]).await?;
        let said = status(&gateway, path, &[]).await?;
        assert_eq!(said.contains("hit"), kept, "{path}: {said}");
    }
    let bad = Gateway::start(&origin.route("negative_ttl = { 200 = 1 }")).await;
    assert!(bad.is_err());
    Ok(())
}

#[tokio::test]
async fn requests_need_not_wait_for_one_another() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        sleep(Duration::from_millis(300)).await;
        let answer = ok("x", "cache-control: max-age=60\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("collapse = false")).await?;
    let asked: Vec<_> = (0..5).map(|_| status(&gateway, "/", &[])).collect();
    for said in futures_util::future::join_all(asked).await {
        assert!(!said?.contains("collapsed"));
    }
    assert_eq!(origin.requests(), 5);
    Ok(())
}

/// What it cost around expiry: clients that did not get a fresh hit, requests to the origin, and the
/// most of them at once.
#[derive(Clone, Copy, Debug)]
struct Cost {
    waits: usize,
    fetches: usize,
    at_once: usize,
}

/// Four clients of each of two nodes, who ask all the time for four seconds; the freshness is one
/// second, a fetch takes 100 ms.
async fn around_expiry(keys: &str, lease: &str) -> Result<Cost> {
    let redis = Redis::start().await?;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let origin = Origin::start(move |_, mut stream| {
        let (now, seen) = (Arc::clone(&now), Arc::clone(&seen));
        async move {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_millis(100)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            let answer = ok("x", "cache-control: max-age=1\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let cache = format!("[cache]\nlease = {lease}\n");
    let config = format!("{}{cache}{}", redis.section(), origin.route(keys));
    let nodes = [
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    ];
    for node in &nodes {
        node.ready_for_redis().await?;
        status(node, "/", &[]).await?;
    }
    let (before, began) = (origin.requests(), Instant::now());
    most.store(0, Ordering::SeqCst);
    let clients = nodes.iter().flat_map(|node| [node; 4]).map(async |node| {
        let mut waits = 0;
        while began.elapsed() < Duration::from_secs(4) {
            waits += usize::from(!status(node, "/", &[]).await?.contains("; hit"));
            // A person's pace; otherwise the clients would starve the nodes.
            sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, anyhow::Error>(waits)
    });
    let waits = futures_util::future::try_join_all(clients).await?;
    Ok(Cost {
        waits: waits.iter().sum(),
        fetches: origin.requests() - before,
        at_once: most.load(Ordering::SeqCst),
    })
}

#[tokio::test]
async fn early_refresh_spares_clients_the_wait_at_expiry() -> Result<()> {
    let plain = around_expiry("early_refresh = 0\ncollapse = false", "0").await?;
    let lock = around_expiry("early_refresh = 0", "\"3s\"").await?;
    let early = around_expiry("early_refresh = 1", "\"3s\"").await?;
    println!("around four expiries: plain {plain:?}, a lock {lock:?}, early refresh {early:?}");
    // With plain expiry all who come meanwhile go to the origin, with a lock all wait for one.
    assert!(plain.at_once > 2 && plain.fetches > 3 * lock.fetches);
    assert_eq!((lock.at_once, early.at_once), (1, 1));
    assert!(lock.waits >= 3 && early.waits < lock.waits / 2);
    // One refresh for both nodes, and not many more than expiries.
    assert!(early.fetches <= 12);
    Ok(())
}

/// An origin whose one answer is stale as it comes, and that then breaks off.
async fn failing(fields: &str) -> Result<(Origin, Arc<AtomicBool>)> {
    let fails = Arc::new(AtomicBool::new(false));
    let (answer, failing) = (
        ok("x", &format!("etag: \"1\"\r\nage: 60\r\n{fields}")),
        Arc::clone(&fails),
    );
    let origin = Origin::start(move |_, mut stream| {
        let (answer, fails) = (answer.clone(), failing.load(Ordering::SeqCst));
        async move {
            if fails {
                return None;
            }
            stream.write_all(answer.as_bytes()).await.ok()?;
            stream.shutdown().await.ok()?;
            None
        }
    })
    .await?;
    Ok((origin, fails))
}

#[tokio::test]
async fn grace_serves_stale_without_asking_while_the_upstream_is_ejected() -> Result<()> {
    let (origin, fails) = failing("cache-control: max-age=60, stale-if-error=0\r\n").await?;
    let keys = "grace = \"1h\"\neject_after = 2\nretries = 0\neject_for = \"1m\"";
    let gateway = Gateway::start(&origin.route(keys)).await?;
    let get = async || {
        client()
            .get(gateway.url("/"))
            .header("host", "h")
            .send()
            .await
    };
    assert_eq!(get().await?.status(), 200);
    fails.store(true, Ordering::SeqCst);
    // It is asked for as long as it may be healthy, and its failures are the client's.
    assert_eq!(get().await?.status(), 502);
    assert_eq!(get().await?.status(), 502);
    let asked = origin.requests();
    for _ in 0..3 {
        let answer = get().await?;
        assert_eq!(answer.status(), 200);
        assert!(
            field(&answer, "cache-status").contains("detail=grace"),
            "{answer:?}"
        );
    }
    assert_eq!(origin.requests(), asked);
    // What there is nothing stored for is tried all the same.
    let other = client().get(gateway.url("/other")).send().await?;
    assert_eq!(other.status(), 502);
    assert_eq!(origin.requests(), asked + 1);
    Ok(())
}

#[tokio::test]
async fn a_route_limits_the_staleness_that_anybody_grants() -> Result<()> {
    for (keys, expected) in [("", 200), ("max_stale = 0", 502)] {
        let (origin, fails) = failing("cache-control: max-age=60, stale-if-error=600\r\n").await?;
        let gateway = Gateway::start(&origin.route(&format!("retries = 0\n{keys}"))).await?;
        let get = async |wish: &'static str| {
            let request = client().get(gateway.url("/")).header("cache-control", wish);
            request.send().await
        };
        assert_eq!(get("").await?.status(), 200);
        fails.store(true, Ordering::SeqCst);
        for wish in ["", "max-stale=600", "stale-if-error=600"] {
            assert_eq!(get(wish).await?.status(), expected, "{keys:?} {wish}");
        }
    }
    Ok(())
}
