//! Tokens that ask for too much, and keys that are for something else.

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use weaver_tests::{Gateway, exchange, scratch};

pub(crate) const SECRET: [u8; 32] = [b'a'; 32];
pub(crate) const FUTURE: u64 = 4_000_000_000;

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with any header, signed by HMAC with SHA-256.
pub(crate) fn token(header: &Value, claims: &Value, secret: &[u8]) -> Result<String> {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = sign(message.as_bytes(), &key, Algorithm::HS256)?;
    Ok(format!("{message}.{signature}"))
}

/// Asks who one is.
pub(crate) async fn whoami(gateway: &Gateway, fields: &str) -> Result<u16> {
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

/// Taking away the last key is how one is revoked, as much as putting another in its place.
#[tokio::test]
async fn a_set_without_keys_revokes_and_one_that_is_broken_does_not() -> Result<()> {
    let file = scratch("keys").join("jwks.json");
    let gateway = with_keys(&file, &[oct("one", b'a', &json!({}))], "").await?;
    let header = json!({ "alg": "HS256", "kid": "one" });
    let token = token(&header, &json!({ "sub": "ann", "exp": FUTURE }), &SECRET)?;
    std::fs::write(&file, "{ \"keys\": [")?;
    eventually("the broken set is seen", async || {
        gateway.process().output().contains("the old one stays")
    })
    .await;
    assert_eq!(by_token(&gateway, &token).await?, 200);
    std::fs::write(&file, "{ \"keys\": [] }")?;
    eventually("nobody is let in", async || {
        by_token(&gateway, &token)
            .await
            .is_ok_and(|status| status == 401)
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_list_of_issuers_is_none() -> Result<()> {
    let file = scratch("keys").join("jwks.json");
    let keys = [oct("one", b'a', &json!({}))];
    let gateway = with_keys(&file, &keys, "issuer = \"iss\"").await?;
    let header = json!({ "alg": "HS256", "kid": "one" });
    for (issuer, status) in [(json!("iss"), 200), (json!(["iss", "evil"]), 401)] {
        let claims = json!({ "sub": "ann", "exp": FUTURE, "iss": issuer });
        let token = token(&header, &claims, &SECRET)?;
        assert_eq!(by_token(&gateway, &token).await?, status, "{issuer}");
    }
    Ok(())
}

/// `check` says what `serve` would.
#[tokio::test]
async fn keys_that_cannot_be_read_are_a_fault_of_the_configuration() -> Result<()> {
    for keys in [
        "algorithm = \"RS256\"\nkey = \"no PEM\"",
        "jwks_file = \"/nowhere/jwks.json\"",
        "algorithm = \"ES256\"\nkey_file = \"/nowhere/key.pem\"",
    ] {
        let said = crate::faults(&format!("[auth]\nmode = \"jwt\"\n{keys}\n")).await?;
        assert!(said.contains("1 fault") && said.contains("auth"), "{said}");
    }
    Ok(())
}
