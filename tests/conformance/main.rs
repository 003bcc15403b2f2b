//! The public cache-tests suite (cache-tests.fyi) against Weaver and its peers.
//!
//! `conformance check` runs it against the gateway with its memory tier, with memory and Redis, and
//! with Redis alone, and compares each test with `tests/conformance/expected.json`, in both
//! directions. `conformance update` writes that file.
//! `conformance table` runs all set-ups and all peers that are installed, and prints the table.

mod peers;
mod suite;

use anyhow::{Context as _, Result, bail};
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};
use suite::Suite;
use weaver_tests::{Gateway, Redis, Splitter};

/// For each test, whether it passes and those that it depends on pass.
type Outcomes = BTreeMap<String, bool>;

/// One run of the suite.
struct Run {
    outcomes: Outcomes,
    /// What the suite says of the tests that fail.
    said: BTreeMap<String, String>,
}

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

async fn memory(suite: &Suite) -> Result<Run> {
    let origin = suite.start_origin().await?;
    let gateway = Gateway::start(&route(origin.port())).await?;
    suite.run(gateway.port()).await
}

fn redis_section(redis: &Redis, more: &str) -> String {
    let secret = "identity_secret = \"the same on all nodes\"";
    format!("{}[cache]\n{secret}\n{more}\n", redis.section())
}

async fn memory_and_redis(suite: &Suite) -> Result<Run> {
    let redis = Redis::start().await?;
    let origin = suite.start_origin().await?;
    let config = format!("{}{}", redis_section(&redis, ""), route(origin.port()));
    let gateway = Gateway::start(&config).await?;
    gateway.ready_for_redis().await?;
    suite.run(gateway.port()).await
}

/// Two nodes without memory, and connections that go to one and the other in turn: what one has
/// stored the other reads.
async fn redis_alone(suite: &Suite) -> Result<Run> {
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

/// A way to set Weaver up.
#[derive(Clone, Copy)]
enum Setup {
    Memory,
    MemoryAndRedis,
    RedisAlone,
}

impl Setup {
    const ALL: [Self; 3] = [Self::Memory, Self::MemoryAndRedis, Self::RedisAlone];

    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "weaver, memory",
            Self::MemoryAndRedis => "weaver, memory and redis",
            Self::RedisAlone => "weaver, redis alone, 2 nodes",
        }
    }

    async fn run(self, suite: &Suite) -> Result<Run> {
        match self {
            Self::Memory => memory(suite).await,
            Self::MemoryAndRedis => memory_and_redis(suite).await,
            Self::RedisAlone => redis_alone(suite).await,
        }
    }

    /// Compares with what is expected, and gives the tests that changed in two runs.
    async fn check(self, suite: &Suite, expected: &Outcomes) -> Result<Vec<String>> {
        let mut run = self.run(suite).await?;
        let mut changed = changes(suite, &run, expected);
        if !changed.is_empty() {
            // The suite works with pauses of seconds, which a busy machine can stretch: what has
            // changed must have changed in two runs. What did once is shown all the same.
            for (id, change) in &changed {
                println!("{}: once: {id} {change}", self.name());
            }
            run = self.run(suite).await?;
            let again = changes(suite, &run, expected);
            changed = again
                .into_iter()
                .filter(|(id, _)| changed.iter().any(|(before, _)| before == id))
                .collect();
        }
        println!("{}", suite.summary(self.name(), &run.outcomes));
        Ok(changed
            .iter()
            .map(|(id, change)| format!("{}: {id} {change}", self.name()))
            .collect())
    }
}

async fn check() -> Result<()> {
    let suite = Suite::load()?;
    let text =
        std::fs::read_to_string(expected_file()).context("tests/conformance/expected.json")?;
    let expected: Outcomes = serde_json::from_str(&text)?;
    println!("{}", suite.heading());
    // The suite waits more than it works, so the three cost little more than one.
    let [memory, both, redis] = Setup::ALL.map(|setup| setup.check(&suite, &expected));
    let (memory, both, redis) = tokio::try_join!(memory, both, redis)?;
    let changes = [memory, both, redis].concat();
    if changes.is_empty() {
        return Ok(());
    }
    bail!(
        "{} tests changed; if that is meant, `make conformance-update` writes it down\n  {}",
        changes.len(),
        changes.join("\n  ")
    )
}

/// The tests whose outcome is another than expected, each with what to say of it.
fn changes(suite: &Suite, now: &Run, before: &Outcomes) -> Vec<(String, String)> {
    let word = |passes: Option<&bool>| match passes {
        Some(true) => "passes",
        Some(false) => "fails",
        None => "is not there",
    };
    suite
        .ids()
        .map(|id| (id, now.outcomes.get(id), before.get(id)))
        .filter(|(_, now, before)| now != before)
        .map(|(id, outcome, before)| {
            let said = now.said.get(id).map_or("", String::as_str);
            let change = format!(
                "{}, was expected to be one that {}: {said}",
                word(outcome),
                word(before)
            );
            (id.to_owned(), change)
        })
        .collect()
}

async fn update() -> Result<()> {
    let suite = Suite::load()?;
    let outcomes = memory(&suite).await?.outcomes;
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
    let weaver = memory(&suite).await?.outcomes;
    println!("{}", suite.summary(Setup::Memory.name(), &weaver));
    for setup in [Setup::MemoryAndRedis, Setup::RedisAlone] {
        let run = setup.run(&suite).await?;
        println!("{}", suite.summary(setup.name(), &run.outcomes));
        for (id, change) in changes(&suite, &run, &weaver) {
            println!(
                "    other than with memory: {} {id} {change}",
                suite.kind(&id)
            );
        }
    }
    for name in peers::NAMES {
        let origin = suite.start_origin().await?;
        // One peer that does not work must not take the others' lines with it.
        let run = match peers::start(name, origin.port()).await {
            Ok(peer) => suite.run(peer.port()).await,
            Err(error) => Err(error),
        };
        match run {
            Ok(run) => println!("{}", suite.summary(name, &run.outcomes)),
            Err(error) => println!("{name:<30} left out: {error}"),
        }
    }
    println!("\nwhat Weaver does not pass, with its memory tier:");
    for id in suite.ids().filter(|id| weaver.get(*id) != Some(&true)) {
        println!("  {:<9} {id}", suite.kind(id));
    }
    Ok(())
}
