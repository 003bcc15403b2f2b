//! Several gateways, one Redis, one origin, and random sequences of fetches, purges, expiry, faults
//! and restarts, held against a simple reference ([`reference`]).
//!
//! What must hold for every answer, whatever happens: it is whole, it is of the URL, the user and
//! the language that asked, it is not older than it says it may be, and no acknowledged purge
//! forbids it.
//!
//! `MODEL_SEED` repeats a sequence, `MODEL_SCHEDULES` runs more of them, `MODEL_STEPS` longer ones.

#![allow(clippy::print_stderr, reason = "what failed is told to who runs it")]

mod reference;
mod source;
mod world;

use anyhow::{Context as _, Result};
use std::{env, str::FromStr};
use world::World;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let given = env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sequence_of_events_serves_what_was_purged_or_is_anothers() -> Result<()> {
    let first: u64 = setting("MODEL_SEED", fastrand::u64(..));
    let schedules: u64 = setting("MODEL_SCHEDULES", 2);
    let steps: usize = setting("MODEL_STEPS", 60);
    for number in 0..schedules {
        let seed = first.wrapping_add(number);
        let mut world = World::start(seed).await?;
        let outcome = world.run(steps).await;
        if outcome.is_err() {
            eprintln!("{}", world.story());
        }
        let done = outcome.with_context(|| format!("MODEL_SEED={seed} MODEL_STEPS={steps}"))?;
        eprintln!("seed {seed}: {done}");
    }
    Ok(())
}
