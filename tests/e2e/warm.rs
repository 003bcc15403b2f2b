//! Warming, as an operator does it: from the command line, and by the admin port.

use crate::{client, eventually, field, ok, purge};
use anyhow::Result;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt as _, sync::Notify};
use weaver_tests::{Gateway, Origin, Redis, scratch};

async fn run(gateway: &Gateway, arguments: &[&str]) -> Result<(bool, String, String)> {
    let admin = gateway.admin_url("");
    let mut command = tokio::process::Command::new(Gateway::program()?);
    command
        .arg("warm")
        .args(arguments)
        .args(["--admin", &admin]);
    let output = command.output().await?;
    let (out, err) = (output.stdout, output.stderr);
    Ok((
        output.status.success(),
        String::from_utf8(out)?,
        String::from_utf8(err)?,
    ))
}

/// An origin with pages, a sitemap of two of them, and nothing under /gone.
async fn site() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let answer = match path.as_str() {
            "/sitemap.xml" => ok(
                "<urlset><url><loc>http://h/s1</loc></url><url><loc>http://h/s2</loc></url></urlset>",
                "cache-control: no-store\r\n",
            ),
            "/gone" => "HTTP/1.1 500 Sorry\r\ncontent-length: 0\r\n\r\n".to_owned(),
            _ => ok("x", "cache-control: max-age=60\r\n"),
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

async fn is_hit(gateway: &Gateway, path: &str) -> Result<bool> {
    let answer = client().get(gateway.url(path)).header("host", "h");
    Ok(field(&answer.send().await?, "cache-status").contains("; hit"))
}

#[tokio::test]
async fn lists_sitemaps_and_access_logs_are_fetched_ahead() -> Result<()> {
    let origin = site().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let directory = scratch("warm");
    let (list, log) = (directory.join("list"), directory.join("log"));
    std::fs::write(&list, "# pages\nhttp://h/l1\n/l2\n")?;
    std::fs::write(
        &log,
        "1.2.3.4 - - [x] \"GET /often HTTP/1.1\" 200 1\n1.2.3.4 - - [x] \"GET /often HTTP/1.1\" 200 1\n1.2.3.4 - - [x] \"GET /once HTTP/1.1\" 200 1\n",
    )?;
    let (list, log) = (list.display().to_string(), log.display().to_string());
    let sitemap = format!("http://127.0.0.1:{}/sitemap.xml", origin.port());
    let arguments = [
        "http://h/arg",
        "--file",
        &list,
        "--sitemap",
        &sitemap,
        "--access-log",
        &log,
        "--top",
        "1",
        "--host",
        "h",
    ];
    let (done, out, err) = run(&gateway, &arguments).await?;
    assert!(done, "{out}{err}");
    assert!(out.contains("\"total\":6"), "{out}");
    for path in ["/arg", "/l1", "/l2", "/s1", "/s2", "/often"] {
        assert!(is_hit(&gateway, path).await?, "{path}");
    }
    assert!(!is_hit(&gateway, "/once").await?);
    // What fails is named, and so is what cannot be asked for.
    let (done, _, err) = run(&gateway, &["http://h/a", "http://h/gone"]).await?;
    assert!(!done && err.contains("/gone: status 500"), "{err}");
    for bad in [&["/a"][..], &[], &["--file", "/nowhere"]] {
        let (done, _, err) = run(&gateway, bad).await?;
        assert!(!done && !err.contains("panicked"), "{err}");
    }
    Ok(())
}

#[tokio::test]
async fn an_interrupted_run_goes_on_where_it_was() -> Result<()> {
    let origin = site().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let directory = scratch("warm");
    let (list, mark) = (directory.join("list"), directory.join("mark"));
    let urls: String = (0..1500).map(|at| format!("http://h/{at}\n")).collect();
    std::fs::write(&list, urls)?;
    let (list, mark) = (list.display().to_string(), mark.display().to_string());
    let arguments = ["--file", &list, "--resume", &mark, "--rate", "5000"];
    assert!(run(&gateway, &arguments).await?.0);
    assert_eq!(origin.requests(), 1500);
    let known = std::fs::read_to_string(&mark)?;
    assert!(known.ends_with(" 1500\n"), "{known}");
    // As it stood after the first portion.
    std::fs::write(&mark, known.replace(" 1500", " 1000"))?;
    purge(&gateway, "", &json!({ "all": true })).await?;
    assert!(run(&gateway, &arguments).await?.0);
    assert_eq!(origin.requests(), 2000);
    Ok(())
}

#[tokio::test]
async fn progress_is_told_and_limits_hold() -> Result<()> {
    let origin = site().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let warm = async |body: serde_json::Value| {
        let request = client().post(gateway.admin_url("/warm")).json(&body);
        request.send().await
    };
    let many = vec!["http://h/a"; 10_001];
    for bad in [
        json!({ "urls": [] }),
        json!({ "urls": many }),
        json!({ "urls": ["/a"] }),
        json!({ "urls": ["http://h/a"], "rate": 0 }),
        json!({ "urls": ["http://h/a"], "headers": ["x"] }),
        json!({ "url": "http://h/a" }),
    ] {
        assert_eq!(warm(bad).await?.status(), 400);
    }
    // Slow enough to be still running.
    let urls: Vec<_> = (0..100).map(|at| format!("http://h/{at}")).collect();
    for _ in 0..4 {
        let answer = warm(json!({ "urls": urls, "rate": 1 })).await?;
        assert_eq!(answer.status(), 202);
    }
    assert_eq!(warm(json!({ "urls": urls })).await?.status(), 429);
    let report = client().get(gateway.admin_url("/warm/1")).send().await?;
    let report: serde_json::Value = report.json().await?;
    assert_eq!(
        (&report["total"], &report["ended"]),
        (&json!(100), &json!(false))
    );
    let all = client().get(gateway.admin_url("/warm")).send().await?;
    let all: serde_json::Value = all.json().await?;
    assert_eq!(all["jobs"].as_array().map(Vec::len), Some(4));
    let missing = client().get(gateway.admin_url("/warm/9")).send().await?;
    assert_eq!(missing.status(), 404);
    Ok(())
}

/// Waits for `/readyz`, and returns what it said before.
async fn readiness(gateway: &Gateway) -> Result<(u16, String)> {
    let answer = client().get(gateway.admin_url("/readyz")).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn what_was_hottest_before_a_restart_is_warm_before_the_node_is_ready() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = site().await?;
    let users =
        "[auth]\nmode = \"none\"\n[cache.patterns]\n\"/mine\" = { ttl = 60, per_user = true }\n";
    let config = format!("{}{users}{}", redis.section(), origin.route(""));
    let mut first = Gateway::start(&config).await?;
    first.ready_for_redis().await?;
    let client = client();
    let get = async |path: &str| -> Result<()> {
        let request = client.get(first.url(path)).header("host", "h");
        request
            .header("authorization", "Bearer 1")
            .send()
            .await?
            .bytes()
            .await?;
        Ok(())
    };
    for path in ["/mine", "/mine", "/gone", "/once"] {
        get(path).await?;
    }
    for _ in 0..2000 {
        client
            .get(first.url("/hot?a=b"))
            .header("host", "h")
            .send()
            .await?
            .bytes()
            .await?;
    }
    client
        .get(first.url("/cold"))
        .header("host", "h")
        .send()
        .await?
        .bytes()
        .await?;
    let hottest = client.get(first.admin_url("/hottest")).send().await?;
    let hottest: serde_json::Value = hottest.json().await?;
    let urls: Vec<_> = hottest["urls"].as_array().into_iter().flatten().collect();
    assert_eq!(urls[0]["url"], "http://h/hot?a=b", "{hottest}");
    assert!(urls[0]["hits"].as_u64() > Some(200), "{hottest}");
    assert!(urls.iter().any(|hot| hot["url"] == "http://h/cold"));
    // Neither what is one user's, nor what is not stored.
    assert!(!hottest.to_string().contains("mine") && !hottest.to_string().contains("gone"));

    first.process().signal("TERM")?;
    let ended = first.process_mut().wait(Duration::from_secs(10)).await?;
    assert_eq!(ended, Some(0));
    let asked = origin.requests();
    let second = Gateway::start(&format!("{config}[warm]\nhottest = 10\n")).await?;
    eventually("it is ready", async || {
        readiness(&second)
            .await
            .is_ok_and(|(status, _)| status == 200)
    })
    .await;
    let entry = second.admin_url("/entry?url=http://h/hot%3Fa=b");
    let entry = client.get(entry).send().await?.text().await?;
    assert!(entry.contains("\"memory\""), "{entry}");
    assert_eq!(origin.requests(), asked, "it came from redis");

    let (done, out, err) = run(&second, &["--hottest", "10"]).await?;
    assert!(done && out.contains("\"failed\":0"), "{out}{err}");
    Ok(())
}

#[tokio::test]
async fn a_node_is_ready_once_it_is_warm_or_out_of_patience() -> Result<()> {
    let gate = Arc::new(Notify::new());
    let (open, asked) = (Arc::clone(&gate), Arc::new(Notify::new()));
    let comes = Arc::clone(&asked);
    let origin = Origin::start(move |_, mut stream| {
        let (gate, comes) = (Arc::clone(&gate), Arc::clone(&comes));
        async move {
            comes.notify_one();
            gate.notified().await;
            let answer = ok("x", "cache-control: max-age=60\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let route = origin.route("");
    let gateway = Gateway::start(&format!("{route}[warm]\nurls = [\"http://h/slow\"]\n")).await?;
    asked.notified().await;
    assert_eq!(readiness(&gateway).await?, (503, "warming".to_owned()));
    open.notify_one();
    eventually("it is ready", async || {
        readiness(&gateway)
            .await
            .is_ok_and(|(status, _)| status == 200)
    })
    .await;
    assert!(is_hit(&gateway, "/slow").await?);
    // An upstream that does not answer does not keep it from being ready.
    let warm = "[warm]\nurls = [\"http://h/never\"]\ntimeout = \"100ms\"\n";
    let gateway = Gateway::start(&format!("{route}{warm}")).await?;
    eventually("it is ready", async || {
        readiness(&gateway)
            .await
            .is_ok_and(|(status, _)| status == 200)
    })
    .await;
    Ok(())
}
