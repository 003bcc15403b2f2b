//! An upstream that breaks off is never stored, and never looks like one that ended.

use crate::ok;
use anyhow::Result;
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, exchange};

const CASES: [(&str, &str); 4] = [
    (
        "content-length",
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 100\r\n\r\nhalf",
    ),
    (
        "chunked",
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ),
    (
        "mid-chunk",
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n64\r\nhalf",
    ),
    (
        "uncacheable",
        "HTTP/1.1 200 OK\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ),
];

#[tokio::test]
async fn a_body_that_breaks_off_is_not_stored_and_has_no_clean_end() -> Result<()> {
    for (name, response) in CASES {
        let origin = Origin::closing(response).await?;
        let gateway = Gateway::start(&origin.route("")).await?;
        for asked in 1..=2 {
            let request = format!(
                "GET / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n",
                gateway.port()
            );
            let answer = exchange(gateway.port(), &request).await?;
            assert!(!answer.has_last_chunk(), "{name}: {}", answer.text());
            if answer.text().to_lowercase().contains("content-length: 100") {
                assert!(answer.body().len() < 100, "{name}");
            }
            assert_eq!(origin.requests(), asked, "{name}: it was stored");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_breaks_off_in_the_head_is_a_502_that_names_it() -> Result<()> {
    let origin = Origin::closing("HTTP/1.1 200 OK\r\ncache-co").await?;
    let gateway = Gateway::start(&origin.route("retries = 0")).await?;
    let answer = reqwest::get(gateway.url("/")).await?;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = answer.json().await?;
    assert_eq!(problem["upstream"], "origin");
    assert_eq!(problem["status"], 502);
    assert!(!problem.to_string().contains("127.0.0.1"), "{problem}");
    Ok(())
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_connection_and_is_whole() -> Result<()> {
    let origin =
        Origin::closing("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\n\r\nall of it").await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for _ in 0..2 {
        assert_eq!(
            reqwest::get(gateway.url("/")).await?.text().await?,
            "all of it"
        );
    }
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_cut_off() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        if head.starts_with("GET /body") {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal")
                .await
                .ok()?;
        }
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        stream.write_all(ok("late", "").as_bytes()).await.ok()?;
        None
    })
    .await?;
    let keys = "first_byte_timeout = \"200ms\"\nbetween_bytes_timeout = \"200ms\"\nretries = 0";
    let gateway = Gateway::start(&origin.route(keys)).await?;
    assert_eq!(reqwest::get(gateway.url("/head")).await?.status(), 504);
    let request = format!(
        "GET /body HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n",
        gateway.port()
    );
    let answer = exchange(gateway.port(), &request).await?;
    assert!(answer.body().len() < 9, "{}", answer.text());
    Ok(())
}
