//! Clients that leave.

use crate::wire::PATIENCE;
use anyhow::{Context as _, Result};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use weaver_tests::{Gateway, Origin, exchange_on};

#[tokio::test]
async fn a_reset_ends_the_handler_and_its_upstream_call() -> Result<()> {
    let (asked, left) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_asked, tell_left) = (Arc::clone(&asked), Arc::clone(&left));
    let origin = Origin::start(move |_, mut stream| {
        let (asked, left) = (Arc::clone(&tell_asked), Arc::clone(&tell_left));
        async move {
            asked.notify_one();
            // It never answers, and waits until the gateway hangs up.
            let mut sink = [0; 16];
            while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
            left.notify_one();
            None
        }
    })
    .await?;
    let gateway = Gateway::start(&origin.route("cache = \"off\"")).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .await?;
    timeout(PATIENCE, asked.notified()).await?;
    stream.set_zero_linger()?;
    drop(stream);
    timeout(Duration::from_secs(5), left.notified()).await?;
    Ok(())
}

/// An origin that never answers, and tells of each request that it has and of each that is left.
struct Silent {
    origin: Origin,
    asked: Arc<Notify>,
    left: Arc<Notify>,
    count: Arc<AtomicUsize>,
}

impl Silent {
    async fn start() -> Result<Self> {
        let (asked, left) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let count = Arc::new(AtomicUsize::new(0));
        let tell = (Arc::clone(&asked), Arc::clone(&left), Arc::clone(&count));
        let origin = Origin::start(move |_, mut stream| {
            let (asked, left, count) = tell.clone();
            async move {
                asked.notify_one();
                let mut sink = [0; 1024];
                while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
                count.fetch_add(1, Ordering::SeqCst);
                left.notify_one();
                None
            }
        })
        .await?;
        Ok(Self {
            origin,
            asked,
            left,
            count,
        })
    }
}

/// What an upstream may go on for nobody: a second, and some for a busy machine.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_client_that_closes_takes_its_upstream_request_with_it() -> Result<()> {
    let silent = Silent::start().await?;
    let route = silent.origin.route("bypass_headers = [\"x-past\"]");
    let off = silent
        .origin
        .route("cache = \"off\"")
        .replace("\"/\"", "\"/off\"");
    let off = off.replace("name = \"origin\"", "name = \"off\"");
    let gateway = Gateway::start(&format!("{route}{off}")).await?;
    for request in [
        "GET /off HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\nx-past: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\ncache-control: no-store\r\n\r\n",
        "HEAD / HTTP/1.1\r\nhost: h\r\n\r\n",
        "DELETE / HTTP/1.1\r\nhost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        stream.write_all(request.as_bytes()).await?;
        timeout(PATIENCE, silent.asked.notified()).await?;
        drop(stream);
        let left = timeout(SOON, silent.left.notified()).await;
        left.with_context(|| format!("the upstream goes on: {request}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_fetch_that_may_be_stored_goes_on_without_its_client() -> Result<()> {
    let (asked, may_answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_asked, answer) = (Arc::clone(&asked), Arc::clone(&may_answer));
    let origin = Origin::start(move |_, mut stream| {
        let (asked, may_answer) = (Arc::clone(&tell_asked), Arc::clone(&answer));
        async move {
            asked.notify_one();
            may_answer.notified().await;
            let response =
                "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(response.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let mut first = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let request = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    first.write_all(request.as_bytes()).await?;
    timeout(PATIENCE, asked.notified()).await?;
    let mut second = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    second.write_all(request.as_bytes()).await?;
    drop(first);
    // The gateway has seen it: a connection after it is answered.
    let mut other = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let health = "GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange_on(&mut other, health).await?.status(), 200);
    may_answer.notify_one();
    assert_eq!(exchange_on(&mut second, "").await?.status(), 200);
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_is_never_asked_for() -> Result<()> {
    let silent = Silent::start().await?;
    let keys = "cache = \"off\"\nmax_in_flight = 1\nmax_queue = 1\nqueue_timeout = \"60s\"";
    let gateway = Gateway::start(&silent.origin.route(keys)).await?;
    let request = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut first = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    first.write_all(request).await?;
    timeout(PATIENCE, silent.asked.notified()).await?;
    let queued = |expected: u8| {
        let url = gateway.admin_url("/metrics");
        async move {
            let line = format!("weaver_upstream_queued{{route=\"origin\"}} {expected}");
            for _ in 0..400 {
                let text = reqwest::get(&url).await?.text().await?;
                if text.lines().any(|known| known == line) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::bail!("{expected} requests are not queued")
        }
    };
    let mut waiting = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    waiting.write_all(request).await?;
    queued(1).await?;
    drop(waiting);
    // Its place is free for the next.
    queued(0).await?;
    let mut next = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    next.write_all(request).await?;
    queued(1).await?;
    drop(first);
    timeout(SOON, silent.left.notified()).await?;
    timeout(PATIENCE, silent.asked.notified()).await?;
    assert_eq!(
        (
            silent.origin.requests(),
            silent.count.load(Ordering::SeqCst)
        ),
        (2, 1)
    );
    Ok(())
}

#[tokio::test]
async fn a_client_that_closes_its_side_only_is_told_or_served_as_configured() -> Result<()> {
    for (half_close, status) in [("abort", 499), ("serve", 200)] {
        let (asked, may_answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell_asked, answer) = (Arc::clone(&asked), Arc::clone(&may_answer));
        let origin = Origin::start(move |_, mut stream| {
            let (asked, may_answer) = (Arc::clone(&tell_asked), Arc::clone(&answer));
            async move {
                asked.notify_one();
                may_answer.notified().await;
                let response = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(response.as_bytes()).await.ok()?;
                Some(stream)
            }
        })
        .await?;
        let server = format!("half_close = \"{half_close}\"");
        let route = origin.route("cache = \"off\"");
        let gateway = Gateway::start_with(&route, &server, &[], None).await?;
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            .await?;
        timeout(PATIENCE, asked.notified()).await?;
        stream.shutdown().await?;
        if status == 200 {
            may_answer.notify_one();
        }
        let answer = timeout(PATIENCE, exchange_on(&mut stream, "")).await??;
        assert_eq!(answer.status(), status, "{}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_a_model_call_which_nothing_keeps_takes_it_with_it() -> Result<()> {
    let silent = Silent::start().await?;
    let port = silent.origin.port();
    let config = format!(
        "[model_cache]\nenabled = false\n[[models]]\nupstreams = [\"http://127.0.0.1:{port}\"]\n"
    );
    let gateway = Gateway::start(&config).await?;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"q"}]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    stream.write_all(request.as_bytes()).await?;
    timeout(PATIENCE, silent.asked.notified()).await?;
    drop(stream);
    timeout(SOON, silent.left.notified()).await?;
    Ok(())
}
