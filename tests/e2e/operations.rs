use crate::{client, eventually, field, ok};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};
use weaver_tests::{Gateway, Origin};

#[tokio::test]
async fn a_drain_turns_readiness_off_and_lets_requests_finish() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        sleep(Duration::from_millis(800)).await;
        stream.write_all(ok("done", "").as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let mut gateway =
        Gateway::start_with(&origin.route(""), "shutdown_grace = \"5s\"", &[], None).await?;
    assert_eq!(
        client()
            .get(gateway.admin_url("/readyz"))
            .send()
            .await?
            .status(),
        200
    );
    let url = gateway.url("/");
    let running = tokio::spawn(async move { client().get(url).send().await?.text().await });
    sleep(Duration::from_millis(200)).await;
    gateway.process().signal("TERM")?;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(
        client()
            .get(gateway.admin_url("/readyz"))
            .send()
            .await?
            .status(),
        503
    );
    assert!(
        client().get(gateway.url("/health")).send().await.is_err(),
        "nobody new is let in"
    );
    assert_eq!(running.await??, "done");
    assert_eq!(
        gateway.process_mut().wait(Duration::from_secs(5)).await?,
        Some(0)
    );
    Ok(())
}

#[tokio::test]
async fn a_request_that_does_not_end_does_not_keep_the_gateway() -> Result<()> {
    let origin = Origin::start(|_, stream| async move {
        sleep(Duration::from_secs(60)).await;
        Some(stream)
    })
    .await?;
    let mut gateway =
        Gateway::start_with(&origin.route(""), "shutdown_grace = \"1s\"", &[], None).await?;
    let url = gateway.url("/");
    let running = tokio::spawn(async move { client().get(url).send().await });
    sleep(Duration::from_millis(200)).await;
    gateway.process().signal("TERM")?;
    assert_eq!(
        gateway.process_mut().wait(Duration::from_secs(6)).await?,
        Some(0)
    );
    assert!(running.await?.is_err());
    Ok(())
}

#[tokio::test]
async fn metrics_count_each_request_once_in_json_and_in_text() -> Result<()> {
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for path in ["/a", "/a", "/a", "/b"] {
        client().get(gateway.url(path)).send().await?.text().await?;
    }
    client().post(gateway.url("/c")).send().await?;
    let report = gateway.report().await?;
    assert_eq!(report["service"], "weaver-ai");
    assert_eq!(report["status"], "healthy");
    assert_eq!(report["redis_pool"], Value::Null);
    let cache = &report["http_cache"];
    assert_eq!(
        cache["by_endpoint"],
        json!({ "origin": { "hits": 2, "misses": 2 } })
    );
    assert_eq!(
        (&cache["hits"], &cache["misses"], &cache["errors"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert_eq!(
        (&cache["hit_rate_percent"], &cache["total_requests"]),
        (&json!(50.0), &json!(4))
    );
    assert!(cache["total_latency_saved_ms"].as_f64() > Some(0.0));
    for (url, accept) in [
        (gateway.url("/metrics"), "application/openmetrics-text"),
        (gateway.admin_url("/metrics"), "*/*"),
    ] {
        let answer = client().get(url).header("accept", accept).send().await?;
        assert!(field(&answer, "content-type").starts_with("application/openmetrics-text"));
        assert_eq!(field(&answer, "cache-control"), "no-store");
        let text = answer.text().await?;
        for line in [
            "weaver_http_cache_requests_total{tier=\"memory\",outcome=\"hit\",route=\"origin\"} 2\n",
            "weaver_http_cache_requests_total{tier=\"none\",outcome=\"miss\",route=\"origin\"} 2\n",
            "weaver_http_cache_requests_total{tier=\"none\",outcome=\"bypass\",route=\"origin\"} 1\n",
            "weaver_http_requests_total{route=\"origin\",status=\"2xx\"} 5\n",
        ] {
            assert!(text.contains(line), "{line} not in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
    let plain = client()
        .get(gateway.url("/metrics"))
        .header("accept", "text/plain")
        .send()
        .await?;
    assert!(field(&plain, "content-type").starts_with("text/plain; version=0.0.4"));
    // The report itself is a pattern of ten seconds.
    let first: Value = client()
        .get(gateway.url("/metrics"))
        .send()
        .await?
        .json()
        .await?;
    client().get(gateway.url("/a")).send().await?;
    let second: Value = client()
        .get(gateway.url("/metrics"))
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(first, second);
    Ok(())
}

#[tokio::test]
async fn a_question_goes_to_the_configured_upstream_and_is_never_kept() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let ask = async |gateway: &Gateway, body: &'static str| {
        client().post(gateway.url("/ask")).body(body).send().await
    };
    assert_eq!(ask(&gateway, "{\"query\":\"x\"}").await?.status(), 503);
    let origin = Origin::constant(ok("{\"answer\":1}", "cache-control: max-age=60\r\n")).await?;
    let gateway = Gateway::start(&format!(
        "[ask]\nupstream = \"http://127.0.0.1:{}\"\n",
        origin.port()
    ))
    .await?;
    for _ in 0..2 {
        assert_eq!(
            ask(&gateway, "{\"query\":\"x\"}").await?.text().await?,
            "{\"answer\":1}"
        );
    }
    assert_eq!(origin.requests(), 2);
    assert_eq!(ask(&gateway, "{\"q\":1}").await?.status(), 400);
    assert_eq!(
        client().get(gateway.url("/ask")).send().await?.status(),
        405
    );
    Ok(())
}

#[tokio::test]
async fn what_comes_later_says_so() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let answer = client().get(gateway.admin_url("/dashboard")).send().await?;
    assert_eq!(answer.status(), 501);
    assert!(answer.text().await?.contains("later version"));
    Ok(())
}

/// Without the token only probes, metrics and the description answer; what is not there is no
/// exception, and a body is refused before it is read.
#[tokio::test]
async fn without_the_token_only_probes_metrics_and_the_description_answer() -> Result<()> {
    let gateway = Gateway::start("[admin]\ntoken = \"t0k3n\"\n").await?;
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        let answer = client().get(gateway.admin_url(path)).send().await?;
        assert_eq!(answer.status(), 200, "{path}");
    }
    let guarded = [
        ("POST", "/purge"),
        ("POST", "/warm"),
        ("GET", "/warm"),
        ("GET", "/warm/1"),
        ("GET", "/hottest"),
        ("GET", "/entry?url=http://h/"),
        ("POST", "/agents"),
        ("GET", "/agents"),
        ("GET", "/agents/a"),
        ("DELETE", "/agents/a"),
        ("POST", "/agents/a/heartbeat"),
        ("GET", "/agent-stats"),
        ("GET", "/agent-events"),
        ("GET", "/model-cache"),
        ("DELETE", "/model-cache"),
        ("GET", "/dashboard"),
        ("GET", "/nothing"),
    ];
    for (method, path) in guarded {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let url = gateway.admin_url(path);
        let asked = client().request(method.clone(), &url).send().await?;
        assert_eq!(asked.status(), 401, "{method} {path}");
        assert_eq!(
            field(&asked, "www-authenticate"),
            "Bearer realm=\"weaver-admin\""
        );
        let asked = client().request(method.clone(), &url).bearer_auth("t0k3n");
        let status = asked.send().await?.status();
        assert!(status != 401 && status != 403, "{method} {path}: {status}");
    }
    let head = "POST /warm HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n";
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", gateway.admin())).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 401");
    Ok(())
}

#[tokio::test]
async fn redis_is_checked_when_it_is_connected_and_not_an_interval_later() -> Result<()> {
    let redis = weaver_tests::Redis::start().await?;
    let config = format!("{}health_check_interval = \"1h\"\n", redis.section());
    let gateway = Gateway::start(&config).await?;
    gateway.ready_for_redis().await?;
    eventually("redis is checked", async || {
        let report = gateway.report().await;
        report.is_ok_and(|report| report["redis_pool"]["last_health_check"].is_number())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn the_service_has_the_name_that_it_is_given() -> Result<()> {
    let gateway = Gateway::start_with("", "service_name = \"shop-edge\"", &[], None).await?;
    let answer = client().get(gateway.url("/health")).send().await?;
    assert_eq!(answer.json::<Value>().await?["service"], "shop-edge");
    assert_eq!(gateway.report().await?["service"], "shop-edge");
    Ok(())
}

#[tokio::test]
async fn a_gateway_without_routes_says_so_when_it_starts() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let output = gateway.process().output();
    assert!(output.contains("no [[routes]]"), "{output}");
    let origin = Origin::constant(ok("x", "")).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    assert!(!gateway.process().output().contains("no [[routes]]"));
    Ok(())
}

#[tokio::test]
async fn the_demo_has_a_page_and_says_what_to_do_where_its_port_is_taken() -> Result<()> {
    let (public, admin) = (weaver_tests::free_port(), weaver_tests::free_port());
    let (listen, admin) = (format!("127.0.0.1:{public}"), format!("127.0.0.1:{admin}"));
    let arguments = ["demo", "--listen", &listen, "--admin-listen", &admin];
    let program = Gateway::program()?.display().to_string();
    let folder = weaver_tests::scratch("demo");
    let demo = weaver_tests::Process::start(&program, &arguments, &folder)?;
    weaver_tests::wait_for_port(public).await?;
    let page = client().get(format!("http://{listen}/")).send().await?;
    assert_eq!(page.status(), 200);
    assert!(field(&page, "content-type").starts_with("text/html"));
    let page = page.text().await?;
    for path in page.split("href=\"").skip(1) {
        let path = path.split('"').next().unwrap_or("");
        let answer = client()
            .get(format!("http://{listen}{path}"))
            .send()
            .await?;
        assert_ne!(answer.status(), 404, "{path}");
    }
    let second = std::process::Command::new(&program)
        .args(arguments)
        .output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success());
    for wanted in [listen.as_str(), "--listen", "make run ARGS"] {
        assert!(said.contains(wanted), "{wanted} not in {said}");
    }
    drop(demo);
    Ok(())
}
