//! Clients that are slow, idle or deaf: what each may cost, in time and in memory.

use crate::wire::{PATIENCE, read_all, read_until, responses, send};
use anyhow::Result;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{interval, timeout},
};
use weaver_tests::{Gateway, Origin};

const MIB: usize = 1 << 20;

async fn gateway(server: &str, config: &str) -> Result<Gateway> {
    Gateway::start_with(config, server, &[], None).await
}

/// Sends a byte now and then until the other side has had enough; gives what came.
async fn drip(mut stream: TcpStream, text: &str) -> Result<(Vec<u8>, Duration)> {
    let started = Instant::now();
    let (mut read, mut write) = stream.split();
    let mut beat = interval(Duration::from_millis(50));
    let (mut received, mut buffer) = (Vec::new(), [0; 1024]);
    let mut bytes = text.as_bytes().iter().cycle();
    loop {
        tokio::select! {
            _ = beat.tick() => {
                let Some(byte) = bytes.next() else { break };
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
            count = read.read(&mut buffer) => match count {
                Ok(count) if count > 0 => received.extend_from_slice(&buffer[..count]),
                _ => break,
            }
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "it goes on and on");
    }
    Ok((received, started.elapsed()))
}

#[tokio::test]
async fn a_head_that_drips_gets_408_on_any_request_of_a_connection() -> Result<()> {
    let gateway = gateway("request_timeout = \"400ms\"\nkeep_alive = \"8s\"", "").await?;
    let first = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let (bytes, _) = drip(first, "GET /aaaaaaaaaaaaaaaaaaaaaaaaa").await?;
    let answer = &responses(&bytes, &["GET"])?[0];
    assert_eq!(
        (answer.status, answer.field("connection")),
        (408, Some("close"))
    );
    let mut second = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    second
        .write_all(b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n")
        .await?;
    read_until(&mut second, "}").await?;
    let (bytes, took) = drip(
        second,
        "GET / HTTP/1.1\r\nhost: h\r\nx: yyyyyyyyyyyyyyyyyyyyy",
    )
    .await?;
    assert_eq!(responses(&bytes, &["GET"])?[0].status, 408);
    assert!(took < Duration::from_secs(5), "{took:?}: not keep_alive's");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_without_a_word() -> Result<()> {
    let gateway = gateway("request_timeout = \"300ms\"\nkeep_alive = \"300ms\"", "").await?;
    let mut silent = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    assert!(read_all(&mut silent).await?.is_empty());
    let mut idle = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n")
        .await?;
    read_until(&mut idle, "}").await?;
    assert!(read_all(&mut idle).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_body_that_stands_still_gets_408() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let mut sink = vec![0; 1024];
        while stream.read(&mut sink).await.ok()? > 0 {}
        None
    })
    .await?;
    let gateway = gateway("body_timeout = \"300ms\"", &origin.route("")).await?;
    for framing in [
        "content-length: 10\r\n\r\nab",
        "transfer-encoding: chunked\r\n\r\n2\r\nab",
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: h\r\n{framing}");
        let bytes = send(gateway.port(), request).await?;
        assert_eq!(responses(&bytes, &["POST"])?[0].status, 408, "{framing:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() -> Result<()> {
    let body = "x".repeat(16 * MIB);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let origin = Origin::constant(answer).await?;
    let gateway = gateway(
        "write_timeout = \"400ms\"",
        &origin.route("cache = \"off\""),
    )
    .await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .await?;
    read_until(&mut stream, "HTTP/1.1 200 OK\r\n").await?;
    // It is the time without reading that is tried here.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await?;
    assert!(bytes.len() < body.len(), "{} came", bytes.len());
    Ok(())
}

#[tokio::test]
async fn clients_that_do_not_read_cost_little_memory() -> Result<()> {
    const CLIENTS: usize = 200;
    const SLACK: u64 = 8 << 20;
    let body = "x".repeat(4 * MIB);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let origin = Origin::constant(answer).await?;
    let gateway = gateway("", &origin.route("")).await?;
    let request = "GET /large HTTP/1.1\r\nhost: h\r\n\r\n";
    let closing = request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    for _ in 0..3 {
        send(gateway.port(), &closing).await?;
    }
    let before = gateway.process().resident();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        stream.write_all(request.as_bytes()).await?;
        // Its first bytes: the gateway is writing.
        stream.read_u8().await?;
        clients.push(stream);
    }
    let after = gateway.process().resident();
    let most = before + (CLIENTS as u64) * (128 << 10) + SLACK;
    assert!(after < most, "{before} before, {after} after");
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn interim_responses_do_not_pile_up_for_a_client_that_does_not_read() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let head = format!(
            "HTTP/1.1 103 Early Hints\r\nlink: <{}>\r\n\r\n",
            "a".repeat(900)
        );
        // As many as an upstream may send.
        stream.write_all(head.repeat(90).as_bytes()).await.ok()?;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast")
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let gateway = gateway("", &origin.route("cache = \"off\"")).await?;
    let request = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    // Once to bring allocators and buffers to their size.
    send(gateway.port(), request).await?;
    let before = gateway.process().resident();
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    stream.write_all(request.as_bytes()).await?;
    // They come by; the client reads only then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = gateway.process().resident();
    assert!(
        after < before + 8 * MIB as u64,
        "{before} before, {after} after"
    );
    let bytes = read_all(&mut stream).await?;
    assert!(bytes.ends_with(b"\r\n\r\nlast"));
    Ok(())
}

#[tokio::test]
async fn what_all_connections_hold_is_bounded() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let mut sink = vec![0; 1024];
        while stream.read(&mut sink).await.ok()? > 0 {}
        None
    })
    .await?;
    let gateway = gateway("max_buffers = \"1MiB\"\nworkers = 1", &origin.route("")).await?;
    let health = "GET /health HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut kept = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    kept.write_all(health.as_bytes()).await?;
    read_until(&mut kept, "}").await?;
    // Heads that do not end hold their buffers.
    let mut holders = Vec::new();
    let mut refused = false;
    for _ in 0..400 {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        let head = format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}", "x".repeat(6000));
        stream.write_all(head.as_bytes()).await?;
        holders.push(stream);
    }
    for _ in 0..200 {
        kept.write_all(health.as_bytes()).await?;
        let head = read_until(&mut kept, "\r\n\r\n").await?;
        if head.starts_with("HTTP/1.1 503 ") {
            assert!(head.to_lowercase().contains("retry-after: 1\r\n"), "{head}");
            refused = true;
            break;
        }
        read_until(&mut kept, "}").await?;
    }
    assert!(refused);
    let mut late = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    assert!(
        read_all(&mut late).await?.is_empty(),
        "a new connection is closed"
    );
    drop(holders);
    for _ in 0..200 {
        let request = health.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        let bytes = send(gateway.port(), request).await.unwrap_or_default();
        if bytes.starts_with(b"HTTP/1.1 200 ") {
            return Ok(());
        }
    }
    anyhow::bail!("the memory is free again, and nobody is let in")
}

/// Each field costs more where it is kept than its bytes.
#[tokio::test]
async fn heads_of_many_fields_are_bounded_one_by_one_and_together() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        // It answers to nobody, until they have left.
        stream.read_u8().await.ok()?;
        None
    })
    .await?;
    let gateway = gateway(
        "max_buffers = \"64MiB\"",
        &origin.route("cache = \"off\"\nmax_in_flight = 1000"),
    )
    .await?;
    let head = |fields: usize| {
        let fields: String = (0..fields).map(|at| format!("x{at}:\r\n")).collect();
        format!("GET / HTTP/1.1\r\nhost: h\r\n{fields}\r\n")
    };
    let large = head(5000).replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let refused = send(gateway.port(), &large).await?;
    assert!(refused.starts_with(b"HTTP/1.1 431 "));
    let before = gateway.process().resident();
    let mut streams = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        stream.write_all(head(1000).as_bytes()).await?;
        streams.push(stream);
    }
    // Who is refused is told at once, and the others wait.
    let mut refused = 0;
    for stream in &mut streams {
        let mut answer = [0; 12];
        let patience = Duration::from_millis(if refused == 0 { 20 } else { 2 });
        let read = timeout(patience, stream.read_exact(&mut answer)).await;
        refused += usize::from(read.is_ok() && answer.ends_with(b"503"));
    }
    let grown = gateway.process().resident().saturating_sub(before) / MIB as u64;
    assert!(grown < 250, "{grown} MiB");
    assert!(refused > 100, "{refused} of 400 were refused");
    Ok(())
}
