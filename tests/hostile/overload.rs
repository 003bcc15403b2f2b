//! More requests than an upstream can answer: those that it can are answered, and the rest are told so
//! at once.

use anyhow::{Context as _, Result};
use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use weaver_tests::{Gateway, Origin, exchange};

/// A response that comes later than this helps nobody.
const GOOD: Duration = Duration::from_secs(2);
/// How long a client waits after it was refused.
const PAUSE: Duration = Duration::from_millis(50);
/// Tries of what other work on the machine may disturb.
const TRIES: usize = 4;
const WAIT: Duration = Duration::from_secs(10);

/// An upstream that serves so many requests at once, each in `service`, and lets the rest queue. It has
/// a thread of its own, so that the clients of a test do not slow it down.
struct Server {
    port: u16,
    stop: Arc<Notify>,
}

impl Server {
    fn start(at_once: usize, service: Duration) -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                let places = Arc::new(Semaphore::new(at_once));
                let serve = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(answer(stream, Arc::clone(&places), service));
                    }
                };
                tokio::select! {
                    () = serve => {}
                    () = stopped.notified() => {}
                }
                Ok(())
            })
        });
        Ok(Self { port, stop })
    }

    fn route(&self, keys: &str) -> String {
        format!(
            "[[routes]]\npath = \"/\"\nname = \"slow\"\ncache = \"off\"\nupstreams = [\"http://127.0.0.1:{}\"]\n{keys}\n",
            self.port
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

async fn answer(mut stream: TcpStream, places: Arc<Semaphore>, service: Duration) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        read_head(&mut stream, &mut buffer).await?;
        let place = places.acquire().await.ok()?;
        sleep(service).await;
        drop(place);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .ok()?;
    }
}

/// Takes a head out of what a connection brings.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = buffer.drain(..at + 4).collect();
            return String::from_utf8(head).ok();
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[derive(Default)]
struct Counts {
    good: AtomicUsize,
    late: AtomicUsize,
    refused: AtomicUsize,
    /// Refusals that took longer than [`GOOD`], or without a Retry-After of 1 to 3.
    wrong: AtomicUsize,
    other: AtomicUsize,
}

/// One client on one connection, which asks again as soon as it is answered.
async fn client(port: u16, counts: Arc<Counts>, stop: Arc<AtomicBool>) -> Result<()> {
    const RETRY_AFTER: RangeInclusive<u64> = 1..=3;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let request = format!("GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
    let mut buffer = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let head = read_head(&mut stream, &mut buffer)
            .await
            .context("a head")?;
        let length: usize = field(&head, "content-length")
            .context("a length")?
            .parse()?;
        while buffer.len() < length {
            anyhow::ensure!(stream.read_buf(&mut buffer).await? > 0, "a body");
        }
        buffer.drain(..length);
        let is_late = began.elapsed() > GOOD;
        let counter = match head.get(9..12) {
            Some("200") if is_late => &counts.late,
            Some("200") => &counts.good,
            Some("503") => {
                let after = field(&head, "retry-after").and_then(|after| after.parse().ok());
                if is_late || !after.is_some_and(|after| RETRY_AFTER.contains(&after)) {
                    counts.wrong.fetch_add(1, Ordering::Relaxed);
                }
                sleep(PAUSE).await;
                &counts.refused
            }
            _ => &counts.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Good answers a second to so many clients.
async fn goodput(port: u16, clients: usize, lasting: Duration) -> Result<f64> {
    let counts = Arc::new(Counts::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut all = JoinSet::new();
    for _ in 0..clients {
        all.spawn(client(port, Arc::clone(&counts), Arc::clone(&stop)));
    }
    // Until the limit knows the upstream.
    sleep(lasting / 2).await;
    let before = counts.good.load(Ordering::Relaxed);
    let began = Instant::now();
    sleep(lasting).await;
    let good = counts.good.load(Ordering::Relaxed) - before;
    let rate = good as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let ended = timeout(WAIT, async {
        while let Some(client) = all.join_next().await {
            client??;
        }
        anyhow::Ok(())
    });
    ended.await.context("a client was never answered")??;
    let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{clients} clients: {rate:.0} good answers a second; {} late, {} refused, {} other",
        of(&counts.late),
        of(&counts.refused),
        of(&counts.other)
    );
    assert_eq!(of(&counts.other), 0, "neither 200 nor 503");
    assert_eq!(of(&counts.wrong), 0, "503 too late, or without Retry-After");
    Ok(rate)
}

#[tokio::test]
async fn an_overloaded_upstream_goes_on_answering_as_many_as_it_can() -> Result<()> {
    let server = Server::start(10, Duration::from_millis(20))?;
    let gateway = Gateway::start(&server.route("")).await?;
    let seconds = std::env::var("OVERLOAD_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(2);
    let lasting = Duration::from_secs(seconds);
    // The clients need the processors too, and other tests run beside this one: the best of some tries
    // tells what the gateway does.
    let mut shares = Vec::new();
    for _ in 0..TRIES {
        let capacity = goodput(gateway.port(), 15, lasting).await?;
        let mut share = f64::INFINITY;
        for clients in [150, 1500] {
            let rate = goodput(gateway.port(), clients, lasting).await?;
            share = share.min(rate / capacity);
        }
        if share > 0.9 {
            return Ok(());
        }
        shares.push(share);
    }
    anyhow::bail!("of what the upstream can do came {shares:?}")
}

#[tokio::test]
async fn a_slow_upstream_that_many_ask_at_once_is_not_taken_for_an_overloaded_one() -> Result<()> {
    let server = Server::start(1000, Duration::from_secs(4))?;
    let gateway = Gateway::start(&server.route("")).await?;
    let mut all = JoinSet::new();
    for _ in 0..250 {
        let port = gateway.port();
        all.spawn(async move {
            let request =
                format!("GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
            exchange(port, &request).await
        });
    }
    while let Some(answer) = all.join_next().await {
        let answer = answer??;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_upstream_that_more_ask_than_it_is_given_is_given_more() -> Result<()> {
    let server = Server::start(10_000, Duration::from_millis(500))?;
    let gateway = Gateway::start(&server.route("")).await?;
    let port = gateway.port();
    let (counts, stop) = (
        Arc::new(Counts::default()),
        Arc::new(AtomicBool::new(false)),
    );
    let mut all = JoinSet::new();
    for _ in 0..450 {
        all.spawn(client(port, Arc::clone(&counts), Arc::clone(&stop)));
    }
    let until = Instant::now() + 3 * WAIT;
    let mut most = 0.0_f64;
    while most < 450.0 {
        assert!(Instant::now() < until, "the limit grew to {most} only");
        sleep(Duration::from_millis(100)).await;
        let limit = value(&gateway, "weaver_upstream_limit").await;
        most = most.max(limit.context("a limit")?);
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = all.join_next().await {
        client??;
    }
    assert_eq!(counts.other.load(Ordering::Relaxed), 0);
    assert_eq!(counts.late.load(Ordering::Relaxed), 0);
    Ok(())
}

async fn value(gateway: &Gateway, name: &str) -> Option<f64> {
    let answer = reqwest::get(gateway.admin_url("/metrics")).await.ok()?;
    let text = answer.text().await.ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split(' ').next_back()?.parse().ok()
}

/// An origin that answers when it is told to.
async fn held(release: &Arc<Notify>) -> Result<Origin> {
    let release = Arc::clone(release);
    Origin::start(move |head, mut stream| {
        let release = Arc::clone(&release);
        async move {
            if !head.starts_with("GET /quick") {
                release.notified().await;
            }
            let answer =
                "HTTP/1.1 200 OK\r\ncache-control: max-age=1\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await
}

fn get(port: u16, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + WAIT;
    while !holds().await {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn metric(gateway: &Gateway, line: &str) -> bool {
    let url = gateway.admin_url("/metrics");
    let Ok(answer) = reqwest::get(url).await else {
        return false;
    };
    let text = answer.text().await.unwrap_or_default();
    text.lines().any(|known| known == line)
}

#[tokio::test]
async fn what_comes_beyond_limit_and_queue_is_refused_at_once_and_ejects_nobody() -> Result<()> {
    let release = Arc::new(Notify::new());
    let origin = held(&release).await?;
    let keys = "max_in_flight = 1\nmax_queue = 1\nqueue_timeout = \"60s\"\neject_after = 1\neject_for = \"60s\"";
    let gateway = Gateway::start(&origin.route(keys)).await?;
    let port = gateway.port();
    let first = tokio::spawn(async move { exchange(port, &get(port, "/1")).await });
    until("the first is on its way", async || origin.requests() == 1).await;
    let second = tokio::spawn(async move { exchange(port, &get(port, "/2")).await });
    let queued = r#"weaver_upstream_queued{route="origin"} 1"#;
    until("the second waits", async || metric(&gateway, queued).await).await;
    for _ in 0..5 {
        let refused = exchange(port, &get(port, "/3")).await?;
        let text = refused.text().to_lowercase();
        assert_eq!(refused.status(), 503, "{text}");
        assert!(text.contains("\r\nretry-after: "), "{text}");
        assert!(text.contains("application/problem+json"), "{text}");
        assert!(
            text.contains("cache-status: weaver; fwd=uri-miss"),
            "{text}"
        );
    }
    assert_eq!(origin.requests(), 1);
    let refused = r#"weaver_upstream_refused_total{route="origin"} 5"#;
    assert!(metric(&gateway, refused).await);
    release.notify_one();
    assert_eq!(first.await??.status(), 200);
    until("the second is on its way", async || origin.requests() == 2).await;
    release.notify_one();
    assert_eq!(second.await??.status(), 200);
    assert!(!gateway.process().output().contains("ejected"));
    Ok(())
}

#[tokio::test]
async fn another_upstream_with_room_is_used_first_though_it_has_more_streams() -> Result<()> {
    let release = Arc::new(Notify::new());
    let closes = [Arc::new(Notify::new()), Arc::new(Notify::new())];
    let mut origins = Vec::new();
    for close in &closes {
        let (release, close) = (Arc::clone(&release), Arc::clone(close));
        let origin = Origin::start(move |head, mut stream| {
            let (release, close) = (Arc::clone(&release), Arc::clone(&close));
            async move {
                if head.starts_with("GET /events") {
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
                    stream.write_all(head.as_bytes()).await.ok()?;
                    close.notified().await;
                    return None;
                }
                if head.starts_with("GET /busy") {
                    release.notified().await;
                }
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer.as_bytes()).await.ok()?;
                Some(stream)
            }
        });
        origins.push(origin.await?);
    }
    let [one, other] = [origins[0].port(), origins[1].port()];
    let gateway = Gateway::start(&format!(
        "[[routes]]\npath = \"/\"\nname = \"two\"\ncache = \"off\"\nupstreams = [\"http://127.0.0.1:{one}\", \"http://127.0.0.1:{other}\"]\nmax_in_flight = 1\nmax_queue = 0\n"
    ))
    .await?;
    let port = gateway.port();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(get(port, "/events").as_bytes()).await?;
        let head = timeout(WAIT, read_head(&mut stream, &mut Vec::new())).await?;
        head.context("a head")?;
        streams.push(stream);
    }
    assert!(origins.iter().all(|origin| origin.requests() == 2));
    let busy = tokio::spawn(async move { exchange(port, &get(port, "/busy")).await });
    until("one of them is busy", async || {
        origins.iter().any(|origin| origin.requests() == 3)
    })
    .await;
    let full = usize::from(origins[1].requests() == 3);
    closes[full].notify_waiters();
    let left = r#"weaver_upstream_in_flight{route="two"} 3"#;
    until("its streams have ended", async || {
        metric(&gateway, left).await
    })
    .await;
    // It has one request and no room; the other has two streams and room.
    assert_eq!(exchange(port, &get(port, "/quick")).await?.status(), 200);
    let also_busy = tokio::spawn(async move { exchange(port, &get(port, "/busy")).await });
    until("both are busy", async || origins[1 - full].requests() == 4).await;
    assert_eq!(exchange(port, &get(port, "/quick")).await?.status(), 503);
    release.notify_waiters();
    assert_eq!(busy.await??.status(), 200);
    assert_eq!(also_busy.await??.status(), 200);
    Ok(())
}

#[tokio::test]
async fn what_is_stored_stands_in_for_a_full_upstream() -> Result<()> {
    let release = Arc::new(Notify::new());
    let origin = held(&release).await?;
    let keys = "max_in_flight = 1\nmax_queue = 8\nqueue_timeout = \"60s\"\ngrace = \"1h\"";
    let gateway = Gateway::start(&origin.route(keys)).await?;
    let port = gateway.port();
    assert_eq!(exchange(port, &get(port, "/quick")).await?.status(), 200);
    let busy = tokio::spawn(async move { exchange(port, &get(port, "/busy")).await });
    until("the upstream is busy", async || origin.requests() == 2).await;
    // Stale after a second, and then served although the upstream has no room, without waiting.
    until("it is stale", async || {
        let answer = exchange(port, &get(port, "/quick")).await;
        answer.is_ok_and(|answer| {
            assert_eq!(answer.status(), 200, "{}", answer.text());
            answer.text().contains("detail=grace")
        })
    })
    .await;
    release.notify_one();
    assert_eq!(busy.await??.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_long_response_and_a_slow_upload_keep_nobody_out() -> Result<()> {
    let (close, stop) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (closing, seen) = (Arc::clone(&close), Arc::clone(&stop));
    let origin = Origin::start(move |head, mut stream| {
        let (closing, seen) = (Arc::clone(&closing), Arc::clone(&seen));
        async move {
            if head.starts_with("GET /events") {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n";
                stream.write_all(head.as_bytes()).await.ok()?;
                closing.notified().await;
                return None;
            }
            if head.starts_with("POST /upload") {
                seen.fetch_add(1, Ordering::SeqCst);
                closing.notified().await;
                return None;
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .ok()?;
            Some(stream)
        }
    })
    .await?;
    let keys = "cache = \"off\"\nmax_in_flight = 1\nmax_queue = 0";
    let gateway = Gateway::start(&origin.route(keys)).await?;
    let port = gateway.port();
    let mut events = TcpStream::connect(("127.0.0.1", port)).await?;
    events.write_all(get(port, "/events").as_bytes()).await?;
    let mut buffer = Vec::new();
    timeout(WAIT, read_head(&mut events, &mut buffer))
        .await?
        .context("a head")?;
    assert_eq!(exchange(port, &get(port, "/")).await?.status(), 200);
    let mut upload = TcpStream::connect(("127.0.0.1", port)).await?;
    let head = format!(
        "POST /upload HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: 1000\r\n\r\nonly this"
    );
    upload.write_all(head.as_bytes()).await?;
    until("the upload has begun", async || {
        stop.load(Ordering::SeqCst) == 1
    })
    .await;
    // It holds the only place for a second, and no longer.
    until("others are let in", async || {
        let answer = exchange(port, &get(port, "/")).await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    close.notify_waiters();
    Ok(())
}

#[tokio::test]
async fn those_who_wait_for_a_fetch_that_is_refused_are_told_when_to_come_again() -> Result<()> {
    let release = Arc::new(Notify::new());
    let origin = held(&release).await?;
    let keys = "max_in_flight = 1\nmax_queue = 1\nqueue_timeout = \"1s\"";
    let gateway = Gateway::start(&origin.route(keys)).await?;
    let port = gateway.port();
    let busy = tokio::spawn(async move { exchange(port, &get(port, "/busy")).await });
    until("the upstream is busy", async || origin.requests() == 1).await;
    let mut all = JoinSet::new();
    for _ in 0..4 {
        all.spawn(async move { exchange(port, &get(port, "/same")).await });
    }
    let mut collapsed = 0;
    while let Some(answer) = all.join_next().await {
        let answer = answer??;
        let text = answer.text().to_lowercase();
        assert_eq!(answer.status(), 503, "{text}");
        assert!(text.contains("\r\nretry-after: "), "{text}");
        collapsed += text.matches("; collapsed").count();
    }
    assert_eq!(collapsed, 3);
    release.notify_one();
    assert_eq!(busy.await??.status(), 200);
    Ok(())
}

#[tokio::test]
async fn calls_of_models_have_the_same_bound() -> Result<()> {
    let release = Arc::new(Notify::new());
    let origin = held(&release).await?;
    let gateway = Gateway::start(&format!(
        "[[models]]\nname = \"llm\"\nupstreams = [\"http://127.0.0.1:{}\"]\nmax_in_flight = 1\nmax_queue = 0\n",
        origin.port()
    ))
    .await?;
    let port = gateway.port();
    let call = |question: &str| {
        let body =
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{question}"}}]}}"#);
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let (one, other) = (call("one"), call("another"));
    let first = tokio::spawn(async move { exchange(port, &one).await });
    until("the first is on its way", async || origin.requests() == 1).await;
    let refused = exchange(port, &other).await?;
    let text = refused.text().to_lowercase();
    assert_eq!(refused.status(), 503, "{text}");
    assert!(text.contains("\r\nretry-after: "), "{text}");
    assert!(text.contains("overloaded"), "{text}");
    assert_eq!(origin.requests(), 1);
    release.notify_one();
    assert_eq!(first.await??.status(), 200);
    Ok(())
}
