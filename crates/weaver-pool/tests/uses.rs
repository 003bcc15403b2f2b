//! What a pool is used for besides single commands: exclusive connections, transactions, blocking
//! commands, pipelines, scripts, subscriptions, streams.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::{Cluster, Redis};
use fred::{
    clients::Client,
    interfaces::{ClientLike, KeysInterface, ListInterface, TransactionInterface},
    types::{ClusterHash, CustomCommand},
};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use weaver_pool::{PoolError, Protocol, RedisPool, RedisPoolConfig, Script, SubscriberEvent};

async fn pool(redis: &Redis) -> RedisPool {
    RedisPool::connect(redis.config()).await.unwrap()
}

fn custom(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::Random, false)
}

/// How many connections the server has besides that of who asks.
fn connections(redis: &Redis) -> usize {
    redis
        .cli(&["CLIENT", "LIST", "TYPE", "normal"])
        .lines()
        .count()
        - 1
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(10), "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// WATCH, a look, and a transaction that happens only if nobody else wrote meanwhile.
#[tokio::test]
async fn an_optimistic_transaction_runs_on_an_exclusive_connection() {
    let redis = Redis::start().await;
    let pool = pool(&redis).await;
    redis.cli(&["SET", "stock", "5"]);
    let mut connection = pool.exclusive().await.unwrap();
    let buy = async |connection: &mut weaver_pool::Exclusive, meddle: bool| {
        let redis = &redis;
        connection
            .execute(|client| async move {
                client.watch("stock").await?;
                let stock: i64 = client.get("stock").await?;
                if meddle {
                    redis.cli(&["SET", "stock", "1"]);
                }
                let transaction = client.multi();
                transaction
                    .set::<(), _, _>("stock", stock - 1, None, None, false)
                    .await?;
                transaction.exec::<fred::types::Value>(true).await
            })
            .await
    };
    assert!(!buy(&mut connection, false).await.unwrap().is_null());
    assert_eq!(redis.cli(&["GET", "stock"]), "4");
    let lost = buy(&mut connection, true).await;
    assert!(
        lost.as_ref().map_or(true, fred::types::Value::is_null),
        "{lost:?}"
    );
    assert_eq!(redis.cli(&["GET", "stock"]), "1", "the other write stands");
    drop(connection);
    pool.close().await;
}

/// What was watched is forgotten by the server with the connection: a transaction on another one would
/// overwrite what somebody else wrote.
#[tokio::test]
async fn an_exclusive_connection_that_is_lost_stays_lost() {
    let redis = Redis::start().await;
    let pool = pool(&redis).await;
    redis.cli(&["SET", "stock", "5"]);
    let mut connection = pool.exclusive().await.unwrap();
    let watch = async |client: Client| client.watch("stock").await;
    connection.execute(watch).await.unwrap();
    redis.cli(&["SET", "stock", "1"]);
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    // The pool's own connection is made again, at which an exclusive one could have been so too.
    until("connected again", || connections(&redis) == 1).await;
    let buy = |client: Client| async move {
        let transaction = client.multi();
        let set = transaction.set::<(), _, _>("stock", 4, None, None, false);
        set.await?;
        transaction.exec::<fred::types::Value>(true).await
    };
    let lost = connection.execute(buy).await;
    assert!(
        matches!(
            lost,
            Err(PoolError::NotConnected(_) | PoolError::Connection(_))
        ),
        "{lost:?}"
    );
    assert_eq!(redis.cli(&["GET", "stock"]), "1", "the other write stands");
    drop(connection);
    // It is not lent again.
    let mut next = pool.exclusive().await.unwrap();
    let get = |client: Client| async move { client.get::<String, _>("stock").await };
    assert_eq!(next.execute(get).await.unwrap(), "1");
    drop(next);
    pool.close().await;
}

/// Whatever was done to it, the next to borrow it finds it as new.
#[tokio::test]
async fn an_exclusive_connection_comes_back_clean() {
    let redis = Redis::start_with(&["--requirepass", "secret"]).await;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let pool = RedisPool::connect(RedisPoolConfig {
            password: Some("secret".to_owned()),
            protocol,
            max_dedicated: 1,
            ..redis.config()
        })
        .await
        .unwrap();
        let id = |client: Client| async move {
            let id = client.custom::<Vec<i64>, String>(custom("CLIENT"), vec!["ID".to_owned()]);
            Ok(id.await?[0])
        };
        let mut connection = pool.exclusive().await.unwrap();
        let first = connection.execute(id).await.unwrap();
        connection
            .execute(|client| async move {
                client
                    .custom::<(), String>(custom("WATCH"), vec!["k".into()])
                    .await?;
                client.custom::<(), String>(custom("MULTI"), vec![]).await
            })
            .await
            .unwrap();
        drop(connection);
        let mut connection = pool.exclusive().await.unwrap();
        // Inside MULTI this would be QUEUED.
        assert_eq!(connection.execute(id).await.unwrap(), first, "{protocol:?}");
        drop(connection);
        pool.close().await;
    }
}

/// A caller leaves while it blocks. Its connection is closed, so that what is pushed later is not
/// popped for nobody, and the next caller gets another.
#[tokio::test]
async fn a_blocking_command_that_is_dropped_takes_nothing_with_it() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        max_dedicated: 1,
        acquire_timeout: Duration::from_secs(5),
        ..redis.config()
    })
    .await
    .unwrap();
    let before = connections(&redis);
    let pop =
        |client: Client| async move { client.blpop::<(String, String), _>("list", 30.0).await };
    for _ in 0..20 {
        let mut connection = pool.exclusive().await.unwrap();
        let blocked = connection.execute_within(Duration::from_secs(60), pop);
        assert!(timeout(Duration::from_millis(20), blocked).await.is_err());
        // The same connection is of no more use.
        let again = connection.execute(pop).await;
        assert!(
            matches!(again, Err(PoolError::NotConnected(_))),
            "{again:?}"
        );
    }
    until("closed connections", || connections(&redis) <= before).await;
    redis.cli(&["RPUSH", "list", "item"]);
    assert_eq!(redis.cli(&["LLEN", "list"]), "1", "nobody popped it");
    let mut connection = pool.exclusive().await.unwrap();
    assert_eq!(connection.execute(pop).await.unwrap().1, "item");
    // One that blocks for longer than any other deadline is not taken for dead.
    let since = Instant::now();
    let patient = connection.execute_within(Duration::from_secs(10), |client| async move {
        client.blpop::<(String, String), _>("list", 2.0).await
    });
    assert!(matches!(patient.await, Err(PoolError::Timeout(_))));
    assert!(since.elapsed() < Duration::from_secs(9));
    drop(connection);
    assert_eq!(pool.stats().dedicated_connections, 1);
    pool.close().await;
    until("no connection left", || connections(&redis) == 0).await;
}

/// Callers that leave at random moments, of calls and of exclusive connections: the pool is whole
/// afterwards, and no answer reached the wrong caller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_may_be_dropped_at_any_await() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        max_connections: 2,
        max_in_flight: 8,
        max_dedicated: 3,
        ..redis.config()
    })
    .await
    .unwrap();
    for at in 0..50 {
        redis.cli(&["SET", &format!("key:{at}"), &format!("key:{at}")]);
    }
    let callers: Vec<_> = (0..24_u64)
        .map(|caller| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(caller);
                for _ in 0..150 {
                    let key = format!("key:{}", random.u64(0..50));
                    let asked = key.clone();
                    let get =
                        move |client: Client| async move { client.get::<String, _>(asked).await };
                    let call = async {
                        if random.u8(0..4) == 0 {
                            pool.exclusive().await?.execute(get).await
                        } else {
                            pool.command("GET").key(key.as_bytes()).run(get).await
                        }
                    };
                    let patience = Duration::from_micros(fastrand::u64(0..3000));
                    match timeout(patience, call).await {
                        Ok(Ok(value)) => assert_eq!(value, key),
                        Ok(Err(PoolError::Exhausted)) | Err(_) => {}
                        Ok(Err(error)) => panic!("{error:?}"),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.in_use_connections, stats.waiting),
        (0, 0),
        "{stats:?}"
    );
    assert!(stats.dedicated_connections <= 3, "{stats:?}");
    let latency = &stats.latency;
    assert!(latency.count() > 0 && latency.sum > Duration::ZERO);
    pool.close().await;
    until("no connection left", || connections(&redis) == 0).await;
}

#[tokio::test]
async fn when_all_dedicated_connections_are_lent_the_next_waits_and_then_gives_up() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        max_dedicated: 2,
        ..redis.config()
    })
    .await
    .unwrap();
    let first = pool.exclusive().await.unwrap();
    let _second = pool.exclusive().await.unwrap();
    assert!(matches!(pool.exclusive().await, Err(PoolError::Exhausted)));
    let waits = tokio::spawn({
        let pool = pool.clone();
        async move { pool.exclusive().await.map(drop) }
    });
    tokio::task::yield_now().await;
    drop(first);
    waits.await.unwrap().unwrap();
    pool.close().await;
    assert!(matches!(pool.exclusive().await, Err(PoolError::Closed)));
}

#[tokio::test]
async fn a_pipeline_is_one_call() {
    let redis = Redis::start().await;
    let pool = pool(&redis).await;
    let (set, got): (String, String) = pool
        .execute(|client| async move {
            let pipeline = client.pipeline();
            pipeline
                .set::<(), _, _>("a", "1", None, None, false)
                .await?;
            pipeline.get::<(), _>("a").await?;
            pipeline.all().await
        })
        .await
        .unwrap();
    assert_eq!((set.as_str(), got.as_str()), ("OK", "1"));
    pool.close().await;
}

#[tokio::test]
async fn a_script_is_known_by_its_hash_and_sent_when_it_is_not() {
    let redis = Redis::start().await;
    let pool = pool(&redis).await;
    let add = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let run = || pool.run_script::<i64, _, _>(&add, vec!["sum"], vec!["2"]);
    assert_eq!(run().await.unwrap(), 2);
    assert_eq!(redis.cli(&["SCRIPT", "EXISTS", add.sha1()]), "1");
    redis.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(run().await.unwrap(), 4, "sent again, and run once");
    let evals = |name: &str| {
        let stats = redis.cli(&["INFO", "commandstats"]);
        stats.contains(&format!("cmdstat_{name}:"))
    };
    assert!(evals("eval") && evals("evalsha"));
    assert_eq!(run().await.unwrap(), 6);
    pool.close().await;
}

#[tokio::test]
async fn subscriptions_come_back_after_the_connection_was_lost() {
    let redis = Redis::start().await;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let pool = RedisPool::connect(RedisPoolConfig {
            protocol,
            ..redis.config()
        })
        .await
        .unwrap();
        let mut subscriber = pool.subscriber().await.unwrap();
        subscriber.subscribe("news").await.unwrap();
        subscriber.subscribe_pattern("log.*").await.unwrap();
        let message = |channel: &str, payload: &'static str| SubscriberEvent::Message {
            channel: channel.to_owned(),
            payload: payload.into(),
        };
        redis.cli(&["PUBLISH", "news", "one"]);
        assert_eq!(subscriber.next().await.unwrap(), message("news", "one"));
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        let gap = timeout(Duration::from_secs(5), subscriber.next()).await;
        assert_eq!(gap.unwrap().unwrap(), SubscriberEvent::Gap);
        redis.cli(&["PUBLISH", "log.a", "two"]);
        assert_eq!(subscriber.next().await.unwrap(), message("log.a", "two"));
        subscriber.unsubscribe("news").await.unwrap();
        redis.cli(&["PUBLISH", "news", "three"]);
        redis.cli(&["PUBLISH", "log.b", "four"]);
        assert_eq!(subscriber.next().await.unwrap(), message("log.b", "four"));
        assert_eq!(pool.stats().dedicated_connections, 1);
        drop(subscriber);
        assert_eq!(pool.stats().dedicated_connections, 0);
        pool.close().await;
        until("no subscriber left", || {
            redis.cli(&["PUBLISH", "log.c", "x"]) == "0"
        })
        .await;
    }
}

/// More messages than are kept for a reader that does not come: it learns of the gap.
#[tokio::test]
async fn a_slow_subscriber_is_told_of_what_it_missed() {
    let redis = Redis::start().await;
    let pool = pool(&redis).await;
    let mut subscriber = pool.subscriber().await.unwrap();
    subscriber.subscribe("flood").await.unwrap();
    let publish = CustomCommand::new_static("PUBLISH", ClusterHash::Random, false);
    for at in 0..3000 {
        let publish = publish.clone();
        let args = vec!["flood".to_owned(), at.to_string()];
        let heard: i64 = pool
            .execute(|client| async move { client.custom(publish, args).await })
            .await
            .unwrap();
        assert_eq!(heard, 1);
    }
    sleep(Duration::from_millis(50)).await;
    let mut last = None;
    let mut gaps = 0;
    while last.as_deref() != Some(b"2999".as_slice()) {
        match subscriber.next().await.unwrap() {
            SubscriberEvent::Gap => gaps += 1,
            SubscriberEvent::Message { payload, .. } => last = Some(payload),
        }
    }
    assert_eq!(gaps, 1);
    pool.close().await;
}

#[tokio::test]
async fn a_stream_is_read_on_after_the_connection_was_lost() {
    let redis = Redis::start().await;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        redis.cli(&["FLUSHALL"]);
        let pool = RedisPool::connect(RedisPoolConfig {
            protocol,
            ..redis.config()
        })
        .await
        .unwrap();
        let add = |value: &str| redis.cli(&["XADD", "s", "*", "n", value]);
        add("1");
        let mut all = pool.stream_reader("s", "0");
        let mut new = pool.stream_reader("s", "$");
        let values = |items: Vec<weaver_pool::StreamItem>| -> Vec<String> {
            let fields = items.into_iter().flat_map(|item| item.fields);
            fields
                .map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
                .collect()
        };
        assert_eq!(values(all.next().await.unwrap()), ["1"]);
        // Its place is fixed by the first call, and a call may be dropped.
        while new.position() == "$" {
            let next = timeout(Duration::from_millis(100), new.next());
            assert!(next.await.is_err());
        }
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        add("2");
        add("3");
        for reader in [&mut all, &mut new] {
            let mut seen = Vec::new();
            let since = Instant::now();
            while seen.len() < 2 {
                assert!(since.elapsed() < Duration::from_secs(10), "{seen:?}");
                if let Ok(items) = reader.next().await {
                    seen.extend(values(items));
                }
            }
            assert_eq!(seen, ["2", "3"], "{protocol:?}");
        }
        drop((all, new));
        pool.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_it_works_in_a_cluster() {
    let cluster = Cluster::start().await;
    let pool = RedisPool::connect(cluster.config()).await.unwrap();
    for at in 0..12 {
        let key = format!("list:{at}");
        let mut connection = pool.exclusive_for(key.as_bytes()).await.unwrap();
        let popped = key.clone();
        let value: (String, String) = connection
            .execute(|client| async move {
                client.rpush::<(), _, _>(&popped, "item").await?;
                client.blpop(popped, 1.0).await
            })
            .await
            .unwrap();
        assert_eq!(value, (key.clone(), "item".to_owned()));
        let script = Script::new("return redis.call('SET', KEYS[1], ARGV[1])");
        let done = pool.run_script::<String, _, _>(&script, vec![key.as_str()], vec!["v"]);
        assert_eq!(done.await.unwrap(), "OK");
        // Without a key it finds its way by redirection.
        let asked = key.clone();
        let value: String = pool
            .execute(|client| async move { client.get(asked).await })
            .await
            .unwrap();
        assert_eq!(value, "v");
    }
    let mut subscriber = pool.subscriber().await.unwrap();
    subscriber.subscribe("news").await.unwrap();
    let mut reader = pool.stream_reader("s", "0");
    cluster.nodes[0].cli(&["-c", "XADD", "s", "*", "a", "b"]);
    assert_eq!(reader.next().await.unwrap().len(), 1);
    cluster.nodes[1].cli(&["PUBLISH", "news", "hello"]);
    let heard = timeout(Duration::from_secs(5), subscriber.next()).await;
    assert!(matches!(
        heard.unwrap().unwrap(),
        SubscriberEvent::Message { .. }
    ));
    assert!(pool.stats().dedicated_connections <= 16);
    pool.close().await;
}
