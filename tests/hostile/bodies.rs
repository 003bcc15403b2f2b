//! Bodies that the gateway reads itself: encoded, too large, too many.

use crate::support::{client, eventually, ok};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weaver_tests::{Gateway, Origin, SampleModel, exchange};

const CHAT: &str = "/v1/chat/completions";
const ACCEPTED: &str = "gzip, deflate, br, zstd";

/// One question, encoded by zlib, by the reference encoders of Brotli and Zstandard, and by two of them.
mod encoded {
    pub(super) const PLAIN: &[u8] = br#"{"model":"sample-model","temperature":0,"messages":[{"role":"user","content":"what is a loom"}]}"#;
    pub(super) const GZIP: &[u8] = include_bytes!("bodies/call.gz");
    pub(super) const DEFLATE: &[u8] = include_bytes!("bodies/call.zz");
    pub(super) const BROTLI: &[u8] = include_bytes!("bodies/call.br");
    pub(super) const ZSTD: &[u8] = include_bytes!("bodies/call.zst");
    pub(super) const GZIP_OF_BROTLI: &[u8] = include_bytes!("bodies/call.br.gz");
    /// Forty mebibytes of spaces.
    pub(super) const BOMBS: [(&str, &[u8]); 4] = [
        ("gzip", include_bytes!("bodies/bomb.gz")),
        ("deflate", include_bytes!("bodies/bomb.zz")),
        ("br", include_bytes!("bodies/bomb.br")),
        ("zstd", include_bytes!("bodies/bomb.zst")),
    ];
}

struct Answer {
    status: u16,
    cache: String,
    accept_encoding: String,
    retry_after: String,
    body: String,
}

async fn post(url: String, coding: &str, body: impl Into<reqwest::Body>) -> Result<Answer> {
    let mut request = client()
        .post(url)
        .header("content-type", "application/json");
    if !coding.is_empty() {
        request = request.header("content-encoding", coding);
    }
    let answer = request.body(body).send().await?;
    let field = |name: &str| {
        let value = answer.headers().get(name);
        let value = value.and_then(|value| value.to_str().ok());
        value.unwrap_or("").to_owned()
    };
    Ok(Answer {
        status: answer.status().as_u16(),
        cache: field("cache-status"),
        accept_encoding: field("accept-encoding"),
        retry_after: field("retry-after"),
        body: answer.text().await?,
    })
}

#[tokio::test]
async fn an_encoded_call_is_the_call_that_it_encodes() -> Result<()> {
    let model = SampleModel::start(Duration::ZERO).await?;
    let gateway = Gateway::start(&model.route("")).await?;
    let plain = post(gateway.url(CHAT), "", encoded::PLAIN).await?;
    assert!(plain.cache.contains("fwd=miss"), "{}", plain.cache);
    for (coding, body) in [
        ("gzip", encoded::GZIP),
        ("X-GZip", encoded::GZIP),
        ("deflate", encoded::DEFLATE),
        ("br", encoded::BROTLI),
        ("zstd", encoded::ZSTD),
        ("br, gzip", encoded::GZIP_OF_BROTLI),
        ("identity", encoded::PLAIN),
    ] {
        let answer = post(gateway.url(CHAT), coding, body).await?;
        assert_eq!(answer.status, 200, "{coding}: {}", answer.body);
        assert!(answer.cache.contains("; hit"), "{coding}: {}", answer.cache);
        assert_eq!(answer.body, plain.body, "{coding}");
    }
    assert_eq!(model.calls().await?, 1);
    // The model gets the plain body: it understands no coding.
    let cleared = client().delete(gateway.admin_url("/model-cache"));
    cleared.send().await?;
    let answer = post(gateway.url(CHAT), "br, gzip", encoded::GZIP_OF_BROTLI).await?;
    assert!(answer.cache.contains("fwd=miss"), "{}", answer.cache);
    assert_eq!(answer.body, plain.body);
    Ok(())
}

#[tokio::test]
async fn a_coding_that_is_not_understood_gets_415_and_one_that_is_not_there_400() -> Result<()> {
    let model = SampleModel::start(Duration::ZERO).await?;
    let config = format!("[ask]\nmodel = \"sample-model\"\n{}", model.route(""));
    let gateway = Gateway::start(&config).await?;
    let urls = [
        gateway.url(CHAT),
        gateway.url("/v1/embeddings"),
        gateway.url("/ask"),
        gateway.admin_url("/purge"),
        gateway.admin_url("/agents"),
        gateway.admin_url("/agents/one/heartbeat"),
        gateway.admin_url("/warm"),
    ];
    for url in urls {
        for coding in [
            "compress",
            "gzip, rot13",
            "gzip;q=1",
            "gzip, gzip, gzip, gzip",
        ] {
            let answer = post(url.clone(), coding, encoded::GZIP).await?;
            assert_eq!(answer.status, 415, "{url} {coding}: {}", answer.body);
            assert_eq!(answer.accept_encoding, ACCEPTED, "{url} {coding}");
        }
        let cut = &encoded::GZIP[..encoded::GZIP.len() - 3];
        let more = [encoded::DEFLATE, b"{}"].concat();
        for (coding, body) in [
            ("gzip", encoded::PLAIN),
            ("gzip", cut),
            ("deflate", &more),
            ("br", encoded::GZIP),
            ("zstd", encoded::BROTLI),
            ("gzip, br", encoded::GZIP_OF_BROTLI),
        ] {
            let answer = post(url.clone(), coding, body.to_vec()).await?;
            assert_eq!(answer.status, 400, "{url} {coding}: {}", answer.body);
            assert!(answer.body.contains("Content-Encoding"), "{}", answer.body);
        }
    }
    assert_eq!(model.calls().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_bomb_stops_at_the_limit_of_a_plain_body() -> Result<()> {
    let model = SampleModel::start(Duration::ZERO).await?;
    let config = format!("[ask]\nmodel = \"sample-model\"\n{}", model.route(""));
    let gateway = Gateway::start(&config).await?;
    let before = gateway.process().resident();
    for (coding, bomb) in encoded::BOMBS {
        for url in [
            gateway.url(CHAT),
            gateway.url("/ask"),
            gateway.admin_url("/purge"),
            gateway.admin_url("/warm"),
        ] {
            let answer = post(url.clone(), coding, bomb).await?;
            assert_eq!(answer.status, 413, "{url} {coding}: {}", answer.body);
        }
    }
    let grown = gateway.process().resident().saturating_sub(before);
    // Eight of them would have 640 MiB. The allocator keeps some of what was freed.
    assert!(grown < 320 << 20, "{grown} bytes");
    Ok(())
}

#[tokio::test]
async fn orders_of_operators_may_be_encoded() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let gz = include_bytes!("bodies/purge.gz").as_slice();
    let answer = post(gateway.admin_url("/purge"), "gzip", gz).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("position"), "{}", answer.body);
    Ok(())
}

/// The upstream of `/ask` reads the body with the fields that came with it.
#[tokio::test]
async fn a_question_for_an_upstream_of_its_own_goes_there_as_it_came() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let head = head.to_lowercase();
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length?];
        stream.read_exact(&mut body).await.ok()?;
        let has_coding = head.contains("content-encoding: gzip\r\n");
        let is_whole = body == include_bytes!("bodies/question.gz");
        let said = format!("{has_coding} {is_whole}");
        stream.write_all(ok(&said, "").as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let config = format!("[ask]\nupstream = \"http://127.0.0.1:{}\"\n", origin.port());
    let gateway = Gateway::start(&config).await?;
    let gz = include_bytes!("bodies/question.gz").as_slice();
    let answer = post(gateway.url("/ask"), "gzip", gz).await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "true true"));
    Ok(())
}

/// Two bytes of JSON can take a hundred times as much once they are parsed.
#[tokio::test]
async fn a_body_that_takes_more_memory_than_all_may_is_refused() -> Result<()> {
    let model = SampleModel::start(Duration::ZERO).await?;
    let limit = "max_parsed_bodies = \"8MiB\"";
    let gateway = Gateway::start_with(&model.route(""), limit, &[], None).await?;
    let call = |input: String| format!("{{\"model\":\"sample-model\",\"input\":{input}}}");
    let numbers = format!("[{}0]", "0,".repeat(1 << 19));
    let objects = format!("[{}{{}}]", "{},".repeat(1 << 16));
    let before = gateway.process().resident();
    for input in [numbers, objects, format!("\"{}\"", "a".repeat(9 << 20))] {
        let answer = post(gateway.url("/v1/embeddings"), "", call(input)).await?;
        assert_eq!(answer.status, 413, "{}", answer.body);
        assert!(
            answer.body.contains("server.max_parsed_bodies"),
            "{}",
            answer.body
        );
    }
    let grown = gateway.process().resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    let text = format!("\"{}\"", "a".repeat(2 << 20));
    let answer = post(gateway.url("/v1/embeddings"), "", call(text)).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    Ok(())
}

#[tokio::test]
async fn bodies_hold_no_more_than_their_budget_together_and_give_it_back() -> Result<()> {
    let model = SampleModel::start(Duration::ZERO).await?;
    let limit = "max_parsed_bodies = \"16MiB\"";
    let gateway = Gateway::start_with(&model.route(""), limit, &[], None).await?;
    // Three that come to 5 MiB each and go no further.
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n",
            20 << 20
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b' '; 5 << 20]).await?;
        slow.push(stream);
    }
    // It takes some 4 MiB once it is parsed.
    let input = vec![0; 60_000];
    let call = json!({ "model": "sample-model", "input": input }).to_string();
    let mut refused = None;
    eventually("the budget is used up", async || {
        let answer = post(gateway.url("/v1/embeddings"), "", call.clone()).await;
        refused = answer.ok().filter(|answer| answer.status == 503);
        refused.is_some()
    })
    .await;
    let refused = refused.map(|answer| (answer.retry_after, answer.body));
    let (retry_after, body) = refused.unwrap_or_default();
    assert_eq!(retry_after, "1");
    let error: Value = serde_json::from_str(&body)?;
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap_or("")
            .contains("max_parsed_bodies")
    );
    // What is small has room all the same, and no other request is touched.
    let small = json!({ "model": "sample-model", "input": "x" }).to_string();
    assert_eq!(
        post(gateway.url("/v1/embeddings"), "", small).await?.status,
        200
    );
    drop(slow);
    eventually("the budget is free again", async || {
        let answer = post(gateway.url("/v1/embeddings"), "", call.clone()).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let answer = exchange(gateway.port(), "GET /health HTTP/1.0\r\n\r\n").await?;
    assert_eq!(answer.status(), 200);
    Ok(())
}
