//! One contract, three backends: embedded, one Redis, a Redis Cluster.

use anyhow::{Context as _, Result, bail, ensure};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};
use weaver_pool::{RedisPool, RedisPoolConfig};
use weaver_registry::{
    AgentEvents, AgentRegistry, AgentStatus, EventKind, EventPosition, Followed, Query,
    Registration, RegistryConfig, RegistryError,
};
use weaver_tests::{Redis, RedisCluster};

/// A heartbeat's life that a busy machine keeps without effort, and one that runs out at once.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);
/// One that runs out soon, and not before the next few calls.
const MEDIUM: Duration = Duration::from_secs(2);

fn config(ttl: Duration, retention: Duration) -> RegistryConfig {
    RegistryConfig {
        heartbeat_ttl: ttl,
        retention,
        max_agents: 300,
        max_events: 1000,
        sweep_interval: Duration::from_millis(20),
        ..RegistryConfig::default()
    }
}

/// Makes registries of one kind; each of its own, but those of a server share it by prefix.
enum Kind {
    Embedded,
    Redis(
        RedisPool,
        #[allow(dead_code, reason = "ends with the test")] Redis,
    ),
    Cluster(
        RedisPool,
        #[allow(dead_code, reason = "ends with the test")] Box<RedisCluster>,
    ),
}

impl Kind {
    async fn redis() -> Result<Self> {
        let redis = Redis::start().await?;
        let pool = RedisPool::connect(redis.pool_config()).await?;
        Ok(Self::Redis(pool, redis))
    }

    async fn cluster() -> Result<Self> {
        let cluster = RedisCluster::start().await?;
        let pool = RedisPool::connect(cluster.pool_config()).await?;
        Ok(Self::Cluster(pool, Box::new(cluster)))
    }

    fn registry(&self, prefix: &str, config: RegistryConfig) -> Result<AgentRegistry> {
        let config = RegistryConfig {
            prefix: prefix.to_owned(),
            ..config
        };
        Ok(match self {
            Self::Embedded => AgentRegistry::embedded(config)?,
            Self::Redis(pool, _) | Self::Cluster(pool, _) => {
                AgentRegistry::redis(pool.clone(), config)?
            }
        })
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds().await? {
        ensure!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn next(events: &mut AgentEvents) -> Result<Followed> {
    Ok(timeout(Duration::from_secs(10), events.next()).await??)
}

async fn event(events: &mut AgentEvents) -> Result<(EventKind, String)> {
    match next(events).await? {
        Followed::Event(event) => Ok((event.kind, event.agent_id)),
        Followed::Missed(count) => bail!("missed {count:?}"),
    }
}

async fn ids(registry: &AgentRegistry, query: &Query) -> Result<Vec<String>> {
    let agents = registry.find_capable_agents(query).await?;
    Ok(agents.into_iter().map(|agent| agent.agent_id).collect())
}

/// Everything that holds for each backend, one after the other: many servers at once would measure the
/// machine.
async fn contract(kind: Kind) -> Result<()> {
    what_is_registered_is_found_until_it_unregisters(&kind)
        .await
        .context("what_is_registered_is_found_until_it_unregisters")?;
    a_silent_agent_is_offline_then_forgotten_and_leaves_nothing(&kind)
        .await
        .context("a_silent_agent_is_offline_then_forgotten_and_leaves_nothing")?;
    heartbeats_keep_an_agent_online_and_bring_it_back(&kind)
        .await
        .context("heartbeats_keep_an_agent_online_and_bring_it_back")?;
    pages_have_each_agent_once(&kind)
        .await
        .context("pages_have_each_agent_once")?;
    what_is_not_allowed_is_a_typed_error_and_changes_nothing(&kind)
        .await
        .context("what_is_not_allowed_is_a_typed_error_and_changes_nothing")?;
    events_go_on_where_they_were_and_what_is_gone_is_told(&kind)
        .await
        .context("events_go_on_where_they_were_and_what_is_gone_is_told")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_backend_keeps_the_contract() -> Result<()> {
    contract(Kind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_keeps_the_contract() -> Result<()> {
    contract(Kind::redis().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_keeps_the_contract() -> Result<()> {
    contract(Kind::cluster().await?).await
}

async fn what_is_registered_is_found_until_it_unregisters(kind: &Kind) -> Result<()> {
    let registry = kind.registry("found", config(LONG, LONG))?;
    let agent = Registration::new("a 1/ä:*", "worker")
        .capability("write:de")
        .capability("read")
        .metadata("url", "http://127.0.0.1:1")
        .metadata("deep", serde_json::json!([{ "n": 1.5 }, [], {}, null]));
    let registered = registry.register(agent.clone()).await?;
    let known = registry.get_agent_info("a 1/ä:*").await?;
    ensure!(known.as_ref() == Some(&registered), "{known:?}");
    ensure!(registered.capabilities == ["read", "write_de"]);
    ensure!(registered.metadata == agent.metadata);
    ensure!(registered.registered_at > 1_700_000_000_000);
    ensure!(registered.registered_at == registered.last_heartbeat);
    ensure!(registry.is_online("a 1/ä:*").await?);
    ensure!(!registry.is_online("another").await?);

    registry
        .register(Registration::new("b", "worker").capability("read"))
        .await?;
    registry
        .register(Registration::new("c", "judge").capability("read2"))
        .await?;
    ensure!(ids(&registry, &Query::any(["read"])).await? == ["a 1/ä:*", "b"]);
    ensure!(ids(&registry, &Query::any(["write:de", "read2"])).await? == ["a 1/ä:*", "c"]);
    ensure!(ids(&registry, &Query::all(["read", "write:de"])).await? == ["a 1/ä:*"]);
    ensure!(
        ids(&registry, &Query::all(["read", "nothing"]))
            .await?
            .is_empty()
    );
    ensure!(ids(&registry, &Query::any(["read"]).limit(1)).await? == ["a 1/ä:*"]);
    let stats = registry.get_stats().await?;
    ensure!((stats.total, stats.online, stats.offline) == (3, 3, 0));
    ensure!(stats.by_type["worker"] == 2 && stats.by_capability["read"] == 2);

    // Registered anew without a capability, it is not found by it any more.
    registry
        .register(Registration::new("a 1/ä:*", "judge"))
        .await?;
    ensure!(ids(&registry, &Query::any(["read"])).await? == ["b"]);
    ensure!(registry.unregister("a 1/ä:*").await?);
    ensure!(!registry.unregister("a 1/ä:*").await?);
    ensure!(registry.get_agent_info("a 1/ä:*").await?.is_none());
    let stats = registry.get_stats().await?;
    ensure!(stats.total == 2 && !stats.by_capability.contains_key("write_de"));
    let heartbeat = registry.heartbeat("a 1/ä:*", None).await;
    ensure!(matches!(heartbeat, Err(RegistryError::NotRegistered(_))));
    Ok(())
}

async fn a_silent_agent_is_offline_then_forgotten_and_leaves_nothing(kind: &Kind) -> Result<()> {
    let registry = kind.registry("silent", config(SHORT, SHORT))?;
    let mut events = registry.events(Some(EventPosition::start()));
    registry
        .register(Registration::new("a", "worker").capability("c"))
        .await?;
    ensure!(event(&mut events).await? == (EventKind::Registered, "a".to_owned()));
    eventually("it is offline", async || {
        Ok(!registry.is_online("a").await?)
    })
    .await?;
    ensure!(
        ids(&registry, &Query::any(["c"]).only_online(true))
            .await?
            .is_empty()
    );
    ensure!(event(&mut events).await? == (EventKind::Expired, "a".to_owned()));
    ensure!(event(&mut events).await? == (EventKind::Unregistered, "a".to_owned()));
    ensure!(registry.get_agent_info("a").await?.is_none());
    let stats = registry.get_stats().await?;
    ensure!(
        stats == weaver_registry::RegistryStats::default(),
        "{stats:?}"
    );
    if let Kind::Redis(_, redis) = kind {
        let keys = redis.cli(&["KEYS", "silent:{silent}:*"])?;
        let mut keys: Vec<_> = keys.lines().filter(|key| !key.is_empty()).collect();
        keys.sort_unstable();
        ensure!(
            keys == ["silent:{silent}:counts", "silent:{silent}:events"],
            "left over: {keys:?}"
        );
        for key in keys {
            let life: i64 = redis.cli(&["PTTL", key])?.trim().parse()?;
            ensure!(life > 0, "{key} has no time to live");
        }
        ensure!(redis.cli(&["HLEN", "silent:{silent}:counts"])?.trim() == "1");
    }
    Ok(())
}

async fn heartbeats_keep_an_agent_online_and_bring_it_back(kind: &Kind) -> Result<()> {
    let registry = kind.registry("back", config(MEDIUM, LONG))?;
    let mut events = registry.events(Some(EventPosition::start()));
    let agent = registry.register(Registration::new("a", "worker")).await?;
    event(&mut events).await?;
    registry.heartbeat("a", Some(AgentStatus::Busy)).await?;
    let known = registry.get_agent_info("a").await?;
    let known = known.map(|agent| (agent.status, agent.registered_at));
    ensure!(
        known == Some((AgentStatus::Busy, agent.registered_at)),
        "{known:?}"
    );
    ensure!(event(&mut events).await? == (EventKind::Expired, "a".to_owned()));
    let known = registry.get_agent_info("a").await?;
    ensure!(known.is_some_and(|agent| agent.status == AgentStatus::Offline));
    let stats = registry.get_stats().await?;
    ensure!((stats.total, stats.offline) == (1, 1));
    registry.heartbeat("a", None).await?;
    ensure!(event(&mut events).await? == (EventKind::Registered, "a".to_owned()));
    let known = registry.get_agent_info("a").await?;
    ensure!(known.is_some_and(|agent| agent.status == AgentStatus::Busy));
    let offline = registry.heartbeat("a", Some(AgentStatus::Offline)).await;
    ensure!(matches!(offline, Err(RegistryError::Invalid { .. })));
    Ok(())
}

async fn pages_have_each_agent_once(kind: &Kind) -> Result<()> {
    let registry = kind.registry("pages", config(LONG, LONG))?;
    let mut expected = BTreeSet::new();
    for number in 0..25 {
        let id = format!("agent-{number}");
        registry
            .register(Registration::new(&*id, "worker").capability("c"))
            .await?;
        expected.insert(id);
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = registry.list_agents(after.as_deref(), 10).await?;
        seen.extend(page.agents.into_iter().map(|agent| agent.agent_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    ensure!(seen == expected.into_iter().collect::<Vec<_>>(), "{seen:?}");
    for limit in [0, 1001] {
        let page = registry.list_agents(None, limit).await;
        ensure!(matches!(page, Err(RegistryError::Invalid { .. })));
    }
    Ok(())
}

async fn what_is_not_allowed_is_a_typed_error_and_changes_nothing(kind: &Kind) -> Result<()> {
    let registry = kind.registry("bad", config(LONG, LONG))?;
    let long = "x".repeat(256);
    let is_invalid = |outcome: &Result<bool, RegistryError>| {
        matches!(outcome, Err(RegistryError::Invalid { .. }))
    };
    ensure!(
        registry
            .register(Registration::new(&*long, "t"))
            .await
            .is_err()
    );
    ensure!(is_invalid(&registry.unregister(&long).await));
    ensure!(is_invalid(&registry.is_online("").await));
    ensure!(
        registry
            .find_capable_agents(&Query::any::<String>([]))
            .await
            .is_err()
    );
    for number in 0..300 {
        registry
            .register(Registration::new(number.to_string(), "t"))
            .await?;
    }
    let one_more = registry.register(Registration::new("one more", "t")).await;
    ensure!(
        matches!(one_more, Err(RegistryError::Full(300))),
        "{one_more:?}"
    );
    // One that is there may register again.
    registry.register(Registration::new("7", "t")).await?;
    ensure!(registry.get_stats().await?.total == 300);
    Ok(())
}

async fn events_go_on_where_they_were_and_what_is_gone_is_told(kind: &Kind) -> Result<()> {
    let few = RegistryConfig {
        max_events: 50,
        ..config(LONG, LONG)
    };
    let registry = kind.registry("events", few)?;
    let mut events = registry.events(Some(EventPosition::start()));
    registry.register(Registration::new("first", "t")).await?;
    ensure!(event(&mut events).await?.1 == "first");
    let place = events.position().map(ToString::to_string);
    drop(events);
    registry.register(Registration::new("second", "t")).await?;
    let place = place.as_deref().and_then(EventPosition::parse);
    let mut events = registry.events(place);
    ensure!(event(&mut events).await?.1 == "second");
    // More than are kept: what is gone is told, and then what is there.
    let place = events.position().cloned();
    drop(events);
    for number in 0..500 {
        let id = format!("{}", number % 50);
        registry.register(Registration::new(id, "t")).await?;
    }
    let mut events = registry.events(place);
    let missed = match next(&mut events).await? {
        Followed::Missed(Some(missed)) => missed,
        other => bail!("{other:?}"),
    };
    let mut told = 0;
    while let Ok(followed) = timeout(Duration::from_millis(300), events.next()).await {
        ensure!(matches!(followed?, Followed::Event(_)));
        told += 1;
    }
    ensure!(missed + told == 500, "{missed} + {told}");
    // From here on.
    let mut events = registry.events(None);
    let waiting = tokio::spawn(async move { event(&mut events).await });
    sleep(Duration::from_millis(300)).await;
    registry.unregister("first").await?;
    ensure!(waiting.await?? == (EventKind::Unregistered, "first".to_owned()));
    Ok(())
}

/// Events that happen while a follower's connections are cut come afterwards, all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_missed_across_a_reconnect() -> Result<()> {
    let redis = Redis::start().await?;
    let pool = RedisPool::connect(redis.pool_config()).await?;
    let registry = AgentRegistry::redis(pool, config(LONG, LONG))?;
    let mut events = registry.events(Some(EventPosition::start()));
    let count = 100;
    let other = registry.clone();
    let registering = tokio::spawn(async move {
        for number in 0..count {
            // A command whose connection is cut may have run: what counts is that it is told.
            while other
                .register(Registration::new(number.to_string(), "t"))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(5)).await;
            }
            if number % 20 == 10 {
                redis.cli(&["CLIENT", "KILL", "TYPE", "normal"])?;
            }
        }
        anyhow::Ok(redis)
    });
    let mut seen = BTreeSet::new();
    let mut failures = 0;
    while seen.len() < count {
        match timeout(Duration::from_secs(20), events.next()).await? {
            Ok(Followed::Event(event)) => {
                seen.insert(event.agent_id);
            }
            Ok(Followed::Missed(missed)) => bail!("missed {missed:?}"),
            Err(_) => failures += 1,
        }
    }
    assert!(failures > 0, "nothing was cut");
    registering.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_every_call_is_an_error_and_later_it_is_well_again() -> Result<()> {
    let mut redis = Redis::start().await?;
    let pool = RedisPool::connect(RedisPoolConfig {
        socket_timeout: Duration::from_millis(300),
        ..redis.pool_config()
    })
    .await?;
    let registry = AgentRegistry::redis(pool, config(LONG, LONG))?;
    registry.register(Registration::new("a", "t")).await?;
    redis.kill();
    for _ in 0..3 {
        let listed = registry.list_agents(None, 10).await;
        assert!(matches!(listed, Err(RegistryError::Redis(_))), "{listed:?}");
    }
    redis.up().await?;
    eventually("it answers again", async || {
        Ok(registry.list_agents(None, 10).await.is_ok())
    })
    .await?;
    // It is empty: the agent learns by its heartbeat that it has to register.
    let heartbeat = registry.heartbeat("a", None).await;
    assert!(matches!(heartbeat, Err(RegistryError::NotRegistered(_))));
    registry.register(Registration::new("a", "t")).await?;
    assert!(registry.is_online("a").await?);
    Ok(())
}
