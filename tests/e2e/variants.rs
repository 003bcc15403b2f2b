//! Variants of a URL that are stored at the same moment: none is lost.

use crate::{client, nodes, ok};
use anyhow::Result;
use futures_util::future::try_join_all;
use std::{sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt as _, sync::Barrier, time::timeout};
use weaver_tests::{Gateway, Origin, Redis};

const PATIENCE: Duration = Duration::from_secs(10);

/// An origin whose answers vary by language; those in the languages of `together` wait for each
/// other.
async fn origin(together: &'static [&'static str]) -> Result<Origin> {
    let barrier = Arc::new(Barrier::new(together.len()));
    Origin::start(move |head, mut stream| {
        let barrier = Arc::clone(&barrier);
        async move {
            let field = "accept-language: ";
            let language = head.lines().find_map(|line| {
                let line = line.to_ascii_lowercase();
                line.strip_prefix(field).map(str::to_owned)
            })?;
            if together.contains(&language.as_str()) {
                barrier.wait().await;
            }
            let fields = "cache-control: max-age=600\r\nvary: accept-language\r\n";
            stream
                .write_all(ok(&language, fields).as_bytes())
                .await
                .ok()?;
            Some(stream)
        }
    })
    .await
}

async fn get(node: &Gateway, language: &str) -> Result<()> {
    let asked = client()
        .get(node.url("/a"))
        .header("host", "h")
        .header("accept-language", language);
    let answer = asked.send().await?.error_for_status()?;
    assert_eq!(answer.text().await?, language);
    Ok(())
}

async fn is_kept(node: &Gateway, language: &str) -> bool {
    let asked = client()
        .get(node.url("/a"))
        .header("host", "h")
        .header("accept-language", language)
        .header("cache-control", "only-if-cached");
    asked
        .send()
        .await
        .is_ok_and(|answer| answer.status() == 200)
}

#[tokio::test]
async fn variants_that_are_fetched_together_are_all_kept() -> Result<()> {
    let languages = &["ab", "cd", "ef", "gh"];
    let origin = origin(languages).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    get(&gateway, "fr").await?;
    let all = languages.iter().map(|language| get(&gateway, language));
    timeout(PATIENCE, try_join_all(all)).await??;
    for language in languages.iter().chain(&["fr"]) {
        get(&gateway, language).await?;
    }
    assert_eq!(origin.requests(), 5);
    Ok(())
}

#[tokio::test]
async fn variants_that_nodes_fetch_together_are_all_in_redis() -> Result<()> {
    let languages = &["ab", "cd", "ef", "gh"];
    let origin = origin(languages).await?;
    let redis = Redis::start().await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let nodes = nodes(5, &config).await?;
    get(&nodes[0], "fr").await?;
    // So that all nodes know that there are variants.
    for node in &nodes {
        crate::eventually("it is in redis", async || is_kept(node, "fr").await).await;
    }
    let all = languages
        .iter()
        .zip(&nodes)
        .map(|(language, node)| get(node, language));
    timeout(PATIENCE, try_join_all(all)).await??;
    // A node that has fetched none of them.
    for language in languages {
        crate::eventually("the other node finds it in redis", async || {
            is_kept(&nodes[4], language).await
        })
        .await;
    }
    assert_eq!(origin.requests(), 5);
    Ok(())
}

/// An origin that sends gzip to those who name it, and says nothing of that in Vary.
async fn coding_origin() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let head = head.to_ascii_lowercase();
        let is_coded = head.contains("accept-encoding: gzip") && !head.contains("gzip;q=0");
        let (body, coding) = if is_coded {
            ("coded", "content-encoding: gzip\r\n")
        } else {
            ("plain", "")
        };
        let fields = format!("cache-control: max-age=600\r\n{coding}");
        stream.write_all(ok(body, &fields).as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

async fn get_coded(node: &Gateway, path: &str, accepted: Option<&str>) -> Result<(String, bool)> {
    let mut asked = client().get(node.url(path)).header("host", "h");
    if let Some(accepted) = accepted {
        asked = asked.header("accept-encoding", accepted);
    }
    let answer = asked.send().await?.error_for_status()?;
    let status = answer.headers().get("cache-status");
    let is_hit = status.is_some_and(|status| status.as_bytes().starts_with(b"weaver; hit"));
    Ok((answer.text().await?, is_hit))
}

#[tokio::test]
async fn a_stored_coding_is_given_to_those_only_who_accept_it() -> Result<()> {
    let redis = Redis::start().await?;
    for more in [String::new(), redis.section()] {
        let origin = coding_origin().await?;
        let node = Gateway::start(&format!("{more}{}", origin.route(""))).await?;
        if !more.is_empty() {
            node.ready_for_redis().await?;
        }
        for (number, refused) in ["identity", "gzip;q=0", "br", "gzip;q=0, *"]
            .iter()
            .enumerate()
        {
            let path = format!("/{number}");
            let of = |text: &str, is_hit| (text.to_owned(), is_hit);
            let get = async |accepted| get_coded(&node, &path, accepted).await;
            assert_eq!(get(Some("gzip")).await?, of("coded", false));
            for accepted in [Some("gzip"), Some("br, gzip;q=0.5"), Some("*"), None] {
                assert_eq!(get(accepted).await?, of("coded", true), "{accepted:?}");
            }
            assert_eq!(get(Some(refused)).await?, of("plain", false), "{refused}");
            assert_eq!(get(Some(refused)).await?, of("plain", true), "{refused}");
            // What is not coded may answer all.
            assert_eq!(get(Some("gzip")).await?, of("plain", true));
        }
    }
    Ok(())
}
