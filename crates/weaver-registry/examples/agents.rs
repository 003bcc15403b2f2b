//! Two agents, one of which dies. `cargo run -p weaver-registry --example agents`, or with Redis:
//! `REDIS_HOST=localhost cargo run -p weaver-registry --example agents`.

use std::time::Duration;
use weaver_pool::{RedisPool, RedisPoolConfig};
use weaver_registry::{AgentRegistry, Followed, Query, Registration, RegistryConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = RegistryConfig {
        heartbeat_ttl: Duration::from_secs(2),
        ..RegistryConfig::default()
    };
    let registry = match std::env::var("REDIS_HOST") {
        Ok(host) => {
            let pool = RedisPoolConfig {
                host,
                ..RedisPoolConfig::default()
            };
            AgentRegistry::redis(RedisPool::connect(pool).await?, config)?
        }
        Err(_) => AgentRegistry::embedded(config)?,
    };
    let mut events = registry.events(Some(weaver_registry::EventPosition::start()));
    for name in ["anna", "bert"] {
        let agent = Registration::new(name, "translator").capability("translate:de");
        registry.register(agent).await?;
    }
    for _ in 0..3 {
        registry.heartbeat("anna", None).await?;
        let query = Query::any(["translate:de"]).only_online(true);
        let online = registry.find_capable_agents(&query).await?;
        let names: Vec<_> = online.iter().map(|agent| &agent.agent_id).collect();
        println!("online: {names:?}");
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    while let Ok(followed) = tokio::time::timeout(Duration::from_millis(100), events.next()).await {
        if let Followed::Event(event) = followed? {
            println!("{} {}", event.kind.as_str(), event.agent_id);
        }
    }
    println!("{:?}", registry.get_stats().await?);
    Ok(())
}
