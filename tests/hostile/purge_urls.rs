//! Purges and invalidation by another spelling of a URL: they reach what it means, or are refused.

use crate::{ask, echo, is_hit};
use anyhow::Result;
use reqwest::header::CONTENT_TYPE;
use weaver_tests::Gateway;

async fn purge(gateway: &Gateway, body: &str) -> Result<u16> {
    let request = reqwest::Client::new().post(gateway.admin_url("/purge"));
    let request = request.header(CONTENT_TYPE, "application/json");
    let answer = request.body(body.to_owned()).send().await?;
    Ok(answer.status().as_u16())
}

const STORED: &str = "GET /~a/b?c=d HTTP/1.1\r\nhost: h.test";

async fn is_stored(gateway: &Gateway) -> Result<bool> {
    Ok(is_hit(&ask(gateway, STORED).await?))
}

#[tokio::test]
async fn a_purge_by_an_equivalent_url_reaches_the_entry() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for body in [
        r#"{"url":"http://h.test/~a/b?c=d"}"#,
        r#"{"url":"HTTP://H.TEST:80/%7Ea/b?c=d"}"#,
        r#"{"url":"http://h.test:/%7ea/b?%63=d#part"}"#,
        r#"{"url":"https://h.test/~a/b?c=d"}"#,
        r#"{"url":"http://h.test/x/../~a/./b?c=d"}"#,
        r#"{"url":"/%7Ea/b?c=d"}"#,
        r#"{"prefix":"http://H.test:80/%7Ea/"}"#,
        r#"{"prefix":"/%7ea"}"#,
        r#"{"prefix":"https://h.test"}"#,
    ] {
        ask(&gateway, STORED).await?;
        assert!(is_stored(&gateway).await?);
        assert_eq!(purge(&gateway, body).await?, 200, "{body}");
        assert!(!is_stored(&gateway).await?, "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_url_is_not_purged() -> Result<()> {
    let gateway = Gateway::start("").await?;
    for url in [
        "h.test/x",
        "ftp://h.test/x",
        "http://",
        "http:///x",
        "http://a b/x",
        "http://u@h.test/x",
        "http://h.test:99999/x",
        "http://[::1/x",
        "http://h.test/%zz",
        "http://h.test/a b",
        "/%",
        "",
    ] {
        for key in ["url", "prefix"] {
            let body = serde_json::json!({ key: url }).to_string();
            assert_eq!(purge(&gateway, &body).await?, 400, "{body}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_unsafe_request_invalidates_what_its_url_means() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for (target, host) in [
        ("/~a/b?c=d", "h.test"),
        ("/%7Ea/b?c=d", "h.test:80"),
        ("/%7ea/b?%63=d", "H.test:"),
        ("http://h.test/~a/b?c=d", "other.test"),
    ] {
        ask(&gateway, STORED).await?;
        assert!(is_stored(&gateway).await?);
        let head = format!("POST {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0");
        assert_eq!(ask(&gateway, &head).await?.status(), 200);
        assert!(!is_stored(&gateway).await?, "{target} {host}");
    }
    Ok(())
}

#[tokio::test]
async fn an_entry_is_found_by_an_equivalent_url() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    ask(&gateway, STORED).await?;
    for url in [
        "http://h.test/~a/b?c=d",
        "http://H.test:80/%7ea/b?%63=d",
        "https://h.test/~a/b?c=d",
    ] {
        let url = url.replace('%', "%25").replace('&', "%26");
        let asked = gateway.admin_url(&format!("/entry?url={url}"));
        let answer = reqwest::get(asked).await?;
        let answer: serde_json::Value = answer.json().await?;
        assert_eq!(
            answer["stored"].as_array().map(Vec::len),
            Some(1),
            "{answer}"
        );
    }
    Ok(())
}
