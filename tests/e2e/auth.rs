use crate::{client, field, ok};
use anyhow::Result;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use weaver_tests::{Gateway, Origin};

#[tokio::test]
async fn an_api_key_says_who_it_is_and_hits_answer_nobody_else() -> Result<()> {
    let origin = Origin::constant(ok("x", "cache-control: public, max-age=60\r\n")).await?;
    let config = format!(
        "[auth]\nmode = \"api_key\"\napi_keys = [\"k1:ann:admin,dev:read\", \"k2:bob\"]\n{}",
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    let ask = async |path: &str, key: Option<&str>, user: Option<&str>| {
        let mut request = client().get(gateway.url(path));
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        if let Some(user) = user {
            request = request.header("x-user-id", user);
        }
        request.send().await
    };
    for _ in 0..2 {
        for (key, user) in [("k1", "ann"), ("k2", "bob")] {
            let who: Value = ask("/whoami", Some(key), None).await?.json().await?;
            assert_eq!(who["user_id"], user);
        }
    }
    let who: Value = ask("/whoami", Some("k1"), Some("ann"))
        .await?
        .json()
        .await?;
    assert_eq!(
        (&who["roles"], &who["scopes"]),
        (&json!(["admin", "dev"]), &json!(["read"]))
    );
    assert_eq!(ask("/whoami", Some("k1"), Some("bob")).await?.status(), 403);
    assert_eq!(ask("/", Some("k1"), None).await?.status(), 200);
    // It is stored now; whoever may not come in does not get it.
    for key in [None, Some("k3"), Some("")] {
        let refused = ask("/", key, None).await?;
        assert_eq!(refused.status(), 401, "{key:?}");
        assert!(field(&refused, "www-authenticate").starts_with("ApiKey"));
    }
    assert_eq!(ask("/health", None, None).await?.status(), 200);
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn what_needs_credentials_is_not_shared_by_api_key_users_either() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("x-api-key: "))
            .unwrap_or("-")
            .to_owned();
        stream
            .write_all(ok(&key, "cache-control: max-age=60\r\n").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let config = format!(
        "[auth]\nmode = \"api_key\"\napi_keys = [\"k1:ann\", \"k2:bob\"]\n{}",
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    for key in ["k1", "k2", "k1"] {
        let answer = client()
            .get(gateway.url("/me"))
            .header("x-api-key", key)
            .send()
            .await?;
        assert_eq!(answer.text().await?, key);
    }
    Ok(())
}

#[tokio::test]
async fn a_token_needs_a_signature_a_subject_and_a_future() -> Result<()> {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let config = format!(
        "[auth]\nmode = \"jwt\"\nalgorithm = \"HS256\"\nkey = \"{SECRET}\"\nissuer = \"me\"\nleeway = 0\n"
    );
    let gateway = Gateway::start(&config).await?;
    let ask = async |claims: Value, secret: &str| {
        let token = encode(
            &Header::default(),
            &claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )?;
        let answer = client()
            .get(gateway.url("/whoami"))
            .bearer_auth(token)
            .send()
            .await?;
        Ok::<_, anyhow::Error>((answer.status().as_u16(), answer.json::<Value>().await?))
    };
    let future = 4_000_000_000_u64;
    let (status, who) = ask(
        json!({ "sub": "ann", "exp": future, "iss": "me", "scope": "a b" }),
        SECRET,
    )
    .await?;
    assert_eq!(
        (status, &who["user_id"], &who["scopes"]),
        (200, &json!("ann"), &json!(["a", "b"]))
    );
    for claims in [
        json!({ "sub": "ann", "exp": 1, "iss": "me" }),
        json!({ "exp": future, "iss": "me" }),
        json!({ "sub": "ann", "iss": "me" }),
        json!({ "sub": "ann", "exp": future, "iss": "you" }),
        json!({ "sub": "ann", "exp": future, "iss": "me", "nbf": future }),
    ] {
        assert_eq!(ask(claims.clone(), SECRET).await?.0, 401, "{claims}");
    }
    let good = json!({ "sub": "ann", "exp": future, "iss": "me" });
    assert_eq!(ask(good, "another secret another secret an").await?.0, 401);
    assert_eq!(
        client().get(gateway.url("/whoami")).send().await?.status(),
        401
    );
    // {"alg":"none"}
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjQwMDAwMDAwMDAsImlzcyI6Im1lIn0.";
    assert_eq!(
        client()
            .get(gateway.url("/whoami"))
            .bearer_auth(unsigned)
            .send()
            .await?
            .status(),
        401
    );
    Ok(())
}

#[tokio::test]
async fn keys_come_from_a_set_that_is_read_again_when_it_changes() -> Result<()> {
    let directory = weaver_tests::scratch("jwks");
    let file = directory.join("jwks.json");
    let jwk = |kid: &str, k: &str| json!({ "kty": "oct", "kid": kid, "alg": "HS256", "k": k });
    // base64url of 32 times 'a', and of 32 times 'b'
    let (a, b) = (
        "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE",
        "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI",
    );
    std::fs::write(&file, json!({ "keys": [jwk("one", a)] }).to_string())?;
    let config = format!(
        "[auth]\nmode = \"jwt\"\njwks_file = \"{}\"\n",
        file.display()
    );
    let gateway = Gateway::start(&config).await?;
    let ask = async |kid: &str, secret: u8| {
        let header = Header {
            kid: Some(kid.to_owned()),
            ..Header::default()
        };
        let claims = json!({ "sub": "ann", "exp": 4_000_000_000_u64 });
        let token = encode(&header, &claims, &EncodingKey::from_secret(&[secret; 32]))?;
        let answer = client()
            .get(gateway.url("/whoami"))
            .bearer_auth(token)
            .send()
            .await?;
        Ok::<_, anyhow::Error>(answer.status().as_u16())
    };
    assert_eq!(ask("one", b'a').await?, 200);
    assert_eq!(ask("two", b'b').await?, 401);
    std::fs::write(&file, "{ not json")?;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(
        ask("one", b'a').await?,
        200,
        "a broken file keeps the old keys"
    );
    std::fs::write(
        &file,
        json!({ "keys": [jwk("one", a), jwk("two", b)] }).to_string(),
    )?;
    let mut status = 0;
    for _ in 0..100 {
        status = ask("two", b'b').await?;
        if status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(status, 200);
    Ok(())
}

#[tokio::test]
async fn a_limit_is_for_each_user_and_says_when_to_come_back() -> Result<()> {
    let config = "[auth]\nmode = \"api_key\"\napi_keys = [\"k1:ann\", \"k2:bob\"]\n[rate_limit]\nrequests_per_second = 0.1\nburst = 3\n";
    let gateway = Gateway::start(config).await?;
    let ask = async |key: &str| {
        client()
            .get(gateway.url("/whoami"))
            .header("x-api-key", key)
            .send()
            .await
    };
    for left in [2, 1, 0] {
        let answer = ask("k1").await?;
        assert_eq!(answer.status(), 200);
        assert!(
            field(&answer, "ratelimit").starts_with(&format!("\"default\";r={left};t=")),
            "{answer:?}"
        );
    }
    let refused = ask("k1").await?;
    assert_eq!(refused.status(), 429);
    assert!(field(&refused, "retry-after").parse::<u64>()? >= 1);
    assert_eq!(field(&refused, "ratelimit-policy"), "\"default\";q=3;w=30");
    assert_eq!(ask("k2").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn hosts_heads_and_origins_are_held_to_the_configuration() -> Result<()> {
    let server = "trusted_hosts = [\"a.test\", \"*.b.test\"]\nmax_head = 1024";
    let gateway = Gateway::start_with(
        "[cors]\nallowed_origins = [\"https://app.test\"]\n",
        server,
        &[],
        None,
    )
    .await?;
    let ask = async |host: &str| {
        client()
            .get(gateway.url("/health"))
            .header("host", host)
            .send()
            .await
    };
    for (host, status) in [
        ("a.test", 200),
        ("A.TEST:80", 200),
        ("x.b.test", 200),
        ("b.test", 421),
        ("evil.test", 421),
    ] {
        assert_eq!(ask(host).await?.status(), status, "{host}");
    }
    let large = client()
        .get(gateway.url("/health"))
        .header("host", "a.test")
        .header("x", "y".repeat(2000))
        .send()
        .await?;
    assert_eq!(large.status(), 431);
    let from = async |origin: &str| {
        client()
            .get(gateway.url("/health"))
            .header("host", "a.test")
            .header("origin", origin)
            .send()
            .await
    };
    assert_eq!(
        field(
            &from("https://app.test").await?,
            "access-control-allow-origin"
        ),
        "https://app.test"
    );
    assert_eq!(
        field(
            &from("https://evil.test").await?,
            "access-control-allow-origin"
        ),
        ""
    );
    let preflight = client()
        .request(reqwest::Method::OPTIONS, gateway.url("/whoami"))
        .header("host", "a.test")
        .header("origin", "https://app.test")
        .header("access-control-request-method", "PUT")
        .send()
        .await?;
    assert_eq!(preflight.status(), 204);
    assert!(field(&preflight, "access-control-allow-methods").contains("PUT"));
    Ok(())
}
