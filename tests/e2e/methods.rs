//! Methods that are about the way to a resource: OPTIONS and TRACE.

use anyhow::Result;
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Exchange, Gateway, Origin, exchange};

/// An origin that answers with the head that it got.
async fn echo() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let head = head.to_lowercase();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}",
            head.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

async fn ask(gateway: &Gateway, line: &str, fields: &str) -> Result<Exchange> {
    let request = format!("{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{fields}\r\n");
    exchange(gateway.port(), &request).await
}

#[tokio::test]
async fn max_forwards_is_counted_down_and_zero_is_answered_here() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start_with(&origin.route(""), "trace = true", &[], None).await?;
    for method in ["OPTIONS", "TRACE"] {
        let line = format!("{method} /x");
        let answer = ask(&gateway, &line, "max-forwards: 2\r\n").await?;
        assert_eq!(answer.status(), 200);
        assert!(
            answer.text().contains("max-forwards: 1\r\n"),
            "{}",
            answer.text()
        );
        for bad in [
            "max-forwards: x\r\n",
            "max-forwards: 1\r\nmax-forwards: 1\r\n",
        ] {
            assert_eq!(ask(&gateway, &line, bad).await?.status(), 400, "{bad}");
        }
    }
    assert_eq!(origin.requests(), 2);
    let options = ask(&gateway, "OPTIONS /x", "max-forwards: 0\r\n").await?;
    assert_eq!(options.status(), 204);
    assert!(
        options.text().to_lowercase().contains("\r\nallow: get, "),
        "{}",
        options.text()
    );
    let fields = "max-forwards: 0\r\nx-mine: 1\r\ncookie: secret\r\nauthorization: secret\r\n";
    let trace = ask(&gateway, "TRACE /x?y=1", fields).await?;
    let text = trace.text();
    assert!(
        text.to_lowercase().contains("content-type: message/http"),
        "{text}"
    );
    assert!(
        text.contains("TRACE /x?y=1 HTTP/1.1\r\n") && text.contains("x-mine: 1"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(origin.requests(), 2);
    // For other methods it means nothing.
    let get = ask(&gateway, "GET /x", "max-forwards: 0\r\n").await?;
    assert!(get.text().contains("max-forwards: 0\r\n"), "{}", get.text());
    Ok(())
}

#[tokio::test]
async fn the_server_as_a_whole_tells_its_methods_and_trace_is_refused() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let all = ask(&gateway, "OPTIONS *", "").await?;
    assert_eq!(all.status(), 204);
    assert!(
        all.text().to_lowercase().contains("\r\nallow: get, "),
        "{}",
        all.text()
    );
    let trace = ask(&gateway, "TRACE /", "").await?;
    assert_eq!(trace.status(), 405);
    let text = trace.text().to_lowercase();
    assert!(
        text.contains("\r\nallow: get, ") && text.contains("server.trace"),
        "{text}"
    );
    assert_eq!(ask(&gateway, "GET *", "").await?.status(), 400);
    assert_eq!(origin.requests(), 0);
    Ok(())
}
