//! Which path a request has at its upstream.

use crate::{client, ok};
use anyhow::Result;
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, exchange};

/// An origin that answers with the request line that it got, to be kept.
async fn teller() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let line = head.lines().next().unwrap_or("");
        let answer = ok(line, "cache-control: max-age=60\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

async fn line(gateway: &Gateway, target: &str) -> Result<String> {
    let request = format!("GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    let answer = exchange(gateway.port(), &request).await?;
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

#[tokio::test]
async fn the_path_of_an_upstream_is_put_before_and_the_prefix_of_a_route_is_taken_off() -> Result<()>
{
    let origin = teller().await?;
    let port = origin.port();
    let route = |path: &str, base: &str, keys: &str| {
        format!(
            "[[routes]]\npath = \"{path}\"\nupstreams = [\"http://127.0.0.1:{port}{base}\"]\n{keys}\n"
        )
    };
    let routes = [
        route("/base", "/openai/v1/", ""),
        route("/strip", "", "strip_prefix = true"),
        route("/both/in", "/b", "strip_prefix = \"/both\""),
    ];
    let gateway = Gateway::start(&routes.concat()).await?;
    for (target, expected) in [
        (
            "/base/a%2Fb//c?q=[1]",
            "GET /openai/v1/base/a%2Fb//c?q=[1] HTTP/1.1",
        ),
        ("/strip/a%7e?q", "GET /a%7e?q HTTP/1.1"),
        ("/strip?q", "GET /?q HTTP/1.1"),
        ("//%73trip//x", "GET //x HTTP/1.1"),
        ("/both/in/x", "GET /b/in/x HTTP/1.1"),
        ("/both/in", "GET /b/in HTTP/1.1"),
    ] {
        assert_eq!(line(&gateway, target).await?, expected, "{target}");
    }
    // Keys are of the client's URL: the same path at the upstream is another entry.
    let asked = origin.requests();
    assert_eq!(line(&gateway, "/strip/same").await?, "GET /same HTTP/1.1");
    assert_eq!(line(&gateway, "/strip/same").await?, "GET /same HTTP/1.1");
    assert_eq!(origin.requests(), asked + 1);
    let answer = client().get(gateway.url("/stripped")).send().await?;
    assert_eq!(answer.status(), 404);
    Ok(())
}

#[tokio::test]
async fn dot_segments_do_not_lead_out_of_the_path_of_an_upstream() -> Result<()> {
    let origin = teller().await?;
    let route = format!(
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}/base\"]\n",
        origin.port()
    );
    let server = "ambiguous_paths = \"bypass\"";
    let gateway = Gateway::start_with(&route, server, &[], None).await?;
    for target in [
        "/../admin",
        "/x/%2e%2e/%2e%2e/admin",
        "/..%2fadmin",
        "/..;/admin",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        let answer = exchange(gateway.port(), &request).await?;
        assert_eq!(answer.status(), 400, "{target}");
    }
    assert_eq!(origin.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn models_and_ask_go_to_the_path_of_their_upstream() -> Result<()> {
    let origin = teller().await?;
    let port = origin.port();
    for (base, path) in [
        ("/proxy", "/proxy/v1/chat/completions"),
        ("/openai/v1", "/openai/v1/chat/completions"),
    ] {
        let config = format!(
            "[ask]\nupstream = \"http://127.0.0.1:{port}{base}\"\n[[models]]\nupstreams = [\"http://127.0.0.1:{port}{base}\"]\n"
        );
        let gateway = Gateway::start(&config).await?;
        let call =
            serde_json::json!({ "model": "m", "messages": [{ "role": "user", "content": "q" }] });
        let answer = client()
            .post(gateway.url("/v1/chat/completions"))
            .json(&call)
            .send();
        assert_eq!(answer.await?.text().await?, format!("POST {path} HTTP/1.1"));
        let question = serde_json::json!({ "query": "q" });
        let answer = client().post(gateway.url("/ask")).json(&question).send();
        assert_eq!(
            answer.await?.text().await?,
            format!("POST {base}/ask HTTP/1.1")
        );
    }
    Ok(())
}
