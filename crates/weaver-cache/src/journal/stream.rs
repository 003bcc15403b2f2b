//! The journal in Redis: a stream that every node follows from its last position.
//!
//! One task for each node holds a connection of its own (XREAD blocks it). While it does not know
//! where the journal stands the Redis tier is closed: [`Follower::current`] is false, and neither
//! look-ups nor writes go there. When it is back it applies what it missed and opens the tier again.
//! If the stream was trimmed past its place, or lost, everything older is forgotten, which kills it.

use super::{Position, Purge, PurgeLog};
use fred::{
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
    util::redis_keyslot,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use weaver_pool::{Exclusive, PoolError, RedisPool};

/// Items that the stream keeps; older ones are trimmed, and entries from before them are dead.
const MAX_ITEMS: u32 = 100_000;
/// How long an XREAD waits for news before it asks again.
const BLOCK: Duration = Duration::from_secs(1);
/// Items of one answer.
const BATCH: u32 = 1000;
const RETRY: Duration = Duration::from_millis(200);

/// Follows the journal; dropping it ends the task.
pub(crate) struct Follower {
    pool: RedisPool,
    key: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    current: AtomicBool,
    /// What the Redis server's clock shows beyond ours, in milliseconds.
    clock: AtomicI64,
    applied: watch::Sender<Position>,
}

impl Follower {
    pub(crate) fn start(
        pool: RedisPool,
        key: String,
        log: Arc<PurgeLog>,
        lost: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            current: AtomicBool::new(false),
            clock: AtomicI64::new(0),
            applied: watch::Sender::new(Position::default()),
        });
        let follow = Follow {
            pool: pool.clone(),
            key: key.clone(),
            log,
            shared: Arc::clone(&shared),
            lost: Box::new(lost),
            last: None,
        };
        Self {
            pool,
            key,
            shared,
            task: tokio::spawn(follow.run()),
        }
    }

    /// Whether everything in the journal is applied, as far as this node can know.
    pub(crate) fn current(&self) -> bool {
        self.shared.current.load(Ordering::Acquire)
    }

    /// What to add to this node's clock to get the one that all nodes share.
    pub(crate) fn clock_offset(&self) -> i64 {
        self.shared.clock.load(Ordering::Relaxed)
    }

    /// Writes a purge into the journal; it is durable there as Redis is.
    pub(crate) async fn append(&self, purge: &Purge, soft: bool) -> Result<Position, PoolError> {
        let mut args = vec![
            self.key.clone(),
            "MAXLEN".into(),
            "~".into(),
            MAX_ITEMS.to_string(),
            "*".into(),
            "soft".into(),
            u8::from(soft).to_string(),
        ];
        let (kind, fields): (&str, Vec<(&str, &str)>) = match purge {
            Purge::All => ("all", vec![]),
            Purge::Tag(tag) => ("tag", vec![("tag", tag)]),
            Purge::Url { host, target } => (
                "url",
                host.iter()
                    .map(|host| ("host", host.as_str()))
                    .chain([("target", target.as_str())])
                    .collect(),
            ),
            Purge::Prefix { host, prefix } => (
                "prefix",
                host.iter()
                    .map(|host| ("host", host.as_str()))
                    .chain([("prefix", prefix.as_str())])
                    .collect(),
            ),
        };
        args.extend(["kind".to_owned(), kind.to_owned()]);
        for (name, value) in fields {
            args.extend([name.to_owned(), value.to_owned()]);
        }
        let command = command("XADD", &self.key, false);
        let id: String = self
            .pool
            .command("XADD")
            .key(self.key.as_bytes())
            .once(|client| async move { client.custom(command, args).await })
            .await?;
        Position::parse(&id).ok_or_else(|| {
            PoolError::Connection(format!("XADD answered {id:?}, which is no stream id"))
        })
    }

    /// Waits until this node has applied the journal up to there.
    pub(crate) async fn applied(&self, position: Position) {
        let mut applied = self.shared.applied.subscribe();
        // Ends only with the follower, which outlives every caller.
        let _ = applied.wait_for(|at| *at >= position).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn command(name: &'static str, key: &str, blocking: bool) -> CustomCommand {
    CustomCommand::new_static(
        name,
        ClusterHash::Custom(redis_keyslot(key.as_bytes())),
        blocking,
    )
}

struct Follow {
    pool: RedisPool,
    key: String,
    log: Arc<PurgeLog>,
    shared: Arc<Shared>,
    lost: Box<dyn Fn() + Send + Sync>,
    /// The last item applied; `None` before the first contact.
    last: Option<Position>,
}

impl Follow {
    async fn run(mut self) {
        loop {
            if let Ok(mut connection) = self.pool.exclusive_for(self.key.as_bytes()).await
                && let Err(error) = self.follow(&mut connection).await
            {
                tracing::warn!(%error, "purge journal out of reach; the redis tier is closed");
            }
            self.shared.current.store(false, Ordering::Release);
            sleep(RETRY).await;
        }
    }

    async fn follow(&mut self, connection: &mut Exclusive) -> Result<(), PoolError> {
        self.catch_up(connection).await?;
        let mut clock_due = tokio::time::Instant::now();
        loop {
            if tokio::time::Instant::now() >= clock_due {
                self.read_clock(connection).await?;
                clock_due = tokio::time::Instant::now() + Duration::from_secs(30);
            }
            self.shared.current.store(true, Ordering::Release);
            let after = self.last.unwrap_or_default();
            let args = vec![
                "COUNT".to_owned(),
                BATCH.to_string(),
                "BLOCK".to_owned(),
                BLOCK.as_millis().to_string(),
                "STREAMS".to_owned(),
                self.key.clone(),
                after.to_string(),
            ];
            let command = command("XREAD", &self.key, true);
            let patience = BLOCK + self.pool.config().socket_timeout;
            let answer: Value = connection
                .execute_within(patience, |client| async move {
                    client.custom(command, args).await
                })
                .await?;
            for (position, fields) in items(&answer) {
                self.apply(position, &fields);
            }
        }
    }

    /// Applies everything since the last position, or all there is; notices a stream that lost it.
    async fn catch_up(&mut self, connection: &mut Exclusive) -> Result<(), PoolError> {
        let oldest = self
            .range(connection, "XRANGE", "-", "+", 1)
            .await?
            .into_iter()
            .next();
        let newest = self
            .range(connection, "XREVRANGE", "+", "-", 1)
            .await?
            .into_iter()
            .next();
        let newest = newest.map(|(position, _)| position);
        if let Some(last) = self.last {
            let trimmed = oldest.as_ref().is_some_and(|(oldest, _)| *oldest > last);
            let reset = newest.unwrap_or_default() < last;
            if trimmed || reset {
                tracing::warn!(%last, "the purge journal has lost this node's place; its cache is emptied");
                (self.lost)();
                self.log.forget_before(newest.unwrap_or_default().max(last));
                self.last = None;
            }
        } else if let Some((oldest, _)) = &oldest {
            // Nothing is known of what was trimmed before, so older entries count as purged. An
            // untrimmed stream's first item has nothing before it that could be older.
            self.log.forget_before(Position {
                time: 0,
                sequence: u64::from(oldest.time > 0),
            });
        }
        let mut from = self.last.unwrap_or_default();
        loop {
            let start = format!("({from}");
            let start = if from == Position::default() {
                "-".to_owned()
            } else {
                start
            };
            let batch = self.range(connection, "XRANGE", &start, "+", BATCH).await?;
            let Some((last, _)) = batch.last() else { break };
            from = *last;
            for (position, fields) in &batch {
                self.apply(*position, fields);
            }
        }
        if self.last.is_none() {
            self.last = Some(newest.unwrap_or_default());
        }
        Ok(())
    }

    async fn range(
        &self,
        connection: &mut Exclusive,
        name: &'static str,
        from: &str,
        to: &str,
        count: u32,
    ) -> Result<Vec<(Position, Vec<(String, String)>)>, PoolError> {
        let args = vec![
            self.key.clone(),
            from.to_owned(),
            to.to_owned(),
            "COUNT".to_owned(),
            count.to_string(),
        ];
        let command = command(name, &self.key, false);
        let answer: Value = connection
            .execute(|client| async move { client.custom(command, args).await })
            .await?;
        Ok(entries(&answer))
    }

    fn apply(&mut self, position: Position, fields: &[(String, String)]) {
        match parse(fields) {
            Some((purge, soft)) => self.log.apply(position, purge, soft),
            // Written by a newer version: what it purges is not known, so everything is.
            None => self.log.apply(position, Purge::All, false),
        }
        self.last = Some(position);
        self.shared.applied.send_replace(position);
    }

    async fn read_clock(&self, connection: &mut Exclusive) -> Result<(), PoolError> {
        let command = CustomCommand::new_static("TIME", ClusterHash::Random, false);
        let before = unix_millis();
        let answer = connection
            .execute(
                |client| async move { client.custom::<Vec<String>, String>(command, vec![]).await },
            )
            .await?;
        let after = unix_millis();
        let number = |at: usize| answer.get(at).and_then(|text| text.parse::<i64>().ok());
        if let (Some(seconds), Some(micros)) = (number(0), number(1)) {
            // The server read its clock at some moment between; the middle is the best guess.
            let server = seconds.saturating_mul(1000).saturating_add(micros / 1000);
            self.shared
                .clock
                .store(server - (before + (after - before) / 2), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn unix_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

fn parse(fields: &[(String, String)]) -> Option<(Purge, bool)> {
    let field = |wanted: &str| {
        fields
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.clone())
    };
    let purge = match field("kind")?.as_str() {
        "all" => Purge::All,
        "tag" => Purge::Tag(field("tag")?),
        "url" => Purge::Url {
            host: field("host"),
            target: field("target")?,
        },
        "prefix" => Purge::Prefix {
            host: field("host"),
            prefix: field("prefix")?,
        },
        _ => return None,
    };
    Some((purge, field("soft").is_some_and(|soft| soft == "1")))
}

/// The items of an XREAD answer, RESP2 (`[[key, items]]`) or RESP3 (`{key: items}`).
fn items(answer: &Value) -> Vec<(Position, Vec<(String, String)>)> {
    match answer {
        Value::Array(streams) => streams
            .iter()
            .filter_map(|stream| match stream {
                Value::Array(pair) => pair.get(1),
                _ => None,
            })
            .flat_map(entries)
            .collect(),
        Value::Map(streams) => streams.values().flat_map(entries).collect(),
        _ => Vec::new(),
    }
}

/// `[[id, [name, value, …]], …]`
fn entries(answer: &Value) -> Vec<(Position, Vec<(String, String)>)> {
    let Value::Array(entries) = answer else {
        return Vec::new();
    };
    entries
        .iter()
        .filter_map(|entry| {
            let Value::Array(pair) = entry else {
                return None;
            };
            let position = Position::parse(&pair.first()?.as_string()?)?;
            let Value::Array(flat) = pair.get(1)? else {
                return None;
            };
            let fields = flat
                .chunks_exact(2)
                .filter_map(|pair| Some((pair[0].as_string()?, pair[1].as_string()?)))
                .collect();
            Some((position, fields))
        })
        .collect()
}
