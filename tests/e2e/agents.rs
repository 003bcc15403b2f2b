//! Agents register, are found, get requests, and are gone, without a restart of anything.

use crate::{client, eventually, ok};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, Redis, SampleModel};

async fn admin(
    gateway: &Gateway,
    method: reqwest::Method,
    path: &str,
    body: Option<Value>,
) -> Result<(u16, Value)> {
    let mut request = client().request(method, gateway.admin_url(path));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    let value = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).with_context(|| text.clone())?
    };
    Ok((status, value))
}

async fn register(gateway: &Gateway, id: &str, capability: &str, port: u16) -> Result<()> {
    let agent = json!({
        "agent_id": id, "agent_type": "worker", "capabilities": [capability],
        "metadata": { "url": format!("http://127.0.0.1:{port}") },
    });
    let (status, answer) = admin(gateway, reqwest::Method::POST, "/agents", Some(agent)).await?;
    anyhow::ensure!(status == 201, "{status} {answer}");
    Ok(())
}

/// An agent that says its name.
async fn agent(name: &'static str) -> Result<Origin> {
    Origin::start(move |_, mut stream| async move {
        let answer = ok(name, "cache-control: no-store\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

async fn ask(gateway: &Gateway) -> Result<(u16, String)> {
    let answer = client().get(gateway.url("/work/x")).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// Who answers, over some requests; a status where nobody does.
async fn workers(gateway: &Gateway) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        let (status, body) = ask(gateway).await?;
        seen.insert(if status == 200 {
            body
        } else {
            status.to_string()
        });
    }
    Ok(seen)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const ROUTE: &str =
    "[[routes]]\npath = \"/work\"\nagent = \"dig:holes\"\neject_after = 1\nretries = 2\n";

#[tokio::test]
async fn requests_go_to_whoever_is_capable_and_online() -> Result<()> {
    let redis = Redis::start().await?;
    for shared in [false, true] {
        let redis = if shared {
            redis.section()
        } else {
            String::new()
        };
        let config = format!("{redis}[agents]\nheartbeat_ttl = \"600ms\"\n{ROUTE}");
        let gateway = Gateway::start(&config).await?;
        if shared {
            gateway.ready_for_redis().await?;
        }
        let (one, two) = (agent("one").await?, agent("two").await?);
        assert_eq!(ask(&gateway).await?.0, 503, "nobody is there");
        register(&gateway, "a/1", "dig:holes", one.port()).await?;
        register(&gateway, "b", "other", two.port()).await?;
        let by =
            async |names: &[&str]| workers(&gateway).await.is_ok_and(|seen| seen == set(names));
        let beating = {
            let (client, url) = (client(), gateway.admin_url("/agents/a%2F1/heartbeat"));
            tokio::spawn(async move {
                loop {
                    let _ = client.post(&url).send().await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        };
        eventually("the first works", async || by(&["one"]).await).await;
        // It comes, and is gone by itself: nobody beats for it.
        register(&gateway, "c", "dig:holes", two.port()).await?;
        eventually("both work", async || by(&["one", "two"]).await).await;
        eventually("the silent one is left out", async || by(&["one"]).await).await;
        beating.abort();
        let (status, _) = admin(&gateway, reqwest::Method::DELETE, "/agents/a%2F1", None).await?;
        assert_eq!(status, 204);
        eventually("nobody works", async || by(&["503"]).await).await;
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_fails_is_passed_over_and_one_that_drains_gets_nothing() -> Result<()> {
    let gateway = Gateway::start(ROUTE).await?;
    let (one, two) = (agent("one").await?, agent("two").await?);
    register(&gateway, "dead", "dig:holes", weaver_tests::free_port()).await?;
    register(&gateway, "one", "dig:holes", one.port()).await?;
    register(&gateway, "two", "dig:holes", two.port()).await?;
    let by = async |names: &[&str]| workers(&gateway).await.is_ok_and(|seen| seen == set(names));
    eventually("both work, and nobody sees the dead one", async || {
        by(&["one", "two"]).await
    })
    .await;
    for (status, names) in [
        ("draining", &["two"][..]),
        ("busy", &["two"]),
        ("online", &["one", "two"]),
    ] {
        let said = Some(json!({ "status": status }));
        let path = "/agents/one/heartbeat";
        assert_eq!(
            admin(&gateway, reqwest::Method::POST, path, said).await?.0,
            204
        );
        eventually(status, async || by(names).await).await;
    }
    Ok(())
}

#[tokio::test]
async fn models_may_be_agents_too() -> Result<()> {
    let model = SampleModel::start(Duration::from_millis(20)).await?;
    let config = "[ask]\nmodel = \"sample-model\"\n[[models]]\nagent = \"answer\"\n";
    let gateway = Gateway::start(config).await?;
    let asked = json!({ "query": "what is it" });
    let ask = async || {
        let answer = client().post(gateway.url("/ask")).json(&asked).send().await;
        answer.expect("an answer").status().as_u16()
    };
    assert_eq!(ask().await, 503);
    register(&gateway, "m", "answer", model.port()).await?;
    eventually("the agent answers", async || ask().await == 200).await;
    Ok(())
}

#[tokio::test]
async fn operators_list_find_and_follow_agents() -> Result<()> {
    let gateway = Gateway::start("[admin]\ntoken = \"t0k3n\"\n").await?;
    let token = "Bearer t0k3n";
    let request = |method: reqwest::Method, path: &str| {
        client()
            .request(method, gateway.admin_url(path))
            .header("authorization", token)
    };
    let open = client().get(gateway.admin_url("/agents")).send().await?;
    assert_eq!(open.status(), 401);
    let mut events = request(reqwest::Method::GET, "/agent-events")
        .header("last-event-id", "0-0/0")
        .send()
        .await?;
    for number in 0..3 {
        let agent = json!({
            "agent_id": format!("agent-{number}"), "agent_type": "worker",
            "capabilities": ["all:of", format!("only-{number}")],
        });
        let answer = request(reqwest::Method::POST, "/agents")
            .json(&agent)
            .send()
            .await?;
        assert_eq!(answer.status(), 201);
    }
    let get = async |path: &str| -> Result<Value> {
        let answer = request(reqwest::Method::GET, path).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    };
    let ids = |page: &Value| -> Vec<String> {
        let agents = page["agents"].as_array().into_iter().flatten();
        agents
            .filter_map(|agent| Some(agent["agent_id"].as_str()?.to_owned()))
            .collect()
    };
    let page = get("/agents?limit=2").await?;
    assert_eq!(ids(&page), ["agent-0", "agent-1"]);
    assert_eq!(page["next"], "agent-1");
    assert_eq!(
        ids(&get("/agents?limit=2&after=agent-1").await?),
        ["agent-2"]
    );
    let found = get("/agents?capability=all:of&capability=only-1&all=true&online=true").await?;
    assert_eq!(ids(&found), ["agent-1"]);
    assert_eq!(
        found["agents"][0]["capabilities"],
        json!(["all_of", "only-1"])
    );
    assert_eq!(get("/agent-stats").await?["by_capability"]["all_of"], 3);
    assert_eq!(get("/agents/agent-0").await?["status"], "online");
    for (method, path, body, status) in [
        (reqwest::Method::GET, "/agents/nobody", None, 404),
        (reqwest::Method::DELETE, "/agents/nobody", None, 404),
        (reqwest::Method::POST, "/agents/nobody/heartbeat", None, 404),
        (reqwest::Method::GET, "/agents?limit=0", None, 400),
        (reqwest::Method::GET, "/agents?what=1", None, 400),
        (reqwest::Method::GET, "/agents?online=maybe", None, 400),
        (
            reqwest::Method::POST,
            "/agents",
            Some(json!({ "agent_id": "" })),
            400,
        ),
        (
            reqwest::Method::POST,
            "/agents",
            Some(json!({ "agent_id": "x".repeat(256), "agent_type": "t" })),
            400,
        ),
        (
            reqwest::Method::POST,
            "/agents/agent-0/heartbeat",
            Some(json!({ "status": "offline" })),
            400,
        ),
    ] {
        let mut asked = request(method, path);
        if let Some(body) = body {
            asked = asked.json(&body);
        }
        assert_eq!(asked.send().await?.status().as_u16(), status, "{path}");
    }
    let mut others = Vec::new();
    for expected in [200, 200, 200, 200, 200, 200, 200, 503] {
        let another = request(reqwest::Method::GET, "/agent-events")
            .send()
            .await?;
        assert_eq!(another.status(), expected);
        others.push(another);
    }
    let mut told = String::new();
    while told.matches("event: agent:registered").count() < 3 {
        let piece = events.chunk().await?.context("the end")?;
        told.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(
        told.contains("id: 3-0/3\nevent: agent:registered\ndata: {\"agent_id\":\"agent-2\""),
        "{told}"
    );
    Ok(())
}
