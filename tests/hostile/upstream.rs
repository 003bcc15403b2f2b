//! Upstreams that answer what nobody asked for, or so that nobody can tell where it ends.

use anyhow::{Context as _, Result};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use weaver_tests::{Exchange, Gateway, Origin, exchange};

const WAIT: Duration = Duration::from_secs(10);

/// A GET that closes its connection, with further header lines.
async fn get(gateway: &Gateway, path: &str, fields: &str) -> Result<Exchange> {
    ask(gateway, &format!("GET {path} HTTP/1.1"), fields, "").await
}

async fn ask(gateway: &Gateway, line: &str, fields: &str, body: &str) -> Result<Exchange> {
    let port = gateway.port();
    let request =
        format!("{line}\r\nhost: 127.0.0.1:{port}\r\n{fields}connection: close\r\n\r\n{body}");
    exchange(port, &request).await
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A route of many in one gateway.
fn route(path: &str, origin: &Origin, keys: &str) -> String {
    format!(
        "[[routes]]\npath = \"{path}\"\nupstreams = [\"http://127.0.0.1:{}\"]\n{keys}\n",
        origin.port()
    )
}

/// An origin that answers with the head and the body that it was sent.
async fn echo() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let length = head.to_lowercase().lines().find_map(|line| {
            let length = line.strip_prefix("content-length: ")?;
            length.parse::<usize>().ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.ok()?;
        let answer = ok(&format!("{head}{}", String::from_utf8_lossy(&body)));
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

const HANDSHAKE: &str = "upgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n";

#[tokio::test]
async fn an_upgrade_that_is_no_websocket_stays_here_and_its_request_keeps_its_body() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cases = [
        ("GET / HTTP/1.1", "upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nconnection: Upgrade, HTTP2-Settings\r\n".to_owned()),
        ("POST / HTTP/1.1", "upgrade: h2c\r\nconnection: upgrade\r\n".to_owned()),
        ("POST / HTTP/1.1", "upgrade: something/7\r\nconnection: upgrade\r\n".to_owned()),
        ("POST / HTTP/1.1", format!("{HANDSHAKE}connection: upgrade\r\n")),
        ("GET / HTTP/1.1", format!("{HANDSHAKE}connection: upgrade\r\n")),
        ("GET / HTTP/1.1", format!("upgrade: websocket, h2c\r\n{key}connection: upgrade\r\n")),
        ("POST / HTTP/1.0", format!("{HANDSHAKE}connection: upgrade\r\n")),
        ("POST / HTTP/1.1", HANDSHAKE.to_owned()),
    ];
    for (line, fields) in cases {
        let fields = format!("{fields}content-length: 4\r\n");
        let answer = ask(&gateway, line, &fields, "body").await?;
        let sent = String::from_utf8_lossy(answer.body()).to_lowercase();
        assert_eq!(answer.status(), 200, "{line} {fields}: {}", answer.text());
        assert!(!sent.contains("\r\nupgrade:"), "{line} {fields}: {sent}");
        assert!(
            !sent.contains("connection: upgrade"),
            "{line} {fields}: {sent}"
        );
        assert!(!sent.contains("http2-settings"), "{line} {fields}: {sent}");
        assert!(
            sent.contains("content-length: 4\r\n") && sent.ends_with("\r\n\r\nbody"),
            "{line} {fields}: {sent}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_handshake_without_key_or_without_connection_is_a_plain_request() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for (line, fields) in [
        (
            "GET / HTTP/1.1",
            "upgrade: websocket\r\nconnection: upgrade\r\n".to_owned(),
        ),
        ("GET / HTTP/1.1", HANDSHAKE.to_owned()),
        (
            "GET / HTTP/1.0",
            format!("{HANDSHAKE}connection: upgrade\r\n"),
        ),
    ] {
        let answer = ask(&gateway, line, &fields, "").await?;
        let sent = String::from_utf8_lossy(answer.body()).to_lowercase();
        assert_eq!(answer.status(), 200, "{line} {fields}: {}", answer.text());
        assert!(!sent.contains("\r\nupgrade:"), "{line} {fields}: {sent}");
    }
    Ok(())
}

/// What an upstream that switches says behind its 101, of which nothing must come through.
const BEHIND: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";

#[tokio::test]
async fn a_101_that_was_not_asked_for_is_a_502_and_nothing_of_it_comes_through() -> Result<()> {
    let switch = |protocol: &str| {
        format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{protocol}\r\n{BEHIND}")
    };
    let websocket = format!("{HANDSHAKE}connection: upgrade\r\n");
    let h2c = "upgrade: h2c\r\nconnection: upgrade\r\n".to_owned();
    let cases = [
        ("GET / HTTP/1.1", String::new(), "upgrade: websocket\r\n"),
        (
            "POST / HTTP/1.1",
            "content-length: 0\r\n".to_owned(),
            "upgrade: websocket\r\n",
        ),
        ("HEAD / HTTP/1.1", String::new(), "upgrade: websocket\r\n"),
        ("GET / HTTP/1.1", h2c, "upgrade: h2c\r\n"),
        (
            "GET / HTTP/1.0",
            websocket.clone(),
            "upgrade: websocket\r\n",
        ),
        (
            "GET / HTTP/1.1",
            HANDSHAKE.to_owned(),
            "upgrade: websocket\r\n",
        ),
        ("GET / HTTP/1.1", websocket.clone(), "upgrade: h2c\r\n"),
        (
            "GET / HTTP/1.1",
            websocket.clone(),
            "upgrade: websocket, h2c\r\n",
        ),
        ("GET / HTTP/1.1", websocket, ""),
    ];
    let (mut config, mut origins) = (String::new(), Vec::new());
    for (at, (_, _, protocol)) in cases.iter().enumerate() {
        let origin = Origin::constant(switch(protocol)).await?;
        for cache in ["standard", "off"] {
            let keys = format!("cache = \"{cache}\"\neject_after = 1000");
            config += &route(&format!("/{at}/{cache}"), &origin, &keys);
        }
        origins.push(origin);
    }
    let gateway = Gateway::start(&config).await?;
    for (at, (line, fields, protocol)) in cases.iter().enumerate() {
        for cache in ["standard", "off"] {
            let line = line.replace(" / ", &format!(" /{at}/{cache} "));
            let answer = ask(&gateway, &line, fields, "").await?;
            let text = answer.text();
            let case = format!("{line} {fields} {protocol}: {text}");
            assert_eq!(answer.status(), 502, "{case}");
            assert!(!text.contains("poison"), "{case}");
            assert!(!text.to_lowercase().contains("\r\nupgrade:"), "{case}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_connection_of_an_unasked_101_is_dropped_and_not_used_again() -> Result<()> {
    let (dropped, mut seen) = tokio::sync::mpsc::channel(1);
    let origin = Origin::start(move |_, mut stream| {
        let dropped = dropped.clone();
        async move {
            let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
            let end = stream.read(&mut [0; 64]).await;
            let _ = dropped.send(matches!(end, Ok(0) | Err(_))).await;
            None
        }
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    assert_eq!(get(&gateway, "/", "").await?.status(), 502);
    assert_eq!(timeout(WAIT, seen.recv()).await?, Some(true));
    Ok(())
}

#[tokio::test]
async fn a_websocket_handshake_in_any_spelling_still_gets_its_tunnel() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let head = head.to_lowercase();
        assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nsec-websocket-accept: x\r\n\r\nhello";
        stream.write_all(answer.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()?;
        None
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let port = gateway.port();
    let request = format!(
        "GET /ws HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: keep-alive, UPGRADE\r\nupgrade: WEBSOCKET\r\nsec-websocket-key: k\r\n\r\n"
    );
    let answer = exchange(port, &request).await?;
    assert_eq!(answer.status(), 101, "{}", answer.text());
    assert_eq!(answer.body(), b"hello");
    Ok(())
}

/// The body behind a chunked head, or `None` if it has no clean end.
fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).ok()?, 16).ok()?;
        body = &body[end + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}

#[tokio::test]
async fn chunked_wins_over_a_length_and_the_body_comes_whole() -> Result<()> {
    let whole = "0123456789abcdef";
    for length in ["5", "0", "1000"] {
        for order in ["length first", "coding first"] {
            let length = format!("content-length: {length}\r\n");
            let coding = "transfer-encoding: chunked\r\n";
            let fields = match order {
                "length first" => format!("{length}{coding}"),
                _ => format!("{coding}{length}"),
            };
            let origin = Origin::constant(format!(
                "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\n{fields}\r\n10\r\n{whole}\r\n0\r\n\r\n"
            ))
            .await?;
            for cache in ["standard", "off"] {
                let gateway =
                    Gateway::start(&origin.route(&format!("cache = \"{cache}\""))).await?;
                for asked in ["first", "again"] {
                    let answer = get(&gateway, "/", "").await?;
                    let text = answer.text().to_lowercase();
                    let body = if text.contains("transfer-encoding: chunked") {
                        assert!(!text.contains("content-length"), "{fields}: {text}");
                        unchunk(answer.body()).context("no last chunk")?
                    } else {
                        // From the store, which knows how long it is.
                        assert!(text.contains("content-length: 16\r\n"), "{fields}: {text}");
                        answer.body().to_vec()
                    };
                    assert_eq!(body, whole.as_bytes(), "{fields} {cache} {asked}: {text}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_response_whose_end_cannot_be_told_is_a_502_and_never_stored() -> Result<()> {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let cases = [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 6\r\n",
        "content-length: +5\r\n",
        "content-length: -5\r\n",
        "content-length: 0x5\r\n",
        "content-length: 5 5\r\n",
        "content-length: \r\n",
        "content-length: 99999999999999999999\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: identity\r\ncontent-length: 5\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: \r\n",
    ];
    let (mut config, mut origins) = (String::new(), Vec::new());
    for (at, fields) in cases.iter().enumerate() {
        let head = format!("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\n{fields}\r\n{body}");
        let origin = Origin::closing(head).await?;
        let keys = "retries = 0\neject_after = 1000";
        config += &route(&format!("/{at}"), &origin, keys);
        origins.push(origin);
    }
    let gateway = Gateway::start(&config).await?;
    for (at, (fields, origin)) in cases.iter().zip(&origins).enumerate() {
        for asked in 1..=2 {
            let answer = get(&gateway, &format!("/{at}"), "").await?;
            let text = answer.text();
            assert_eq!(answer.status(), 502, "{fields}: {text}");
            assert!(!text.contains("hello"), "{fields}: {text}");
            assert_eq!(origin.requests(), asked, "{fields}: it was stored");
        }
    }
    // HTTP/1.0 has no transfer codings (RFC 9112 §6.1).
    let old = format!("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
    let origin = Origin::closing(old).await?;
    let gateway = Gateway::start(&origin.route("retries = 0")).await?;
    assert_eq!(get(&gateway, "/", "").await?.status(), 502);
    Ok(())
}

#[tokio::test]
async fn a_chunked_body_that_is_malformed_has_no_clean_end_and_is_never_stored() -> Result<()> {
    let cases = [
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\rhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0",
    ];
    let (mut config, mut origins) = (String::new(), Vec::new());
    for (at, body) in cases.iter().enumerate() {
        let head =
            "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n";
        let origin = Origin::closing(format!("{head}{body}")).await?;
        config += &route(&format!("/{at}"), &origin, "eject_after = 1000");
        origins.push(origin);
    }
    let gateway = Gateway::start(&config).await?;
    for (at, (body, origin)) in cases.iter().zip(&origins).enumerate() {
        for asked in 1..=2 {
            let answer = get(&gateway, &format!("/{at}"), "").await?;
            assert!(!answer.has_last_chunk(), "{body:?}: {}", answer.text());
            assert_eq!(origin.requests(), asked, "{body:?}: it was stored");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_handshake_is_never_answered_from_the_store_nor_for_another() -> Result<()> {
    let body = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 2\r\n\r\nok";
    let origin = Origin::constant(body).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    assert_eq!(get(&gateway, "/", "").await?.status(), 200);
    for asked in 2..=3 {
        let port = gateway.port();
        let request = format!(
            "GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: upgrade\r\n{HANDSHAKE}\r\n"
        );
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut start = [0; 12];
        timeout(WAIT, stream.read_exact(&mut start)).await??;
        assert_eq!(&start, b"HTTP/1.1 200");
        assert_eq!(origin.requests(), asked, "it came from the store");
    }
    Ok(())
}

#[tokio::test]
async fn upstreams_of_models_are_held_to_the_same() -> Result<()> {
    let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(200);
    let filler = "x".repeat(100_000);
    let cases = [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\npoison".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\ncontent-length: 7\r\n\r\npoison".to_owned(),
        format!("HTTP/1.1 200 OK\r\nx: {filler}\r\ncontent-length: 6\r\n\r\npoison"),
        format!("{flood}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"),
    ];
    for response in cases {
        let start = response.get(..80).unwrap_or(&response).to_owned();
        let origin = Origin::closing(response).await?;
        let gateway = Gateway::start(&format!(
            "[[models]]\nname = \"llm\"\nupstreams = [\"http://127.0.0.1:{}\"]\n",
            origin.port()
        ))
        .await?;
        let call = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let fields = format!(
            "content-type: application/json\r\ncontent-length: {}\r\n",
            call.len()
        );
        let line = "POST /v1/chat/completions HTTP/1.1";
        let answer = ask(&gateway, line, &fields, call).await?;
        assert_eq!(answer.status(), 502, "{start}: {}", answer.text());
        assert!(!answer.text().contains("poison"), "{start}");
    }
    Ok(())
}

#[tokio::test]
async fn lengths_that_agree_are_one_length() -> Result<()> {
    for fields in [
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5, 5\r\n",
    ] {
        let origin = Origin::constant(format!("HTTP/1.1 200 OK\r\n{fields}\r\nhello")).await?;
        let gateway = Gateway::start(&origin.route("")).await?;
        let answer = get(&gateway, "/", "").await?;
        let head = answer.text().to_lowercase();
        assert_eq!(head.matches("content-length: 5\r\n").count(), 1, "{head}");
        assert_eq!(answer.body(), b"hello", "{head}");
    }
    Ok(())
}

#[tokio::test]
async fn a_response_without_a_body_stays_without_one_whatever_it_says() -> Result<()> {
    let cases = [
        ("GET", "204 No Content", "content-length: 5\r\n"),
        ("GET", "204 No Content", "transfer-encoding: chunked\r\n"),
        ("GET", "205 Reset Content", "content-length: 5\r\n"),
        ("GET", "205 Reset Content", "transfer-encoding: chunked\r\n"),
        ("GET", "304 Not Modified", "content-length: 5\r\n"),
        (
            "GET",
            "304 Not Modified",
            "content-length: 5\r\ncontent-length: 6\r\n",
        ),
        ("GET", "304 Not Modified", "transfer-encoding: chunked\r\n"),
        ("HEAD", "200 OK", "content-length: 5\r\n"),
        (
            "HEAD",
            "200 OK",
            "content-length: 5\r\ncontent-length: 6\r\n",
        ),
        ("HEAD", "200 OK", "transfer-encoding: gzip, chunked\r\n"),
        (
            "HEAD",
            "200 OK",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        ),
    ];
    for (method, status, fields) in cases {
        // What follows on the connection must not be taken for the next response.
        let origin = Origin::start(move |_, mut stream| async move {
            let answer = format!("HTTP/1.1 {status}\r\netag: \"a\"\r\n{fields}\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        })
        .await?;
        let gateway = Gateway::start(&origin.route("cache = \"off\"")).await?;
        let code: u16 = status[..3].parse()?;
        for _ in 0..2 {
            let answer = ask(&gateway, &format!("{method} / HTTP/1.1"), "", "").await?;
            let text = answer.text().to_lowercase();
            assert_eq!(answer.status(), code, "{method} {status} {fields}: {text}");
            assert_eq!(answer.body(), b"", "{method} {status} {fields}: {text}");
            assert!(
                !text.contains("transfer-encoding") || method == "HEAD",
                "{method} {status} {fields}: {text}"
            );
            let lengths = text.matches("content-length").count();
            assert!(lengths <= 1, "{method} {status} {fields}: {text}");
            if code == 205 {
                assert!(text.contains("content-length: 0\r\n"), "{text}");
            }
            if fields.matches("content-length").count() > 1 || fields.contains("transfer") {
                assert!(!text.contains("content-length: 5"), "{fields}: {text}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_few_interim_responses_are_passed_on_and_the_response_follows() -> Result<()> {
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\n\r\n";
    let origin = Origin::constant(format!("{}{}", hint.repeat(50), ok("final"))).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let text = get(&gateway, "/", "").await?.text();
    assert_eq!(text.matches("HTTP/1.1 103 ").count(), 16, "{text}");
    assert!(text.ends_with("final"), "{text}");
    // Large ones reach the other bound first.
    let large = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n",
        "x".repeat(5_000)
    );
    let origin = Origin::constant(format!("{}{}", large.repeat(10), ok("final"))).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let text = get(&gateway, "/", "").await?.text();
    assert_eq!(text.matches("HTTP/1.1 103 ").count(), 3);
    assert!(text.ends_with("final"));
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_sends_interim_responses_for_ever_is_cut_off_in_flat_memory() -> Result<()>
{
    let (ended, mut seen) = tokio::sync::mpsc::channel(64);
    let small = "HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\n\r\n".repeat(200);
    let large = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n",
        "x".repeat(30_000)
    );
    for piece in [small, large] {
        let (ended, piece) = (ended.clone(), Arc::new(piece));
        let origin = Origin::start(move |_, mut stream| {
            let (ended, piece) = (ended.clone(), Arc::clone(&piece));
            async move {
                let until = Instant::now() + WAIT;
                while Instant::now() < until {
                    if stream.write_all(piece.as_bytes()).await.is_err() {
                        let _ = ended.send(()).await;
                        return None;
                    }
                }
                None
            }
        })
        .await?;
        let keys = "eject_after = 1000\nretries = 0\ncache = \"off\"";
        let gateway = Gateway::start(&origin.route(keys)).await?;
        // Once to bring allocators, buffers and the program's own pages to their size.
        for _ in 0..4 {
            get(&gateway, "/", "").await?;
            timeout(WAIT, seen.recv()).await?;
        }
        let before = gateway.process().resident();
        // A client that reads, and some that do not.
        let mut idle = Vec::new();
        for _ in 0..8 {
            let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
            let request = format!(
                "GET / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n",
                gateway.port()
            );
            stream.write_all(request.as_bytes()).await?;
            idle.push(stream);
        }
        let text = get(&gateway, "/", "").await?.text();
        assert!(text.contains("HTTP/1.1 502 Bad Gateway\r\n"), "{text}");
        assert!(text.matches("HTTP/1.1 103 ").count() <= 16, "{text}");
        assert!(text.contains("too many interim responses"), "{text}");
        for _ in 0..idle.len() + 1 {
            timeout(WAIT, seen.recv())
                .await
                .context("a connection of the upstream was not dropped")?;
        }
        let after = gateway.process().resident();
        assert!(
            after < before + (24 << 20),
            "{before} before, {after} after"
        );
    }
    Ok(())
}

fn large_head(bytes: usize) -> String {
    let line = format!("x-filler: {}\r\n", "a".repeat(1000));
    let lines = line.repeat(bytes / line.len());
    format!("HTTP/1.1 200 OK\r\ncache-control: no-store\r\n{lines}content-length: 2\r\n\r\nok")
}

#[tokio::test]
async fn a_head_over_max_upstream_head_is_a_502_that_names_it_and_ejects_nobody() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let path = head.split(' ').nth(1)?;
        let answer = match path.strip_prefix("/head/") {
            Some(bytes) => large_head(bytes.parse().ok()?),
            None => match path.strip_prefix("/fields/") {
                Some(count) => format!(
                    "HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\nok",
                    "x: y\r\n".repeat(count.parse().ok()?)
                ),
                None => ok("plain"),
            },
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let route = origin.route("eject_after = 2\nretries = 0\neject_for = \"60s\"\ngrace = \"1h\"");
    let gateway = Gateway::start(&route).await?;
    let small = Gateway::start_with(&route, "max_upstream_head = \"8KiB\"", &[], None).await?;
    let cases = [
        (&gateway, "/head/60000", 200),
        (&gateway, "/fields/1000", 200),
        (&gateway, "/head/70000", 502),
        (&gateway, "/head/1000000", 502),
        (&gateway, "/fields/5000", 502),
        (&small, "/head/7000", 200),
        (&small, "/head/12000", 502),
    ];
    for (gateway, path, status) in cases {
        for _ in 0..4 {
            let answer = get(gateway, path, "").await?;
            let text = answer.text();
            let start = text.get(..200).unwrap_or(&text);
            assert_eq!(answer.status(), status, "{path}: {start}");
            if status == 502 {
                assert!(text.contains("max_upstream_head"), "{path}: {text}");
            }
        }
    }
    let log = gateway.process().output();
    assert!(!log.contains("upstream ejected"), "{log}");
    assert_eq!(get(&gateway, "/plain", "").await?.body(), b"plain");
    Ok(())
}
