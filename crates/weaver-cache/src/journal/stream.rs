//! The journal in Redis: a stream that every node follows from its last position.
//!
//! One task for each node holds a connection of its own (XREAD blocks it). While it does not know
//! where the journal stands the Redis tier is closed: [`Follower::current`] is false, and neither
//! look-ups nor writes go there. When it is back it applies what it missed and opens the tier again.
//! If the stream was trimmed past its place, or lost, everything older is forgotten, which kills it.

use super::{
    Position, Purge, PurgeLog,
    roster::{Node, Roster},
};
use crate::clock::{millis, unix_millis};
use fred::{
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
    util::redis_keyslot,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};
use weaver_pool::{Exclusive, PoolError, RedisPool};

/// Items that the stream keeps; older ones are trimmed, and entries from before them are dead.
const MAX_ITEMS: u32 = 100_000;
/// How long an XREAD waits for news before it asks again.
const BLOCK: Duration = Duration::from_millis(250);
/// Silence from Redis after which it is asked what was missed before memory is served: this process
/// may have been frozen.
const SILENCE: Duration = Duration::from_millis(500);
/// Items of one answer.
const BATCH: u32 = 1000;
/// The field of an item whose appliers are to say so at once.
const ACKNOWLEDGED: &str = "ack";
const RETRY: Duration = Duration::from_millis(200);

/// Follows the journal; dropping it ends the task.
pub(crate) struct Follower {
    pool: RedisPool,
    key: String,
    shared: Arc<Shared>,
    roster: Roster,
    task: JoinHandle<()>,
}

struct Shared {
    current: AtomicBool,
    /// What the Redis server's clock shows beyond ours, in milliseconds.
    clock: AtomicI64,
    epoch: Instant,
    /// When Redis was last heard of, in milliseconds since `epoch`.
    heard_at: AtomicU64,
    heard: Notify,
    /// Redis is out of reach, as far as anybody knows: nobody waits for it.
    lost: AtomicBool,
}

impl Shared {
    fn hear(&self) {
        self.heard_at
            .store(millis(self.epoch.elapsed()), Ordering::Release);
        self.lost.store(false, Ordering::Release);
        self.heard.notify_waiters();
    }

    fn give_up(&self) {
        self.lost.store(true, Ordering::Release);
        self.heard.notify_waiters();
    }

    fn is_in_doubt(&self, now: Instant) -> bool {
        let now = millis(now.saturating_duration_since(self.epoch));
        now.saturating_sub(self.heard_at.load(Ordering::Acquire)) > millis(SILENCE)
            && !self.lost.load(Ordering::Acquire)
    }
}

impl Follower {
    pub(crate) fn start(
        pool: RedisPool,
        key: String,
        log: Arc<PurgeLog>,
        name: &str,
        lost: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            current: AtomicBool::new(false),
            clock: AtomicI64::new(0),
            epoch: Instant::now(),
            heard_at: AtomicU64::new(0),
            heard: Notify::new(),
            lost: AtomicBool::new(true),
        });
        let roster = Roster::new(pool.clone(), &key, name);
        let follow = Follow {
            pool: pool.clone(),
            key: key.clone(),
            log,
            shared: Arc::clone(&shared),
            lost: Box::new(lost),
            last: None,
            roster: roster.clone(),
        };
        Self {
            pool,
            key,
            shared,
            roster,
            task: tokio::spawn(follow.run()),
        }
    }

    /// Whether everything in the journal is applied, as far as this node can know.
    pub(crate) fn current(&self) -> bool {
        self.shared.current.load(Ordering::Acquire)
    }

    /// Whether Redis has been silent for so long that purges may have been missed.
    pub(crate) fn is_in_doubt(&self, now: Instant) -> bool {
        self.shared.is_in_doubt(now)
    }

    /// Waits until what was missed is applied. After `patience` Redis counts as lost, for all, until
    /// it is heard of.
    pub(crate) async fn settle(&self, patience: Duration) {
        let settled = async {
            loop {
                let heard = self.shared.heard.notified();
                if !self.shared.is_in_doubt(Instant::now()) {
                    return;
                }
                heard.await;
            }
        };
        if timeout(patience, settled).await.is_err() {
            self.shared.give_up();
        }
    }

    /// The nodes, and how far each is.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, PoolError> {
        self.roster.read(self.clock_offset()).await
    }

    /// What to add to this node's clock to get the one that all nodes share.
    pub(crate) fn clock_offset(&self) -> i64 {
        self.shared.clock.load(Ordering::Relaxed)
    }

    /// Writes a purge into the journal; it is durable there as Redis is.
    /// With `acknowledged` every node says at once that it has applied it; else within a second.
    pub(crate) async fn append(
        &self,
        purge: &Purge,
        soft: bool,
        acknowledged: bool,
    ) -> Result<Position, PoolError> {
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
        if acknowledged {
            args.extend([ACKNOWLEDGED.to_owned(), "1".to_owned()]);
        }
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
    roster: Roster,
}

impl Follow {
    async fn run(mut self) {
        loop {
            if let Ok(mut connection) = self.pool.exclusive_for(self.key.as_bytes()).await
                && let Err(error) = self.follow(&mut connection).await
            {
                tracing::warn!(%error, "purge journal out of reach; the redis tier is closed");
            }
            // The first new attempt comes at once: a process that was frozen finds its deadlines
            // passed, and Redis well.
            if !self.shared.current.swap(false, Ordering::AcqRel) {
                self.shared.give_up();
                sleep(RETRY).await;
            }
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
            self.shared.hear();
            self.shared.current.store(true, Ordering::Release);
            if self.roster.is_due() {
                self.report().await;
            }
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
            let mut acknowledge = false;
            for (position, fields) in items(&answer) {
                acknowledge |= fields.iter().any(|(name, _)| name == ACKNOWLEDGED);
                self.apply(position, &fields);
            }
            if acknowledge {
                self.report().await;
            }
        }
    }

    /// Tells the others how far this node is. A failure is noticed by what comes next.
    async fn report(&mut self) {
        let clock = self.shared.clock.load(Ordering::Relaxed);
        let last = self.last.unwrap_or_default();
        if let Err(error) = self.roster.report(last, clock).await {
            tracing::debug!(%error, "the roster of nodes");
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
    }

    async fn read_clock(&self, connection: &mut Exclusive) -> Result<(), PoolError> {
        let command = CustomCommand::new_static("TIME", ClusterHash::Random, false);
        let own_clock = || i64::try_from(unix_millis(0)).unwrap_or(i64::MAX);
        let before = own_clock();
        let answer = connection
            .execute(
                |client| async move { client.custom::<Vec<String>, String>(command, vec![]).await },
            )
            .await?;
        let after = own_clock();
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
