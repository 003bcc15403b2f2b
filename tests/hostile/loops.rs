//! Routes that lead back to the gateway.

use crate::{ask, body, echo, get};
use anyhow::Result;
use std::time::Duration;
use tokio::time::timeout;
use weaver_tests::{Gateway, Nginx, free_port};

#[tokio::test]
async fn a_route_that_leads_back_is_answered_with_508() -> Result<()> {
    for keys in ["", "cache = \"off\""] {
        let port = free_port();
        let nginx = Nginx::start(&format!(
            "location / {{ proxy_pass http://127.0.0.1:{port}; }}"
        ))
        .await?;
        let config = format!(
            "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}\"]\n{keys}\n",
            nginx.port()
        );
        let gateway = Gateway::start_on(port, &config).await?;
        let asked = get(&gateway, "/loop", "");
        let answer = timeout(Duration::from_secs(5), asked).await??;
        assert_eq!(answer.status(), 508, "{}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn gateways_in_a_row_are_no_loop() -> Result<()> {
    let origin = echo().await?;
    let inner = Gateway::start(&origin.route("")).await?;
    let config = format!(
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}\"]\n",
        inner.port()
    );
    let outer = Gateway::start(&config).await?;
    let answer = get(&outer, "/", "").await?;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let marks = body(&answer).matches("cdn-loop: weaver-").count();
    assert_eq!(marks, 2, "{}", body(&answer));
    Ok(())
}

#[tokio::test]
async fn a_loop_that_hides_its_mark_ends() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let via = ["1.1 weaver"; 9].join(", ");
    let head = format!("GET / HTTP/1.1\r\nhost: h.test\r\nvia: {via}");
    assert_eq!(ask(&gateway, &head).await?.status(), 508);
    Ok(())
}
