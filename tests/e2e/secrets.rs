//! Secrets as Kubernetes and editors give them: with the end of a line behind them.

use crate::{client, ok};
use anyhow::Result;
use parking_lot::Mutex;
use serde_json::json;
use std::{process::Command, sync::Arc};
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, scratch};

#[tokio::test]
async fn a_key_with_the_end_of_a_line_is_sent_without_it() -> Result<()> {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let origin = Origin::start(move |head, mut stream| {
        seen.lock().push(head.to_lowercase());
        async move {
            let answer = ok(
                "{}",
                "content-type: application/json\r\nconnection: close\r\n",
            );
            stream.write_all(answer.as_bytes()).await.ok()?;
            None
        }
    })
    .await?;
    let config = format!(
        "[[models]]\nupstreams = [\"http://127.0.0.1:{}\"]\nkey_env = \"SAMPLE_KEY\"\n",
        origin.port()
    );
    for key in ["sk-upstream\n", " sk-upstream\r\n"] {
        let gateway = Gateway::start_with(&config, "", &[("SAMPLE_KEY", key)], None).await?;
        let body = json!({ "model": "m", "messages": [] });
        let url = gateway.url("/v1/chat/completions");
        let answer = client().post(url).json(&body).send().await?;
        assert_eq!(answer.status(), 200);
        let head = heads.lock().pop().unwrap_or_default();
        assert!(
            head.contains("authorization: bearer sk-upstream\r\n"),
            "{key:?}: {head}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn keys_and_the_admin_token_of_files_open_the_ports() -> Result<()> {
    let folder = scratch("secrets");
    let (token, keys) = (folder.join("token"), folder.join("keys"));
    std::fs::write(&token, "t0ken\n")?;
    std::fs::write(&keys, "# who may ask\n\nkey-1:ann:admin\r\n")?;
    let config = format!(
        "[admin]\ntoken_file = {token:?}\n[auth]\nmode = \"api_key\"\napi_keys_file = {keys:?}\n"
    );
    let gateway = Gateway::start(&config).await?;
    let asks = async |url: String, name: &str, value: &str| -> Result<u16> {
        let answer = client().get(url).header(name, value).send().await?;
        Ok(answer.status().as_u16())
    };
    let whoami = gateway.url("/whoami");
    assert_eq!(asks(whoami.clone(), "x-api-key", "key-1").await?, 200);
    assert_eq!(asks(whoami, "x-api-key", "# who may ask").await?, 401);
    let warm = gateway.admin_url("/warm");
    let bearer = asks(warm.clone(), "authorization", "Bearer t0ken").await?;
    assert_eq!(bearer, 200);
    assert_eq!(asks(warm, "authorization", "Bearer other").await?, 401);
    Ok(())
}

#[test]
fn a_secret_that_cannot_be_sent_ends_the_start_and_is_not_shown() -> Result<()> {
    let file = scratch("secrets").join("weaver.toml");
    let models = "[[models]]\nupstreams = [\"http://127.0.0.1:9\"]\nkey_env = \"SAMPLE_KEY\"\n";
    std::fs::write(&file, format!("[auth]\nmode = \"api_key\"\n{models}"))?;
    for (variable, bad, key) in [
        ("SAMPLE_KEY", "s3c\nret", "models[0].key_env"),
        ("SAMPLE_KEY", "s3crét", "models[0].key_env"),
        ("WEAVER_ADMIN__TOKEN", "s3c\u{7f}ret", "admin.token"),
        ("WEAVER_AUTH__API_KEYS", "s3crét:ann", "auth.api_keys"),
    ] {
        let output = Command::new(Gateway::program()?)
            .args(["serve", "--config", &file.display().to_string()])
            .env("SAMPLE_KEY", "sk-1")
            .env("WEAVER_AUTH__API_KEYS", "key-1:ann")
            .env(variable, bad)
            .output()?;
        assert_eq!(output.status.code(), Some(64), "{key}");
        let message = String::from_utf8(output.stderr)?;
        assert!(message.contains("1 fault:"), "{message}");
        assert!(message.contains(&format!("- {key}: ")), "{message}");
        assert!(!message.contains("s3c"), "{message}");
    }
    Ok(())
}
