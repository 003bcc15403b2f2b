//! `make bench-registry`: listing and finding agents, against one round trip for each.

use crate::{Effort, median, milliseconds, target};
use anyhow::{Result, ensure};
use std::time::Instant;
use weaver_pool::RedisPool;
use weaver_registry::{AgentRegistry, Query, Registration, RegistryConfig};
use weaver_tests::Redis;

const AGENTS: usize = 100;

pub(crate) async fn run(effort: Effort) -> Result<bool> {
    println!("agent registry, {AGENTS} agents");
    let redis = Redis::start().await?;
    let pool = RedisPool::connect(redis.pool_config()).await?;
    let registry = AgentRegistry::redis(pool.clone(), RegistryConfig::default())?;
    let id = |number: usize| format!("agent-{number:03}");
    for number in 0..AGENTS {
        let agent = Registration::new(id(number), "worker")
            .capability("translate")
            .capability(format!("language-{}", number % 10))
            .metadata("url", format!("http://10.0.0.{number}:9000"));
        registry.register(agent).await?;
    }
    let (mut listed, mut alone, mut found, mut beaten) = (vec![], vec![], vec![], vec![]);
    // Alternating, so that what disturbs one disturbs all.
    for _ in 0..(effort.operations / 100).max(3) {
        let began = Instant::now();
        let page = registry.list_agents(None, AGENTS).await?;
        listed.push(milliseconds(began.elapsed()));
        ensure!(page.agents.len() == AGENTS);

        let began = Instant::now();
        for number in 0..AGENTS {
            ensure!(registry.get_agent_info(&id(number)).await?.is_some());
        }
        alone.push(milliseconds(began.elapsed()));

        let began = Instant::now();
        let query = Query::all(["translate", "language-3"]).only_online(true);
        ensure!(registry.find_capable_agents(&query).await?.len() == AGENTS / 10);
        found.push(milliseconds(began.elapsed()));

        let began = Instant::now();
        registry.heartbeat(&id(0), None).await?;
        beaten.push(milliseconds(began.elapsed()));
    }
    let (listed, alone) = (median(listed), median(alone));
    let mut met = target("list 100 agents", listed, "ms", listed < 10.0, "< 10");
    println!("       one by one {alone:>45.3} ms");
    let ratio = alone / listed;
    met &= target(
        "one by one / listed",
        ratio,
        "times",
        ratio >= 10.0,
        ">= 10",
    );
    println!(
        "       find 10 of 100 that can do two things {:>18.3} ms",
        median(found)
    );
    println!("       a heartbeat {:>44.3} ms", median(beaten));
    pool.close().await;
    Ok(met)
}
