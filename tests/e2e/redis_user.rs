//! A user of Redis that may do no more than the documentation lists.

use crate::{client, eventually, field, ok, purge};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::time::Duration;
use weaver_tests::{Gateway, Origin, Redis, RedisCluster, SampleModel};

/// The rules of `ACL SETUSER` as docs/configuration.md has them.
fn rules() -> Result<Vec<String>> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let docs = std::fs::read_to_string(docs)?;
    let (_, after) = docs
        .split_once("ACL SETUSER weaver ")
        .context("no ACL SETUSER in the documentation")?;
    let (rules, _) = after.split_once("```").context("it does not end")?;
    let rules = rules.replace("\\\n", " ");
    Ok(rules.split_whitespace().map(str::to_owned).collect())
}

/// What was denied beside INFO, which the client goes on without.
fn denied(redis: &Redis) -> Result<Vec<String>> {
    let log = redis.cli(&["--raw", "ACL", "LOG"])?;
    let lines: Vec<&str> = log.lines().collect();
    let objects = lines.windows(2).filter(|pair| pair[0] == "object");
    let denied = objects.map(|pair| pair[1].to_owned());
    Ok(denied.filter(|object| object != "info").collect())
}

fn admit(redis: &[&Redis]) -> Result<()> {
    let rules = rules()?;
    let mut command = vec!["ACL", "SETUSER", "weaver"];
    command.extend(rules.iter().map(String::as_str));
    for redis in redis {
        assert_eq!(redis.cli(&command)?.trim(), "OK");
    }
    Ok(())
}

/// A cache, answers of models, budgets and agents: everything that speaks to Redis.
fn config(redis: &str, origin: &Origin, model: &SampleModel) -> String {
    let redis = redis.replace(
        "[redis]\n",
        "[redis]\nusername = \"weaver\"\npassword = \"secret\"\n",
    );
    format!(
        "{redis}[cache]\nredis_part = \"4KiB\"\nidentity_secret = \"0123456789abcdef\"\n\
         [warm]\nhottest = 10\n[model_limits]\ntokens_per_minute = 100000\n{}{}",
        origin.route(""),
        model.route("")
    )
}

async fn get(node: &Gateway, path: &str, cookie: Option<&str>) -> Result<String> {
    let mut asked = client().get(node.url(path)).header("host", "h");
    if let Some(cookie) = cookie {
        asked = asked.header("cookie", cookie);
    }
    let answer = asked.send().await?;
    let status = field(&answer, "cache-status").to_owned();
    answer.bytes().await?;
    Ok(status)
}

async fn post(url: String, body: &Value) -> Result<String> {
    let answer = client().post(url).json(body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    anyhow::ensure!(status.is_success(), "{status}: {text}");
    Ok(text)
}

async fn use_all(one: &Gateway, two: &Gateway) -> Result<()> {
    for path in ["/a", "/large"] {
        get(one, path, None).await?;
        get(one, path, None).await?;
        eventually("the other node has it from redis", async || {
            get(two, path, None)
                .await
                .is_ok_and(|status| status.contains("hit"))
        })
        .await;
    }
    // A lease of those with credentials.
    get(one, "/b", Some("a=b")).await?;
    post(two.url("/a"), &json!({})).await?;
    purge(two, "?wait=applied", &json!({ "tags": ["t"] })).await?;
    let agent = json!({
        "agent_id": "a", "agent_type": "t", "capabilities": ["c"],
        "metadata": { "url": "http://127.0.0.1:9" },
    });
    post(one.admin_url("/agents"), &agent).await?;
    post(two.admin_url("/agents/a/heartbeat"), &json!({})).await?;
    let agents = client()
        .get(two.admin_url("/agents?capability=c"))
        .send()
        .await?;
    assert!(agents.text().await?.contains("\"a\""));
    let asked = json!({
        "model": "sample-model", "temperature": 0,
        "messages": [{ "role": "user", "content": "x" }],
    });
    for node in [one, two] {
        post(node.url("/v1/chat/completions"), &asked).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_user_with_no_more_than_the_documented_rights_is_enough() -> Result<()> {
    let redis = Redis::start().await?;
    admit(&[&redis])?;
    let body = "x".repeat(20_000);
    let origin = Origin::constant(ok(&body, "cache-control: max-age=60\r\n")).await?;
    let model = SampleModel::start(Duration::from_millis(1)).await?;
    let config = config(&redis.section(), &origin, &model);
    let (mut one, two) = (
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    );
    for node in [&one, &two] {
        node.ready_for_redis().await?;
    }
    use_all(&one, &two).await?;
    // It takes its leave in Redis too.
    one.process().signal("TERM")?;
    one.process_mut().wait(Duration::from_secs(20)).await?;
    assert_eq!(denied(&redis)?, Vec::<String>::new());
    for key in redis.cli(&["--raw", "KEYS", "*"])?.lines() {
        let prefixes = ["http_cache:", "weaver:", "weaver:agents:"];
        assert!(
            prefixes.iter().any(|prefix| key.starts_with(prefix)),
            "{key}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn so_it_is_in_a_cluster() -> Result<()> {
    let mut cluster = RedisCluster::start().await?;
    admit(&cluster.nodes().iter().collect::<Vec<_>>())?;
    let body = "x".repeat(20_000);
    let origin = Origin::constant(ok(&body, "cache-control: max-age=60\r\n")).await?;
    let model = SampleModel::start(Duration::from_millis(1)).await?;
    let config = config(&cluster.section(), &origin, &model);
    let (one, two) = (
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    );
    for node in [&one, &two] {
        node.ready_for_redis().await?;
    }
    use_all(&one, &two).await?;
    for node in cluster.nodes() {
        assert_eq!(denied(node)?, Vec::<String>::new());
    }
    Ok(())
}
