//! Calls of models through the gateway: recorded, replayed, shared, limited, and never another's.

use crate::{client, eventually, field, ok};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};
use weaver_tests::{Gateway, Origin, Redis, SampleModel};

const BRISK: Duration = Duration::from_millis(60);

fn chat(text: &str) -> Value {
    json!({
        "model": "sample-model", "temperature": 0,
        "messages": [{ "role": "user", "content": text }],
    })
}

fn streamed(text: &str) -> Value {
    let mut call = chat(text);
    call["stream"] = json!(true);
    call
}

struct Answer {
    status: u16,
    cache: String,
    body: String,
    age: String,
}

async fn call(
    gateway: &Gateway,
    path: &str,
    body: &Value,
    fields: &[(&str, &str)],
) -> Result<Answer> {
    let mut request = client().post(gateway.url(path)).json(body);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    Ok(Answer {
        status: answer.status().as_u16(),
        cache: field(&answer, "cache-status").to_owned(),
        age: field(&answer, "age").to_owned(),
        body: answer.text().await?,
    })
}

async fn chats(gateway: &Gateway, body: &Value, fields: &[(&str, &str)]) -> Result<Answer> {
    call(gateway, "/v1/chat/completions", body, fields).await
}

#[tokio::test]
async fn an_answer_is_recorded_and_replayed_whole_and_streamed() -> Result<()> {
    let redis = Redis::start().await?;
    let model = SampleModel::start(BRISK).await?;
    for tier in [String::new(), redis.section()] {
        let before = model.calls().await?;
        let gateway = Gateway::start(&format!("{tier}{}", model.route(""))).await?;
        if !tier.is_empty() {
            gateway.ready_for_redis().await?;
        }
        for body in [chat("what is a loom"), streamed("what is a loom")] {
            let first = chats(&gateway, &body, &[]).await?;
            assert_eq!(
                first.cache,
                "weaver; fwd=miss; ttl=3600; stored; detail=static"
            );
            let again = chats(&gateway, &body, &[]).await?;
            assert!(
                again.cache.starts_with("weaver; hit; ttl=3"),
                "{}",
                again.cache
            );
            assert!(again.cache.ends_with("; detail=static"));
            assert_eq!((again.status, &again.body), (200, &first.body));
            assert!(!again.age.is_empty());
            assert!(first.body.contains("You asked") || first.body.ends_with("data: [DONE]\n\n"));
        }
        assert_eq!(model.calls().await?, before + 2);
        let report: Value = client()
            .get(gateway.url("/metrics"))
            .send()
            .await?
            .json()
            .await?;
        assert_eq!(report["model_cache"]["hits"], 2, "{report}");
    }
    // Two nodes share what is recorded in Redis.
    let node = Gateway::start(&format!("{}{}", redis.section(), model.route(""))).await?;
    node.ready_for_redis().await?;
    assert!(
        chats(&node, &chat("what is a loom"), &[])
            .await?
            .cache
            .contains("hit")
    );
    // An operator clears it, for both nodes.
    let url = node.admin_url("/model-cache");
    let stats: Value = client().get(&url).send().await?.json().await?;
    assert_eq!(stats["hits"], 1, "{stats}");
    assert_eq!(client().delete(&url).send().await?.status(), 204);
    let answer = chats(&node, &chat("what is a loom"), &[]).await?;
    assert!(answer.cache.contains("fwd=miss"), "{}", answer.cache);
    // What lies there is nothing that anybody could read a question from.
    assert!(!redis.cli(&["--raw", "KEYS", "*"])?.contains("loom"));
    Ok(())
}

/// Events that were held back until the end would come in one piece or two.
#[tokio::test]
async fn a_stream_is_passed_on_as_it_comes() -> Result<()> {
    let model = SampleModel::start(Duration::from_secs(2)).await?;
    let gateway = Gateway::start(&model.route("")).await?;
    for temperature in [json!(0), json!(1)] {
        let mut body = streamed("count to ten");
        body["temperature"] = temperature;
        let request = client()
            .post(gateway.url("/v1/chat/completions"))
            .json(&body);
        let mut answer = request.send().await?;
        let mut pieces = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            pieces.push(piece);
        }
        assert!(pieces.len() >= 5, "{} pieces", pieces.len());
        assert!(pieces[0].starts_with(b"data: {"));
        assert!(pieces.concat().ends_with(b"data: [DONE]\n\n"));
    }
    Ok(())
}

#[tokio::test]
async fn what_breaks_off_is_never_recorded_and_has_no_clean_end() -> Result<()> {
    let model = SampleModel::start(BRISK).await?;
    let gateway = Gateway::start(&model.route("")).await?;
    for mut body in [chat("x"), streamed("x")] {
        body["model"] = json!("sample-broken");
        for round in 0..2 {
            let request = client()
                .post(gateway.url("/v1/chat/completions"))
                .json(&body);
            // Where head and break come together the head may be lost too.
            let Ok(answer) = request.send().await else {
                continue;
            };
            assert!(
                field(&answer, "cache-status").contains("fwd=miss"),
                "{round}"
            );
            assert!(answer.text().await.is_err(), "it ended cleanly");
        }
    }
    assert_eq!(model.calls().await?, 4);
    // A clean end without the last event is none.
    let event = "data: {\"choices\":[]}\n\n";
    let origin = Origin::constant(ok(event, "content-type: text/event-stream\r\n")).await?;
    let models = format!(
        "[[models]]\nupstreams = [\"http://127.0.0.1:{}\"]\n",
        origin.port()
    );
    let gateway = Gateway::start(&models).await?;
    for _ in 0..2 {
        let answer = chats(&gateway, &streamed("x"), &[]).await?;
        assert!(answer.cache.contains("fwd=miss"));
    }
    assert_eq!(origin.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn errors_are_passed_on_and_not_recorded() -> Result<()> {
    let model = SampleModel::start(BRISK).await?;
    let gateway = Gateway::start(&model.route("")).await?;
    let mut body = chat("x");
    body["model"] = json!("sample-error");
    for _ in 0..2 {
        let answer = chats(&gateway, &body, &[]).await?;
        assert_eq!(
            (answer.status, answer.cache.contains("stored")),
            (500, false)
        );
        assert!(answer.body.contains("no answer"));
    }
    assert_eq!(model.calls().await?, 2);
    for (bad, status) in [
        (json!({ "model": "unheard-of", "messages": [] }), 404),
        (json!({ "messages": [] }), 400),
        (json!({ "model": "sample-model" }), 400),
        (json!([]), 400),
    ] {
        let answer = chats(&gateway, &bad, &[]).await?;
        assert_eq!(answer.status, status, "{bad}");
        let error: Value = serde_json::from_str(&answer.body)?;
        assert!(error["error"]["message"].is_string(), "{error}");
    }
    let get = client().get(gateway.url("/v1/embeddings")).send().await?;
    assert_eq!((get.status().as_u16(), field(&get, "allow")), (405, "POST"));
    // Nobody listens.
    let gone = Gateway::start(&format!(
        "[[models]]\nupstreams = [\"http://127.0.0.1:{}\"]\n",
        weaver_tests::free_port()
    ))
    .await?;
    let answer = chats(&gone, &chat("x"), &[]).await?;
    assert_eq!(answer.status, 502, "{}", answer.body);
    Ok(())
}

#[tokio::test]
async fn only_what_may_be_is_recorded_and_wishes_are_obeyed() -> Result<()> {
    let model = SampleModel::start(BRISK).await?;
    let gateway = Gateway::start(&model.route("")).await?;
    let with = |name: &str, value: Value| {
        let mut body = chat("define it");
        body[name] = value;
        body
    };
    for (body, detail) in [
        (with("temperature", json!(0.5)), "not-deterministic"),
        (with("tools", json!([{ "type": "function" }])), "tools"),
    ] {
        for _ in 0..2 {
            let answer = chats(&gateway, &body, &[]).await?;
            assert_eq!(answer.cache, format!("weaver; fwd=bypass; detail={detail}"));
        }
    }
    let only = [("cache-control", "only-if-cached")];
    let answer = chats(&gateway, &chat("define it"), &only).await?;
    assert_eq!(answer.status, 504);
    let no_store = [("cache-control", "no-store")];
    let answer = chats(&gateway, &chat("define it"), &no_store).await?;
    assert_eq!(answer.cache, "weaver; fwd=bypass; detail=no-store");
    let said = async |fields: &[(&str, &str)]| -> Result<String> {
        Ok(chats(&gateway, &chat("define it"), fields).await?.cache)
    };
    assert!(said(&[]).await?.contains("fwd=miss"), "no-store was stored");
    assert!(
        said(&[("cache-control", "no-cache")])
            .await?
            .contains("fwd=miss")
    );
    assert!(
        said(&[("cache-control", "max-age=60")])
            .await?
            .contains("; hit")
    );
    assert!(said(&only).await?.contains("; hit"));
    assert!(
        said(&[("cache-control", "max-age=0")])
            .await?
            .contains("fwd=miss")
    );
    assert!(said(&[]).await?.contains("; hit"));
    // Everything, if told so.
    let all = format!("[model_cache]\nkeep = \"all\"\n{}", model.route(""));
    let gateway = Gateway::start(&all).await?;
    let body = with("temperature", json!(0.5));
    chats(&gateway, &body, &[]).await?;
    assert!(chats(&gateway, &body, &[]).await?.cache.contains("; hit"));
    Ok(())
}

#[tokio::test]
async fn many_who_ask_at_once_cost_one_call_and_a_client_that_leaves_none() -> Result<()> {
    let model = SampleModel::start(Duration::from_millis(600)).await?;
    let gateway = Gateway::start(&model.route("")).await?;
    let asking = (0..20).map(|_| {
        let (url, body) = (gateway.url("/v1/chat/completions"), streamed("what is one"));
        async move {
            let answer = client().post(url).json(&body).send().await?;
            let status = field(&answer, "cache-status").to_owned();
            anyhow::Ok((status, answer.text().await?))
        }
    });
    let answers = futures_util::future::try_join_all(asking).await?;
    assert!(answers.iter().all(|(_, body)| *body == answers[0].1));
    let collapsed = answers
        .iter()
        .filter(|(status, _)| status.contains("collapsed"));
    assert!(collapsed.count() > 0, "{answers:?}");
    assert_eq!(model.calls().await?, 1);
    // The first client leaves: what it asked for is recorded all the same.
    let url = gateway.url("/v1/chat/completions");
    let leaving = tokio::spawn(async move {
        client()
            .post(url)
            .json(&streamed("what is two"))
            .send()
            .await
    });
    let called = async || model.calls().await.is_ok_and(|calls| calls == 2);
    eventually("the model is asked", called).await;
    leaving.abort();
    eventually("it is recorded", async || {
        let only = [("cache-control", "only-if-cached")];
        let answer = chats(&gateway, &streamed("what is two"), &only).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(model.calls().await?, 2);
    Ok(())
}

#[tokio::test]
async fn nobody_gets_anothers_answer_and_the_upstream_gets_its_own_key() -> Result<()> {
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heads = std::sync::Arc::clone(&seen);
    let origin = Origin::start(move |head, mut stream| {
        let heads = std::sync::Arc::clone(&heads);
        async move {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            let number = {
                let mut heads = heads.lock();
                heads.push(head.to_lowercase());
                heads.len()
            };
            let choice = json!({ "message": {}, "finish_reason": "stop" });
            let answer = ok(
                &json!({ "choices": [choice], "number": number }).to_string(),
                "content-type: application/json\r\nset-cookie: s=1\r\n",
            );
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let models = format!(
        "[[models]]\nupstreams = [\"http://127.0.0.1:{}\"]\nkey_env = \"SAMPLE_KEY\"\n",
        origin.port()
    );
    let auth = "[auth]\nmode = \"api_key\"\napi_keys = [\"key-ann-1:ann\", \"key-ben-1:ben\"]\n";
    let key = [("SAMPLE_KEY", "sk-upstream")];
    let gateway = Gateway::start_with(&format!("{auth}{models}"), "", &key, None).await?;
    let ask = async |gateway: &Gateway, fields: &[(&str, &str)]| -> Result<(u64, String)> {
        let answer = chats(gateway, &chat("what"), fields).await?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let body: Value = serde_json::from_str(&answer.body)?;
        Ok((body["number"].as_u64().context("a number")?, answer.cache))
    };
    let ann = ask(&gateway, &[("x-api-key", "key-ann-1")]).await?;
    // As the official clients send it.
    let again = ask(&gateway, &[("authorization", "Bearer key-ann-1")]).await?;
    assert_eq!(again.0, ann.0);
    let ben = ask(&gateway, &[("x-api-key", "key-ben-1")]).await?;
    assert_ne!(ben.0, ann.0);
    assert_eq!(chats(&gateway, &chat("what"), &[]).await?.status, 401);
    for head in seen.lock().iter() {
        assert!(head.contains("authorization: bearer sk-upstream"), "{head}");
        assert!(
            !head.contains("key-ann") && !head.contains("key-ben"),
            "{head}"
        );
    }
    // Without authentication here the credentials are the upstream's, and tell users apart.
    let models = models.replace("key_env = \"SAMPLE_KEY\"\n", "");
    let open = Gateway::start(&models).await?;
    let one = ask(&open, &[("authorization", "Bearer one")]).await?;
    assert_eq!(
        ask(&open, &[("authorization", "Bearer one")]).await?.0,
        one.0
    );
    assert_ne!(
        ask(&open, &[("authorization", "Bearer two")]).await?.0,
        one.0
    );
    assert_ne!(ask(&open, &[]).await?.0, one.0);
    assert!(
        seen.lock()
            .iter()
            .any(|head| head.contains("authorization: bearer two"))
    );
    let unset = Gateway::start(&format!("{models}key_env = \"NOT_SET_ANYWHERE\"\n")).await;
    let message = unset.err().context("it started")?.to_string();
    assert!(
        message.contains("models[0].key_env: names NOT_SET_ANYWHERE"),
        "{message}"
    );
    Ok(())
}

#[tokio::test]
async fn tokens_and_money_are_limited_for_each_identity_and_hits_are_free() -> Result<()> {
    let model = SampleModel::start(BRISK).await?;
    let config = format!(
        "[auth]\nmode = \"api_key\"\napi_keys = [\"key-ann-1:ann\", \"key-ben-1:ben\"]\n\
         [model_limits]\ntokens_per_minute = 30\n{}",
        model.route("")
    );
    let gateway = Gateway::start(&config).await?;
    let ann = [("x-api-key", "key-ann-1")];
    let long = "word ".repeat(20);
    assert_eq!(chats(&gateway, &chat(&long), &ann).await?.status, 200);
    let refused = chats(&gateway, &chat("one more"), &ann).await?;
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.body.contains("rate_limit_exceeded"));
    assert!(
        chats(&gateway, &chat(&long), &ann)
            .await?
            .cache
            .contains("hit")
    );
    let ben = [("x-api-key", "key-ben-1")];
    assert_eq!(chats(&gateway, &chat("one more"), &ben).await?.status, 200);

    let config = format!(
        "[model_limits]\ncost_per_hour = 0.00001\n[model_cache.prices]\n\
         \"sample-*\" = {{ input = 1.0, output = 2.0 }}\n{}",
        model.route("")
    );
    let gateway = Gateway::start(&config).await?;
    assert_eq!(chats(&gateway, &chat(&long), &[]).await?.status, 200);
    let refused = client()
        .post(gateway.url("/v1/chat/completions"))
        .json(&chat("x"));
    let refused = refused.send().await?;
    assert_eq!(refused.status(), 429);
    assert!(field(&refused, "retry-after").parse::<u64>()? > 60);
    Ok(())
}

#[tokio::test]
async fn nodes_share_the_limits_and_without_redis_each_has_its_own() -> Result<()> {
    let mut redis = Redis::start().await?;
    let model = SampleModel::start(BRISK).await?;
    let config = format!(
        "{}socket_timeout = \"300ms\"\n[model_limits]\ntokens_per_minute = 30\n{}",
        redis.section(),
        model.route("")
    );
    let (one, two) = (
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    );
    for node in [&one, &two] {
        node.ready_for_redis().await?;
    }
    assert_eq!(
        chats(&one, &chat(&"word ".repeat(20)), &[]).await?.status,
        200
    );
    // What it cost is charged after its end.
    eventually("the other node knows", async || {
        let answer = chats(&two, &chat("what"), &[("cache-control", "no-cache")]).await;
        answer.is_ok_and(|answer| answer.status == 429)
    })
    .await;
    for key in redis.cli(&["--raw", "KEYS", "weaver:budget:*"])?.lines() {
        assert!(redis.cli(&["PTTL", key])?.trim().parse::<i64>()? > 0);
    }
    redis.kill();
    let answer = chats(&two, &chat("is it here"), &[]).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(chats(&one, &chat("is it here"), &[]).await?.status, 429);
    Ok(())
}

#[tokio::test]
async fn a_question_in_words_says_what_the_cache_did() -> Result<()> {
    let model = SampleModel::start(BRISK).await?;
    let config = format!("[ask]\nmodel = \"sample-model\"\n{}", model.route(""));
    let gateway = Gateway::start(&config).await?;
    let ask = async |body: Value| -> Result<Value> {
        let answer = call(&gateway, "/ask", &body, &[]).await?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let mut value: Value = serde_json::from_str(&answer.body)?;
        value["cache_status"] = json!(answer.cache);
        Ok(value)
    };
    let first = ask(json!({ "query": "what is the latest?" })).await?;
    assert_eq!(first["cache"]["status"], "miss", "{first}");
    let again = ask(json!({ "query": "what is the latest?" })).await?;
    assert_eq!(again["cache"]["status"], "hit", "{again}");
    assert_eq!(again["cache"]["class"], "dynamic");
    assert!(
        again["cache"]["ttl_seconds"]
            .as_u64()
            .is_some_and(|ttl| ttl <= 300)
    );
    assert!(
        again["cache_status"]
            .as_str()
            .is_some_and(|said| said.starts_with("weaver; hit"))
    );
    assert_eq!(again["answer"], first["answer"]);
    // Another user's, other parameters', another model's.
    let other = ask(json!({ "query": "what is the latest?", "user_id": "ben" })).await?;
    assert_eq!(other["cache"]["status"], "miss");
    let warm = json!({ "query": "what is the latest?", "parameters": { "temperature": 0.9 } });
    let warm = ask(warm).await?;
    assert_eq!(warm["cache"]["status"], "bypass");
    assert_eq!(warm["cache"]["reason"], "not-deterministic");
    for (bad, status) in [
        (json!({ "query": 1 }), 400),
        (json!({ "query": "x", "model": "unheard-of" }), 404),
        (json!({ "query": "x", "model": "sample-error" }), 502),
        (json!({ "query": "x", "model": "sample-broken" }), 502),
    ] {
        let answer = call(&gateway, "/ask", &bad, &[]).await?;
        assert_eq!(answer.status, status, "{bad}: {}", answer.body);
        assert!(answer.body.contains("\"title\""));
    }
    Ok(())
}

/// Runs one of the clients' programs against a gateway.
async fn run(program: &str, arguments: &[&str], gateway: &Gateway) -> Result<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("OPENAI_BASE_URL", gateway.url("/v1"))
        .env("OPENAI_API_KEY", "key-client-1")
        .output()
        .await
        .with_context(|| format!("{program}; tests/setup installs it"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    anyhow::ensure!(output.status.success(), "{arguments:?}: {text}");
    Ok(text)
}

#[tokio::test]
async fn the_official_clients_work_unchanged() -> Result<()> {
    let redis = Redis::start().await?;
    let model = SampleModel::start(Duration::from_millis(400)).await?;
    let config = format!(
        "{}[auth]\nmode = \"api_key\"\napi_keys = [\"key-client-1:client\"]\n{}",
        redis.section(),
        model.route("")
    );
    let gateway = Gateway::start(&config).await?;
    gateway.ready_for_redis().await?;
    let python = run(".venv/bin/python", &["openai_client.py"], &gateway).await?;
    assert!(python.contains("is content"), "{python}");
    let node = run("node", &["openai_client.mjs"], &gateway).await?;
    assert!(node.contains("is content"), "{node}");
    Ok(())
}

#[tokio::test]
async fn the_description_of_the_agents_endpoints_is_valid() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let text = client()
        .get(gateway.admin_url("/openapi.json"))
        .send()
        .await?
        .text()
        .await?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");
    let mut child = Command::new(".venv/bin/python")
        .arg("check_openapi.py")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("python; tests/setup installs it")?;
    let mut input = child.stdin.take().context("its input")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let paths = String::from_utf8(output.stdout)?;
    let expected = "delete /agents/{agent_id}\nget /agent-events\nget /agent-stats\nget /agents\n\
                    get /agents/{agent_id}\npost /agents\npost /agents/{agent_id}/heartbeat\n";
    assert_eq!(paths, expected);
    Ok(())
}
