//! The journal in Redis: a stream that every node follows from its last position.
//!
//! One task for each node follows it ([`super::follow`]). While it does not know
//! where the journal stands the Redis tier is closed: [`Follower::current`] is false, and neither
//! look-ups nor writes go there. When it is back it applies what it missed and opens the tier again.
//! If the stream was trimmed past its place, or lost, everything older is forgotten, which kills it.

use super::{
    Position, Purge, PurgeLog,
    append::Writer,
    follow::Follow,
    item::Item,
    known::Known,
    ledger::Ledger,
    license::Licenses,
    queue::Queue,
    roster::{Node, Roster},
    trouble::Trouble,
};
use crate::{CacheConfig, clock::millis};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use weaver_pool::{PoolError, RedisPool};

/// Silence from Redis after which it is asked what was missed before memory is served: this process
/// may have been frozen.
const SILENCE: Duration = Duration::from_millis(500);

/// How long a write to Redis waits for what is in the journal to be applied.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A node that starts has not heard of Redis: what it would fetch now could be purged before anybody
/// knows that it is there.
const NEVER: u64 = u64::MAX;

/// Follows the journal; dropping it ends the task.
pub(crate) struct Follower {
    writer: Writer,
    standing: Arc<Standing>,
    roster: Roster,
    task: JoinHandle<()>,
    queue: Arc<Queue>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

/// Where this node stands towards Redis.
pub(super) struct Standing {
    pub(super) current: AtomicBool,
    /// What the Redis server's clock shows beyond ours, in milliseconds.
    pub(super) clock: AtomicI64,
    epoch: Instant,
    /// When Redis was last asked for what it then answered, in milliseconds since `epoch`; [`NEVER`]
    /// before the first time.
    heard_at: AtomicU64,
    heard: Notify,
    /// The last item that was applied, and word of another.
    applied: Mutex<Position>,
    moved: Notify,
    /// Somebody waits for what is in the stream already.
    wanted: Notify,
    /// Redis is out of reach, as far as anybody knows: nobody waits for it.
    lost: AtomicBool,
    /// The last attempts to reach Redis failed, several in a row.
    unreachable: AtomicBool,
}

impl Standing {
    /// An answer has come to what was asked at that time. It may have been sent at once and have
    /// lain in the socket since, while this process was frozen: it says nothing of later.
    pub(super) fn hear(&self, asked_at: Instant) {
        let asked_at = asked_at.saturating_duration_since(self.epoch);
        self.heard_at.store(millis(asked_at), Ordering::Release);
        self.lost.store(false, Ordering::Release);
        self.unreachable.store(false, Ordering::Release);
        self.heard.notify_waiters();
    }

    /// Attempts to reach Redis failed, so many that it counts as out of reach.
    pub(super) fn fail(&self) {
        self.unreachable.store(true, Ordering::Release);
        self.give_up();
    }

    pub(super) fn apply_up_to(&self, position: Position) {
        *self.applied.lock() = position;
        self.moved.notify_waiters();
    }

    async fn wait_until_applied(&self, position: Position) {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            if *self.applied.lock() >= position {
                return;
            }
            self.wanted.notify_one();
            moved.await;
        }
    }

    /// Comes when somebody waits for what is in the stream already.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    pub(super) fn give_up(&self) {
        self.lost.store(true, Ordering::Release);
        self.heard.notify_waiters();
    }

    pub(super) fn is_in_doubt(&self, now: Instant) -> bool {
        let now = millis(now.saturating_duration_since(self.epoch));
        let heard_at = self.heard_at.load(Ordering::Acquire);
        (heard_at == NEVER || now.saturating_sub(heard_at) > millis(SILENCE))
            && !self.lost.load(Ordering::Acquire)
    }
}

impl Follower {
    pub(crate) fn start(
        pool: RedisPool,
        config: &CacheConfig,
        log: Arc<PurgeLog>,
        lost: impl Fn() + Send + Sync + 'static,
        failed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let prefix = &config.cache_prefix;
        let key = format!("{prefix}journal");
        let standing = Arc::new(Standing {
            current: AtomicBool::new(false),
            clock: AtomicI64::new(0),
            epoch: Instant::now(),
            heard_at: AtomicU64::new(NEVER),
            heard: Notify::new(),
            applied: Mutex::default(),
            moved: Notify::new(),
            wanted: Notify::new(),
            lost: AtomicBool::new(false),
            unreachable: AtomicBool::new(false),
        });
        let roster = Roster::new(pool.clone(), &key, &config.node);
        let writer = Writer {
            ledger: Ledger::new(&key),
            licenses: Licenses::new(pool.clone(), prefix, &key),
            length: config.journal_length,
            pool,
            key,
            log,
            known: Arc::new(Mutex::new(Known::default())),
            owed: Arc::default(),
        };
        let follow = Follow {
            writer: writer.clone(),
            standing: Arc::clone(&standing),
            lost: Box::new(lost),
            last: None,
            roster: roster.clone(),
            trouble: Trouble::default(),
        };
        let queue = Arc::new(Queue::default());
        let emptying =
            Arc::clone(&queue).run(writer.clone(), Arc::clone(&standing), Arc::new(failed));
        Self {
            writer,
            standing,
            roster,
            task: tokio::spawn(follow.run()),
            queue,
            worker: Mutex::new(Some(tokio::spawn(emptying))),
        }
    }

    pub(crate) fn licenses(&self) -> &Licenses {
        &self.writer.licenses
    }

    pub(crate) fn log(&self) -> &PurgeLog {
        &self.writer.log
    }

    /// Waits until this node has applied all up to there, or all that is in the journal now.
    pub(crate) async fn catch_up(&self, last: Option<Position>) -> Result<(), PoolError> {
        let last = match last {
            Some(last) => last,
            None => self.writer.last().await?,
        };
        let caught_up = timeout(CATCH_UP, self.standing.wait_until_applied(last));
        caught_up.await.map_err(|_| {
            PoolError::Connection(format!(
                "the purge journal was not read up to {last} in time"
            ))
        })
    }

    /// Writes what an unsafe request has invalidated into the journal, in the background. What fails is
    /// owed, as of [`append`](Self::append).
    pub(crate) fn queue_write(&self, purge: Purge) {
        self.queue.push(purge);
    }

    /// [`queue_write`](Self::queue_write), at once.
    pub(crate) async fn append_write(&self, purge: &Purge) -> Result<Position, PoolError> {
        let written = self.writer.write(Item::write(purge)).await;
        if written.is_err() {
            self.writer.owed.push(Item::write(purge));
        }
        written
    }

    /// Whether everything in the journal is applied, as far as this node can know.
    pub(crate) fn current(&self) -> bool {
        self.standing.current.load(Ordering::Acquire) && self.writer.owed.is_empty()
    }

    /// Whether the last attempts to reach Redis failed, several in a row. A request that would not
    /// wait for Redis is no such attempt.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.standing.unreachable.load(Ordering::Acquire)
    }

    /// Whether Redis has been silent for so long that purges may have been missed.
    pub(crate) fn is_in_doubt(&self, now: Instant) -> bool {
        self.standing.is_in_doubt(now)
    }

    /// Waits until what was missed is applied. After `patience` Redis counts as lost, for all, until
    /// it is heard of.
    pub(crate) async fn settle(&self, patience: Duration) {
        let settled = async {
            loop {
                let heard = self.standing.heard.notified();
                if !self.standing.is_in_doubt(Instant::now()) {
                    return;
                }
                heard.await;
            }
        };
        if timeout(patience, settled).await.is_err() {
            self.standing.give_up();
        }
    }

    /// Ends the following, and tells the others that this node is not to be waited for.
    pub(crate) async fn leave(&self) -> Result<(), PoolError> {
        self.queue.close();
        let worker = self.worker.lock().take();
        if let Some(worker) = worker {
            let mut worker = AbortOnDrop(worker);
            // What it could not write is owed, and lost with this node.
            let _ = (&mut worker.0).await;
        }
        self.task.abort();
        self.standing.current.store(false, Ordering::Release);
        self.roster.leave(self.clock_offset()).await
    }

    /// The nodes, and how far each is.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, PoolError> {
        self.roster.read(self.clock_offset()).await
    }

    /// What to add to this node's clock to get the one that all nodes share.
    pub(crate) fn clock_offset(&self) -> i64 {
        self.standing.clock.load(Ordering::Relaxed)
    }

    /// Writes a purge into the journal; it is durable there as Redis is.
    /// With `acknowledged` every node says at once that it has applied it; else within a second.
    ///
    /// One that fails is tried again later, and the Redis tier is closed until then.
    pub(crate) async fn append(
        &self,
        purge: &Purge,
        soft: bool,
        acknowledged: bool,
    ) -> Result<Position, PoolError> {
        let item = Item::new(purge, soft, acknowledged);
        let written = self.writer.write(item).await;
        if written.is_err() {
            // Nobody waits for it any more.
            self.writer.owed.push(Item::new(purge, soft, false));
        }
        written
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(worker) = self.worker.get_mut() {
            worker.abort();
        }
    }
}

/// Who waits for a task may be given up; then so is the task.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
