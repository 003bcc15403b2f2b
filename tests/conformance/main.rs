//! The public cache-tests suite (cache-tests.fyi) against Weaver and its peers.
//!
//! `conformance check` runs it against the gateway with its memory tier and compares each test with
//! `tests/conformance/expected.json`, in both directions. `conformance update` writes that file.
//! `conformance table` runs all set-ups and all peers that are installed, and prints the table.

mod peers;
mod suite;

use anyhow::{Context as _, Result, bail};
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};
use suite::Suite;
use weaver_tests::{Gateway, Redis, Splitter};

/// For each test, whether it passes and those that it depends on pass.
type Outcomes = BTreeMap<String, bool>;

#[tokio::main]
async fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_default();
    let outcome = match what.as_str() {
        "check" => check().await,
        "update" => update().await,
        "table" => table().await,
        _ => Err(anyhow::anyhow!("conformance check | update | table")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn expected_file() -> PathBuf {
    suite::directory().join("expected.json")
}

fn route(origin: u16) -> String {
    format!("[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{origin}\"]\n")
}

async fn memory(suite: &Suite) -> Result<Outcomes> {
    let origin = suite.start_origin().await?;
    let gateway = Gateway::start(&route(origin.port())).await?;
    suite.run(gateway.port()).await
}

fn redis_section(redis: &Redis, more: &str) -> String {
    let secret = "identity_secret = \"the same on all nodes\"";
    format!(
        "[redis]\nmode = \"standalone\"\nport = {}\n[cache]\n{secret}\n{more}\n",
        redis.port()
    )
}

async fn memory_and_redis(suite: &Suite) -> Result<Outcomes> {
    let redis = Redis::start().await?;
    let origin = suite.start_origin().await?;
    let config = format!("{}{}", redis_section(&redis, ""), route(origin.port()));
    let gateway = Gateway::start(&config).await?;
    gateway.ready_for_redis().await?;
    suite.run(gateway.port()).await
}

/// Two nodes without memory, and connections that go to one and the other in turn: what one has
/// stored the other reads.
async fn redis_alone(suite: &Suite) -> Result<Outcomes> {
    let redis = Redis::start().await?;
    let origin = suite.start_origin().await?;
    let config = format!(
        "{}{}",
        redis_section(&redis, "memory = 0"),
        route(origin.port())
    );
    let nodes = [
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    ];
    for node in &nodes {
        node.ready_for_redis().await?;
    }
    let splitter = Splitter::start(nodes.iter().map(Gateway::port).collect()).await?;
    suite.run(splitter.port()).await
}

async fn check() -> Result<()> {
    let suite = Suite::load()?;
    let text =
        std::fs::read_to_string(expected_file()).context("tests/conformance/expected.json")?;
    let expected: Outcomes = serde_json::from_str(&text)?;
    let mut outcomes = memory(&suite).await?;
    let mut changes = changes(&suite, &outcomes, &expected);
    if !changes.is_empty() {
        // The suite works with pauses of seconds, which a busy machine can stretch: what has
        // changed must have changed in two runs.
        outcomes = memory(&suite).await?;
        let again = self::changes(&suite, &outcomes, &expected);
        changes.retain(|change| again.contains(change));
    }
    println!("{}", suite.summary("weaver, memory", &outcomes));
    if changes.is_empty() {
        return Ok(());
    }
    bail!(
        "{} tests changed; if that is meant, `make conformance-update` writes it down\n  {}",
        changes.len(),
        changes.join("\n  ")
    )
}

fn changes(suite: &Suite, now: &Outcomes, before: &Outcomes) -> Vec<String> {
    let word = |passes: Option<&bool>| match passes {
        Some(true) => "passes",
        Some(false) => "fails",
        None => "is not there",
    };
    suite
        .ids()
        .map(|id| (id, now.get(id), before.get(id)))
        .filter(|(_, now, before)| now != before)
        .map(|(id, now, before)| {
            format!(
                "{id}: {}, was expected to be one that {}",
                word(now),
                word(before)
            )
        })
        .collect()
}

async fn update() -> Result<()> {
    let suite = Suite::load()?;
    let outcomes = memory(&suite).await?;
    std::fs::write(
        expected_file(),
        serde_json::to_string_pretty(&outcomes)? + "\n",
    )?;
    println!("{}", suite.summary("weaver, memory", &outcomes));
    Ok(())
}

async fn table() -> Result<()> {
    let suite = Suite::load()?;
    println!("{}", suite.heading());
    let weaver = memory(&suite).await?;
    println!("{}", suite.summary("weaver, memory", &weaver));
    let both = memory_and_redis(&suite).await?;
    let redis = redis_alone(&suite).await?;
    for (name, outcomes) in [
        ("weaver, memory and redis", both),
        ("weaver, redis alone, 2 nodes", redis),
    ] {
        println!("{}", suite.summary(name, &outcomes));
        for id in suite
            .ids()
            .filter(|id| outcomes.get(*id) != weaver.get(*id))
        {
            let passes = if outcomes.get(id) == Some(&true) {
                "passes"
            } else {
                "fails"
            };
            println!(
                "    other than with memory: {} {id} {passes}",
                suite.kind(id)
            );
        }
    }
    for name in peers::NAMES {
        let origin = suite.start_origin().await?;
        // One peer that does not work must not take the others' lines with it.
        let outcomes = match peers::start(name, origin.port()).await {
            Ok(peer) => suite.run(peer.port()).await,
            Err(error) => Err(error),
        };
        match outcomes {
            Ok(outcomes) => println!("{}", suite.summary(name, &outcomes)),
            Err(error) => println!("{name:<30} left out: {error}"),
        }
    }
    println!("\nwhat Weaver does not pass, with its memory tier:");
    for id in suite.ids().filter(|id| weaver.get(*id) != Some(&true)) {
        println!("  {:<9} {id}", suite.kind(id));
    }
    Ok(())
}
