//! Large bodies in Redis: in parts, streamed from there, and never cut short unnoticed.

use crate::{client, eventually, field, ok};
use anyhow::Result;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use weaver_tests::{Gateway, Origin, Redis};

/// A body in which every place is different, of a thousand lines of 100 bytes.
fn body() -> String {
    (0..1000).map(|at| format!("{at:099}\n")).collect()
}

async fn origin(body: &str) -> Result<Origin> {
    Origin::constant(ok(body, "cache-control: max-age=600\r\netag: \"1\"\r\n")).await
}

/// The keys of parts, and the milliseconds for which each will be there.
fn parts(redis: &Redis) -> Result<Vec<(String, i64)>> {
    let keys = redis.cli(&["KEYS", "http_cache:*:*:*"])?;
    let mut parts = Vec::new();
    let is_part = |key: &&str| !key.is_empty() && !key.contains('{');
    for key in keys.lines().filter(is_part) {
        parts.push((key.to_owned(), redis.cli(&["PTTL", key])?.trim().parse()?));
    }
    Ok(parts)
}

async fn get(gateway: &Gateway, headers: &[(&str, &str)]) -> Result<(u16, String, String)> {
    let mut request = client().get(gateway.url("/large")).header("host", "h");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    let status = field(&answer, "cache-status").to_owned();
    Ok((answer.status().as_u16(), status, answer.text().await?))
}

#[tokio::test]
async fn a_large_body_is_in_parts_and_other_nodes_serve_it_from_there() -> Result<()> {
    let body = body();
    for compress in ["0", "\"1KiB\""] {
        let (redis, origin) = (Redis::start().await?, origin(&body).await?);
        let cache = format!("[cache]\nredis_part = \"4KiB\"\nredis_compress = {compress}\n");
        let config = format!("{}{cache}{}", redis.section(), origin.route(""));
        let one = Gateway::start(&config).await?;
        one.ready_for_redis().await?;
        assert_eq!(get(&one, &[]).await?.2, body);
        eventually("it is in redis", async || {
            let url = one.admin_url("/entry?url=http://h/large");
            let entry = client()
                .get(url)
                .send()
                .await
                .expect("an answer")
                .text()
                .await;
            entry.is_ok_and(|entry| entry.contains("\"redis\""))
        })
        .await;
        let stored = parts(&redis)?;
        assert_eq!(stored.len(), 25);
        for (key, life) in &stored {
            let length: usize = redis.cli(&["STRLEN", key])?.trim().parse()?;
            assert!((1..=4114).contains(&length), "{length}");
            assert!(*life > 600_000, "longer than the head: {life}");
        }
        let two = Gateway::start(&config).await?;
        two.ready_for_redis().await?;
        // Neither needs all of it in memory.
        let (status, said, part) = get(&two, &[("range", "bytes=5000-5099")]).await?;
        assert_eq!((status, part.as_str()), (206, &body[5000..5100]), "{said}");
        let (status, said, _) = get(&two, &[("if-none-match", "\"1\"")]).await?;
        assert_eq!(status, 304, "{said}");
        for _ in 0..2 {
            let (status, said, whole) = get(&two, &[]).await?;
            assert_eq!(status, 200);
            assert!(said.contains("weaver; hit; ttl="), "{said}");
            assert!(whole == body);
        }
        assert_eq!(origin.requests(), 1);
        // A part that is gone is noticed before anything is sent: Redis evicts what it likes.
        redis.cli(&["DEL", &stored[7].0])?;
        let three = Gateway::start(&config).await?;
        three.ready_for_redis().await?;
        let (status, said, whole) = get(&three, &[]).await?;
        assert!(status == 200 && whole == body, "{said}");
        assert!(said.contains("fwd=uri-miss"), "{said}");
        assert_eq!(origin.requests(), 2);
        // What was replaced is gone in a minute, and not when its time is up.
        eventually("the old parts end", async || {
            let lives = parts(&redis).expect("redis");
            let long = lives.iter().filter(|(_, life)| *life > 600_000).count();
            long == 25 && lives.len() == 49
        })
        .await;
    }
    Ok(())
}

/// Of whatever form the head is in that leads to the parts, and whatever replaces it.
#[tokio::test]
async fn parts_of_what_a_small_response_replaces_end_soon() -> Result<()> {
    for compress in ["0", "128"] {
        let redis = Redis::start().await?;
        let large = Arc::new(AtomicBool::new(true));
        let is_large = Arc::clone(&large);
        let origin = Origin::start(move |_, mut stream| {
            let large = is_large.load(Ordering::SeqCst);
            async move {
                let body = if large { body() } else { "small".to_owned() };
                let filler = "x".repeat(400);
                let fields = format!("cache-control: max-age=600\r\nx-filler: {filler}\r\n");
                stream.write_all(ok(&body, &fields).as_bytes()).await.ok()?;
                Some(stream)
            }
        })
        .await?;
        let cache = format!("[cache]\nredis_part = \"32KiB\"\nredis_compress = {compress}\n");
        let config = format!("{}{cache}{}", redis.section(), origin.route(""));
        let gateway = Gateway::start(&config).await?;
        gateway.ready_for_redis().await?;
        assert_eq!(get(&gateway, &[]).await?.2.len(), 100_000);
        let lives = || parts(&redis).expect("redis");
        eventually("the parts are there", async || {
            // The head comes last, and with it the lease ends.
            let leases = redis.cli(&["KEYS", "*lease*"]);
            lives().len() == 4 && leases.is_ok_and(|keys| keys.trim().is_empty())
        })
        .await;
        assert!(lives().iter().all(|(_, life)| *life > 600_000));
        large.store(false, Ordering::SeqCst);
        let no_cache = [("cache-control", "no-cache")];
        assert_eq!(get(&gateway, &no_cache).await?.2, "small");
        eventually("the parts end", async || {
            lives().iter().all(|(_, life)| *life <= 60_000)
        })
        .await;
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_lost_in_the_middle_breaks_off_and_is_fetched_anew() -> Result<()> {
    // More than the buffers on the way hold, so that the client decides how fast it comes.
    let body = "0123456789abcdef".repeat(2 << 20);
    let (redis, origin) = (Redis::start().await?, origin(&body).await?);
    let cache = "[cache]\nmax_object = \"64MiB\"\n";
    let config = |more: &str| format!("{}{cache}{more}{}", redis.section(), origin.route(""));
    let one = Gateway::start(&config("")).await?;
    one.ready_for_redis().await?;
    assert!(get(&one, &[]).await?.2 == body);
    eventually("it is in redis", async || {
        parts(&redis).expect("redis").len() == 64
    })
    .await;
    // No room to keep what comes in: it passes through a window.
    let two = Gateway::start(&config("memory = 0\nmax_filling = 0\n")).await?;
    two.ready_for_redis().await?;
    let mut stream = TcpStream::connect(("127.0.0.1", two.port())).await?;
    let request = "GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut first = [0; 1024];
    stream.read_exact(&mut first).await?;
    let head = String::from_utf8_lossy(&first).into_owned();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("weaver; hit"),
        "{head}"
    );
    for (key, _) in parts(&redis)? {
        redis.cli(&["DEL", &key])?;
    }
    let mut rest = Vec::new();
    // Reset or cut short: either tells the client.
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await?;
    assert!(rest.len() < body.len(), "{}", rest.len());
    assert_eq!(origin.requests(), 1);
    let (status, said, whole) = get(&two, &[]).await?;
    assert!(status == 200 && whole == body, "{said}");
    assert_eq!(origin.requests(), 2);
    Ok(())
}
