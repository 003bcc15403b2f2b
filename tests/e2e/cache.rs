use crate::{client, field, ok};
use anyhow::Result;
use futures_util::future::join_all;
use std::time::Duration;
use tokio::{io::AsyncWriteExt as _, time::sleep};
use weaver_tests::{Gateway, Nginx, Origin, exchange};

#[tokio::test]
async fn the_second_request_is_a_hit_and_costs_the_upstream_nothing() -> Result<()> {
    let origin = Origin::constant(ok(
        "hello",
        "cache-control: max-age=60\r\nx-a: 1\r\nx-a: 2\r\n",
    ))
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let first = client().get(gateway.url("/a?b=c")).send().await?;
    let status = field(&first, "cache-status");
    assert!(
        status.starts_with("weaver; fwd=uri-miss; ttl=") && status.ends_with("; stored"),
        "{status}"
    );
    assert_eq!(first.text().await?, "hello");
    let second = client().get(gateway.url("/a?b=c")).send().await?;
    assert!(field(&second, "cache-status").starts_with("weaver; hit; ttl="));
    assert_eq!(field(&second, "age"), "0");
    assert_eq!(second.headers().get_all("x-a").iter().count(), 2);
    assert_eq!(second.text().await?, "hello");
    assert_eq!(origin.requests(), 1);
    client().get(gateway.url("/a?b=d")).send().await?;
    assert_eq!(origin.requests(), 2, "another query is another URL");
    Ok(())
}

#[tokio::test]
async fn head_is_answered_from_a_stored_get() -> Result<()> {
    let origin = Origin::constant(ok("hello", "cache-control: max-age=60\r\n")).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    client().get(gateway.url("/")).send().await?.text().await?;
    let request = "HEAD / HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\nconnection: close\r\n\r\n"
        .replace("PORT", &gateway.port().to_string());
    let head = exchange(gateway.port(), &request).await?;
    assert!(
        head.text().contains("content-length: 5\r\n"),
        "{}",
        head.text()
    );
    assert!(head.text().contains("weaver; hit"), "{}", head.text());
    assert!(head.body().is_empty());
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_matching_tag_gets_304_and_a_range_gets_206() -> Result<()> {
    let origin = Origin::constant(ok(
        "0123456789",
        "cache-control: max-age=60\r\netag: \"v1\"\r\ncontent-type: text/plain\r\n",
    ))
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    // Even the request that fills is answered by its own conditions.
    let first = client()
        .get(gateway.url("/"))
        .header("if-none-match", "W/\"v1\"")
        .send()
        .await?;
    assert_eq!(first.status(), 304);
    for (name, value, status, body) in [
        ("if-none-match", "\"v0\", \"v1\"", 304, ""),
        ("if-none-match", "\"v0\"", 200, "0123456789"),
        ("range", "bytes=2-4", 206, "234"),
        ("range", "bytes=-2", 206, "89"),
        ("range", "bytes=20-", 416, ""),
    ] {
        let answer = client()
            .get(gateway.url("/"))
            .header(name, value)
            .send()
            .await?;
        assert_eq!(answer.status(), status, "{name}: {value}");
        assert_eq!(answer.text().await?, body, "{name}: {value}");
    }
    let many = client()
        .get(gateway.url("/"))
        .header("range", "bytes=0-1, 4-5")
        .send()
        .await?;
    assert!(field(&many, "content-type").starts_with("multipart/byteranges; boundary="));
    let many = many.text().await?;
    assert!(
        many.contains("content-range: bytes 4-5/10\r\n\r\n45\r\n"),
        "{many}"
    );
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_stale_response_is_revalidated_and_keeps_its_body() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let answer = if head.to_lowercase().contains("if-none-match: \"v1\"") {
            "HTTP/1.1 304 Not Modified\r\netag: \"v1\"\r\ncache-control: max-age=60\r\nx-new: yes\r\n\r\n".to_owned()
        } else {
            ok("body", "etag: \"v1\"\r\ncache-control: max-age=1\r\n")
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    client().get(gateway.url("/")).send().await?.text().await?;
    sleep(Duration::from_millis(1100)).await;
    let again = client().get(gateway.url("/")).send().await?;
    assert!(
        field(&again, "cache-status").starts_with("weaver; fwd=stale; fwd-status=304"),
        "{again:?}"
    );
    assert_eq!(
        (again.status().as_u16(), field(&again, "x-new")),
        (200, "yes")
    );
    assert_eq!(again.text().await?, "body");
    let hit = client().get(gateway.url("/")).send().await?;
    assert!(field(&hit, "cache-status").starts_with("weaver; hit"));
    assert_eq!(origin.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_refreshes_behind() -> Result<()> {
    let origin = Origin::constant(ok(
        "x",
        "cache-control: max-age=1, stale-while-revalidate=60\r\n",
    ))
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    client().get(gateway.url("/")).send().await?.text().await?;
    sleep(Duration::from_millis(1100)).await;
    let stale = client().get(gateway.url("/")).send().await?;
    assert!(
        field(&stale, "cache-status").starts_with("weaver; hit; ttl=-"),
        "{stale:?}"
    );
    for _ in 0..100 {
        if origin.requests() == 2 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    let fresh = client().get(gateway.url("/")).send().await?;
    assert!(
        field(&fresh, "cache-status").starts_with("weaver; hit; ttl=0"),
        "{fresh:?}"
    );
    assert_eq!(origin.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn a_stale_response_stands_in_for_an_upstream_that_is_gone() -> Result<()> {
    let origin = Origin::constant(ok("kept", "cache-control: max-age=1\r\n")).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    client().get(gateway.url("/")).send().await?.text().await?;
    sleep(Duration::from_millis(1100)).await;
    drop(origin);
    let answer = client().get(gateway.url("/")).send().await?;
    // A connection that hyper still holds may answer once more; it is closed with the origin's task
    // only when it reads.
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await?, "kept");
    Ok(())
}

#[tokio::test]
async fn a_hundred_clients_make_one_request_and_all_get_the_whole_body() -> Result<()> {
    let body = "z".repeat(200_000);
    let response = ok(&body, "cache-control: max-age=60\r\n");
    let origin = Origin::start(move |_, mut stream| {
        let response = response.clone();
        async move {
            let (first, rest) = response.split_at(1000);
            stream.write_all(first.as_bytes()).await.ok()?;
            sleep(Duration::from_millis(300)).await;
            stream.write_all(rest.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let client = client();
    let answers = join_all(
        (0..100).map(|_| async { client.get(gateway.url("/x")).send().await?.bytes().await }),
    )
    .await;
    for answer in answers {
        assert_eq!(answer?, body);
    }
    assert_eq!(origin.requests(), 1);
    let report = gateway.report().await?;
    assert_eq!(
        report["http_cache"]["by_endpoint"]["origin"],
        serde_json::json!({ "hits": 0, "misses": 100 })
    );
    Ok(())
}

#[tokio::test]
async fn the_first_client_may_leave_and_the_others_are_served() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        sleep(Duration::from_millis(300)).await;
        stream
            .write_all(ok("hello", "cache-control: max-age=60\r\n").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let url = gateway.url("/");
    let leaves = tokio::spawn({
        let url = url.clone();
        async move {
            client()
                .get(url)
                .timeout(Duration::from_millis(100))
                .send()
                .await
        }
    });
    sleep(Duration::from_millis(50)).await;
    let stays = client().get(url).send().await?;
    assert!(leaves.await?.is_err());
    assert!(
        field(&stays, "cache-status").contains("collapsed"),
        "{stays:?}"
    );
    assert_eq!(stays.text().await?, "hello");
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_waited_for() -> Result<()> {
    let origin = Origin::start(|_, mut stream| async move {
        sleep(Duration::from_millis(200)).await;
        stream
            .write_all(ok("x", "cache-control: no-store\r\n").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    client().get(gateway.url("/")).send().await?;
    let started = std::time::Instant::now();
    let client = client();
    let answers = join_all((0..20).map(|_| client.get(gateway.url("/")).send())).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(|answer| answer.status() == 200))
    );
    // One behind the other they would take four seconds.
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(origin.requests(), 21);
    Ok(())
}

#[tokio::test]
async fn users_never_see_one_another() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let user = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: "))
            .unwrap_or("nobody")
            .to_owned();
        stream
            .write_all(ok(&user, "cache-control: private, max-age=60\r\n").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("per_user = true")).await?;
    for _ in 0..2 {
        for user in ["Bearer ann", "Bearer bob"] {
            let answer = client()
                .get(gateway.url("/me"))
                .header("authorization", user)
                .send()
                .await?;
            assert_eq!(answer.text().await?, user);
        }
        assert_eq!(
            client()
                .get(gateway.url("/me"))
                .send()
                .await?
                .text()
                .await?,
            "nobody"
        );
    }
    // Ann's and Bob's were kept, each for one of them; nobody's was not, for it is private.
    assert_eq!(origin.requests(), 4);
    Ok(())
}

#[tokio::test]
async fn a_standard_route_shares_nothing_authenticated_without_leave() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let user = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: "))
            .unwrap_or("nobody")
            .to_owned();
        let fields = if head.starts_with("GET /public") {
            "cache-control: public, max-age=60\r\n"
        } else {
            "cache-control: max-age=60\r\n"
        };
        stream.write_all(ok(&user, fields).as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let ask = async |path: &str, user: &str| {
        client()
            .get(gateway.url(path))
            .header("authorization", user)
            .send()
            .await?
            .text()
            .await
    };
    assert_eq!(ask("/own", "ann").await?, "ann");
    assert_eq!(ask("/own", "bob").await?, "bob");
    assert_eq!(ask("/public", "ann").await?, "ann");
    assert_eq!(
        ask("/public", "bob").await?,
        "ann",
        "public says that it may be shared"
    );
    Ok(())
}

#[tokio::test]
async fn variants_are_kept_apart_and_found_again() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let language = head
            .lines()
            .find_map(|line| line.strip_prefix("accept-language: "))
            .unwrap_or("-")
            .to_owned();
        stream
            .write_all(
                ok(
                    &language,
                    "cache-control: max-age=60\r\nvary: Accept-Language\r\n",
                )
                .as_bytes(),
            )
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for _ in 0..2 {
        for language in ["de", "en", "fr"] {
            let answer = client()
                .get(gateway.url("/"))
                .header("accept-language", language)
                .send()
                .await?;
            assert_eq!(answer.text().await?, language);
        }
    }
    assert_eq!(origin.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn patterns_of_the_configuration_reach_proxied_routes() -> Result<()> {
    let origin = Origin::constant(ok("item", "cache-control: no-cache\r\n")).await?;
    let config = format!(
        "[cache.patterns]\n\"/catalog/*\" = {{ ttl = \"5m\", override = true, per_user = false, vary_on = [] }}\n{}",
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    for _ in 0..3 {
        client().get(gateway.url("/catalog/1")).send().await?;
        client().get(gateway.url("/catalogue")).send().await?;
    }
    assert_eq!(origin.requests(), 4);
    Ok(())
}

#[tokio::test]
async fn an_unsafe_request_invalidates_its_url() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let fields = if head.starts_with("POST") {
            "location: /other\r\n"
        } else {
            "cache-control: max-age=60\r\n"
        };
        stream.write_all(ok("x", fields).as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for path in ["/a", "/other", "/a", "/other"] {
        client().get(gateway.url(path)).send().await?.text().await?;
    }
    assert_eq!(origin.requests(), 2);
    client().post(gateway.url("/a")).send().await?;
    for path in ["/a", "/other"] {
        client().get(gateway.url(path)).send().await?.text().await?;
    }
    assert_eq!(origin.requests(), 5);
    Ok(())
}

#[tokio::test]
async fn nginx_files_are_cached_byte_for_byte() -> Result<()> {
    let nginx = Nginx::start("location / { add_header Cache-Control max-age=60; }").await?;
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    std::fs::write(nginx.root().join("blob"), &bytes)?;
    let route = format!(
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}\"]\n",
        nginx.port()
    );
    let gateway = Gateway::start(&route).await?;
    for expected in ["weaver; fwd=uri-miss", "weaver; hit"] {
        let answer = client().get(gateway.url("/blob")).send().await?;
        assert!(field(&answer, "cache-status").starts_with(expected));
        assert_eq!(field(&answer, "content-length"), "1000000");
        assert_eq!(answer.bytes().await?, bytes);
    }
    Ok(())
}

#[tokio::test]
async fn a_part_is_kept_and_completed_when_the_whole_is_asked_for() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let head = head.to_lowercase();
        let fields = "cache-control: max-age=60\r\netag: \"v1\"\r\n";
        let answer = if head.contains("range: bytes=0-4\r\n") {
            format!("HTTP/1.1 206 Partial Content\r\n{fields}content-range: bytes 0-4/10\r\ncontent-length: 5\r\n\r\n01234")
        } else if head.contains("range: bytes=5-\r\n") && head.contains("if-range: \"v1\"\r\n") {
            format!("HTTP/1.1 206 Partial Content\r\n{fields}content-range: bytes 5-9/10\r\ncontent-length: 5\r\n\r\n56789")
        } else {
            ok("whole", fields)
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let ask = async |range: Option<&str>| {
        let mut request = client().get(gateway.url("/"));
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let range = field(&answer, "content-range").to_owned();
        Ok::<_, anyhow::Error>((status, range, answer.text().await?))
    };
    assert_eq!(
        ask(Some("bytes=0-4")).await?,
        (206, "bytes 0-4/10".into(), "01234".into())
    );
    assert_eq!(
        ask(Some("bytes=1-2")).await?,
        (206, "bytes 1-2/10".into(), "12".into())
    );
    assert_eq!(origin.requests(), 1);
    assert_eq!(ask(None).await?, (200, String::new(), "0123456789".into()));
    assert_eq!(ask(None).await?, (200, String::new(), "0123456789".into()));
    assert_eq!(
        ask(Some("bytes=8-")).await?,
        (206, "bytes 8-9/10".into(), "89".into())
    );
    assert_eq!(origin.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn halves_of_different_wholes_are_never_combined() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let head = head.to_lowercase();
        let part = |tag: &str, range: &str, body: &str| {
            format!("HTTP/1.1 206 Partial Content\r\ncache-control: max-age=60\r\netag: {tag}\r\ncontent-range: bytes {range}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        // This origin ignores If-Range.
        let answer = if head.contains("range: bytes=0-4\r\n") {
            part("\"v1\"", "0-4/10", "01234")
        } else if head.contains("range: bytes=5-\r\n") {
            part("\"v2\"", "5-9/10", "fghij")
        } else {
            ok("abcdefghij", "cache-control: max-age=60\r\netag: \"v2\"\r\n")
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    client()
        .get(gateway.url("/"))
        .header("range", "bytes=0-4")
        .send()
        .await?
        .text()
        .await?;
    let whole = client().get(gateway.url("/")).send().await?;
    assert_eq!(
        (whole.status().as_u16(), whole.text().await?.as_str()),
        (200, "abcdefghij")
    );
    Ok(())
}

#[tokio::test]
async fn a_head_freshens_what_it_describes_and_a_post_may_bring_what_a_get_would() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let answer = if head.starts_with("HEAD") {
            "HTTP/1.1 200 OK\r\netag: \"v1\"\r\ncache-control: max-age=60\r\nx-new: 1\r\n\r\n"
                .to_owned()
        } else if head.starts_with("POST") {
            ok(
                "posted",
                "content-location: /posted\r\ncache-control: max-age=60\r\n",
            )
        } else {
            ok("body", "etag: \"v1\"\r\ncache-control: max-age=1\r\n")
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    client().get(gateway.url("/")).send().await?.text().await?;
    sleep(Duration::from_millis(1100)).await;
    client().head(gateway.url("/")).send().await?;
    let fresh = client().get(gateway.url("/")).send().await?;
    assert!(
        field(&fresh, "cache-status").starts_with("weaver; hit"),
        "{fresh:?}"
    );
    assert_eq!(
        (field(&fresh, "x-new"), fresh.status().as_u16()),
        ("1", 200)
    );
    assert_eq!(origin.requests(), 2);
    assert_eq!(
        client()
            .post(gateway.url("/posted"))
            .send()
            .await?
            .text()
            .await?,
        "posted"
    );
    let got = client().get(gateway.url("/posted")).send().await?;
    assert!(
        field(&got, "cache-status").starts_with("weaver; hit"),
        "{got:?}"
    );
    assert_eq!(got.text().await?, "posted");
    assert_eq!(origin.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn what_came_without_a_date_keeps_the_time_of_its_coming() -> Result<()> {
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let first = client().get(gateway.url("/")).send().await?;
    sleep(Duration::from_millis(1100)).await;
    let second = client().get(gateway.url("/")).send().await?;
    assert_eq!(field(&first, "date"), field(&second, "date"));
    assert_eq!(field(&second, "age"), "1");
    Ok(())
}

/// The first half of a part that is stored, then what the origin says of the rest.
async fn halves(rest_fields: &'static str, config: &str) -> Result<(Origin, Gateway)> {
    let origin = Origin::start(move |head, mut stream| async move {
        let head = head.to_lowercase();
        let part = |fields: &str, range: &str, body: &str| {
            format!("HTTP/1.1 206 Partial Content\r\n{fields}etag: \"v1\"\r\ncontent-range: bytes {range}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        let answer = if head.contains("range: bytes=0-4\r\n") {
            part("cache-control: max-age=60\r\n", "0-4/10", "01234")
        } else if head.contains("range: bytes=5-\r\n") {
            part(rest_fields, "5-9/10", "56789")
        } else {
            ok("0123456789", rest_fields)
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&format!("{config}\n{}", origin.route(""))).await?;
    client()
        .get(gateway.url("/"))
        .header("range", "bytes=0-4")
        .send()
        .await?
        .text()
        .await?;
    Ok((origin, gateway))
}

#[tokio::test]
async fn a_completed_response_is_whole_even_where_nothing_more_may_be_kept() -> Result<()> {
    for (fields, config) in [
        ("cache-control: max-age=60\r\n", "[cache]\nmax_filling = 6"),
        ("cache-control: no-store\r\n", ""),
        ("cache-control: max-age=60\r\nvary: *\r\n", ""),
        ("cache-control: max-age=60\r\nvary: foo\r\n", ""),
    ] {
        let (_origin, gateway) = halves(fields, config).await?;
        for _ in 0..2 {
            let whole = client().get(gateway.url("/")).send().await?;
            assert_eq!(whole.status(), 200, "{fields}{config}");
            assert_eq!(whole.text().await?, "0123456789", "{fields}{config}");
        }
    }
    Ok(())
}

/// A part is of the variant that its request selected, and answers and completes no other.
#[tokio::test]
async fn parts_of_variants_are_kept_apart() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let head = head.to_lowercase();
        let foo = head
            .lines()
            .find_map(|line| line.strip_prefix("foo: "))
            .unwrap_or("-")
            .to_owned();
        let fields = format!("cache-control: max-age=60\r\nvary: foo\r\netag: \"{foo}\"\r\n");
        let (range, body) = if head.contains("range: bytes=0-4\r\n") {
            ("0-4", foo.repeat(5))
        } else if head.contains("range: bytes=5-\r\n") {
            ("5-9", foo.repeat(5))
        } else {
            ("", foo.repeat(10))
        };
        let answer = if range.is_empty() {
            ok(&body, &fields)
        } else {
            format!("HTTP/1.1 206 Partial Content\r\n{fields}content-range: bytes {range}/10\r\ncontent-length: 5\r\n\r\n{body}")
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let ask = async |foo: &str, range: Option<&str>| {
        let mut request = client().get(gateway.url("/")).header("foo", foo);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let answer = request.send().await?;
        let status = field(&answer, "cache-status").to_owned();
        anyhow::Ok((status.starts_with("weaver; hit"), answer.text().await?))
    };
    assert_eq!(ask("a", Some("bytes=0-4")).await?, (false, "aaaaa".into()));
    assert_eq!(ask("a", Some("bytes=1-3")).await?, (true, "aaa".into()));
    assert_eq!(ask("b", Some("bytes=0-4")).await?, (false, "bbbbb".into()));
    assert_eq!(ask("a", None).await?, (false, "a".repeat(10)));
    // The rest alone is asked for, behind the part that is stored.
    assert_eq!(ask("b", None).await?, (false, "b".repeat(10)));
    assert_eq!(ask("a", None).await?, (true, "a".repeat(10)));
    assert_eq!(ask("b", Some("bytes=8-")).await?, (true, "bb".into()));
    Ok(())
}

/// RFC 9213: the field for us stands over the field for all shared caches, and that over
/// Cache-Control.
#[tokio::test]
async fn a_targeted_field_of_our_own_comes_first() -> Result<()> {
    let fields = "cache-control: no-store\r\ncdn-cache-control: max-age=1\r\nweaver-cache-control: max-age=600\r\n";
    let origin = Origin::constant(ok("x", fields)).await?;
    let config = |own| {
        format!(
            "[cache]\ntargeted_fields = [{own}\"CDN-Cache-Control\"]\n{}",
            origin.route("")
        )
    };
    for (own, ttl) in [("", 0..=1), ("\"Weaver-Cache-Control\", ", 590..=600)] {
        let gateway = Gateway::start(&config(own)).await?;
        client().get(gateway.url("/")).send().await?.text().await?;
        let hit = client().get(gateway.url("/")).send().await?;
        let status = field(&hit, "cache-status");
        let found = status
            .strip_prefix("weaver; hit; ttl=")
            .and_then(|ttl| ttl.parse().ok());
        assert!(found.is_some_and(|found| ttl.contains(&found)), "{status}");
    }
    Ok(())
}

/// What a route says of stale answers counts where the response says nothing.
#[tokio::test]
async fn a_route_grants_stale_answers() -> Result<()> {
    let origin = Origin::constant(ok("x", "cache-control: max-age=0\r\netag: \"1\"\r\n")).await?;
    for (keys, detail) in [
        ("stale_while_revalidate = \"1m\"", "weaver; hit; ttl=-"),
        ("", "weaver; fwd=stale"),
    ] {
        let gateway = Gateway::start(&origin.route(keys)).await?;
        client().get(gateway.url("/")).send().await?.text().await?;
        let again = client().get(gateway.url("/")).send().await?;
        let status = field(&again, "cache-status");
        assert!(
            status.starts_with(detail) || status.starts_with("weaver; hit; ttl=0"),
            "{keys}: {status}"
        );
        assert_eq!(keys.is_empty(), status.contains("fwd="), "{keys}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_post_that_is_kept_is_counted_once() -> Result<()> {
    let fields = "content-location: /p\r\ncache-control: max-age=60\r\n";
    let origin = Origin::constant(ok("x", fields)).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    client()
        .post(gateway.url("/p"))
        .send()
        .await?
        .text()
        .await?;
    let report = gateway.report().await?;
    assert_eq!(
        report["http_cache"]["by_endpoint"].get("origin"),
        None,
        "{report}"
    );
    Ok(())
}
