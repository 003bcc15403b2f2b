//! The admin port against those who have no token, and against pages in an operator's browser.

use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use weaver_tests::{Exchange, Gateway, exchange};

/// Every endpoint, with whether it is for operators only.
const ENDPOINTS: [(&str, &str, bool); 20] = [
    ("GET", "/livez", false),
    ("GET", "/readyz", false),
    ("GET", "/metrics", false),
    ("GET", "/openapi.json", false),
    ("POST", "/purge", true),
    ("POST", "/warm", true),
    ("GET", "/warm", true),
    ("GET", "/warm/1", true),
    ("GET", "/hottest", true),
    ("GET", "/entry?url=http://h/", true),
    ("POST", "/agents", true),
    ("GET", "/agents", true),
    ("GET", "/agents/a", true),
    ("DELETE", "/agents/a", true),
    ("POST", "/agents/a/heartbeat", true),
    ("GET", "/agent-stats", true),
    ("GET", "/model-cache", true),
    ("DELETE", "/model-cache", true),
    ("GET", "/dashboard", true),
    ("GET", "/nothing", true),
];

/// Sends a request line and fields to the admin port, with a body.
async fn ask(gateway: &Gateway, line: &str, fields: &str, body: &str) -> Result<Exchange> {
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let request = format!("{line} HTTP/1.1\r\n{fields}{length}connection: close\r\n\r\n{body}");
    exchange(gateway.admin(), &request).await
}

fn host(gateway: &Gateway) -> String {
    format!("host: 127.0.0.1:{}\r\n", gateway.admin())
}

#[tokio::test]
async fn a_page_of_another_site_reaches_no_endpoint() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let host = host(&gateway);
    let port = gateway.admin();
    for (method, path, _) in ENDPOINTS {
        for fields in [
            "origin: http://evil.test\r\n".to_owned(),
            "origin: null\r\n".to_owned(),
            "origin: \r\n".to_owned(),
            format!("origin: http://127.0.0.1:{}\r\n", port.wrapping_add(1)),
            "origin: http://127.0.0.1\r\n".to_owned(),
            format!("origin: https://127.0.0.1:{port}\r\n"),
            format!("origin: http://127.0.0.1:{port}.evil.test\r\n"),
            format!("origin: http://127.0.0.1:{port}, http://evil.test\r\n"),
            format!("origin: http://127.0.0.1:{port}\r\norigin: http://evil.test\r\n"),
            format!("origin: http://localhost:{port}\r\n"),
            "sec-fetch-site: cross-site\r\n".to_owned(),
            "sec-fetch-site: same-site\r\n".to_owned(),
            "sec-fetch-site: Same-Origin\r\n".to_owned(),
            "sec-fetch-site: none\r\nsec-fetch-site: cross-site\r\n".to_owned(),
            format!("origin: http://127.0.0.1:{port}\r\nsec-fetch-site: cross-site\r\n"),
        ] {
            let fields = format!("{host}{fields}content-type: application/json\r\n");
            let answer = ask(&gateway, &format!("{method} {path}"), &fields, "").await?;
            assert_eq!(answer.status(), 403, "{method} {path} {fields}");
            let text = answer.text().to_ascii_lowercase();
            assert!(!text.contains("access-control-"), "{text}");
        }
    }
    // A preflight is refused too, so that no page may send what needs one.
    let preflight = "origin: http://evil.test\r\naccess-control-request-method: POST\r\n\
                     access-control-request-headers: content-type\r\n";
    let fields = format!("{host}{preflight}");
    let answer = ask(&gateway, "OPTIONS /purge", &fields, "").await?;
    assert_eq!(answer.status(), 403);
    assert!(
        !answer
            .text()
            .to_ascii_lowercase()
            .contains("access-control-")
    );
    Ok(())
}

#[tokio::test]
async fn the_admin_ports_own_page_and_a_person_at_the_address_bar_are_served() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let (host, port) = (host(&gateway), gateway.admin());
    for fields in [
        String::new(),
        "sec-fetch-site: none\r\n".to_owned(),
        format!("origin: http://127.0.0.1:{port}\r\nsec-fetch-site: same-origin\r\n"),
        format!("origin: http://127.0.0.1:{port}\r\n"),
        // TLS ends before us.
        format!("origin: https://127.0.0.1:{port}\r\nsec-fetch-site: same-origin\r\n"),
    ] {
        let fields = format!("{host}{fields}content-type: application/json\r\n");
        let answer = ask(&gateway, "POST /purge", &fields, "{\"all\":true}").await?;
        assert_eq!(answer.status(), 200, "{fields} {}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_rebound_name_reaches_nothing_but_probes() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let port = gateway.admin();
    for (method, path, _) in ENDPOINTS {
        let probe = matches!(path, "/livez" | "/readyz");
        for foreign in [
            format!("evil.test:{port}"),
            "evil.test".to_owned(),
            format!("127.0.0.1.evil.test:{port}"),
            format!("localhost.evil.test:{port}"),
            format!("10.9.8.7:{port}"),
            format!("2130706433:{port}"),
            "0.0.0.0".to_owned(),
        ] {
            let fields = format!("host: {foreign}\r\ncontent-type: application/json\r\n");
            let answer = ask(&gateway, &format!("{method} {path}"), &fields, "").await?;
            let wanted = if probe { 200 } else { 421 };
            assert_eq!(answer.status(), wanted, "{method} {path} {foreign}");
        }
    }
    // To the browser the page is of the same origin.
    let fields = "host: evil.test\r\norigin: http://evil.test\r\nsec-fetch-site: same-origin\r\n\
                  content-type: application/json\r\n";
    let answer = ask(&gateway, "POST /purge", fields, "{\"all\":true}").await?;
    assert_eq!(answer.status(), 421);
    for fields in [
        "",
        "host: localhost\r\nhost: evil.test\r\n",
        "host: localhost, evil.test\r\n",
        "host: u@localhost\r\n",
        "host: localhost/\r\n",
    ] {
        let answer = ask(&gateway, "GET /metrics", fields, "").await?;
        assert_eq!(answer.status(), 400, "{fields}");
    }
    // The target's host is the one that counts (RFC 9112 §3.2.2), and may not be another.
    let answer = ask(
        &gateway,
        "GET http://evil.test/metrics",
        "host: localhost\r\n",
        "",
    )
    .await?;
    assert_eq!(answer.status(), 400);
    for good in [
        format!("localhost:{port}"),
        "LocalHost".to_owned(),
        "weaver.localhost".to_owned(),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ] {
        let answer = ask(&gateway, "GET /metrics", &format!("host: {good}\r\n"), "").await?;
        assert_eq!(answer.status(), 200, "{good}");
    }
    Ok(())
}

#[tokio::test]
async fn names_that_are_listed_are_served_and_a_token_does_not_make_others_served() -> Result<()> {
    let token = "authorization: Bearer t0k3n\r\n";
    let gateway = Gateway::start(
        "[admin]\ntoken = \"t0k3n\"\nhosts = [\"admin.test\", \"*.in.test\", \"10.9.8.7\"]\n",
    )
    .await?;
    for (name, status) in [
        ("admin.test", 200),
        ("Admin.Test:8001", 200),
        ("a.in.test", 200),
        ("10.9.8.7", 200),
        ("in.test", 421),
        ("evil.test", 421),
        ("10.9.8.8", 421),
    ] {
        let fields = format!("host: {name}\r\n{token}");
        let answer = ask(&gateway, "GET /agents", &fields, "").await?;
        assert_eq!(answer.status(), status, "{name}");
    }
    let gateway = Gateway::start("[admin]\nhosts = [\"*\"]\n").await?;
    let answer = ask(&gateway, "GET /agents", "host: evil.test\r\n", "").await?;
    assert_eq!(answer.status(), 200);
    Ok(())
}

#[tokio::test]
async fn no_route_leads_from_the_public_port_to_the_admin_port() -> Result<()> {
    let victim = Gateway::start("").await?;
    let port = victim.admin();
    let config = format!(
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{port}\"]\n\
         [[routes]]\npath = \"/agents\"\nagent = \"dig\"\n"
    );
    let gateway = Gateway::start(&config).await?;
    let agent = json!({
        "agent_id": "a", "agent_type": "t", "capabilities": ["dig"],
        "metadata": { "url": format!("http://127.0.0.1:{port}") },
    })
    .to_string();
    let fields = format!("{}content-type: application/json\r\n", host(&gateway));
    let answer = ask(&gateway, "POST /agents", &fields, &agent).await?;
    assert_eq!(answer.status(), 201, "{}", answer.text());
    for (line, body) in [
        ("POST /purge", "{\"all\":true}"),
        ("DELETE /model-cache", ""),
        ("GET /agents", ""),
    ] {
        let (length, port) = (body.len(), gateway.port());
        let request = format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let mut answer = exchange(port, &request).await?;
        for _ in 0..500 {
            // Until the agent is found.
            if answer.status() != 503 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = exchange(port, &request).await?;
        }
        assert_eq!(answer.status(), 403, "{line} {}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_form_is_no_json() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let host = host(&gateway);
    for path in ["/purge", "/warm", "/agents", "/agents/a/heartbeat"] {
        for media in [
            "",
            "content-type: text/plain\r\n",
            "content-type: application/x-www-form-urlencoded\r\n",
            "content-type: multipart/form-data; boundary=x\r\n",
            "content-type: text/plain; a=application/json\r\n",
            "content-type: text/plain\r\ncontent-type: application/json\r\n",
        ] {
            let fields = format!("{host}{media}");
            let line = format!("POST {path}");
            let answer = ask(&gateway, &line, &fields, "{\"all\":true}").await?;
            assert_eq!(answer.status(), 415, "{path} {media}");
            let text = answer.text();
            assert!(text.contains("accept-post: application/json"), "{text}");
        }
        // Chunked has a body too, and a form without one is a form.
        let request = format!(
            "POST {path} HTTP/1.1\r\n{host}transfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n"
        );
        let answer = exchange(gateway.admin(), &request).await?;
        assert_eq!(answer.status(), 415, "{path}");
    }
    let form = format!("{host}content-type: text/plain\r\n");
    let answer = ask(&gateway, "POST /agents/a/heartbeat", &form, "").await?;
    assert_eq!(answer.status(), 415);
    for media in [
        "application/json",
        "Application/JSON;charset=utf-8",
        "application/vnd.weaver+json",
    ] {
        let fields = format!("{host}content-type: {media}\r\n");
        let answer = ask(&gateway, "POST /purge", &fields, "{\"all\":true}").await?;
        assert_eq!(answer.status(), 200, "{media}");
    }
    // Without a body there is no type to give.
    let answer = ask(&gateway, "POST /agents/a/heartbeat", &host, "").await?;
    assert_eq!(answer.status(), 404);
    Ok(())
}

#[tokio::test]
async fn every_answer_tells_browsers_to_keep_other_sites_out() -> Result<()> {
    let gateway = Gateway::start("").await?;
    for fields in [host(&gateway), "host: evil.test\r\n".to_owned()] {
        for (method, path, _) in ENDPOINTS {
            let answer = ask(&gateway, &format!("{method} {path}"), &fields, "").await?;
            let text = answer.text().to_ascii_lowercase();
            for line in [
                "x-content-type-options: nosniff\r\n",
                "x-frame-options: deny\r\n",
                "frame-ancestors 'none'\r\n",
                "cross-origin-resource-policy: same-origin\r\n",
            ] {
                assert!(text.contains(line), "{method} {path} {line} {text}");
            }
            assert!(!text.contains("access-control-"), "{text}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_token_is_asked_for_by_one_line_with_the_scheme_in_any_case() -> Result<()> {
    let gateway = Gateway::start("[admin]\ntoken = \"t0k3n\"\n").await?;
    let host = host(&gateway);
    for (authorization, status) in [
        ("authorization: Bearer t0k3n\r\n", 200),
        ("authorization: bearer t0k3n\r\n", 200),
        ("authorization: BEARER  t0k3n\r\n", 200),
        ("", 401),
        ("authorization: Bearer\r\n", 401),
        ("authorization: Bearer \r\n", 401),
        ("authorization: Bearer t0k3\r\n", 401),
        ("authorization: Bearer t0k3nn\r\n", 401),
        ("authorization: Basic t0k3n\r\n", 401),
        ("authorization: t0k3n\r\n", 401),
        (
            "authorization: Bearer t0k3n\r\nauthorization: Bearer x\r\n",
            401,
        ),
        (
            "authorization: Bearer t0k3n\r\nauthorization: Bearer t0k3n\r\n",
            401,
        ),
    ] {
        let fields = format!("{host}{authorization}");
        let answer = ask(&gateway, "GET /agents", &fields, "").await?;
        assert_eq!(answer.status(), status, "{authorization:?}");
    }
    // Nothing of a path's spelling opens what is closed.
    for path in [
        "/%61gents",
        "/livez/../agents",
        "//agents",
        "/agents/",
        "/livez/",
        "/metrics/../purge",
        "/livez%2f..%2fagents",
        "/LIVEZ",
    ] {
        let answer = ask(&gateway, &format!("GET {path}"), &host, "").await?;
        assert_eq!(answer.status(), 401, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn guesses_of_the_admin_token_run_out_even_for_the_right_one() -> Result<()> {
    let gateway =
        Gateway::start("[auth]\nfailures_per_minute = 5\n[admin]\ntoken = \"t0k3n\"\n").await?;
    let host = host(&gateway);
    let status = async |token: &str| -> Result<Exchange> {
        let fields = format!("{host}authorization: Bearer {token}\r\n");
        ask(&gateway, "GET /agents", &fields, "").await
    };
    // The right token costs nothing, nor does none.
    for _ in 0..10 {
        assert_eq!(status("t0k3n").await?.status(), 200);
        assert_eq!(ask(&gateway, "GET /agents", &host, "").await?.status(), 401);
    }
    for guess in 0..5 {
        assert_eq!(status(&format!("guess{guess}")).await?.status(), 401);
    }
    for token in ["guess5", "t0k3n"] {
        let refused = status(token).await?;
        assert_eq!(refused.status(), 429, "{token}");
        assert!(refused.text().contains("retry-after: "), "{token}");
    }
    // Probes and metrics need no token, and go on.
    for path in ["/livez", "/metrics"] {
        let answer = ask(&gateway, &format!("GET {path}"), &host, "").await?;
        assert_eq!(answer.status(), 200, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn the_command_line_passes_the_gate() -> Result<()> {
    let gateway = Gateway::start("").await?;
    for host in ["127.0.0.1", "localhost"] {
        let admin = format!("http://{host}:{}", gateway.admin());
        let mut command = tokio::process::Command::new(Gateway::program()?);
        let run = command.args(["purge", "--all", "--admin", &admin]).output();
        let output = tokio::time::timeout(Duration::from_secs(20), run).await??;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{host}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn the_configuration_says_what_is_wrong_with_a_host() -> Result<()> {
    for bad in [
        "http://admin.test",
        "admin.test:8001",
        "",
        "a b",
        "*.",
        "*x",
    ] {
        let config = format!("[admin]\nhosts = [{}]\n", json!(bad));
        let faults = crate::faults(&config).await?;
        assert!(faults.contains("admin.hosts: "), "{bad}: {faults}");
    }
    Ok(())
}

/// A proxy may share a connection between operators.
#[tokio::test]
async fn pipelined_responses_are_each_framed_by_their_own_request() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let (get, head) = ("GET /hottest", "HEAD /livez");
    let request =
        |what: &str, end: &str| format!("{what} HTTP/1.1\r\nhost: localhost\r\n{end}\r\n");
    let both = [request(get, ""), request(head, "connection: close\r\n")].concat();
    let answer = exchange(gateway.admin(), &both).await?.text();
    let (first, second) = answer
        .split_once("HTTP/1.1 200 OK\r\n")
        .map_or(("", ""), |(_, rest)| {
            rest.split_once("HTTP/1.1 200 OK\r\n").unwrap_or((rest, ""))
        });
    assert!(first.ends_with('}'), "the GET has its body: {answer}");
    assert!(second.ends_with("\r\n\r\n"), "the HEAD has none: {answer}");
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_too_large_is_a_problem() -> Result<()> {
    let gateway = Gateway::start("").await?;
    let body = "x".repeat(3 << 20);
    let head = format!(
        "POST /purge HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let answer = exchange(gateway.admin(), &format!("{head}{body}")).await?;
    assert_eq!(answer.status(), 413, "{}", answer.text());
    assert!(
        answer.text().contains("application/problem+json"),
        "{}",
        answer.text()
    );
    Ok(())
}
