//! `make bench-pool`: GET and SET through this pool, and through the others that a Rust program can
//! choose, against one redis-server. Server and callers have a core each; the peers take turns.

use crate::Effort;
use anyhow::{Context as _, Result};
use bb8_redis::redis as bb8_rs;
use deadpool_redis::redis as deadpool_rs;
use fred::prelude::{Builder, ClientLike as _, Config, KeysInterface as _, Pool, ServerConfig};
use redis::AsyncCommands as _;
use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};
use weaver_pool::{RedisPool, RedisPoolConfig};
use weaver_tests::{Process, free_port, scratch, wait_for_port};

const SIZES: [usize; 3] = [100, 1024, 65_536];
const CALLERS: [usize; 4] = [1, 16, 64, 512];
/// Connections of the pools that lend one to each caller.
const LENT: u32 = 64;
const KEY: &str = "bench";

/// A way to talk to Redis.
enum Peer {
    Weaver(RedisPool),
    Fred(Pool),
    Multiplexed(redis::aio::MultiplexedConnection),
    Manager(redis::aio::ConnectionManager),
    Bb8(bb8_redis::bb8::Pool<bb8_redis::RedisConnectionManager>),
    Deadpool(deadpool_redis::Pool),
}

const NAMES: [&str; 7] = [
    "weaver-pool",
    "fred::Pool",
    "redis-rs multiplexed",
    "redis-rs manager",
    "bb8-redis",
    "deadpool-redis",
    "redis-benchmark",
];

impl Peer {
    async fn all(port: u16) -> Result<Vec<Self>> {
        let url = format!("redis://127.0.0.1:{port}/");
        let weaver = RedisPool::connect(RedisPoolConfig {
            host: "127.0.0.1".to_owned(),
            port,
            min_connections: 1,
            max_connections: 1,
            max_in_flight: 1024,
            ..RedisPoolConfig::default()
        })
        .await?;
        let fred = Builder::from_config(Config {
            server: ServerConfig::new_centralized("127.0.0.1", port),
            ..Config::default()
        })
        .build_pool(1)?;
        fred.init().await?;
        let client = redis::Client::open(url.as_str())?;
        let bb8 = bb8_redis::bb8::Pool::builder()
            .max_size(LENT)
            .build(bb8_redis::RedisConnectionManager::new(url.as_str())?)
            .await?;
        let deadpool = deadpool_redis::Config::from_url(url.as_str())
            .builder()?
            .max_size(LENT as usize)
            .runtime(deadpool_redis::Runtime::Tokio1)
            .build()?;
        Ok(vec![
            Self::Weaver(weaver),
            Self::Fred(fred),
            Self::Multiplexed(client.get_multiplexed_async_connection().await?),
            Self::Manager(client.get_connection_manager().await?),
            Self::Bb8(bb8),
            Self::Deadpool(deadpool),
        ])
    }

    async fn get(&self) -> Result<usize> {
        Ok(match self {
            Self::Weaver(pool) => pool
                .execute(|client| async move { client.get::<bytes::Bytes, _>(KEY).await })
                .await?
                .len(),
            Self::Fred(pool) => pool.get::<bytes::Bytes, _>(KEY).await?.len(),
            Self::Multiplexed(connection) => connection.clone().get::<_, Vec<u8>>(KEY).await?.len(),
            Self::Manager(manager) => manager.clone().get::<_, Vec<u8>>(KEY).await?.len(),
            Self::Bb8(pool) => {
                let mut connection = pool.get().await?;
                bb8_rs::AsyncCommands::get::<_, Vec<u8>>(&mut *connection, KEY)
                    .await?
                    .len()
            }
            Self::Deadpool(pool) => {
                let mut connection = pool.get().await?;
                deadpool_rs::AsyncCommands::get::<_, Vec<u8>>(&mut connection, KEY)
                    .await?
                    .len()
            }
        })
    }

    async fn set(&self, value: &bytes::Bytes) -> Result<()> {
        match self {
            Self::Weaver(pool) => {
                let value = value.clone();
                pool.execute(|client| async move {
                    client.set::<(), _, _>(KEY, value, None, None, false).await
                })
                .await?;
            }
            Self::Fred(pool) => {
                pool.set::<(), _, _>(KEY, value.clone(), None, None, false)
                    .await?;
            }
            Self::Multiplexed(connection) => {
                connection.clone().set::<_, _, ()>(KEY, &value[..]).await?;
            }
            Self::Manager(manager) => manager.clone().set::<_, _, ()>(KEY, &value[..]).await?,
            Self::Bb8(pool) => {
                let mut connection = pool.get().await?;
                bb8_rs::AsyncCommands::set::<_, _, ()>(&mut *connection, KEY, &value[..]).await?;
            }
            Self::Deadpool(pool) => {
                let mut connection = pool.get().await?;
                deadpool_rs::AsyncCommands::set::<_, _, ()>(&mut connection, KEY, &value[..])
                    .await?;
            }
        }
        Ok(())
    }
}

/// Calls a second, and the time in microseconds within which 99 of 100 were answered.
#[derive(Clone, Copy, Default)]
struct Figure {
    rate: f64,
    p99: u32,
}

async fn turn(
    peer: &Rc<Peer>,
    writes: bool,
    value: &bytes::Bytes,
    callers: usize,
    length: Duration,
) -> Result<Figure> {
    let times = Rc::new(RefCell::new(Vec::<u32>::new()));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (peer, times, value) = (Rc::clone(peer), Rc::clone(&times), value.clone());
            tokio::task::spawn_local(async move {
                while started.elapsed() < length {
                    let began = Instant::now();
                    if writes {
                        peer.set(&value).await?;
                    } else {
                        anyhow::ensure!(peer.get().await? == value.len(), "another value came");
                    }
                    let took = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
                    times.borrow_mut().push(took);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let mut times = times.borrow_mut();
    times.sort_unstable();
    Ok(Figure {
        rate: times.len() as f64 / seconds,
        p99: times.get(times.len() * 99 / 100).copied().unwrap_or(0),
    })
}

/// What comes with Redis, with a connection for each caller.
fn benchmark(port: u16, writes: bool, size: usize, callers: usize) -> Result<Figure> {
    let requests = (20_000_000 / (size + 200)).min(100_000);
    let output = std::process::Command::new("redis-benchmark")
        .args(["-p", &port.to_string(), "--csv", "-c", &callers.to_string()])
        .args(["-t", if writes { "set" } else { "get" }])
        .args(["-d", &size.to_string(), "-n", &requests.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "test","rps","avg_latency_ms","min","p50","p95","p99","max"
    let line = text
        .lines()
        .last()
        .context("redis-benchmark said nothing")?;
    let number = |at: usize| -> Result<f64> {
        let field = line.split(',').nth(at).context("too few columns")?;
        Ok(field.trim_matches('"').parse()?)
    };
    Ok(Figure {
        rate: number(1)?,
        p99: (number(6)? * 1000.0) as u32,
    })
}

/// What of all to measure: `perf pool [get|set] [SIZE] [CALLERS] [PEERS]`.
fn wanted() -> Result<(impl Fn(bool, usize, usize) -> bool, usize)> {
    let mut arguments = std::env::args().skip(2);
    let command = arguments.next();
    let mut number = || {
        let text = arguments.next().map(|text| text.parse::<usize>());
        text.transpose()
    };
    let (size, callers, peers) = (number()?, number()?, number()?);
    let is = move |writes: bool, this_size: usize, these: usize| {
        let command = command
            .as_deref()
            .is_none_or(|name| (name == "set") == writes);
        command
            && size.is_none_or(|size| size == this_size)
            && callers.is_none_or(|callers| callers == these)
    };
    Ok((is, peers.unwrap_or(NAMES.len())))
}

fn median(mut figures: Vec<Figure>) -> Figure {
    figures.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

pub(crate) async fn run(effort: Effort) -> Result<()> {
    let (port, directory) = (free_port(), scratch("bench-pool"));
    let text = port.to_string();
    let arguments = [
        "-c",
        "0",
        "redis-server",
        "--port",
        text.as_str(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ];
    let _redis = Process::start("taskset", &arguments, &directory)?;
    wait_for_port(port).await?;
    let peers: Vec<_> = Peer::all(port).await?.into_iter().map(Rc::new).collect();
    let (wanted, first_peers) = wanted()?;
    let first = peers.first().context("no peer")?;
    println!("| command | bytes | callers | {} |", NAMES.join(" | "));
    println!("|---|---|---|{}", "---|".repeat(NAMES.len()));
    tokio::task::LocalSet::new()
        .run_until(async {
            for writes in [false, true] {
                for size in SIZES {
                    let value = bytes::Bytes::from(vec![b'x'; size]);
                    first.set(&value).await?;
                    for callers in CALLERS {
                        if !wanted(writes, size, callers) {
                            continue;
                        }
                        let mut figures = vec![Vec::new(); NAMES.len().min(first_peers)];
                        for _ in 0..effort.turns {
                            if let Some(figures) = figures.get_mut(peers.len()) {
                                figures.push(benchmark(port, writes, size, callers)?);
                            }
                            for (peer, figures) in peers.iter().zip(&mut figures) {
                                figures
                                    .push(turn(peer, writes, &value, callers, effort.turn).await?);
                            }
                        }
                        let cells: Vec<_> = figures
                            .into_iter()
                            .map(median)
                            .map(|figure| format!("{:.1}k {} µs", figure.rate / 1000.0, figure.p99))
                            .collect();
                        let command = if writes { "SET" } else { "GET" };
                        println!("| {command} | {size} | {callers} | {} |", cells.join(" | "));
                    }
                }
            }
            anyhow::Ok(())
        })
        .await
}
