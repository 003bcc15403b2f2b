//! What a purge names is bounded in bytes, from wherever it comes, and what could not be purged is not
//! stored.

use crate::support::{client, eventually, ok, text_of};
use anyhow::Result;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, Redis};

async fn ask(gateway: &Gateway, path: &str) -> Result<String> {
    let asking = client().get(gateway.url(path)).header("host", "h");
    text_of(asking.send().await?).await
}

/// Status and problem.
async fn purge(gateway: &Gateway, what: &Value) -> Result<(u16, String)> {
    let asking = client().post(gateway.admin_url("/purge")).json(what);
    let answer = asking.send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn a_purge_with_too_long_a_name_is_refused_and_says_which_and_how_long_it_may_be()
-> Result<()> {
    let origin = Origin::constant(ok("x", "cache-control: max-age=600\r\n")).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    ask(&gateway, "/a").await?;
    let long = |bytes: usize| "x".repeat(bytes);
    let refused = [
        (json!({ "tags": ["fine", long(1025)] }), "tags[1]", "1024"),
        (
            json!({ "url": format!("http://h/{}", long(8192)) }),
            "URL",
            "8192",
        ),
        (json!({ "url": format!("/{}", long(8192)) }), "URL", "8192"),
        (
            json!({ "url": format!("http://{}/a", long(8192)) }),
            "URL",
            "8192",
        ),
        (
            json!({ "prefix": format!("/{}", long(8192)) }),
            "prefix",
            "8192",
        ),
        (json!({ "tags": vec!["t"; 101] }), "tags has 101", "100"),
        (json!({ "tags": [long(900 << 10)] }), "tags[0]", "1024"),
    ];
    for (what, which, limit) in refused {
        let (status, said) = purge(&gateway, &what).await?;
        assert_eq!(status, 400, "{which}: {said}");
        assert!(said.contains(which) && said.contains(limit), "{said}");
        assert!(said.len() < 500, "the name is not sent back: {which}");
    }
    assert!(ask(&gateway, "/a").await?.contains("hit"));
    let accepted = [
        json!({ "tags": [long(1024)] }),
        json!({ "url": format!("/{}", long(8191)) }),
        json!({ "prefix": format!("/{}", long(8191)) }),
        json!({ "tags": (0..100).map(|tag| format!("t{tag}")).collect::<Vec<_>>() }),
    ];
    for what in accepted {
        assert_eq!(
            purge(&gateway, &what).await?.0,
            200,
            "{:.40}",
            what.to_string()
        );
    }
    Ok(())
}

#[tokio::test]
async fn long_names_do_not_fill_the_memory_of_a_node() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=600\r\n")).await?;
    let gateway = Gateway::start(&format!("{}{}", redis.section(), origin.route(""))).await?;
    gateway.ready_for_redis().await?;
    purge(&gateway, &json!({ "tags": ["t"] })).await?;
    let before = gateway.process().resident();
    for number in 0..200 {
        let tag = format!("{number}{}", "x".repeat(900 << 10));
        purge(&gateway, &json!({ "tags": [tag] })).await?;
    }
    let grown = gateway.process().resident().saturating_sub(before) >> 20;
    assert!(grown < 60, "{grown} MiB");
    Ok(())
}

/// Another program, or a node of another version, may have written it.
#[tokio::test]
async fn an_item_of_the_journal_with_too_long_a_name_reaches_more_and_not_less() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=600\r\n")).await?;
    let gateway = Gateway::start(&format!("{}{}", redis.section(), origin.route(""))).await?;
    gateway.ready_for_redis().await?;
    let long = "x".repeat(100 << 10);
    for (kind, name, value, reached) in [
        ("tag", "tag", long.clone(), "/a"),
        (
            "url",
            "target",
            format!("/a{long}"),
            &format!("/a{}", "x".repeat(9000)),
        ),
        (
            "prefix",
            "prefix",
            format!("/a{long}"),
            &format!("/a{}", "x".repeat(9000)),
        ),
    ] {
        ask(&gateway, reached).await?;
        assert!(ask(&gateway, reached).await?.contains("hit"), "{kind}");
        let item = ["soft", "0", "kind", kind, name, &value];
        redis.cli(&[&["XADD", "http_cache:journal", "*"][..], &item].concat())?;
        eventually("it is purged", async || {
            ask(&gateway, reached)
                .await
                .is_ok_and(|said| !said.contains("; hit"))
        })
        .await;
    }
    Ok(())
}

#[tokio::test]
async fn a_response_with_tags_that_no_purge_can_name_is_not_stored() -> Result<()> {
    let origin = Origin::start(|head, mut stream| async move {
        let tags = match head.split(' ').nth(1)? {
            "/long" => format!("surrogate-key: a {} b\r\n", "x".repeat(1025)),
            "/many" => format!("surrogate-key: {}\r\n", "t ".repeat(257)),
            "/large" => format!(
                "cache-tag: {}\r\n",
                format!("{},", "x".repeat(1000)).repeat(17)
            ),
            "/lines" => format!("cache-tag: {}\r\n", "t,".repeat(20)).repeat(13),
            _ => format!(
                "surrogate-key: {} {}\r\n",
                "x".repeat(1024),
                "t ".repeat(255)
            ),
        };
        let fields = format!("cache-control: max-age=600\r\n{tags}");
        stream.write_all(ok("x", &fields).as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for path in ["/long", "/many", "/large", "/lines"] {
        for _ in 0..2 {
            let answer = ask(&gateway, path).await?;
            assert!(
                answer.contains("; detail=tags\r\n"),
                "{path}: {answer:.300}"
            );
            assert!(
                answer.starts_with("200") && answer.ends_with("\r\n\r\nx"),
                "{path}"
            );
        }
    }
    ask(&gateway, "/fine").await?;
    assert!(ask(&gateway, "/fine").await?.contains("; hit"));
    Ok(())
}

/// Tags are bytes to HTTP, and text to a purge.
#[tokio::test]
async fn a_tag_beyond_ascii_is_purged() -> Result<()> {
    let fields = "cache-control: max-age=600\r\ncache-tag: café, other\r\n";
    let origin = Origin::constant(ok("x", fields)).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for tag in ["café", "other"] {
        ask(&gateway, "/a").await?;
        assert!(ask(&gateway, "/a").await?.contains("; hit"));
        assert_eq!(purge(&gateway, &json!({ "tags": [tag] })).await?.0, 200);
        assert!(!ask(&gateway, "/a").await?.contains("; hit"), "{tag}");
    }
    Ok(())
}
