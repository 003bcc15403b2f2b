use crate::{client, ok};
use anyhow::Result;
use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};
use weaver_tests::{Gateway, Origin, exchange, free_port};

/// An origin that answers with the head it was sent.
async fn echo() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        stream
            .write_all(ok(&head, "cache-control: no-store\r\n").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await
}

async fn echoed(gateway: &Gateway, request: &str) -> Result<String> {
    let answer = exchange(gateway.port(), request).await?;
    Ok(String::from_utf8_lossy(answer.body()).to_lowercase())
}

#[tokio::test]
async fn the_target_goes_up_byte_for_byte_and_connection_fields_do_not() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let request = "GET /a%2Fb//c/%7euser?q=%20+x&&y=[1] HTTP/1.1\r\nhost: Example.test\r\n\
                   connection: x-private, close\r\nx-private: 1\r\nkeep-alive: 5\r\nproxy-authorization: p\r\nte: gzip, trailers\r\n\
                   x-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\nx-kept: yes\r\n\r\n";
    let head = echoed(&gateway, request).await?;
    assert!(
        head.starts_with("get /a%2fb//c/%7euser?q=%20+x&&y=[1] http/1.1\r\n"),
        "{head}"
    );
    for there in [
        "host: example.test\r\n",
        "x-kept: yes\r\n",
        "via: 1.1 weaver\r\n",
        "te: trailers\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-host: example.test\r\n",
        "x-forwarded-proto: http\r\n",
        "x-request-id: ",
    ] {
        assert!(head.contains(there), "{there} not in {head}");
    }
    for gone in [
        "x-private",
        "keep-alive",
        "proxy-authorization",
        "6.6.6.6",
        "gzip",
    ] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    Ok(())
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_the_host_can_be_set() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start_with(
        &origin.route("host = \"inner.test\""),
        "trusted_proxies = [\"127.0.0.0/8\"]",
        &[],
        None,
    )
    .await?;
    let request = "GET / HTTP/1.1\r\nhost: outer.test\r\nconnection: close\r\nx-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\n\r\n";
    let head = echoed(&gateway, request).await?;
    for there in [
        "host: inner.test\r\n",
        "x-forwarded-for: 6.6.6.6, 127.0.0.1\r\n",
        "x-forwarded-proto: https\r\n",
        "x-forwarded-host: outer.test\r\n",
    ] {
        assert!(head.contains(there), "{there} not in {head}");
    }
    Ok(())
}

#[tokio::test]
async fn a_dead_upstream_is_passed_over_and_the_next_one_asked() -> Result<()> {
    let origin = Origin::constant(ok("alive", "cache-control: no-store\r\n")).await?;
    let route = format!(
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"]\n",
        free_port(),
        origin.port()
    );
    let gateway = Gateway::start(&route).await?;
    for _ in 0..20 {
        assert_eq!(client().get(gateway.url("/")).send().await?.status(), 200);
    }
    assert_eq!(origin.requests(), 20);
    Ok(())
}

#[tokio::test]
async fn a_post_is_never_sent_twice() -> Result<()> {
    let origin = Origin::start(|_, _| async { None }).await?;
    let gateway = Gateway::start(&origin.route("retries = 3")).await?;
    assert_eq!(
        client()
            .post(gateway.url("/"))
            .body("once")
            .send()
            .await?
            .status(),
        502
    );
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_request_whose_upstream_was_not_reached_goes_whole_to_the_next() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.ok()?;
        let body = String::from_utf8_lossy(&body).into_owned();
        stream.write_all(ok(&body, "").as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let route = format!(
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"]\n",
        free_port(),
        origin.port()
    );
    let gateway = Gateway::start(&route).await?;
    for method in ["POST", "PATCH", "PUT"] {
        for _ in 0..4 {
            let request = client().request(method.parse()?, gateway.url("/"));
            let answer = request.body("once").send().await?;
            assert_eq!(answer.status(), 200, "{method}");
            assert_eq!(answer.text().await?, "once");
        }
    }
    assert_eq!(origin.requests(), 12);
    Ok(())
}

#[tokio::test]
async fn load_is_spread_over_the_upstreams() -> Result<()> {
    let (one, two) = (echo().await?, echo().await?);
    let route = format!(
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"]\n",
        one.port(),
        two.port()
    );
    let gateway = Gateway::start(&route).await?;
    for _ in 0..20 {
        client().get(gateway.url("/")).send().await?;
    }
    assert_eq!((one.requests(), two.requests()), (10, 10));
    Ok(())
}

#[tokio::test]
async fn an_unhealthy_upstream_gets_nothing_until_it_is_well() -> Result<()> {
    let port = free_port();
    let route = format!(
        "[[routes]]\npath = \"/\"\nname = \"sick\"\nupstreams = [\"http://127.0.0.1:{port}\"]\nhealth_check = {{ path = \"/ping\", interval = \"50ms\", timeout = \"200ms\" }}\n"
    );
    let gateway = Gateway::start(&route).await?;
    sleep(Duration::from_millis(300)).await;
    let answer = client().get(gateway.url("/")).send().await?;
    assert_eq!(answer.status(), 503);
    let problem: Value = answer.json().await?;
    assert_eq!(problem["upstream"], "sick");
    Ok(())
}

#[tokio::test]
async fn the_longest_route_wins_and_none_is_404() -> Result<()> {
    let (one, two) = (
        Origin::constant(ok("one", "")).await?,
        Origin::constant(ok("two", "")).await?,
    );
    let routes = format!(
        "[[routes]]\npath = \"/api\"\nupstreams = [\"http://127.0.0.1:{}\"]\n[[routes]]\npath = \"/api/v2\"\nupstreams = [\"http://127.0.0.1:{}\"]\n",
        one.port(),
        two.port()
    );
    let gateway = Gateway::start(&routes).await?;
    for (path, body) in [
        ("/api", "one"),
        ("/api/v1", "one"),
        ("/api/v2/x", "two"),
        ("/api/v22", "one"),
    ] {
        assert_eq!(
            client().get(gateway.url(path)).send().await?.text().await?,
            body,
            "{path}"
        );
    }
    assert_eq!(
        client().get(gateway.url("/apis")).send().await?.status(),
        404
    );
    Ok(())
}

#[tokio::test]
async fn requests_that_smuggle_are_refused() -> Result<()> {
    let origin = Origin::constant(ok("x", "")).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for request in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
    ] {
        let answer = exchange(gateway.port(), request).await?;
        assert_eq!(answer.status(), 400, "{request:?}: {}", answer.text());
    }
    Ok(())
}
