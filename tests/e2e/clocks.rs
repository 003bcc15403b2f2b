//! Nodes whose clocks are wrong, and differ.

use crate::{client, eventually, field, ok};
use anyhow::{Context as _, Result};
use std::{path::PathBuf, time::Duration};
use tokio::time::sleep;
use weaver_tests::{Gateway, Origin, Redis};

const TICK: Duration = Duration::from_millis(20);

fn faketime() -> Result<String> {
    let architectures = std::fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
    let found = architectures
        .chain([PathBuf::from("/usr/lib")])
        .map(|directory| directory.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file());
    let library = found.context("libfaketime is missing; tests/setup installs it")?;
    Ok(library.display().to_string())
}

async fn node(config: &str, shift: &str) -> Result<Gateway> {
    let library = faketime()?;
    let variables = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", shift),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    Gateway::start_with(config, "", &variables, None).await
}

/// What a node says of a path: whether it had it stored, and its Age.
async fn ask(node: &Gateway, path: &str) -> Result<(bool, u64)> {
    let answer = client()
        .get(node.url(path))
        .header("host", "h")
        .send()
        .await?;
    let hit = field(&answer, "cache-status").starts_with("weaver; hit");
    let age = answer
        .headers()
        .get("age")
        .map_or(Ok(0), |age| anyhow::Ok(age.to_str()?.parse()?))?;
    Ok((hit, age))
}

#[tokio::test]
async fn nodes_with_clocks_hours_apart_judge_alike() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=3\r\n")).await?;
    let config = format!("{}{}", redis.section(), origin.route("early_refresh = 0"));
    let (ahead, behind) = (node(&config, "+2h").await?, node(&config, "-3h").await?);
    ahead.ready_for_redis().await?;
    behind.ready_for_redis().await?;
    for (path, first, second) in [("/a", &ahead, &behind), ("/b", &behind, &ahead)] {
        let (before, records) = (origin.requests(), redis.records()?);
        assert!(!ask(first, path).await?.0);
        assert!(
            ask(first, path).await?.0,
            "the node that stored it has it fresh"
        );
        // The write to Redis ends a moment after the answer.
        eventually("the response is in redis", async || {
            redis.records().is_ok_and(|now| now != records)
        })
        .await;
        let mut hits = 0;
        let mut last = 0;
        loop {
            let (hit, age) = ask(second, path).await?;
            if !hit {
                break;
            }
            sleep(TICK).await;
            assert!((last..=3).contains(&age), "age {age} after {last}");
            (hits, last) = (hits + 1, age);
        }
        assert!(hits > 0, "the other node has it fresh too");
        assert_eq!(last, 2, "it lived for its three seconds, and not longer");
        assert_eq!(origin.requests(), before + 2);
    }
    Ok(())
}
