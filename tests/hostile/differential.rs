//! The same odd requests to the gateway, to hyper and to nginx.
//!
//! A server may refuse what another takes: each such case stands in the table with its reason. What
//! must never be is that two take it and find another body, or another next request: that is what
//! smuggling is made of.

use crate::wire::responses_until_end;
use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use weaver_tests::{Gateway, Nginx};

/// How long a server may take to say all that it has to say.
const WAIT: Duration = Duration::from_secs(3);
/// It stands behind each of the table's requests, and must be read as a request of its own.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Takes,
    Refuses,
}
use Verdict::{Refuses, Takes};

struct Case {
    request: &'static str,
    ours: Verdict,
    /// Why hyper or nginx does otherwise; empty if neither does.
    reason: &'static str,
}

const fn case(request: &'static str, ours: Verdict, reason: &'static str) -> Case {
    Case {
        request,
        ours,
        reason,
    }
}

const CASES: &[Case] = &include!("differential/table.in");

/// Says what it was sent: method, target, body.
async fn teller() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = service_fn(|request: hyper::Request<Incoming>| async {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let told = format!(
                    "{} {} [{}]",
                    parts.method,
                    parts.uri.path(),
                    String::from_utf8_lossy(&body)
                );
                let mut response = hyper::Response::new(Full::new(Bytes::from(told)));
                let no_store = hyper::header::HeaderValue::from_static("no-store");
                response.headers_mut().insert("cache-control", no_store);
                Ok::<_, hyper::Error>(response)
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).half_close(true);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), tell));
        }
    });
    Ok(port)
}

/// What a server made of a request: what it saw, or the status of its refusal, in order.
async fn outcome(port: u16, request: &str) -> Result<Vec<String>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let _ = stream
        .write_all(format!("{request}{NEXT}").as_bytes())
        .await;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let until = Instant::now() + WAIT;
    while let Ok(Ok(count)) = timeout_at(until, stream.read(&mut buffer)).await {
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
    let answers = responses_until_end(&bytes);
    Ok(answers
        .iter()
        .map(|answer| match answer.status {
            200 => answer.text().to_owned(),
            status => status.to_string(),
        })
        .collect())
}

fn verdict(outcome: &[String]) -> Verdict {
    match outcome.first() {
        Some(first) if first.contains(' ') => Takes,
        _ => Refuses,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_finds_another_body_or_another_next_request_than_we_do() -> Result<()> {
    let hyper = teller().await?;
    let config = format!("[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{hyper}\"]\n");
    let gateway = Gateway::start(&config).await?;
    let nginx = Nginx::start(&format!(
        "location / {{ proxy_pass http://127.0.0.1:{hyper}; proxy_http_version 1.1; }}"
    ))
    .await?;
    let ports = [gateway.port(), hyper, nginx.port()];
    let mut tries = JoinSet::new();
    for (at, case) in CASES.iter().enumerate() {
        tries.spawn(async move {
            let (ours, hyper, nginx) = tokio::join!(
                outcome(ports[0], case.request),
                outcome(ports[1], case.request),
                outcome(ports[2], case.request),
            );
            Ok::<_, anyhow::Error>((at, [ours?, hyper?, nginx?]))
        });
    }
    let mut faults = Vec::new();
    while let Some(tried) = tries.join_next().await {
        let (at, outcomes) = tried??;
        let case = &CASES[at];
        let [ours, peers @ ..] = &outcomes;
        let mut differs = false;
        if verdict(ours) != case.ours {
            faults.push(format!("{:?}: ours is {ours:?}", case.request));
        }
        for peer in peers {
            differs |= verdict(peer) != verdict(ours);
            if verdict(peer) == Takes && verdict(ours) == Takes && peer != ours {
                faults.push(format!("{:?}: READ DIFFERENTLY {outcomes:?}", case.request));
            }
        }
        if differs == case.reason.is_empty() {
            faults.push(format!(
                "{:?}: reason {:?}, ours, hyper, nginx: {outcomes:?}",
                case.request, case.reason
            ));
        }
    }
    faults.sort();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
