//! What operators read: outages, failures of upstreams, reasons, and the access log.

use crate::{client, eventually, ok};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::time::Duration;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use weaver_tests::{Gateway, Origin, Redis, free_port};

/// The lines that are JSON.
fn lines(gateway: &Gateway) -> Vec<Value> {
    let output = gateway.process().output();
    let lines = output.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn has(line: &Value, message: &str) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|said| said.contains(message))
}

/// The lines with a message, once there are some.
async fn lines_with(gateway: &Gateway, message: &str) -> Vec<Value> {
    let find = || {
        let lines = lines(gateway).into_iter();
        lines.filter(|line| has(line, message)).collect::<Vec<_>>()
    };
    eventually(&format!("{message:?} is logged"), async || {
        !find().is_empty()
    })
    .await;
    find()
}

#[tokio::test]
async fn an_outage_of_redis_is_a_line_at_its_begin_and_one_at_its_end() -> Result<()> {
    let mut redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=600\r\n")).await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let mut gateway = Gateway::start(&config).await?;
    gateway.ready_for_redis().await?;
    redis.kill();
    let began = lines_with(&gateway, "redis is out of reach").await;
    let line = &began[0];
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["address"], format!("localhost:{}", redis.port()));
    let cause = line["cause"].as_str().unwrap_or("");
    assert!(cause.contains("refused"), "{line}");
    // The breaker opens and probes meanwhile, and nobody is told.
    let until = Instant::now() + Duration::from_secs(4);
    let mut number = 0;
    while Instant::now() < until {
        number += 1;
        let url = gateway.url(&format!("/{number}"));
        client().get(url).send().await?;
        sleep(Duration::from_millis(20)).await;
    }
    let warned = lines(&gateway);
    let warned: Vec<_> = warned
        .iter()
        .filter(|line| line["level"] != "INFO")
        .collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    redis.up().await?;
    lines_with(&gateway, "redis is back").await;
    gateway.ready_for_redis().await?;
    gateway.process().signal("TERM")?;
    gateway.process_mut().wait(Duration::from_secs(10)).await?;
    let all = lines(&gateway);
    let of_redis = all.iter().filter(|line| has(line, "redis"));
    assert_eq!(of_redis.count(), 2, "{all:?}");
    assert!(!gateway.process().output().contains("Down"));
    Ok(())
}

#[tokio::test]
async fn a_failure_of_an_upstream_is_one_line_with_the_whole_cause() -> Result<()> {
    // It accepts nothing beyond what the kernel does for it, and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await?;
    let silent = silent.local_addr()?.port();
    let closed = free_port();
    let breaking = Origin::closing("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx").await?;
    let route = |path: &str, upstream: &str, more: &str| {
        format!(
            "[[routes]]\npath = \"{path}\"\nname = \"of {path}\"\nupstreams = [\"{upstream}\"]\n{more}\n"
        )
    };
    let config = [
        route(
            "/refused",
            &format!("http://127.0.0.1:{closed}"),
            "retries = 2",
        ),
        route("/nobody", "http://nobody.invalid", ""),
        route(
            "/silent",
            &format!("http://127.0.0.1:{silent}"),
            "first_byte_timeout = 1\nretries = 0",
        ),
        route(
            "/breaks",
            &format!("http://127.0.0.1:{}", breaking.port()),
            "",
        ),
    ];
    let gateway = Gateway::start(&config.concat()).await?;
    for (path, upstream, cause) in [
        (
            "/refused",
            format!("http://127.0.0.1:{closed}"),
            "Connection refused",
        ),
        (
            "/nobody",
            "http://nobody.invalid".to_owned(),
            "no such host",
        ),
        (
            "/silent",
            format!("http://127.0.0.1:{silent}"),
            "timed out after 1 s",
        ),
        (
            "/breaks",
            format!("http://127.0.0.1:{}", breaking.port()),
            "end of file",
        ),
    ] {
        let id = format!("id-of{}", path.replace('/', "-"));
        let asked = client().get(gateway.url(path)).header("x-request-id", &id);
        if let Ok(answer) = asked.send().await {
            let _ = answer.bytes().await;
        }
        let find = || {
            let lines = lines(&gateway).into_iter();
            let of_request = lines.filter(|line| line["request_id"] == id.as_str());
            of_request.collect::<Vec<_>>()
        };
        eventually("the failure is logged", async || !find().is_empty()).await;
        let found = find();
        assert_eq!(found.len(), 1, "{found:?}");
        let line = &found[0];
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["upstream"], upstream.as_str());
        assert_eq!(line["route"], format!("of {path}"));
        let told = line["cause"].as_str().unwrap_or("");
        assert!(told.contains(cause), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn a_level_for_one_crate_adds_to_the_log_and_says_why_nothing_was_stored() -> Result<()> {
    let origin = Origin::constant(ok("x", "cache-control: no-store\r\n")).await?;
    let config = format!("{}[telemetry]\naccess_log = true\n", origin.route(""));
    let variables = [("RUST_LOG", "weaver_cache=debug")];
    let mut gateway = Gateway::start_with(&config, "", &variables, None).await?;
    client().get(gateway.url("/a?secret=1")).send().await?;
    client().post(gateway.url("/b")).send().await?;
    let missed = lines_with(&gateway, "miss, not stored").await;
    assert_eq!(missed[0]["path"], "/a");
    assert_eq!(missed[0]["level"], "DEBUG");
    let why = missed[0]["why"].as_str().unwrap_or("");
    assert!(
        why.contains("fwd=uri-miss") && why.contains("detail=no-store"),
        "{why}"
    );
    let passed = lines_with(&gateway, "bypass").await;
    assert!(
        passed[0]["why"]
            .as_str()
            .unwrap_or("")
            .contains("fwd=method")
    );
    gateway.process().signal("TERM")?;
    gateway.process_mut().wait(Duration::from_secs(10)).await?;
    for message in ["serving", "draining", "stopped"] {
        lines_with(&gateway, message).await;
    }
    let of_access = lines(&gateway);
    let of_access = of_access
        .iter()
        .filter(|line| line["target"] == "weaver_gateway::access");
    assert_eq!(of_access.count(), 2);
    assert!(!gateway.process().output().contains("secret=1"));
    Ok(())
}

#[tokio::test]
async fn a_log_that_is_no_terminal_has_no_colours() -> Result<()> {
    let gateway = Gateway::start("[telemetry]\nlog_format = \"pretty\"\n").await?;
    eventually("it serves", async || {
        gateway.process().output().contains("serving")
    })
    .await;
    let output = gateway.process().output();
    assert!(!output.contains('\u{1b}'), "{output}");
    Ok(())
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A gateway that logs, and a request to it by a known user, twice.
async fn asked_twice(telemetry: &str) -> Result<(Gateway, Origin)> {
    let origin = Origin::constant(ok("12345", "cache-control: public, max-age=60\r\n")).await?;
    let config = format!(
        "[auth]\nmode = \"api_key\"\napi_keys = [\"k3y-of-ann:ann\"]\n[telemetry]\naccess_log = true\n{telemetry}\n{}",
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    for _ in 0..2 {
        let asked = client()
            .get(gateway.url("/a?token=secret"))
            .header("x-api-key", "k3y-of-ann")
            .header("user-agent", "tests \"quoted\"")
            .header("referer", "http://example.com/")
            .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
        let answer = asked.send().await?;
        assert_eq!(answer.status(), 200);
        answer.bytes().await?;
    }
    client().get(gateway.url("/b")).send().await?;
    Ok((gateway, origin))
}

#[tokio::test]
async fn the_access_log_says_who_asked_what_became_of_it_and_what_it_took() -> Result<()> {
    let (gateway, origin) = asked_twice("").await?;
    let find = || {
        let lines = lines(&gateway).into_iter();
        let of_access = lines.filter(|line| line["target"] == "weaver_gateway::access");
        of_access.collect::<Vec<_>>()
    };
    eventually("all are logged", async || find().len() == 3).await;
    let found = find();
    let (miss, hit, refused) = (&found[0], &found[1], &found[2]);
    for line in [miss, hit] {
        assert_eq!(line["method"], "GET");
        assert_eq!(line["path"], "/a");
        assert_eq!(line["status"], 200);
        assert_eq!(line["bytes"], 5);
        assert_eq!(line["complete"], true);
        assert_eq!(line["route"], "origin");
        assert_eq!(line["client"], "127.0.0.1");
        assert_eq!(line["host"], format!("127.0.0.1:{}", gateway.port()));
        assert_eq!(line["user_agent"], "tests \"quoted\"");
        assert_eq!(line["trace_id"], TRACE);
        assert!(line["request_id"].as_str().is_some_and(|id| !id.is_empty()));
        assert!(line["seconds"].as_f64() >= line["head_seconds"].as_f64());
    }
    assert_eq!(miss["cache"], "miss");
    assert_eq!(
        miss["upstream"],
        format!("http://127.0.0.1:{}", origin.port())
    );
    assert!(miss["upstream_seconds"].as_f64() > Some(0.0));
    assert_eq!(hit["cache"], "hit");
    assert_eq!(hit["upstream"], Value::Null);
    // A user is known by a hash, always the same.
    let user = miss["user"].as_str().context("a user")?;
    assert!(user.len() == 16 && user != "ann", "{user}");
    assert_eq!(hit["user"], user);
    // One that was not let in is logged too.
    assert_eq!(
        (&refused["status"], &refused["path"]),
        (&401.into(), &"/b".into())
    );
    assert_eq!(refused["client"], "127.0.0.1");
    let output = gateway.process().output();
    for secret in ["secret", "k3y-of-ann", "\"ann\""] {
        assert!(!output.contains(secret), "{output}");
    }
    Ok(())
}

#[tokio::test]
async fn the_access_log_can_be_in_the_combined_format() -> Result<()> {
    let (gateway, _origin) = asked_twice("access_log_format = \"combined\"").await?;
    let find = || {
        let output = gateway.process().output();
        let lines = output
            .lines()
            .filter(|line| line.starts_with("127.0.0.1 - "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("all are logged", async || find().len() == 3).await;
    let found = find();
    let tail = "] \"GET /a HTTP/1.1\" 200 5 \"http://example.com/\" \"tests \\\"quoted\\\"\"";
    assert!(found[0].ends_with(tail), "{found:?}");
    assert!(found[2].contains("\"GET /b HTTP/1.1\" 401 "), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn with_a_pretty_log_the_access_log_can_be_json() -> Result<()> {
    let formats = "log_format = \"pretty\"\naccess_log_format = \"json\"";
    let (gateway, _origin) = asked_twice(formats).await?;
    eventually("all are logged", async || lines(&gateway).len() == 3).await;
    assert_eq!(lines(&gateway)[1]["cache"], "hit");
    Ok(())
}
