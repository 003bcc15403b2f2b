use crate::{client, eventually, ok};
use anyhow::Result;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use weaver_tests::{Gateway, Origin, exchange};

const MEGABYTE: usize = 1 << 20;

#[tokio::test]
async fn a_hundred_megabytes_pass_in_flat_memory() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let head =
            "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        let chunk = vec![7_u8; MEGABYTE];
        for _ in 0..100 {
            stream
                .write_all(format!("{MEGABYTE:x}\r\n").as_bytes())
                .await
                .ok()?;
            stream.write_all(&chunk).await.ok()?;
            stream.write_all(b"\r\n").await.ok()?;
        }
        stream.write_all(b"0\r\n\r\n").await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&format!(
        "[cache]\nmax_object = \"2MiB\"\n{}",
        origin.route("")
    ))
    .await?;
    // Once to bring allocators and buffers to their size.
    client()
        .get(gateway.url("/a"))
        .send()
        .await?
        .bytes()
        .await?;
    let before = gateway.process().resident();
    let mut body = client().get(gateway.url("/b")).send().await?.bytes_stream();
    let (mut total, mut most) = (0, 0);
    while let Some(piece) = body.next().await {
        total += piece?.len();
        if total % (8 * MEGABYTE) < 70_000 {
            most = most.max(gateway.process().resident());
        }
    }
    assert_eq!(total, 100 * MEGABYTE);
    assert!(
        most < before + 24 * MEGABYTE as u64,
        "{before} before, {most} at most"
    );
    Ok(())
}

#[tokio::test]
async fn a_slow_reader_slows_the_upstream_instead_of_filling_memory() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            200 * MEGABYTE
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        let chunk = vec![7_u8; MEGABYTE];
        for _ in 0..200 {
            stream.write_all(&chunk).await.ok()?;
        }
        None
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n",
        gateway.port()
    );
    stream.write_all(request.as_bytes()).await?;
    stream.read_u8().await?;
    let before = gateway.process().resident();
    sleep(Duration::from_secs(1)).await;
    let after = gateway.process().resident();
    assert!(
        after < before + 24 * MEGABYTE as u64,
        "{before} before, {after} after"
    );
    Ok(())
}

#[tokio::test]
async fn a_request_body_streams_up_byte_for_byte() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))?
            .parse()
            .ok()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
        stream
            .write_all(ok(&format!("{length} {sum}"), "").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let body: Vec<u8> = (0..3 * MEGABYTE).map(|at| (at % 251) as u8).collect();
    let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
    let answer = client().put(gateway.url("/")).body(body).send().await?;
    assert_eq!(answer.text().await?, format!("{} {sum}", 3 * MEGABYTE));
    Ok(())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_or_while_it_comes() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let mut sink = vec![0; 4096];
        while stream.read(&mut sink).await.ok()? > 0 {}
        None
    })
    .await?;
    let gateway = Gateway::start_with(&origin.route(""), "max_body = 1000", &[], None).await?;
    let known = client()
        .post(gateway.url("/"))
        .body(vec![0; 2000])
        .send()
        .await?;
    assert_eq!(known.status(), 413);
    let pieces = stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 100]))));
    let body = reqwest::Body::wrap_stream(pieces);
    let unknown = client().post(gateway.url("/")).body(body).send().await;
    assert!(
        unknown.is_err()
            || unknown
                .is_ok_and(|answer| answer.status().is_server_error() || answer.status() == 413)
    );
    Ok(())
}

#[tokio::test]
async fn events_arrive_as_they_are_sent() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        for _ in 0..3 {
            stream.write_all(b"9\r\ndata: x\n\n\r\n").await.ok()?;
            sleep(Duration::from_millis(300)).await;
        }
        stream.write_all(b"0\r\n\r\n").await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let started = Instant::now();
    let mut events = client().get(gateway.url("/")).send().await?.bytes_stream();
    let first = timeout(Duration::from_secs(5), events.next())
        .await?
        .expect("an event")?;
    assert_eq!(first, "data: x\n\n");
    assert!(
        started.elapsed() < Duration::from_millis(280),
        "{:?}",
        started.elapsed()
    );
    let rest: Vec<_> = events.collect().await;
    assert_eq!(rest.len(), 2);
    Ok(())
}

#[tokio::test]
async fn trailers_come_through_and_those_that_steer_do_not() -> Result<()> {
    let response = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                    4\r\nbody\r\n0\r\nx-sum: 42\r\nset-cookie: a=b\r\n\r\n";
    let origin = Origin::constant(response).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let host = format!("host: 127.0.0.1:{}", gateway.port());
    // Two requests at once, so that the trailers have to stand in their place.
    let request = format!(
        "GET /1 HTTP/1.1\r\n{host}\r\nte: trailers\r\n\r\nGET /2 HTTP/1.1\r\n{host}\r\nte: trailers\r\nconnection: close\r\n\r\n"
    );
    let answer = exchange(gateway.port(), &request).await?.text();
    assert_eq!(
        answer
            .matches("4\r\nbody\r\n0\r\nx-sum: 42\r\n\r\n")
            .count(),
        2,
        "{answer}"
    );
    assert!(!answer.contains("set-cookie"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn interim_responses_come_before_the_final_one_and_are_not_kept() -> Result<()> {
    let response = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: </s.css>; rel=preload\r\n\r\n{}",
        ok("final", "cache-control: max-age=60\r\n")
    );
    let origin = Origin::constant(response).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n\r\n",
        gateway.port()
    );
    let first = exchange(gateway.port(), &request).await?.text();
    assert!(
        first.starts_with(
            "HTTP/1.1 103 Early Hints\r\nlink: </s.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n"
        ),
        "{first}"
    );
    assert!(first.ends_with("final"), "{first}");
    let second = exchange(gateway.port(), &request).await?.text();
    assert!(
        second.starts_with("HTTP/1.1 200 OK\r\n") && !second.contains("link:"),
        "{second}"
    );
    Ok(())
}

#[tokio::test]
async fn a_websocket_is_a_tunnel() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        assert!(head.to_lowercase().contains("connection: upgrade\r\n"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nhello";
        stream.write_all(answer.as_bytes()).await.ok()?;
        let mut bytes = [0; 5];
        loop {
            stream.read_exact(&mut bytes).await.ok()?;
            bytes.reverse();
            stream.write_all(&bytes).await.ok()?;
        }
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n",
        gateway.port()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut seen = Vec::new();
    let wait = Duration::from_secs(5);
    while !seen.ends_with(b"hello") {
        seen.push(timeout(wait, stream.read_u8()).await??);
    }
    let head = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("upgrade: websocket\r\n") && head.contains("sec-websocket-accept: x\r\n"),
        "{head}"
    );
    assert!(!head.contains("transfer-encoding"), "{head}");
    for (sent, expected) in [(b"12345", b"54321"), (b"abcde", b"edcba")] {
        stream.write_all(sent).await?;
        let mut answer = [0; 5];
        timeout(wait, stream.read_exact(&mut answer)).await??;
        assert_eq!(&answer, expected);
    }
    Ok(())
}

/// An upstream that switches to WebSocket, says hello, and then keeps the connection whatever comes.
async fn stubborn() -> Result<Origin> {
    Origin::start(|_, mut stream| async move {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
        stream.write_all(answer.as_bytes()).await.ok()?;
        std::future::pending::<()>().await;
        Some(stream)
    })
    .await
}

/// A client's end of a WebSocket, after the upstream's hello.
async fn websocket(gateway: &Gateway) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let request = "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello") {
        seen.push(timeout(Duration::from_secs(5), stream.read_u8()).await??);
    }
    Ok(stream)
}

async fn in_flight(gateway: &Gateway, count: u8) -> bool {
    let line = format!("weaver_upstream_in_flight{{route=\"origin\"}} {count}");
    let answer = client().get(gateway.admin_url("/metrics")).send().await;
    let Ok(answer) = answer else { return false };
    let text = answer.text().await.unwrap_or_default();
    text.lines().any(|known| known == line)
}

#[tokio::test]
async fn a_websocket_that_is_silent_for_too_long_is_closed() -> Result<()> {
    let origin = stubborn().await?;
    let gateway = Gateway::start(&origin.route("tunnel_idle_timeout = \"1500ms\"")).await?;
    let mut stream = websocket(&gateway).await?;
    // What comes from one side keeps it open.
    for _ in 0..4 {
        sleep(Duration::from_millis(500)).await;
        stream.write_all(b"x").await?;
    }
    assert!(in_flight(&gateway, 1).await);
    let end = timeout(Duration::from_secs(5), stream.read_u8()).await?;
    assert!(end.is_err(), "{end:?}");
    eventually("the upstream is left", async || {
        in_flight(&gateway, 0).await
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_websocket_ends_with_its_client_whatever_the_upstream_does() -> Result<()> {
    let origin = stubborn().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let stream = websocket(&gateway).await?;
    assert!(in_flight(&gateway, 1).await);
    stream.set_zero_linger()?;
    drop(stream);
    eventually("the upstream is left", async || {
        in_flight(&gateway, 0).await
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_and_the_upstream_is_not_asked_to() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.ok()?;
        let expect = head.to_lowercase().contains("expect");
        stream
            .write_all(ok(&format!("{expect}"), "").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n",
        gateway.port()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut interim = [0; 25];
    timeout(Duration::from_secs(5), stream.read_exact(&mut interim)).await??;
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let answer = weaver_tests::exchange_on(&mut stream, "body").await?;
    assert_eq!((answer.status(), answer.body()), (200, &b"false"[..]));
    Ok(())
}
