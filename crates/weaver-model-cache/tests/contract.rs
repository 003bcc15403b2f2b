//! One contract, three backends: embedded, one Redis, a Redis Cluster.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;
use weaver_model_cache::{
    Answer, Bypass, Call, ClassConfig, Lookup, ModelCache, ModelCacheConfig, Price, Source, Usage,
    Wishes,
};
use weaver_pool::{RedisPool, RedisPoolConfig};
use weaver_tests::{Redis, RedisCluster};

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

/// A pool that does not wait for what a test has taken away.
fn impatient(redis: &Redis) -> RedisPoolConfig {
    RedisPoolConfig {
        socket_timeout: Duration::from_millis(500),
        ..redis.pool_config()
    }
}

/// A deadline that a busy machine keeps.
fn config() -> ModelCacheConfig {
    ModelCacheConfig {
        deadline: Duration::from_secs(5),
        ..ModelCacheConfig::default()
    }
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

    fn cache(&self, config: ModelCacheConfig) -> Result<ModelCache> {
        Ok(match self {
            Self::Embedded => ModelCache::embedded(config)?,
            Self::Redis(pool, _) | Self::Cluster(pool, _) => {
                ModelCache::redis(pool.clone(), config)?
            }
        })
    }
}

/// Everything that holds for each backend, one after the other: many servers at once would measure the
/// machine.
async fn contract(kind: Kind) -> Result<()> {
    an_answer_is_kept_by_the_class_of_its_question(&kind)
        .await
        .context("an_answer_is_kept_by_the_class_of_its_question")?;
    what_is_kept_expires(&kind)
        .await
        .context("what_is_kept_expires")?;
    only_what_is_deterministic_is_kept_and_users_are_apart(&kind)
        .await
        .context("only_what_is_deterministic_is_kept_and_users_are_apart")?;
    what_who_asks_wishes_is_obeyed(&kind)
        .await
        .context("what_who_asks_wishes_is_obeyed")?;
    what_is_invalidated_or_cleared_does_not_come_back(&kind)
        .await
        .context("what_is_invalidated_or_cleared_does_not_come_back")?;
    many_who_ask_at_once_cost_one_fetch(&kind)
        .await
        .context("many_who_ask_at_once_cost_one_fetch")?;
    what_is_too_large_is_not_kept(&kind)
        .await
        .context("what_is_too_large_is_not_kept")?;
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

fn call(text: &str) -> Call {
    Call::new(text, "small").parameter("temperature", 0)
}

fn answer(text: &'static str) -> Answer {
    Answer::text(text).usage(Usage {
        prompt: 10,
        completion: 20,
    })
}

async fn text(cache: &ModelCache, call: &Call) -> Option<String> {
    let cached = cache.get(call).await?;
    Some(String::from_utf8_lossy(&cached.answer.body).into_owned())
}

async fn an_answer_is_kept_by_the_class_of_its_question(kind: &Kind) -> Result<()> {
    let config = ModelCacheConfig {
        prices: [(
            "small".to_owned(),
            Price {
                input_per_million: 1.0,
                output_per_million: 2.0,
            },
        )]
        .into(),
        ..config()
    };
    let cache = kind.cache(config)?;
    for (question, class, seconds) in [
        ("What is a shuttle?", "static", 3600),
        ("what is the latest shuttle", "dynamic", 300),
        ("compute 17 * 3", "calculation", 86_400),
        ("tell me of shuttles", "default", 600),
    ] {
        let call = call(question);
        ensure!(cache.get(&call).await.is_none());
        ensure!(cache.set(&call, &answer("it is")).await);
        let Some(cached) = cache.get(&call).await else {
            bail!("{question} was not kept")
        };
        ensure!(&*cached.class == class && cached.answer == answer("it is"));
        let whole = (cached.ttl + cached.age).as_millis();
        ensure!(whole == seconds * 1000, "{whole}");
        ensure!(cached.age < Duration::from_secs(5));
        // Another parameter is another call.
        ensure!(cache.get(&call.parameter("top_p", 1)).await.is_none());
    }
    let stats = cache.stats();
    ensure!(
        (stats.hits, stats.misses, stats.errors, stats.stored) == (4, 8, 0, 4),
        "{stats:?}"
    );
    ensure!(stats.tokens_saved == 120 && (stats.money_saved - 200e-6).abs() < 1e-9);
    ensure!((stats.hit_rate_percent - 100.0 / 3.0).abs() < 0.01);
    cache.health().await?;
    Ok(())
}

async fn what_is_kept_expires(kind: &Kind) -> Result<()> {
    let brief = ClassConfig::new("brief", Duration::from_millis(300), &["brief"]);
    let never = ClassConfig::new("never", Duration::ZERO, &["never"]);
    let cache = kind.cache(ModelCacheConfig {
        prefix: "expire:".to_owned(),
        classes: vec![brief, never],
        ..config()
    })?;
    ensure!(cache.set(&call("brief"), &answer("x")).await);
    ensure!(!cache.set(&call("never"), &answer("x")).await);
    sleep(Duration::from_millis(350)).await;
    ensure!(cache.get(&call("brief")).await.is_none());
    Ok(())
}

async fn only_what_is_deterministic_is_kept_and_users_are_apart(kind: &Kind) -> Result<()> {
    let cache = kind.cache(ModelCacheConfig {
        prefix: "apart:".to_owned(),
        ..config()
    })?;
    let warm = Call::new("q", "small").parameter("temperature", 0.7);
    ensure!(!cache.set(&warm, &answer("x")).await);
    let looked = cache.look_up(&warm, Wishes::default()).await;
    ensure!(matches!(looked, Lookup::Bypass(Bypass::NotDeterministic)));
    let tools = call("q").parameter("tools", json!([{ "type": "function" }]));
    let looked = cache.look_up(&tools, Wishes::default()).await;
    ensure!(matches!(looked, Lookup::Bypass(Bypass::Tools)));

    cache.set(&call("q").user("ann"), &answer("for ann")).await;
    ensure!(text(&cache, &call("q").user("ann")).await.as_deref() == Some("for ann"));
    for other in [call("q").user("ben"), call("q"), call("q").user("")] {
        ensure!(cache.get(&other).await.is_none(), "{other:?}");
    }
    let shared = kind.cache(ModelCacheConfig {
        prefix: "apart:".to_owned(),
        per_user: false,
        ..config()
    })?;
    shared.set(&call("q").user("ann"), &answer("for all")).await;
    ensure!(text(&shared, &call("q").user("ben")).await.as_deref() == Some("for all"));
    Ok(())
}

async fn what_who_asks_wishes_is_obeyed(kind: &Kind) -> Result<()> {
    let cache = kind.cache(ModelCacheConfig {
        prefix: "wishes:".to_owned(),
        ..config()
    })?;
    cache.set(&call("q"), &answer("old")).await;
    let no_store = Wishes {
        no_store: true,
        ..Wishes::default()
    };
    let looked = cache.look_up(&call("q"), no_store).await;
    ensure!(matches!(looked, Lookup::Bypass(Bypass::NoStore)));
    let recent = |most| Wishes {
        max_age: Some(most),
        ..Wishes::default()
    };
    sleep(Duration::from_millis(20)).await;
    let looked = cache
        .look_up(&call("q"), recent(Duration::from_secs(60)))
        .await;
    ensure!(matches!(looked, Lookup::Hit(_)));
    let looked = cache.look_up(&call("q"), recent(Duration::ZERO)).await;
    ensure!(matches!(looked, Lookup::Miss(_)));
    let no_cache = Wishes {
        no_cache: true,
        ..Wishes::default()
    };
    let Lookup::Miss(ticket) = cache.look_up(&call("q"), no_cache).await else {
        bail!("it came from the cache")
    };
    ensure!(cache.keep(&ticket, answer("new")).await);
    ensure!(text(&cache, &call("q")).await.as_deref() == Some("new"));
    Ok(())
}

async fn what_is_invalidated_or_cleared_does_not_come_back(kind: &Kind) -> Result<()> {
    let cache = kind.cache(ModelCacheConfig {
        prefix: "back:".to_owned(),
        ..config()
    })?;
    let ticket =
        async |question: &str| match cache.look_up(&call(question), Wishes::default()).await {
            Lookup::Miss(ticket) => Ok(ticket),
            other => bail!("{other:?}"),
        };
    cache.set(&call("kept"), &answer("kept")).await;
    cache.set(&call("gone"), &answer("gone")).await;
    ensure!(cache.invalidate(&call("gone")).await?);
    ensure!(cache.get(&call("gone")).await.is_none());
    ensure!(!cache.invalidate(&call("gone")).await?);
    ensure!(cache.get(&call("kept")).await.is_some());

    // A fetch that began before keeps nothing; one from after does.
    let before = ticket("gone").await?;
    cache.invalidate(&call("gone")).await?;
    ensure!(ticket("gone").await?.flight() != before.flight());
    ensure!(ticket("gone").await?.flight() == ticket("gone").await?.flight());
    ensure!(!cache.keep(&before, answer("old")).await);
    ensure!(cache.get(&call("gone")).await.is_none());
    let after = ticket("gone").await?;
    ensure!(cache.keep(&after, answer("new")).await);
    ensure!(text(&cache, &call("gone")).await.as_deref() == Some("new"));

    let before = ticket("cleared").await?;
    cache.clear().await?;
    // Nor does anybody who asks from here on share the fetch from before.
    ensure!(ticket("cleared").await?.flight() != before.flight());
    cache.keep(&before, answer("old")).await;
    for question in ["kept", "gone", "cleared"] {
        ensure!(cache.get(&call(question)).await.is_none(), "{question}");
    }
    cache.set(&call("kept"), &answer("again")).await;
    ensure!(text(&cache, &call("kept")).await.as_deref() == Some("again"));
    Ok(())
}

async fn many_who_ask_at_once_cost_one_fetch(kind: &Kind) -> Result<()> {
    let cache = kind.cache(ModelCacheConfig {
        prefix: "many:".to_owned(),
        ..config()
    })?;
    let fetches = Arc::new(AtomicUsize::new(0));
    let ask = |fails: bool| {
        let (cache, fetches) = (cache.clone(), Arc::clone(&fetches));
        async move {
            let call = call("what is one flight?");
            let fetch = async || {
                let number = fetches.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(100)).await;
                if fails && number == 0 {
                    return Err("the first fails");
                }
                Ok(answer("one"))
            };
            cache.get_or_fetch(&call, fetch).await
        }
    };
    let asking: Vec<_> = (0..50).map(|_| tokio::spawn(ask(true))).collect();
    let (mut failed, mut sources) = (0, Vec::new());
    for asked in asking {
        match asked.await? {
            Ok(fetched) => sources.push(fetched.source),
            Err(_) => failed += 1,
        }
    }
    // The first fails for who led it alone; of the others one leads.
    ensure!(failed == 1, "{failed}");
    ensure!(fetches.load(Ordering::SeqCst) == 2);
    let fetched = sources.iter().filter(|source| **source == Source::Fetch);
    ensure!(fetched.count() == 1);
    ensure!(
        ask(false)
            .await
            .is_ok_and(|fetched| fetched.source == Source::Cache)
    );
    ensure!(cache.stats().shared >= 40, "{:?}", cache.stats());
    Ok(())
}

async fn what_is_too_large_is_not_kept(kind: &Kind) -> Result<()> {
    let cache = kind.cache(ModelCacheConfig {
        prefix: "large:".to_owned(),
        max_answer: 1024,
        ..config()
    })?;
    ensure!(cache.set(&call("a"), &Answer::text(vec![b'x'; 1024])).await);
    ensure!(!cache.set(&call("b"), &Answer::text(vec![b'x'; 1025])).await);
    ensure!(cache.get(&call("b")).await.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_redis_are_misses_and_counted() -> Result<()> {
    let mut redis = Redis::start().await?;
    let pool = RedisPool::connect(impatient(&redis)).await?;
    let cache = ModelCache::redis(pool, config())?;
    cache.set(&call("q"), &answer("x")).await;
    redis.kill();
    assert!(cache.get(&call("q")).await.is_none());
    assert!(!cache.set(&call("q"), &answer("x")).await);
    let asked = call("q");
    let fetched = cache.get_or_fetch(&asked, async || Ok::<_, ()>(answer("fetched")));
    assert!(
        fetched
            .await
            .is_ok_and(|fetched| fetched.source == Source::Fetch)
    );
    assert!(cache.stats().errors >= 3, "{:?}", cache.stats());
    assert!(cache.health().await.is_err());
    assert!(cache.clear().await.is_err());
    redis.up().await?;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !cache.set(&call("q"), &answer("y")).await {
        assert!(std::time::Instant::now() < until, "it does not heal");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(text(&cache, &call("q")).await.as_deref(), Some("y"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_costs_its_deadline() -> Result<()> {
    let redis = Redis::start().await?;
    let pool = RedisPool::connect(redis.pool_config()).await?;
    let cache = ModelCache::redis(
        pool,
        ModelCacheConfig {
            deadline: Duration::from_millis(100),
            ..ModelCacheConfig::default()
        },
    )?;
    redis.freeze()?;
    let began = std::time::Instant::now();
    assert!(cache.get(&call("q")).await.is_none());
    assert!(!cache.set(&call("q"), &answer("x")).await);
    // The deadline and not the pool's own, which is 5 s for each of them.
    assert!(began.elapsed() < Duration::from_secs(4));
    redis.thaw()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_redis_is_checked_and_says_nothing_of_who_asked_what() -> Result<()> {
    let redis = Redis::start().await?;
    let pool = RedisPool::connect(impatient(&redis)).await?;
    let cache = ModelCache::redis(pool, config())?;
    let (one, other) = (call("s3cr3t question").user("s3cr3t-user"), call("other"));
    cache.set(&one, &answer("one")).await;
    cache.set(&other, &answer("other")).await;
    let name = |call: &Call| format!("weaver:{}", cache.key(call));
    let names = redis.cli(&["--raw", "KEYS", "*"])?;
    assert_eq!(names.lines().count(), 3, "{names}");
    for name in names.lines() {
        let value = redis.cli(&["--raw", "DUMP", name])?;
        assert!(!name.contains("s3cr3t") && !value.contains("s3cr3t"));
        let life: i64 = redis.cli(&["PTTL", name])?.trim().parse()?;
        assert!(life > 0, "{name} has no time to live");
    }
    // Another's answer in its place, half of one, and what is none.
    redis.cli(&["COPY", &name(&other), &name(&one), "REPLACE"])?;
    assert!(cache.get(&one).await.is_none());
    redis.cli(&["SETRANGE", &name(&other), "40", "XXXX"])?;
    assert!(cache.get(&other).await.is_none());
    for lie in ["", "R", "T", "Rubbish", "T123"] {
        redis.cli(&["SET", &name(&one), lie])?;
        assert!(cache.get(&one).await.is_none(), "{lie}");
    }
    redis.cli(&["DEL", &name(&one)])?;
    redis.cli(&["LPUSH", &name(&one), "a list"])?;
    assert!(cache.get(&one).await.is_none());
    Ok(())
}
