//! Agents that lead the gateway to where it must not go.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, Redis};

const ROUTE: &str = "[[routes]]\npath = \"/work\"\nagent = \"dig\"\n";

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .no_proxy()
        .build()
        .expect("a client")
}

async fn register(gateway: &Gateway, id: &str, url: &Value) -> Result<(u16, String)> {
    let agent = json!({
        "agent_id": id, "agent_type": "t", "capabilities": ["dig"], "metadata": { "url": url },
    });
    let request = client().post(gateway.admin_url("/agents")).json(&agent);
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

async fn work(gateway: &Gateway) -> Result<u16> {
    let answer = client().get(gateway.url("/work/x")).send().await?;
    Ok(answer.status().as_u16())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn no_agent_registers_at_a_metadata_service_or_outside_of_what_is_allowed() -> Result<()> {
    let gateway = Gateway::start(ROUTE).await?;
    for url in [
        "http://169.254.169.254",
        "http://169.254.169.254:80/",
        "http://[::ffff:169.254.169.254]",
        "http://[::ffff:a9fe:a9fe]:80",
        "http://[fd00:ec2::254]",
        "http://[fe80::1]",
        "http://100.100.100.200",
        "http://metadata.google.internal",
        "http://8.8.8.8",
        "http://[2001:db8::1]",
        "http://0.0.0.0:80",
        "http://[::]:80",
        "http://224.0.0.1",
        "http://255.255.255.255",
        "http://0x7f.1",
        "http://0xa9fea9fe",
        "http://2130706433",
        "http://2852039166",
        "http://0251.0376.0251.0376",
        "http://169.254.43518",
    ] {
        let (status, answer) = register(&gateway, "a", &json!(url)).await?;
        assert_eq!(status, 400, "{url} {answer}");
        assert!(answer.contains("agents.allow"), "{url} {answer}");
    }
    for url in [
        json!("http://user:pass@127.0.0.1:1"),
        json!("http://127.0.0.1:1@169.254.169.254"),
        json!("http://127.0.0.1:1#@169.254.169.254"),
        json!("http://127.0.0.1:1/latest/meta-data"),
        json!("http://127.0.0.1:1?x"),
        json!("file:///etc/passwd"),
        json!("gopher://127.0.0.1:1"),
        json!("127.0.0.1:1"),
        json!("http://127.0.0.1:1\r\nx: y"),
        json!("http://127.0.0.1\\@169.254.169.254"),
        json!(7),
        json!(null),
    ] {
        let (status, answer) = register(&gateway, "a", &url).await?;
        assert_eq!(status, 400, "{url} {answer}");
    }
    assert_eq!(work(&gateway).await?, 503, "nobody is registered");
    Ok(())
}

#[tokio::test]
async fn what_is_allowed_is_what_is_listed() -> Result<()> {
    let config = format!("[agents]\nallow = [\"10.0.0.0/8\", \"8.8.8.8\"]\n{ROUTE}");
    let gateway = Gateway::start(&config).await?;
    for (url, status) in [
        ("http://10.1.2.3:9000", 201),
        ("http://8.8.8.8", 201),
        ("http://8.8.4.4", 400),
        ("http://127.0.0.1:9000", 400),
        ("http://[::1]:9000", 400),
    ] {
        let (given, answer) = register(&gateway, "a", &json!(url)).await?;
        assert_eq!(given, status, "{url} {answer}");
    }
    for bad in ["*", "10.0.0.0/33", "http://10.0.0.1", "a b", ""] {
        let faults = crate::faults(&format!("[agents]\nallow = [\"{bad}\"]\n")).await?;
        assert!(faults.contains("agents.allow: "), "{bad}: {faults}");
    }
    Ok(())
}

#[tokio::test]
async fn a_name_is_judged_by_what_it_resolves_to_at_each_connection() -> Result<()> {
    let origin = Origin::constant("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx").await?;
    let url = json!(format!("http://localhost:{}", origin.port()));
    // The name resolves to loopback addresses, which are allowed by default.
    let gateway = Gateway::start(ROUTE).await?;
    assert_eq!(register(&gateway, "a", &url).await?.0, 201);
    eventually("the agent works", async || {
        work(&gateway).await.is_ok_and(|status| status == 200)
    })
    .await;
    // Here they are not: the name registers, and no connection is made.
    let seen = origin.requests();
    for more in ["", "health_check = { path = \"/\", interval = \"20ms\" }\n"] {
        let config = format!("[agents]\nallow = [\"10.0.0.0/8\"]\n{ROUTE}{more}");
        let gateway = Gateway::start(&config).await?;
        assert_eq!(register(&gateway, "a", &url).await?.0, 201);
        if more.is_empty() {
            eventually("the connection is refused", async || {
                work(&gateway).await.is_ok_and(|status| status == 502)
            })
            .await;
            let log = gateway.process().output();
            assert!(log.contains("agents.allow"), "{log}");
        } else {
            eventually("the agent is not healthy", async || {
                work(&gateway).await.is_ok_and(|status| status == 503)
            })
            .await;
        }
        assert_eq!(origin.requests(), seen, "{more}");
    }
    // A name that is listed may be where it is.
    let config = format!("[agents]\nallow = [\"localhost\"]\n{ROUTE}");
    let gateway = Gateway::start(&config).await?;
    assert_eq!(register(&gateway, "a", &url).await?.0, 201);
    eventually("the listed agent works", async || {
        work(&gateway).await.is_ok_and(|status| status == 200)
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn another_nodes_record_in_redis_is_judged_too() -> Result<()> {
    let redis = Redis::start().await?;
    let secret = Origin::constant("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret").await?;
    let start = async |allow: &str| -> Result<Gateway> {
        let config = format!(
            "{}[agents]\nallow = [\"{allow}\"]\n{ROUTE}",
            redis.section()
        );
        let gateway = Gateway::start(&config).await?;
        gateway.ready_for_redis().await?;
        Ok(gateway)
    };
    // The other node lets in what this one does not.
    let (other, strict) = (start("127.0.0.0/8").await?, start("127.0.0.2").await?);
    let at = |address: &str, port: u16| json!(format!("http://{address}:{port}"));
    let forbidden = at("127.0.0.1", secret.port());
    assert_eq!(register(&other, "forbidden", &forbidden).await?.0, 201);
    eventually("the other node sends it work", async || {
        work(&other).await.is_ok_and(|status| status == 200)
    })
    .await;
    let seen = secret.requests();
    for _ in 0..5 {
        assert_eq!(work(&strict).await?, 503);
    }
    eventually("it says why", async || {
        strict.process().output().contains("agents.allow")
    })
    .await;
    assert_eq!(secret.requests(), seen);
    Ok(())
}

#[tokio::test]
async fn a_redirect_of_an_agent_is_the_clients_to_follow() -> Result<()> {
    let inside = Origin::constant("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret").await?;
    let location = format!("http://127.0.0.1:{}/", inside.port());
    let agent = Origin::start(move |_, mut stream| {
        let head =
            format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        async move {
            stream.write_all(head.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let gateway = Gateway::start(ROUTE).await?;
    let url = json!(format!("http://127.0.0.1:{}", agent.port()));
    assert_eq!(register(&gateway, "a", &url).await?.0, 201);
    eventually("the redirect is passed on", async || {
        work(&gateway).await.is_ok_and(|status| status == 302)
    })
    .await;
    assert_eq!(inside.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_providers_key_goes_to_agents_only_where_registering_needs_a_token() -> Result<()> {
    let models = "[[models]]\nagent = \"answer\"\nkey_env = \"PATH\"\n";
    let faults = crate::faults(models).await?;
    let line = faults
        .lines()
        .find(|line| line.contains("models[0].key_env: "))
        .context(faults.clone())?;
    assert!(line.contains("admin.token"), "{line}");
    let faults = crate::faults(&format!("[admin]\ntoken = \"t0k3n\"\n{models}")).await?;
    assert!(!faults.contains("key_env"), "{faults}");
    let fixed = "[[models]]\nupstreams = [\"http://127.0.0.1:1\"]\nkey_env = \"PATH\"\n";
    let faults = crate::faults(fixed).await?;
    assert!(!faults.contains("key_env"), "{faults}");
    Ok(())
}
