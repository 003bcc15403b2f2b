//! Guesses of credentials, and requests in which two readers see two users.

use crate::tokens::{FUTURE, SECRET, token, whoami};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use weaver_tests::{Gateway, Origin, SampleModel, exchange};

#[tokio::test]
async fn guesses_run_out_for_an_address_and_for_no_other() -> Result<()> {
    let secret = String::from_utf8(SECRET.to_vec())?;
    for mode in [
        "mode = \"api_key\"\napi_keys = [\"k1:ann\"]\n".to_owned(),
        format!("mode = \"jwt\"\nkey = \"{secret}\"\n"),
    ] {
        let config = format!("[auth]\n{mode}[rate_limit]\nrequests_per_second = 0.01\nburst = 9\n");
        let server = "trusted_proxies = [\"127.0.0.1\"]";
        let gateway = Gateway::start_with(&config, server, &[], None).await?;
        let claims = json!({ "sub": "ann", "exp": FUTURE });
        let right = if mode.contains("jwt") {
            let token = token(&json!({ "alg": "HS256" }), &claims, &SECRET)?;
            format!("authorization: Bearer {token}\r\n")
        } else {
            "x-api-key: k1\r\n".to_owned()
        };
        let from = |address: &str| format!("x-forwarded-for: {address}\r\n");
        let (guesser, other) = (from("192.0.2.1"), from("192.0.2.2"));
        // What is missing is no guess.
        for _ in 0..40 {
            assert_eq!(whoami(&gateway, &guesser).await?, 401);
        }
        let mut statuses = Vec::new();
        for guess in 0..40 {
            let wrong = format!("{guesser}authorization: Bearer guess-{guess}\r\n");
            statuses.push(whoami(&gateway, &wrong).await?);
        }
        assert!(
            statuses[..30].iter().all(|status| *status == 401),
            "{statuses:?}"
        );
        // One comes back every two seconds.
        let refused = statuses.iter().filter(|status| **status == 429).count();
        assert!(refused >= 5 && statuses.iter().all(|s| matches!(s, 401 | 429)));
        // The right one would give itself away.
        let request =
            format!("GET /whoami HTTP/1.1\r\nhost: h\r\n{guesser}{right}connection: close\r\n\r\n");
        let mut answer = exchange(gateway.port(), &request).await?;
        for _ in 0..3 {
            if answer.status() == 429 {
                break;
            }
            // A guess has come back meanwhile; it is spent again.
            whoami(&gateway, &format!("{guesser}authorization: Bearer x\r\n")).await?;
            answer = exchange(gateway.port(), &request).await?;
        }
        assert_eq!(answer.status(), 429, "{}", answer.text());
        assert!(answer.text().to_ascii_lowercase().contains("retry-after: "));
        // Another address is another, and the user's own budget is whole.
        let request =
            format!("GET /whoami HTTP/1.1\r\nhost: h\r\n{other}{right}connection: close\r\n\r\n");
        let answer = exchange(gateway.port(), &request).await?;
        assert_eq!(answer.status(), 200);
        assert!(
            answer.text().contains("\"default\";r=8;"),
            "{}",
            answer.text()
        );
        let health = "GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        assert_eq!(exchange(gateway.port(), health).await?.status(), 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_network_of_ipv6_is_one_guesser_and_an_expired_token_is_no_guess() -> Result<()> {
    let secret = String::from_utf8(SECRET.to_vec())?;
    let config = format!(
        "[auth]\nmode = \"jwt\"\nkey = \"{secret}\"\nfailures_per_minute = 2\nleeway = 0\n"
    );
    let server = "trusted_proxies = [\"127.0.0.1\"]";
    let gateway = Gateway::start_with(&config, server, &[], None).await?;
    let from = async |address: &str, token: &str| {
        let fields = format!("x-forwarded-for: {address}\r\nauthorization: Bearer {token}\r\n");
        whoami(&gateway, &fields).await
    };
    for host in 1..=2 {
        assert_eq!(from(&format!("2001:db8::{host}"), "x").await?, 401);
    }
    assert_eq!(from("2001:db8::ffff:3", "x").await?, 429);
    assert_eq!(from("2001:db8:0:1::3", "x").await?, 401);
    let header = json!({ "alg": "HS256" });
    let expired = token(&header, &json!({ "sub": "ann", "exp": 1 }), &SECRET)?;
    for _ in 0..10 {
        assert_eq!(from("192.0.2.7", &expired).await?, 401);
    }
    Ok(())
}

#[tokio::test]
async fn guesses_are_not_limited_where_that_is_switched_off() -> Result<()> {
    let config = "[auth]\nmode = \"api_key\"\napi_keys = [\"k1:ann\"]\nfailures_per_minute = 0\n";
    let gateway = Gateway::start(config).await?;
    for _ in 0..40 {
        assert_eq!(whoami(&gateway, "x-api-key: x\r\n").await?, 401);
    }
    assert_eq!(whoami(&gateway, "x-api-key: k1\r\n").await?, 200);
    Ok(())
}

#[tokio::test]
async fn a_request_names_one_user_once() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let users = head.matches("x-user-id: ann\r\n").count();
        let all = head.to_ascii_lowercase().matches("x-user-id").count();
        let body = format!("{users}/{all}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let config = format!(
        "[auth]\nmode = \"api_key\"\napi_keys = [\"k1:ann\", \"k2:bob\"]\n{}",
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    for (fields, status) in [
        ("x-api-key: k1\r\n", 200),
        ("x-api-key: k1\r\nx-user-id: ann\r\n", 200),
        ("x-api-key: k1\r\nauthorization: Bearer k1\r\n", 200),
        ("x-api-key: k1\r\nauthorization: Basic eDp5\r\n", 200),
        ("x-api-key: k1\r\nx-user-id: bob\r\n", 403),
        ("x-api-key: k1\r\nx-user-id: Ann\r\n", 403),
        ("x-api-key: k1\r\nx-user-id: \r\n", 403),
        ("x-api-key: k1\r\nx-user-id: ann, bob\r\n", 403),
        ("x-api-key: k1\r\nx-user-id: ann\r\nx-user-id: bob\r\n", 400),
        ("x-api-key: k1\r\nx-user-id: ann\r\nX-User-Id: ann\r\n", 400),
        ("x-api-key: k1\r\nx-api-key: k2\r\n", 400),
        ("x-api-key: k1\r\nauthorization: Bearer k2\r\n", 400),
        (
            "x-api-key: k1\r\nauthorization: Bearer k1\r\nauthorization: Bearer k2\r\n",
            400,
        ),
    ] {
        let request = format!("GET /x HTTP/1.1\r\nhost: h\r\n{fields}connection: close\r\n\r\n");
        let answer = exchange(gateway.port(), &request).await?;
        assert_eq!(answer.status(), status, "{fields}");
        if status == 200 {
            let sent = if fields.contains("x-user-id") {
                "1/1"
            } else {
                "0/0"
            };
            assert_eq!(answer.body(), sent.as_bytes(), "{fields}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn two_tokens_that_are_no_text_are_two_users_of_a_model() -> Result<()> {
    let model = SampleModel::start(Duration::from_millis(1)).await?;
    let gateway = Gateway::start(&model.route("")).await?;
    let body = json!({
        "model": "sample-model", "temperature": 0,
        "messages": [{ "role": "user", "content": "what is it" }],
    })
    .to_string();
    let ask = async |authorizations: &[&[u8]]| -> Result<String> {
        let mut request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\n\
            content-type: application/json\r\nconnection: close\r\n"
            .to_vec();
        for authorization in authorizations {
            request.extend_from_slice(b"authorization: ");
            request.extend_from_slice(authorization);
            request.extend_from_slice(b"\r\n");
        }
        request
            .extend_from_slice(format!("content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        stream.write_all(&request).await?;
        let mut answer = Vec::new();
        timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await??;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let first = ask(&[b"Bearer \xff"]).await?;
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    for (authorization, hit) in [
        (&b"Bearer \xff"[..], true),
        (b"Bearer \xfe", false),
        (b"Bearer \xef\xbf\xbd", false),
        (b"bearer \xff", false),
    ] {
        let answer = ask(&[authorization]).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let is_hit = answer
            .to_ascii_lowercase()
            .contains("cache-status: weaver; hit");
        assert_eq!(is_hit, hit, "{authorization:?} {answer}");
    }
    let list = "GET /v1/models HTTP/1.1\r\nhost: h\r\nauthorization: Bearer a\r\n\
                authorization: Bearer b\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(gateway.port(), list).await?.status(), 400);
    let calls = model.calls().await?;
    let twice = ask(&[b"Bearer a", b"Bearer b"]).await?;
    assert!(twice.starts_with("HTTP/1.1 400"), "{twice}");
    assert_eq!(model.calls().await?, calls);
    Ok(())
}

#[tokio::test]
async fn a_cookie_that_is_no_text_does_not_hide_the_one_that_sends_past_the_cache() -> Result<()> {
    let fields = "cache-control: max-age=60\r\ncontent-length: 1\r\n\r\nx";
    let origin = Origin::constant(format!("HTTP/1.1 200 OK\r\n{fields}")).await?;
    let gateway = Gateway::start(&origin.route("bypass_cookies = [\"session\"]")).await?;
    for _ in 0..2 {
        let request = b"GET /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
            cookie: name=\xc3\xa9; session=1\r\n\r\n";
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await??;
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(origin.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn health_is_answered_however_often_it_is_asked() -> Result<()> {
    let config = "[rate_limit]\nrequests_per_second = 0.01\nburst = 1\n";
    let gateway = Gateway::start(config).await?;
    for _ in 0..20 {
        let request = "GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        let answer = exchange(gateway.port(), request).await?;
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(whoami(&gateway, "").await?, 200);
    assert_eq!(whoami(&gateway, "").await?, 429);
    Ok(())
}
