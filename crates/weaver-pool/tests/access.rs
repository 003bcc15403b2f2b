//! Who may connect and how: users, passwords that change, databases, protocols, sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::Redis;
use fred::{
    clients::Client,
    interfaces::{ClientLike, KeysInterface},
    types::{ClusterHash, CustomCommand},
};
use std::{
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};
use tokio::time::sleep;
use weaver_pool::{Credentials, PoolError, Protocol, RedisPool, RedisPoolConfig, Topology};

async fn set(pool: &RedisPool, key: &'static str) -> Result<(), PoolError> {
    pool.command("SET")
        .key(key.as_bytes())
        .run(|client| async move { client.set(key, "v", None, None, false).await })
        .await
}

async fn ask(pool: &RedisPool, words: &[&str]) -> String {
    let (first, rest) = words.split_first().unwrap();
    let command = CustomCommand::new((*first).to_owned(), ClusterHash::Random, false);
    let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
    pool.execute(|client| async move { client.custom(command, rest).await })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_user_may_do_what_its_rules_allow() {
    let redis = Redis::start().await;
    redis.cli(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">secret",
        "~*",
        "+@read",
        "+ping",
        "+acl|whoami",
    ]);
    let with = |password: &str| RedisPoolConfig {
        username: Some("reader".to_owned()),
        password: Some(password.to_owned()),
        ..redis.config()
    };
    let pool = RedisPool::connect(with("secret")).await.unwrap();
    assert_eq!(ask(&pool, &["ACL", "WHOAMI"]).await, "reader");
    let denied = set(&pool, "k").await.unwrap_err();
    assert!(
        matches!(&denied, PoolError::Command(error) if error.details().starts_with("NOPERM")),
        "{denied:?}"
    );
    assert!(!denied.is_transient(), "no reason to try again");
    pool.close().await;
    let wrong = RedisPool::connect(with("guess"))
        .await
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("WRONGPASS"), "{wrong}");
    assert!(!wrong.contains("guess"), "{wrong}");
}

/// The password changes at the server and, a moment later, in the file, as a Secret does. Then every
/// connection is dropped, and comes back with the new one.
#[tokio::test]
async fn a_rotated_password_is_read_from_its_file() {
    let redis = Redis::start_with(&["--requirepass", "first"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let pool = RedisPool::connect(RedisPoolConfig {
        credentials: Some(Credentials::file(None, &file)),
        min_connections: 3,
        ..redis.config()
    })
    .await
    .unwrap();
    set(&pool, "k").await.unwrap();
    redis.cli(&["-a", "first", "CONFIG", "SET", "requirepass", "second"]);
    redis.cli(&["-a", "second", "CLIENT", "KILL", "TYPE", "normal"]);
    let since = Instant::now();
    while set(&pool, "k").await.is_ok() {
        assert!(since.elapsed() < Duration::from_secs(5));
    }
    std::fs::write(&file, "second\n").unwrap();
    let since = Instant::now();
    while set(&pool, "k").await.is_err() {
        assert!(
            since.elapsed() < Duration::from_secs(10),
            "{:?}",
            pool.stats()
        );
        sleep(Duration::from_millis(5)).await;
    }
    println!("the new password was in use after {:.1?}", since.elapsed());
    // Exclusive connections too, new ones and those that are used again.
    for _ in 0..2 {
        let mut connection = pool.exclusive().await.unwrap();
        let ping = |client: Client| async move { client.ping::<String>(None).await };
        assert_eq!(connection.execute(ping).await.unwrap(), "PONG");
    }
    pool.close().await;
}

#[tokio::test]
async fn a_database_and_either_protocol_hold_over_reconnections_and_reuse() {
    let redis = Redis::start().await;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let pool = RedisPool::connect(RedisPoolConfig {
            db: 7,
            protocol,
            ..redis.config()
        })
        .await
        .unwrap();
        redis.cli(&["FLUSHALL"]);
        let info = |text: &str| {
            let db = text.contains(" db=7 ");
            let resp = text.contains(match protocol {
                Protocol::Resp2 => " resp=2",
                Protocol::Resp3 => " resp=3",
            });
            assert!(db && resp, "{text}");
        };
        info(&ask(&pool, &["CLIENT", "INFO"]).await);
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        let since = Instant::now();
        while set(&pool, "k").await.is_err() {
            assert!(since.elapsed() < Duration::from_secs(5));
        }
        info(&ask(&pool, &["CLIENT", "INFO"]).await);
        assert_eq!(redis.cli(&["-n", "7", "GET", "k"]), "v");
        for _ in 0..2 {
            let mut connection = pool.exclusive().await.unwrap();
            let client_info = || CustomCommand::new_static("CLIENT", ClusterHash::Random, false);
            let select = CustomCommand::new_static("SELECT", ClusterHash::Random, false);
            let command = client_info();
            let text: String = connection
                .execute(|client| async move { client.custom(command, vec!["INFO"]).await })
                .await
                .unwrap();
            info(&text);
            connection
                .execute(|client| async move { client.custom::<(), _>(select, vec!["3"]).await })
                .await
                .unwrap();
        }
        assert_eq!(pool.stats().dedicated_connections, 1, "the same one again");
        pool.close().await;
    }
}

#[tokio::test]
async fn a_socket_in_the_file_system_will_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.sock");
    let _redis = Redis::start_with(&["--unixsocket", path.to_str().unwrap()]).await;
    while std::fs::metadata(&path).map_or(true, |file| file.mode() == 0) {
        sleep(Duration::from_millis(5)).await;
    }
    let pool = RedisPool::connect(RedisPoolConfig {
        topology: Topology::Unix { path },
        ..common::config(1)
    })
    .await
    .unwrap();
    set(&pool, "k").await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn two_sources_of_a_password_are_one_too_many() {
    let config = RedisPoolConfig {
        password: Some("a".to_owned()),
        credentials: Some(Credentials::file(None, "b")),
        ..RedisPoolConfig::default()
    };
    assert!(matches!(config.validate(), Err(PoolError::Config(_))));
    let shown = format!("{config:?}");
    assert!(!shown.contains("\"a\""), "{shown}");
}
