//! Requests and responses that must not be taken for one another.

use crate::wire::{PATIENCE, Response, read_all, read_until, responses, send};
use anyhow::Result;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use weaver_tests::{Gateway, Origin};

/// An origin that reads bodies and tells what it was sent. Its paths say how it answers: `/chunked`,
/// `/none` with 304, anything else with a length; `/keep/...` may be stored.
async fn teller() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let line = head.lines().next()?.to_owned();
        let lower = head.to_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse::<usize>().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.ok()?;
        if lower.contains("transfer-encoding: chunked") {
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(stream.read_u8().await.ok()?);
            }
        }
        let told = format!("{line} [{}]", String::from_utf8_lossy(&body));
        let kept = if line.contains("/keep") {
            "cache-control: max-age=60\r\netag: \"e\"\r\n"
        } else {
            "cache-control: no-store\r\n"
        };
        let is_head = line.starts_with("HEAD");
        let answer = if line.contains("/none") {
            format!("HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\n{kept}\r\n")
        } else if line.contains("/chunked") {
            let body = if is_head {
                String::new()
            } else {
                format!("{:x}\r\n{told}\r\n0\r\n\r\n", told.len())
            };
            format!("HTTP/1.1 200 OK\r\n{kept}transfer-encoding: chunked\r\n\r\n{body}")
        } else {
            let body = if is_head { "" } else { &told };
            format!(
                "HTTP/1.1 200 OK\r\n{kept}content-length: {}\r\n\r\n{body}",
                told.len()
            )
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

/// Sends requests in one write; the last one closes. Each is `METHOD PATH VERSION` and more lines.
async fn pipelined(gateway: &Gateway, requests: &[(&str, &str)]) -> Result<Vec<Response>> {
    let mut bytes = String::new();
    for (at, (line, rest)) in requests.iter().enumerate() {
        let last = if at + 1 == requests.len() {
            "connection: close\r\n"
        } else {
            ""
        };
        bytes.push_str(&format!("{line}\r\nhost: h\r\n{last}{rest}"));
        if !rest.contains("\r\n\r\n") {
            bytes.push_str("\r\n");
        }
    }
    let methods: Vec<&str> = requests
        .iter()
        .filter_map(|(line, _)| line.split(' ').next())
        .collect();
    responses(&send(gateway.port(), bytes).await?, &methods)
}

#[tokio::test]
async fn each_of_several_pipelined_responses_is_framed_by_its_own_request() -> Result<()> {
    let origin = teller().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for prefix in ["/pass", "/keep"] {
        // Twice: what is kept is missed first and hit then.
        for _ in 0..2 {
            let get = format!("GET {prefix}/a HTTP/1.1");
            let head = format!("HEAD {prefix}/a HTTP/1.1");
            let told = format!("GET {prefix}/a HTTP/1.1 []");
            for order in [
                vec![&get, &head],
                vec![&head, &get],
                vec![&get, &head, &get, &head, &head, &get],
            ] {
                let requests: Vec<_> = order.iter().map(|line| (line.as_str(), "")).collect();
                let answers = pipelined(&gateway, &requests).await?;
                for (line, answer) in order.iter().zip(&answers) {
                    assert_eq!(answer.status, 200);
                    let body = if line.starts_with("GET") { &told } else { "" };
                    assert_eq!(answer.text(), body, "{order:?} {answers:?}");
                    if line.starts_with("GET") {
                        let length = told.len().to_string();
                        assert_eq!(answer.field("content-length"), Some(length.as_str()));
                    }
                }
            }
            let chunked = format!("{prefix}/chunked");
            let answers = pipelined(
                &gateway,
                &[
                    (&format!("HEAD {chunked} HTTP/1.1"), ""),
                    (&format!("GET {chunked} HTTP/1.1"), ""),
                    (&format!("HEAD {chunked} HTTP/1.1"), ""),
                    (&get, "if-none-match: \"e\"\r\n"),
                    (&get, ""),
                ],
            )
            .await?;
            assert_eq!(answers[1].text(), format!("GET {chunked} HTTP/1.1 []"));
            assert_eq!(answers[4].text(), told);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_request_of_http_1_0_changes_nothing_for_the_one_before_it() -> Result<()> {
    let origin = teller().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let bytes = send(
        gateway.port(),
        "GET /chunked HTTP/1.1\r\nhost: h\r\n\r\nGET /chunked HTTP/1.0\r\nhost: h\r\n\r\n",
    )
    .await?;
    let answers = responses(&bytes, &["GET", "GET"])?;
    assert_eq!(answers[0].field("transfer-encoding"), Some("chunked"));
    assert_eq!(answers[0].field("connection"), None);
    assert_eq!(answers[1].field("transfer-encoding"), None);
    assert_eq!(answers[1].field("connection"), Some("close"));
    assert_eq!(answers[0].text(), "GET /chunked HTTP/1.1 []");
    assert_eq!(answers[1].text(), "GET /chunked HTTP/1.1 []");
    Ok(())
}

#[tokio::test]
async fn http_1_0_keeps_the_connection_only_where_asked_and_the_length_is_known() -> Result<()> {
    let origin = teller().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let request =
        |path: &str| format!("GET {path} HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n");
    let both = request("/a") + &request("/chunked") + &request("/never");
    let answers = responses(&send(gateway.port(), both).await?, &["GET", "GET"])?;
    assert_eq!(answers[0].field("connection"), Some("keep-alive"));
    assert_eq!(answers[1].field("connection"), Some("close"));
    Ok(())
}

#[tokio::test]
async fn a_body_ends_where_its_framing_says_and_the_next_request_begins_there() -> Result<()> {
    let origin = teller().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let answers = pipelined(
        &gateway,
        &[
            ("POST /a HTTP/1.1", "content-length: 4\r\n\r\nGET "),
            ("GET /b HTTP/1.1", ""),
            (
                "POST /c HTTP/1.1",
                "transfer-encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\n0\r\nt: v\r\n\r\n",
            ),
            ("HEAD /d HTTP/1.1", ""),
            ("GET /e HTTP/1.1", "content-length: 3\r\n\r\nabc"),
            ("GET /f HTTP/1.1", ""),
        ],
    )
    .await?;
    assert_eq!(answers[0].text(), "POST /a HTTP/1.1 [GET ]");
    assert_eq!(answers[1].text(), "GET /b HTTP/1.1 []");
    assert_eq!(
        answers[2].text(),
        "POST /c HTTP/1.1 [4\r\nabcd\r\n0\r\n\r\n]"
    );
    assert_eq!(answers[4].text(), "GET /e HTTP/1.1 [abc]");
    assert_eq!(answers[5].text(), "GET /f HTTP/1.1 []");
    Ok(())
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_read_away_or_ends_the_connection() -> Result<()> {
    // Nothing is at this path, so that the body is not read.
    let gateway = Gateway::start("").await?;
    for framing in ["content-length: 60000", "transfer-encoding: chunked"] {
        let body = if framing.starts_with('c') {
            "x".repeat(60_000)
        } else {
            format!("ea60\r\n{}\r\n0\r\n\r\n", "x".repeat(60_000))
        };
        let request = format!(
            "POST /none HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n{body}GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        );
        let answers = responses(&send(gateway.port(), request).await?, &["POST", "GET"])?;
        assert_eq!((answers[0].status, answers[1].status), (404, 200));
    }
    let request = format!(
        "POST /none HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n{}",
        "x".repeat(1_000_000)
    );
    let request = request + "GET /health HTTP/1.1\r\nhost: h\r\n\r\n";
    let answers = responses(&send(gateway.port(), request).await?, &["POST"])?;
    assert_eq!(answers[0].status, 404);
    assert_eq!(answers[0].field("connection"), Some("close"));
    Ok(())
}

#[tokio::test]
async fn a_head_that_is_refused_gets_a_problem_and_the_connections_end() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let long = "x".repeat(40_000);
    let many: String = (0..500).map(|n| format!("x-{n}: 1\r\n")).collect();
    let cases: Vec<(String, u16)> = vec![
        ("GET / HTTP/1.1\r\nhost: h\r\nbad name: x\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: h\r\nx: a\nb: c\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\nhost: h\n\n".into(), 400),
        ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +5\r\n\r\nabcde".into(), 400),
        ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nabcde".into(), 400),
        ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("POST / HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(), 501),
        ("POST / HTTP/1.1\r\nhost: h\r\nexpect: more\r\ncontent-length: 1\r\n\r\nx".into(), 417),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("GET / HTTP/1.2\r\nhost: h\r\n\r\n".into(), 505),
        ("CONNECT h:443 HTTP/1.1\r\nhost: h\r\n\r\n".into(), 501),
        (format!("{long}{long} / HTTP/1.1\r\nhost: h\r\n\r\n"), 501),
        (format!("GET /{long} HTTP/1.1\r\nhost: h\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nhost: h\r\nx: {long}\r\n\r\n"), 431),
        (format!("GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{many}\r\n"), 200),
    ];
    for (request, status) in cases {
        let short = &request[..request.len().min(80)];
        let bytes = send(gateway.port(), &request).await?;
        let answer = &responses(&bytes, &["GET"])?[0];
        assert_eq!(answer.status, status, "{short:?}: {}", answer.text());
        assert_eq!(answer.field("connection"), Some("close"), "{short:?}");
        assert!(answer.field("x-request-id").is_some(), "{short:?}");
        if status != 200 {
            assert_eq!(
                answer.field("content-type"),
                Some("application/problem+json")
            );
            let problem: serde_json::Value = serde_json::from_slice(&answer.body)?;
            assert_eq!(problem["status"], status, "{short:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_head_after_a_good_request_does_not_touch_its_response() -> Result<()> {
    let gateway = Gateway::start("").await?;
    for method in ["GET", "HEAD"] {
        let request =
            format!("{method} /health HTTP/1.1\r\nhost: h\r\n\r\nGET / HTTP/1.1\r\nx : y\r\n\r\n");
        let answers = responses(&send(gateway.port(), request).await?, &[method, "GET"])?;
        assert_eq!((answers[0].status, answers[1].status), (200, 400));
    }
    Ok(())
}

#[tokio::test]
async fn a_body_with_broken_chunks_gets_400() -> Result<()> {
    let origin = teller().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let long = "e".repeat(5000);
    let trailers = "t".repeat(40_000);
    let bodies: [String; 9] = [
        "x\r\nabc\r\n0\r\n\r\n".into(),
        "-1\r\nabc\r\n0\r\n\r\n".into(),
        "3\nabc\r\n0\r\n\r\n".into(),
        "3\r\nabcd\r\n0\r\n\r\n".into(),
        "ffffffffffffffff1\r\nabc".into(),
        format!("3;{long}\r\nabc\r\n0\r\n\r\n"),
        format!("0\r\nt: {trailers}\r\n\r\n"),
        "0\r\nbad trailer\r\n\r\n".into(),
        "3\r\nabc\r\n0\r\n \r\n\r\n".into(),
    ];
    for body in bodies {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n{body}GET /next HTTP/1.1\r\nhost: h\r\n\r\n"
        );
        let answers = responses(&send(gateway.port(), &request).await?, &["POST"])?;
        let short = &body[..body.len().min(20)];
        assert_eq!(answers[0].status, 400, "{short:?}");
        assert_eq!(answers[0].field("connection"), Some("close"));
        assert_eq!(
            answers[0].field("content-type"),
            Some("application/problem+json")
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_breaks_after_the_responses_head_cuts_the_response_off() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let head = "HTTP/1.1 200 OK\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        // Until the gateway gives up on it.
        let mut sink = vec![0; 1024];
        while stream.read(&mut sink).await.ok()? > 0 {}
        None
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await?;
    read_until(&mut stream, "begun\r\n").await?;
    stream.write_all(b"zz\r\n").await?;
    let rest = read_all(&mut stream).await?;
    assert!(
        !rest.windows(5).any(|five| five == b"0\r\n\r\n"),
        "{rest:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_client_is_told_to_go_on_only_when_somebody_wants_its_body() -> Result<()> {
    // Nothing is here that wants it.
    let gateway = Gateway::start("").await?;
    let request =
        "POST /none HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    let answers = responses(&send(gateway.port(), request).await?, &["POST"])?;
    assert_eq!(answers[0].status, 404);
    assert_eq!(answers[0].field("connection"), Some("close"));
    let origin = teller().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let request = request
        .replace("/none", "/some")
        .replace("expect", "connection: close\r\nexpect");
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    stream.write_all(request.as_bytes()).await?;
    let interim = read_until(&mut stream, "\r\n\r\n").await?;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await?;
    let answers = responses(&read_all(&mut stream).await?, &["POST"])?;
    assert_eq!(answers[0].text(), "POST /some HTTP/1.1 [body]");
    // One that does not wait is not told.
    let bytes = send(gateway.port(), request + "body").await?;
    assert_eq!(
        responses(&bytes, &["POST"])?[0].text(),
        "POST /some HTTP/1.1 [body]"
    );
    // Nobody is in HTTP/1.0.
    let bytes = send(
        gateway.port(),
        "POST /x HTTP/1.0\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nbody",
    )
    .await?;
    assert_eq!(
        responses(&bytes, &["POST"])?[0].text(),
        "POST /x HTTP/1.1 [body]"
    );
    Ok(())
}

#[tokio::test]
async fn interim_responses_are_not_sent_in_http_1_0() -> Result<()> {
    let response = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let origin = Origin::constant(response).await?;
    let gateway = Gateway::start(&origin.route("cache = \"off\"")).await?;
    let bytes = send(gateway.port(), "GET / HTTP/1.0\r\nhost: h\r\n\r\n").await?;
    assert_eq!(responses(&bytes, &["GET"])?[0].status, 200);
    let request = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let bytes = send(gateway.port(), request).await?;
    let answers = responses(&bytes, &["GET", "GET"])?;
    assert_eq!((answers[0].status, answers[1].status), (103, 200));
    Ok(())
}

#[tokio::test]
async fn a_switch_of_protocols_that_was_not_asked_for_is_a_bad_gateway() -> Result<()> {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nraw bytes";
    let origin = Origin::constant(switch).await?;
    // Each request closes its side at once, and nothing of this is stored.
    let serve = "half_close = \"serve\"";
    let gateway = Gateway::start_with(&origin.route(""), serve, &[], None).await?;
    for fields in ["", "connection: upgrade\r\n", "upgrade: x\r\n"] {
        for version in ["1.0", "1.1"] {
            let request = format!("GET / HTTP/{version}\r\nhost: h\r\n{fields}\r\n");
            let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.shutdown().await?;
            let answers = responses(&read_all(&mut stream).await?, &["GET"])?;
            assert_eq!(answers[0].status, 502, "{fields:?} {version}");
        }
    }
    let switch = switch.replace("upgrade: x", "upgrade: websocket");
    let origin = Origin::constant(switch).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let asked = "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    stream.write_all(asked.as_bytes()).await?;
    let head = read_until(&mut stream, "\r\n\r\n").await?.to_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("connection: upgrade\r\n"),
        "{head}"
    );
    read_until(&mut stream, "raw bytes").await?;
    Ok(())
}

#[tokio::test]
async fn a_request_that_asks_to_upgrade_in_vain_leaves_the_connection_as_it_was() -> Result<()> {
    let origin = teller().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let upgrade = "connection: upgrade, x\r\nupgrade: h2c\r\n";
    let answers = pipelined(
        &gateway,
        &[
            ("GET /a HTTP/1.1", upgrade),
            ("GET /b HTTP/1.1", ""),
            ("GET /none HTTP/1.1", upgrade),
            ("GET /d HTTP/1.1", ""),
        ],
    )
    .await?;
    assert_eq!(answers[0].text(), "GET /a HTTP/1.1 []");
    assert_eq!(answers[1].text(), "GET /b HTTP/1.1 []");
    assert_eq!(answers[3].text(), "GET /d HTTP/1.1 []");
    Ok(())
}

#[tokio::test]
async fn a_half_closed_client_gets_all_its_answers() -> Result<()> {
    let origin = teller().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
    let requests = request("/1") + &request("/keep/2") + &request("/chunked");
    stream.write_all(requests.as_bytes()).await?;
    stream.shutdown().await?;
    let answers = responses(&read_all(&mut stream).await?, &["GET", "GET", "GET"])?;
    assert!(answers.iter().all(|answer| answer.status == 200));
    Ok(())
}

#[tokio::test]
async fn a_drain_closes_idle_connections_and_tells_busy_ones() -> Result<()> {
    let drained = Arc::new(Notify::new());
    let may_answer = Arc::clone(&drained);
    let origin = Origin::start(move |_, mut stream| {
        let may_answer = Arc::clone(&may_answer);
        async move {
            may_answer.notified().await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .ok()?;
            Some(stream)
        }
    })
    .await?;
    let server = "shutdown_grace = \"60s\"";
    let gateway = Gateway::start_with(&origin.route(""), server, &[], None).await?;
    let connect = || TcpStream::connect(("127.0.0.1", gateway.port()));
    let (mut idle, mut busy, mut fresh) = (connect().await?, connect().await?, connect().await?);
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n")
        .await?;
    read_until(&mut idle, "}").await?;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: h\r\n\r\nGET /next HTTP/1.1\r\nhost: h\r\n\r\n")
        .await?;
    while origin.requests() == 0 {
        tokio::task::yield_now().await;
    }
    gateway.process().signal("TERM")?;
    assert!(read_all(&mut idle).await?.is_empty());
    assert!(read_all(&mut fresh).await?.is_empty());
    drained.notify_one();
    let answers = responses(&read_all(&mut busy).await?, &["GET"])?;
    assert_eq!(answers[0].field("connection"), Some("close"));
    assert_eq!(answers[0].text(), "ok");
    Ok(())
}

#[tokio::test]
async fn a_response_that_its_origin_cut_short_never_ends_cleanly() -> Result<()> {
    let origin =
        Origin::closing("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")
            .await?;
    let gateway = Gateway::start(&origin.route("cache = \"off\"")).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    // To a client of HTTP/1.0 the connection's end is the body's.
    stream
        .write_all(b"GET / HTTP/1.0\r\nhost: h\r\n\r\n")
        .await?;
    let mut bytes = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await?;
    assert!(end.is_err(), "{:?}", String::from_utf8_lossy(&bytes));
    let request = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";
    let bytes = send(gateway.port(), request).await?;
    assert!(responses(&bytes, &["GET"]).is_err());
    Ok(())
}
