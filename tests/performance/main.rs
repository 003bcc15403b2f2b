//! The performance programs: the original system's three, with its targets, and the comparison of a
//! hit with other caches. They print figures; a missed target ends them with exit code 1.

mod cache_middleware;
mod connection_pool;
mod hit;
mod metrics_endpoint;
#[cfg(feature = "pool-peers")]
mod pool;
mod purge;
mod redis_hit;
mod registry;

use anyhow::Result;
use std::{process::ExitCode, time::Duration};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long and how much to measure.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Of the original's programs.
    operations: usize,
    /// Of one turn of the comparison.
    turn: Duration,
    /// Turns for each peer.
    turns: usize,
}

const FULL: Effort = Effort {
    operations: 10_000,
    turn: Duration::from_secs(5),
    turns: 5,
};
/// For `make test`: that they run, not how fast.
const SMOKE: Effort = Effort {
    operations: 300,
    turn: Duration::from_millis(300),
    turns: 1,
};

#[actix_web::main]
async fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_default();
    let outcome = match what.as_str() {
        "smoke" => smoke().await,
        "registry" => registry::run(FULL).await,
        "purge" => purge::run(FULL, 10, 1000).await,
        "all" => guides(FULL).await,
        "hit" => hit::run(FULL).await.map(|()| true),
        "bare" => match std::env::args().nth(2).and_then(|port| port.parse().ok()) {
            Some(port) => hit::serve_bare(port).await.map(|()| true),
            None => Err(anyhow::anyhow!("bare needs a port")),
        },
        #[cfg(feature = "pool-peers")]
        "pool" => pool::run(Effort {
            turn: Duration::from_millis(700),
            turns: 3,
            ..FULL
        })
        .await
        .map(|()| true),
        #[cfg(feature = "pool-peers")]
        "pool-smoke" => pool::run(SMOKE).await.map(|()| true),
        "redis-hit" => redis_hit::run(FULL).await.map(|()| true),
        "redis-hit-smoke" => redis_hit::run(SMOKE).await.map(|()| true),
        "hit-smoke" => hit::run(SMOKE).await.map(|()| true),
        _ => {
            eprintln!(
                "perf smoke | all | hit | hit-smoke | redis-hit | redis-hit-smoke | purge | registry"
            );
            return ExitCode::from(64);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a target was missed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn smoke() -> Result<bool> {
    guides(SMOKE).await?;
    purge::run(SMOKE, 2, 50).await?;
    Ok(true)
}

async fn guides(effort: Effort) -> Result<bool> {
    let mut met = connection_pool::run(effort).await?;
    met &= cache_middleware::run(effort).await?;
    met &= metrics_endpoint::run(effort).await?;
    met &= registry::run(effort).await?;
    Ok(met)
}

/// Prints a figure beside its target.
fn target(what: &str, figure: f64, unit: &str, met: bool, target: &str) -> bool {
    let mark = if met { "ok  " } else { "MISS" };
    println!("  {mark} {what:<44} {figure:>12.3} {unit:<6} target {target}");
    met
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
