//! Starting, being ready, signals and draining.

use crate::{client, eventually, field, ok};
use anyhow::Result;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use weaver_tests::{Gateway, Origin, Redis, free_port};

async fn readiness(gateway: &Gateway) -> Result<(u16, String)> {
    let answer = client().get(gateway.admin_url("/readyz")).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

async fn is_ready(gateway: &Gateway) -> bool {
    readiness(gateway)
        .await
        .is_ok_and(|(status, _)| status == 200)
}

#[tokio::test]
async fn the_first_request_to_a_new_node_that_is_ready_is_a_redis_hit() -> Result<()> {
    let mut redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=600\r\n")).await?;
    let config = format!(
        "{}[cache]\nredis_deadline = \"5s\"\n{}",
        redis.section(),
        origin.route("")
    );
    let get = async |gateway: &Gateway| {
        let url = gateway.url("/x");
        client().get(url).header("host", "h").send().await
    };
    let serving = Gateway::start(&config).await?;
    eventually("the serving node is ready", async || {
        is_ready(&serving).await
    })
    .await;
    get(&serving).await?;
    eventually("the response is in redis", async || {
        redis.records().is_ok_and(|records| records >= 1) && get(&serving).await.is_ok()
    })
    .await;
    for round in 0..10 {
        let new = Gateway::start(&config).await?;
        eventually("the new node is ready", async || is_ready(&new).await).await;
        let answer = get(&new).await?;
        let status = field(&answer, "cache-status");
        assert!(status.contains("; hit"), "start {round}: {status}");
    }
    assert_eq!(origin.requests(), 1);
    // Redis is optional, and a node that is ready stays so.
    redis.kill();
    eventually("the loss is noticed", async || {
        let report = serving.report().await;
        report.is_ok_and(|report| report["status"] == "degraded")
    })
    .await;
    assert_eq!(readiness(&serving).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_node_is_ready_without_a_redis_that_does_not_come() -> Result<()> {
    // Nobody listens: given up long before the time is over.
    let section = format!("[redis]\nmode = \"standalone\"\nport = {}\n", free_port());
    let gateway = Gateway::start(&format!("{section}ready_timeout = \"1h\"\n")).await?;
    eventually("redis is given up", async || is_ready(&gateway).await).await;
    // Somebody listens and says nothing: the time counts.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = silent.local_addr()?.port();
    let section = format!("[redis]\nmode = \"standalone\"\nport = {port}\n");
    let timeouts = "socket_connect_timeout = \"1h\"\nsocket_timeout = \"1h\"\n";
    let gateway = Gateway::start(&format!("{section}{timeouts}ready_timeout = \"2s\"\n")).await?;
    let (status, why) = readiness(&gateway).await?;
    assert_eq!((status, why.as_str()), (503, "waiting for redis"));
    eventually("the time is over", async || is_ready(&gateway).await).await;
    Ok(())
}

#[tokio::test]
async fn a_hangup_is_ignored_and_said_so() -> Result<()> {
    let mut gateway = Gateway::start("").await?;
    gateway.process().signal("HUP")?;
    eventually("the signal is logged", async || {
        gateway.process().output().contains("SIGHUP is ignored")
    })
    .await;
    let answer = client().get(gateway.url("/health")).send().await?;
    assert_eq!(answer.status(), 200);
    gateway.process().signal("TERM")?;
    let ended = gateway.process_mut().wait(Duration::from_secs(10)).await?;
    assert_eq!(ended, Some(0));
    Ok(())
}

#[tokio::test]
async fn within_the_drain_delay_new_connections_are_served_by_a_node_that_is_not_ready()
-> Result<()> {
    let mut gateway = Gateway::start_with("", "drain_delay = \"1h\"", &[], None).await?;
    gateway.process().signal("TERM")?;
    eventually("it is not ready", async || {
        readiness(&gateway)
            .await
            .is_ok_and(|(status, why)| status == 503 && why == "draining")
    })
    .await;
    for _ in 0..3 {
        let answer = client().get(gateway.url("/health")).send().await?;
        assert_eq!(answer.status(), 200);
    }
    // Another signal ends the delay, of either kind.
    gateway.process().signal("INT")?;
    let ended = gateway.process_mut().wait(Duration::from_secs(10)).await?;
    assert_eq!(ended, Some(0));
    // And so does its time.
    let mut gateway = Gateway::start_with("", "drain_delay = \"200ms\"", &[], None).await?;
    gateway.process().signal("TERM")?;
    let ended = gateway.process_mut().wait(Duration::from_secs(10)).await?;
    assert_eq!(ended, Some(0));
    Ok(())
}

#[tokio::test]
async fn a_node_that_never_reached_redis_ends_at_once() -> Result<()> {
    let section = format!("[redis]\nmode = \"standalone\"\nport = {}\n", free_port());
    let mut gateway = Gateway::start(&section).await?;
    eventually("redis is given up", async || is_ready(&gateway).await).await;
    let asked = Instant::now();
    gateway.process().signal("TERM")?;
    let ended = gateway.process_mut().wait(Duration::from_secs(10)).await?;
    assert_eq!(ended, Some(0));
    // It took a second of farewells to nobody.
    assert!(asked.elapsed() < Duration::from_millis(900), "{asked:?}");
    Ok(())
}

/// Reads until the text has come.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> Result<String> {
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let count = timeout(Duration::from_secs(10), stream.read(&mut buffer)).await??;
        anyhow::ensure!(count > 0, "it ended: {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&seen).into_owned())
}

#[tokio::test]
async fn websockets_and_event_streams_last_through_the_grace_and_no_longer() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        if head.starts_with("GET /ws ") {
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nhello";
            stream.write_all(answer.as_bytes()).await.ok()?;
            let mut buffer = [0; 1024];
            loop {
                let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
                stream.write_all(&buffer[..count]).await.ok()?;
            }
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        loop {
            stream.write_all(b"data: beat\n\n").await.ok()?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await?;
    let mut gateway =
        Gateway::start_with(&origin.route(""), "shutdown_grace = \"3s\"", &[], None).await?;
    let mut tunnel = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let asks = "GET /ws HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n";
    tunnel.write_all(asks.as_bytes()).await?;
    read_until(&mut tunnel, "hello").await?;
    let mut events = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    events
        .write_all(b"GET /events HTTP/1.1\r\nhost: h\r\n\r\n")
        .await?;
    read_until(&mut events, "data: beat").await?;
    gateway.process().signal("TERM")?;
    eventually("it is not ready", async || {
        readiness(&gateway)
            .await
            .is_ok_and(|(status, _)| status == 503)
    })
    .await;
    // Both go on meanwhile.
    tunnel.write_all(b"still there").await?;
    read_until(&mut tunnel, "still there").await?;
    read_until(&mut events, "data: beat").await?;
    let ended = gateway.process_mut().wait(Duration::from_secs(10)).await?;
    assert_eq!(ended, Some(0));
    Ok(())
}
