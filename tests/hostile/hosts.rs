//! The host and the scheme: what is checked, keyed and sent is one and the same.

use crate::{ask, body, echo, is_hit};
use anyhow::Result;
use weaver_tests::{Gateway, Origin};

async fn gateway(server: &str) -> Result<(Origin, Gateway)> {
    let origin = echo().await?;
    let gateway = Gateway::start_with(&origin.route(""), server, &[], None).await?;
    Ok((origin, gateway))
}

#[tokio::test]
async fn hosts_that_are_none_are_refused_and_reach_nobody() -> Result<()> {
    let (origin, gateway) = gateway("").await?;
    for bad in [
        "a b",
        "a/b",
        "u@a",
        "a, b",
        "a,b",
        "a\"><x",
        "a:b",
        "a:99999",
        "a:-1",
        "a:80:80",
        "[::1",
        "a?b",
        "a#b",
        "a\\b",
        "%61",
        "a;b",
        "a..b",
        "1.2.3",
        "a\r\nhost: b",
    ] {
        let answer = ask(&gateway, &format!("GET / HTTP/1.1\r\nhost: {bad}")).await?;
        assert_eq!(answer.status(), 400, "{bad}: {}", answer.text());
    }
    assert_eq!(ask(&gateway, "GET / HTTP/1.1\r\nx: y").await?.status(), 400);
    assert_eq!(origin.requests(), 0);
    for good in [
        "a",
        "A.example:8080",
        "a_b.c",
        "[::1]:80",
        "127.0.0.1",
        "a:",
    ] {
        let answer = ask(&gateway, &format!("GET / HTTP/1.1\r\nhost: {good}")).await?;
        assert_eq!(answer.status(), 200, "{good}: {}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn the_target_in_absolute_form_counts_before_host() -> Result<()> {
    let (_origin, gateway) = gateway("").await?;
    let poison = ask(
        &gateway,
        "GET http://victim.test/a HTTP/1.1\r\nhost: evil.test",
    )
    .await?;
    assert!(body(&poison).contains("\r\nhost: victim.test\r\n"));
    assert!(body(&poison).starts_with("get /a "));
    assert!(!body(&poison).contains("evil"), "{}", poison.text());
    let victim = ask(&gateway, "GET /a HTTP/1.1\r\nhost: victim.test").await?;
    assert!(is_hit(&victim));
    for (target, status) in [
        ("https://victim.test/a", 421),
        ("ftp://victim.test/a", 400),
        ("http://u@victim.test/a", 400),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: victim.test");
        assert_eq!(ask(&gateway, &head).await?.status(), status, "{target}");
    }
    Ok(())
}

#[tokio::test]
async fn only_trusted_hosts_pass_in_any_form() -> Result<()> {
    let server = "trusted_hosts = [\"shop.test\", \"B\u{fc}cher.example\"]";
    let (origin, gateway) = gateway(server).await?;
    for head in [
        "GET / HTTP/1.1\r\nhost: evil.test",
        "GET http://evil.test/ HTTP/1.1\r\nhost: shop.test",
        "GET / HTTP/1.1\r\nhost: shop.test.evil.test",
        "GET / HTTP/1.0",
        "GET / HTTP/1.1\r\nhost:",
    ] {
        assert_eq!(ask(&gateway, head).await?.status(), 421, "{head}");
    }
    assert_eq!(origin.requests(), 0);
    for head in [
        "GET / HTTP/1.1\r\nhost: SHOP.test:8000",
        "GET http://shop.test/ HTTP/1.1\r\nhost: evil.test",
        "GET / HTTP/1.1\r\nhost: xn--bcher-kva.example",
    ] {
        assert_eq!(ask(&gateway, head).await?.status(), 200, "{head}");
    }
    Ok(())
}

#[tokio::test]
async fn equivalent_hosts_and_paths_are_one_entry() -> Result<()> {
    let (origin, gateway) = gateway("").await?;
    for head in [
        "GET /~a?b=c HTTP/1.1\r\nhost: h.test",
        "GET /%7Ea?b=c HTTP/1.1\r\nhost: H.test:80",
        "GET /%7ea?%62=c HTTP/1.1\r\nhost: h.test:",
        "GET http://h.test/~a?b=c HTTP/1.1\r\nhost: h.test",
    ] {
        assert_eq!(ask(&gateway, head).await?.status(), 200, "{head}");
    }
    assert_eq!(origin.requests(), 1);
    for other in [
        "GET /~a?b=c HTTP/1.1\r\nhost: h.test:81",
        "GET //~a?b=c HTTP/1.1\r\nhost: h.test",
        "GET /~a?b=C HTTP/1.1\r\nhost: h.test",
    ] {
        assert!(!is_hit(&ask(&gateway, other).await?), "{other}");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_scheme_and_host_is_part_of_the_url() -> Result<()> {
    let (origin, gateway) = gateway("trusted_proxies = [\"127.0.0.1\"]").await?;
    let get = async |fields: &str| {
        let head = format!("GET /x HTTP/1.1\r\nhost: inner.test\r\n{fields}");
        ask(&gateway, &head).await
    };
    let kinds = [
        ("x-forwarded-proto: http", "x-forwarded-proto: http\r\n"),
        ("x-forwarded-proto: https", "x-forwarded-proto: https\r\n"),
        ("x-forwarded-host: a.test", "\r\nhost: a.test\r\n"),
        ("x-forwarded-host: b.test", "\r\nhost: b.test\r\n"),
        ("x-forwarded-port: 8443", "\r\nhost: inner.test:8443\r\n"),
        (
            "forwarded: for=1.2.3.4;host=c.test;proto=https",
            "\r\nhost: c.test\r\n",
        ),
    ];
    for (fields, sent) in kinds {
        let first = get(fields).await?;
        assert!(!is_hit(&first), "{fields}");
        assert!(body(&first).contains(sent), "{fields}: {}", body(&first));
        assert!(is_hit(&get(fields).await?), "{fields}");
    }
    assert_eq!(origin.requests(), kinds.len());
    // The same by other words.
    for fields in [
        "x-forwarded-proto: https, http",
        "x-forwarded-host: A.test:80",
        "x-forwarded-proto: https\r\nx-forwarded-port: 443",
        "x-forwarded-proto: https\r\nx-forwarded-host: c.test",
    ] {
        assert!(is_hit(&get(fields).await?), "{fields}");
    }
    assert_eq!(get("x-forwarded-host: a b").await?.status(), 400);
    Ok(())
}

#[tokio::test]
async fn several_lines_of_x_forwarded_for_are_one_list() -> Result<()> {
    let (_origin, gateway) = gateway("trusted_proxies = [\"127.0.0.1\"]").await?;
    let head =
        "GET /f HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 6.6.6.6\r\nx-forwarded-for: ::ffff:1.2.3.4";
    let sent = body(&ask(&gateway, head).await?);
    assert!(
        sent.contains("x-forwarded-for: 6.6.6.6, 1.2.3.4, 127.0.0.1\r\n"),
        "{sent}"
    );
    assert!(sent.contains("x-real-ip: 1.2.3.4\r\n"), "{sent}");
    Ok(())
}

/// An origin may read the first element, and a client has written that.
#[tokio::test]
async fn nothing_of_forwarded_goes_on_as_it_came() -> Result<()> {
    let (_origin, gateway) = gateway("trusted_proxies = [\"127.0.0.1\"]").await?;
    let forwarded = "forwarded: host=evil.test;proto=https;by=evil, for=evil, for=1.2.3.4;host=h.test;proto=http";
    let head = format!("GET /f HTTP/1.1\r\nhost: inner.test\r\n{forwarded}");
    let sent = body(&ask(&gateway, &head).await?);
    assert!(!sent.contains("evil"), "{sent}");
    let written = "forwarded: for=1.2.3.4;host=\"h.test\";proto=http, for=127.0.0.1\r\n";
    assert!(sent.contains(written), "{sent}");
    // A proxy that writes X-Forwarded-For alone lets a client's Forwarded through.
    let head =
        format!("GET /g HTTP/1.1\r\nhost: inner.test\r\nx-forwarded-for: 1.2.3.4\r\n{forwarded}");
    let sent = body(&ask(&gateway, &head).await?);
    assert!(
        sent.contains("host: inner.test\r\n") && !sent.contains("evil"),
        "{sent}"
    );
    Ok(())
}
