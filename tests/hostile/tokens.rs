//! Credentials: tokens that ask for too much, keys that are for something else, guesses, and requests
//! in which two readers see two users.

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use weaver_tests::{Gateway, Origin, SampleModel, exchange, scratch};

const SECRET: [u8; 32] = [b'a'; 32];
const FUTURE: u64 = 4_000_000_000;

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with any header, signed by HMAC with SHA-256.
fn token(header: &Value, claims: &Value, secret: &[u8]) -> Result<String> {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = sign(message.as_bytes(), &key, Algorithm::HS256)?;
    Ok(format!("{message}.{signature}"))
}

/// Asks who one is.
async fn whoami(gateway: &Gateway, fields: &str) -> Result<u16> {
    let request = format!("GET /whoami HTTP/1.1\r\nhost: h\r\n{fields}connection: close\r\n\r\n");
    Ok(exchange(gateway.port(), &request).await?.status())
}

async fn by_token(gateway: &Gateway, token: &str) -> Result<u16> {
    whoami(gateway, &format!("authorization: Bearer {token}\r\n")).await
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn oct(kid: &str, letter: u8, more: &Value) -> Value {
    let mut key = json!({
        "kty": "oct", "kid": kid, "k": URL_SAFE_NO_PAD.encode([letter; 32]),
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        key[name] = value.clone();
    }
    key
}

/// Starts a gateway that takes tokens by the keys of a file; guesses are not limited.
async fn with_keys(file: &Path, keys: &[Value], more: &str) -> Result<Gateway> {
    std::fs::write(file, json!({ "keys": keys }).to_string())?;
    let config = format!(
        "[auth]\nmode = \"jwt\"\nfailures_per_minute = 0\njwks_file = \"{}\"\n{more}\n",
        file.display()
    );
    Gateway::start(&config).await
}

#[tokio::test]
async fn a_token_that_asks_for_an_extension_is_refused() -> Result<()> {
    let config = format!(
        "[auth]\nmode = \"jwt\"\nfailures_per_minute = 0\nkey = \"{}\"\n",
        String::from_utf8(SECRET.to_vec())?
    );
    let gateway = Gateway::start(&config).await?;
    let claims = json!({ "sub": "ann", "exp": FUTURE });
    for (header, status) in [
        (json!({ "alg": "HS256" }), 200),
        (json!({ "alg": "HS256", "typ": "at+jwt", "x": 1 }), 200),
        (
            json!({ "alg": "HS256", "crit": ["exp"], "exp": FUTURE }),
            401,
        ),
        (
            json!({ "alg": "HS256", "crit": ["http://x"], "http://x": 1 }),
            401,
        ),
        (json!({ "alg": "HS256", "crit": ["absent"] }), 401),
        (json!({ "alg": "HS256", "crit": ["alg"] }), 401),
        (json!({ "alg": "HS256", "crit": [] }), 401),
        (json!({ "alg": "HS256", "crit": null }), 401),
        (json!({ "alg": "HS256", "crit": "exp" }), 401),
        (
            json!({ "alg": "HS256", "crit": ["b64"], "b64": false }),
            401,
        ),
        (json!({ "alg": "HS256", "b64": false }), 401),
    ] {
        let token = token(&header, &claims, &SECRET)?;
        assert_eq!(by_token(&gateway, &token).await?, status, "{header}");
    }
    for claims in [
        json!({ "sub": "", "exp": FUTURE }),
        json!({ "sub": null, "exp": FUTURE }),
        json!({ "sub": ["ann"], "exp": FUTURE }),
        json!({ "sub": "ann", "exp": "never" }),
        json!({ "sub": "ann", "exp": null }),
        json!({ "sub": "ann", "exp": -1 }),
    ] {
        let token = token(&json!({ "alg": "HS256" }), &claims, &SECRET)?;
        assert_eq!(by_token(&gateway, &token).await?, 401, "{claims}");
    }
    let long = json!({ "sub": "ann", "exp": FUTURE, "pad": "x".repeat(8 << 10) });
    let long = token(&json!({ "alg": "HS256" }), &long, &SECRET)?;
    assert_eq!(by_token(&gateway, &long).await?, 401);
    Ok(())
}

#[tokio::test]
async fn a_key_verifies_only_what_it_is_for() -> Result<()> {
    let file = scratch("keys").join("jwks.json");
    let keys = [
        oct("sig", b'a', &json!({ "use": "sig", "alg": "HS256" })),
        oct("ops", b'b', &json!({ "key_ops": ["verify"] })),
        oct("enc", b'c', &json!({ "use": "enc" })),
        oct("other", b'd', &json!({ "use": "wrap" })),
        oct(
            "encrypts",
            b'e',
            &json!({ "key_ops": ["encrypt", "wrapKey"] }),
        ),
        oct("nothing", b'f', &json!({ "key_ops": [] })),
        oct("long", b'g', &json!({ "alg": "HS512" })),
        oct("wraps", b'h', &json!({ "alg": "A256KW" })),
        json!({ "kty": "oct", "kid": "empty", "k": "" }),
    ];
    let gateway = with_keys(&file, &keys, "").await?;
    let claims = json!({ "sub": "ann", "exp": FUTURE });
    for (kid, letter, status) in [
        ("sig", b'a', 200),
        ("ops", b'b', 200),
        ("enc", b'c', 401),
        ("other", b'd', 401),
        ("encrypts", b'e', 401),
        ("nothing", b'f', 401),
        ("long", b'g', 401),
        ("wraps", b'h', 401),
    ] {
        let header = json!({ "alg": "HS256", "kid": kid });
        let token = token(&header, &claims, &[letter; 32])?;
        assert_eq!(by_token(&gateway, &token).await?, status, "{kid}");
    }
    let header = json!({ "alg": "HS256", "kid": "empty" });
    let empty = token(&header, &claims, b"")?;
    assert_eq!(by_token(&gateway, &empty).await?, 401);
    // Of several keys none is meant by a token that names none.
    let unnamed = token(&json!({ "alg": "HS256" }), &claims, &SECRET)?;
    assert_eq!(by_token(&gateway, &unnamed).await?, 401);
    Ok(())
}

#[tokio::test]
async fn keys_of_the_same_name_are_each_tried() -> Result<()> {
    let file = scratch("keys").join("jwks.json");
    let keys = [
        oct("k", b'e', &json!({ "use": "enc" })),
        oct("k", b'a', &json!({})),
        oct("k", b'b', &json!({})),
    ];
    let gateway = with_keys(&file, &keys, "").await?;
    let claims = json!({ "sub": "ann", "exp": FUTURE });
    let header = json!({ "alg": "HS256", "kid": "k" });
    for (letter, status) in [(b'a', 200), (b'b', 200), (b'e', 401), (b'x', 401)] {
        let token = token(&header, &claims, &[letter; 32])?;
        assert_eq!(by_token(&gateway, &token).await?, status, "{letter}");
    }
    Ok(())
}

#[tokio::test]
async fn a_public_key_does_not_sign_and_no_signature_is_none() -> Result<()> {
    let file = scratch("keys").join("jwks.json");
    let modulus = [0xff_u8; 256];
    let n = URL_SAFE_NO_PAD.encode(modulus);
    let key = json!({ "kty": "RSA", "kid": "r", "n": n, "e": "AQAB" });
    let gateway = with_keys(&file, std::slice::from_ref(&key), "algorithm = \"RS256\"").await?;
    let claims = json!({ "sub": "ann", "exp": FUTURE });
    let secrets = [
        modulus.to_vec(),
        n.into_bytes(),
        key.to_string().into_bytes(),
    ];
    for secret in &secrets {
        for alg in ["HS256", "RS256"] {
            let header = json!({ "alg": alg, "kid": "r" });
            let token = token(&header, &claims, secret)?;
            assert_eq!(by_token(&gateway, &token).await?, 401, "{alg}");
        }
    }
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256", "RS256"] {
        let header = json!({ "alg": alg, "kid": "r" });
        let unsigned = format!("{}.{}.", encoded(&header), encoded(&claims));
        let bare = unsigned.trim_end_matches('.').to_owned();
        for token in [unsigned.as_str(), &bare, &format!("{unsigned}AA")] {
            assert_eq!(by_token(&gateway, token).await?, 401, "{alg} {token}");
        }
    }
    let pem = "-----BEGIN PUBLIC KEY-----\\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\\n";
    let config = format!("[auth]\nmode = \"jwt\"\nalgorithm = \"HS256\"\nkey = \"{pem}\"\n");
    let faults = crate::faults(&config).await?;
    assert!(faults.contains("auth.key: is a key in PEM"), "{faults}");
    // The key that comes with a token is the sender's.
    let header = json!({ "alg": "HS256", "jwk": oct("r", b'a', &json!({})) });
    let token = token(&header, &claims, &SECRET)?;
    assert_eq!(by_token(&gateway, &token).await?, 401);
    Ok(())
}

/// Public keys, as JWK and in PEM, and a token of Ann's by each.
const SIGNED: &str = include_str!("signed.json");

#[tokio::test]
async fn keys_of_each_algorithm_verify_their_own_tokens_and_no_others() -> Result<()> {
    let signed: Value = serde_json::from_str(SIGNED)?;
    let algorithms = signed.as_object().into_iter().flatten();
    for (algorithm, of) in algorithms.clone() {
        let directory = scratch("keys");
        let more = format!("algorithm = \"{algorithm}\"");
        let by_set = with_keys(
            &directory.join("jwks.json"),
            std::slice::from_ref(&of["jwk"]),
            &more,
        )
        .await?;
        let file = directory.join("key.pem");
        std::fs::write(&file, of["pem"].as_str().unwrap_or_default())?;
        let config = format!(
            "[auth]\nmode = \"jwt\"\nfailures_per_minute = 0\nkey_file = \"{}\"\n{more}\n",
            file.display()
        );
        let by_pem = Gateway::start(&config).await?;
        let right = of["token"].as_str().unwrap_or_default();
        let (message, signature) = right.rsplit_once('.').unwrap_or_default();
        let (header, _) = message.split_once('.').unwrap_or_default();
        let bob = encoded(&json!({ "sub": "bob", "exp": FUTURE }));
        let (first, rest) = signature.split_at(1);
        let first = if first == "A" { "B" } else { "A" };
        for gateway in [&by_set, &by_pem] {
            assert_eq!(by_token(gateway, right).await?, 200, "{algorithm}");
            for wrong in [
                format!("{header}.{bob}.{signature}"),
                format!("{message}.{first}{rest}"),
                format!("{message}.{}", &signature[..signature.len() - 4]),
                format!("{message}.{signature}AAAA"),
                format!("{message}."),
            ] {
                assert_eq!(by_token(gateway, &wrong).await?, 401, "{algorithm} {wrong}");
            }
            for (other, of) in algorithms.clone().filter(|(other, _)| *other != algorithm) {
                let token = of["token"].as_str().unwrap_or_default();
                assert_eq!(by_token(gateway, token).await?, 401, "{algorithm} {other}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_verified_token_is_forgotten_with_its_key_and_with_its_time() -> Result<()> {
    let file = scratch("keys").join("jwks.json");
    let gateway = with_keys(&file, &[oct("one", b'a', &json!({}))], "leeway = 0").await?;
    let header = json!({ "alg": "HS256", "kid": "one" });
    let long = token(&header, &json!({ "sub": "ann", "exp": FUTURE }), &SECRET)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let short = token(&header, &json!({ "sub": "ann", "exp": now + 3 }), &SECRET)?;
    for token in [&long, &long, &short, &short] {
        assert_eq!(by_token(&gateway, token).await?, 200);
    }
    eventually("the token expires", async || {
        by_token(&gateway, &short)
            .await
            .is_ok_and(|status| status == 401)
    })
    .await;
    assert_eq!(by_token(&gateway, &long).await?, 200);
    // The key is revoked: another is in its place.
    let keys = json!({ "keys": [oct("two", b'b', &json!({}))] });
    std::fs::write(&file, keys.to_string())?;
    eventually("the token of the revoked key is refused", async || {
        by_token(&gateway, &long)
            .await
            .is_ok_and(|status| status == 401)
    })
    .await;
    Ok(())
}

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
