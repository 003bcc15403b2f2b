//! Fields that reach the origin and are in no key.

use crate::{ask, body, echo, field, get, is_hit};
use anyhow::Result;
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin};

#[tokio::test]
async fn fields_that_pass_for_anothers_do_not_go_up() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for (at, line) in [
        "x-original-url: /evil",
        "x-rewrite-url: /evil",
        "x-http-method-override: evil",
        "x-http-method: evil",
        "x-method-override: evil",
        "x-host: evil",
        "x-original-host: evil",
        "x-forwarded-server: evil",
        "x-forwarded-scheme: evil",
        "x-forwarded-ssl: evil",
        "x-forwarded-prefix: /evil",
        "x-forwarded-proto: evil",
        "x-forwarded-host: evil",
        "x-forwarded-port: evil",
        "x-forwarded-user: evil",
        "x-forwarded-anything: evil",
        "x-forwarded-for: evil",
        "forwarded: for=evil;host=evil",
        "x-real-ip: evil",
        "true-client-ip: evil",
        "x-client-ip: evil",
        "cf-connecting-ip: evil",
        "x-cluster-client-ip: evil",
        "proxy: evil",
        "x_user_id: evil",
        "x_forwarded_for: evil",
        "accept_language: evil",
        "x_real-ip: evil",
        "x-middleware-subrequest: evil",
        "X-Original-URL: /evil",
        "x-auth-request-user: evil",
        "remote-groups: evil",
        "x-webauth-user: evil",
        "x-consumer-username: evil",
        "impersonate-user: evil",
        "x-ms-client-principal: evil",
        "x-goog-authenticated-user-email: evil",
        "x-amzn-oidc-identity: evil",
        "cf-access-authenticated-user-email: evil",
        "client-cert: evil",
        "ssl-client-cert: evil",
        "x-ssl-client-verify: evil",
        "forwarded-host: evil",
        "x-forward-for: evil",
        "wl-proxy-client-ip: evil",
        "x-script-name: evil",
        "x.forwarded.host: evil",
        "x~forwarded~host: evil",
        "x--forwarded-host: evil",
        "x+original+url: evil",
        "keep-alive: evil",
        "proxy-authorization: evil",
        "proxy-connection: evil",
        "trailer: evil",
        "te: evil",
        "upgrade: evil",
    ]
    .iter()
    .enumerate()
    {
        let answer = get(&gateway, &format!("/{at}"), line).await?;
        assert_eq!(answer.status(), 200, "{line}: {}", answer.text());
        assert!(!body(&answer).contains("evil"), "{line}: {}", body(&answer));
    }
    Ok(())
}

#[tokio::test]
async fn a_trusted_field_goes_up_and_is_in_the_key() -> Result<()> {
    let origin = echo().await?;
    let server = "trusted_fields = [\"X-Original-URL\", \"api_key\"]";
    let gateway = Gateway::start_with(&origin.route(""), server, &[], None).await?;
    for line in ["x-original-url: /a", "x-original-url: /b", "api_key: k", ""] {
        let first = get(&gateway, "/", line).await?;
        assert!(!is_hit(&first), "{line}");
        assert!(body(&first).contains(line), "{line}: {}", body(&first));
        let again = get(&gateway, "/", line).await?;
        assert!(is_hit(&again) && body(&again) == body(&first), "{line}");
    }
    Ok(())
}

/// An origin that answers in the language that it is asked for, or in English.
async fn languages() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let head = head.to_lowercase();
        let german = head.contains("accept-language: de");
        let text = if german { "hallo" } else { "hello" };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\nvary: accept-language\r\ncontent-length: 5\r\n\r\n{text}"
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

#[tokio::test]
async fn a_field_that_connection_takes_away_selects_no_variant() -> Result<()> {
    let origin = languages().await?;
    for keys in ["", "vary_on = [\"accept-language\"]"] {
        let gateway = Gateway::start(&origin.route(keys)).await?;
        let request =
            "GET / HTTP/1.1\r\nhost: h.test\r\naccept-language: de\r\nconnection: Accept-Language";
        let poison = ask(&gateway, request).await?;
        assert_eq!(body(&poison), "hello");
        let german = get(&gateway, "/", "accept-language: de").await?;
        assert_eq!(body(&german), "hallo", "{}", german.text());
        let none = get(&gateway, "/", "").await?;
        assert!(is_hit(&none) && body(&none) == "hello", "{}", none.text());
    }
    Ok(())
}

#[tokio::test]
async fn connection_takes_neither_host_nor_credentials_past_a_check() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&format!(
        "[auth]\nmode = \"api_key\"\napi_keys = [\"k:ann\"]\n{}",
        origin.route("")
    ))
    .await?;
    let with = "x-api-key: k\r\nconnection: host, via, x-forwarded-for";
    let answer = get(&gateway, "/", with).await?;
    assert!(
        body(&answer).contains("host: h.test\r\n"),
        "{}",
        answer.text()
    );
    assert!(body(&answer).contains("x-forwarded-for: 127.0.0.1\r\n"));
    let without = get(&gateway, "/", "x-api-key: k\r\nconnection: x-api-key").await?;
    assert_eq!(without.status(), 401);
    Ok(())
}

#[tokio::test]
async fn a_response_that_varies_on_what_the_gateway_writes_is_not_kept() -> Result<()> {
    for name in [
        "X-Forwarded-For",
        "Forwarded",
        "via",
        "x-real-ip, accept",
        // No field name: what it was to be is not known.
        "X-A;q=1",
        "X A",
        "\"X-A\"",
        "(X-A)",
    ] {
        let origin = Origin::constant(format!(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\nvary: {name}\r\ncontent-length: 1\r\n\r\nx"
        ))
        .await?;
        let gateway = Gateway::start(&origin.route("")).await?;
        for _ in 0..2 {
            let answer = get(&gateway, "/", "").await?;
            assert!(
                field(&answer, "cache-status").contains("vary-star"),
                "{name}"
            );
        }
    }
    Ok(())
}
