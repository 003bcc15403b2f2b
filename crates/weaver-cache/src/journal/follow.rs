//! The task that applies the stream to the log.
//!
//! It holds a connection of its own, since XREAD blocks it. On each new connection it compares what
//! it knows with what the stream has: after a failover the new primary may lack items that the old
//! one acknowledged, and they are written again ([`super::known`]).

use super::{
    Position, Purge,
    append::{Writer, command},
    item::{self, Item},
    known::Difference,
    roster::Roster,
    stream::Standing,
    trouble::Trouble,
};
use crate::clock::{signed_millis, unix_millis};
use fred::{
    interfaces::{ClientLike, KeysInterface},
    types::{ClusterHash, CustomCommand, Value},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::time::sleep;
use weaver_pool::{Exclusive, PoolError};

/// How long an XREAD waits for news before it asks again. What is known is as old as two of them at
/// most, which is well below the silence after which Redis is asked before memory is served.
const BLOCK: Duration = Duration::from_millis(100);
/// Between an answer that had news and the next question: where purges come in quick succession,
/// one answer brings several, and reading them costs the node's hits next to nothing. A purge after
/// a pause is applied at once.
const GATHER: Duration = Duration::from_millis(5);
/// Items of one answer.
const BATCH: u32 = 1000;
const RETRY: Duration = Duration::from_millis(200);
/// Attempts to reach Redis that fail one after the other before nobody waits for it any more.
const GIVE_UP_AFTER: u32 = 3;
/// Between two looks at the server's clock; each prolongs the stream's life too.
const TEND: Duration = Duration::from_secs(30);
/// How long the stream outlives its last node: longer than any entry.
const LIFE: Duration = Duration::from_secs(366 * 86_400);

pub(super) struct Follow {
    pub(super) writer: Writer,
    pub(super) standing: Arc<Standing>,
    pub(super) lost: Box<dyn Fn() + Send + Sync>,
    /// The last item applied; `None` before the first contact.
    pub(super) last: Option<Position>,
    pub(super) roster: Roster,
    pub(super) trouble: Trouble,
}

/// What was new to this node, as far as it matters to what it knew before.
#[derive(Default)]
struct News {
    /// The first places of what was written again.
    again: BTreeSet<Position>,
    /// The last purge of everything.
    emptied: Option<Position>,
}

impl Follow {
    pub(super) async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let pool = self.writer.pool.clone();
            let outcome = match pool.exclusive_for(self.writer.key.as_bytes()).await {
                Ok(mut connection) => self.follow(&mut connection).await,
                Err(error) => Err(error),
            };
            // The first new attempt comes at once: a process that was frozen finds its deadlines
            // passed, and Redis well. A few may fail for the same reason, its timers being late.
            if self.standing.current.swap(false, Ordering::AcqRel) {
                failures = 0;
                continue;
            }
            failures = failures.saturating_add(1);
            if let Err(error) = outcome {
                self.trouble.failed(&pool, failures, &error);
            }
            if failures >= GIVE_UP_AFTER {
                self.standing.fail();
            }
            sleep(RETRY).await;
        }
    }

    async fn follow(&mut self, connection: &mut Exclusive) -> Result<(), PoolError> {
        let mut asked_at = Instant::now();
        self.catch_up(connection).await?;
        self.settle_debts().await?;
        self.tend(connection).await?;
        // Before anything is served: a purge that waits for all nodes has to know that this is one.
        // One that did not know it yet is in the stream by now, which is therefore read once more.
        self.report().await?;
        self.standing.apply_up_to(self.last.unwrap_or_default());
        let mut is_abreast = false;
        let mut tend_at = tokio::time::Instant::now() + TEND;
        loop {
            if tokio::time::Instant::now() >= tend_at {
                self.tend(connection).await?;
                tend_at = tokio::time::Instant::now() + TEND;
            }
            if is_abreast {
                self.standing.hear(asked_at);
                if !self.standing.current.swap(true, Ordering::AcqRel) {
                    self.trouble.ended();
                }
            }
            if self.roster.is_due() {
                self.try_report().await;
            }
            asked_at = Instant::now();
            // Somebody may wait for the answer, so that it must not wait for news.
            let waits = is_abreast && !self.standing.is_in_doubt(asked_at);
            let mut args = vec!["COUNT".to_owned(), BATCH.to_string()];
            if waits {
                args.extend(["BLOCK".to_owned(), BLOCK.as_millis().to_string()]);
            }
            args.extend([
                "STREAMS".to_owned(),
                self.writer.key.clone(),
                self.last.unwrap_or_default().to_string(),
            ]);
            let command = command("XREAD", &self.writer.key, waits);
            let patience = BLOCK + self.writer.pool.config().socket_timeout;
            let answer: Value = connection
                .execute_within(patience, |client| async move {
                    client.custom(command, args).await
                })
                .await?;
            self.settle_debts().await?;
            let items = item::of_streams(&answer);
            is_abreast |= items.len() < BATCH as usize;
            let has_news = !items.is_empty();
            let mut acknowledge = false;
            for (position, item) in items {
                acknowledge |= item.is_to_be_acknowledged();
                self.apply(position, item);
            }
            self.standing.apply_up_to(self.last.unwrap_or_default());
            if acknowledge {
                self.try_report().await;
            }
            let last = self.last.unwrap_or_default();
            let overdue = self.writer.known.lock().overdue(last, Instant::now());
            for (at, item) in overdue {
                tracing::info!(%at, "redis has lost an item of the purge journal");
                self.writer.owed.push(item.again(at));
            }
            if waits && has_news {
                // A store waits for the journal before it writes, and the next request for it.
                tokio::select! {
                    () = sleep(GATHER) => {}
                    () = self.standing.wanted() => {}
                }
            }
        }
    }

    /// Tells the others how far this node is.
    async fn report(&mut self) -> Result<(), PoolError> {
        let clock = self.standing.clock.load(Ordering::Relaxed);
        self.roster
            .report(self.last.unwrap_or_default(), clock)
            .await
    }

    /// [`report`](Self::report), of which a failure is noticed by what comes next.
    async fn try_report(&mut self) {
        if let Err(error) = self.report().await {
            tracing::debug!(%error, "the roster of nodes");
        }
    }

    fn apply(&mut self, position: Position, item: Item) {
        self.apply_at(position, &item);
        self.writer.known.lock().read(position, item);
        self.last = Some(position);
    }

    fn apply_at(&self, position: Position, item: &Item) {
        // What a newer version wrote is not known, so everything is purged.
        let (purge, soft) = item.purge().unwrap_or((Purge::All, false));
        if item.is_write() {
            self.writer.log.apply_write(position, purge.bounded());
            return;
        }
        // What names more than any node of this version would write reaches more than it names.
        self.writer.log.apply(position, purge.bounded(), soft);
    }

    /// Applies what this node has not seen, and writes again what the stream has lost of what it has.
    async fn catch_up(&mut self, connection: &mut Exclusive) -> Result<(), PoolError> {
        if let Some(oldest) = self.trimmed_to(connection).await? {
            self.writer.known.lock().forget_before(oldest);
            // Nothing is known of the writes that were trimmed, unless they were applied before.
            if self.last.is_none_or(|last| last < oldest) {
                if let Some(last) = self.last {
                    tracing::warn!(%last, "the purge journal was trimmed beyond this node's place; its memory is emptied");
                    (self.lost)();
                }
                self.read_ledger(connection, oldest).await?;
                self.last = None;
                self.writer.log.forget_writes_before(oldest);
            }
        }
        let seen = self.writer.log.head();
        // As it is now: what is read next is not compared, and may push out what is.
        let known = self.writer.known.lock().clone();
        let mut news = News::default();
        let mut there = Vec::new();
        if let Some((first, newest)) = known.range() {
            // What is known may begin with what this node itself has written, before it has read
            // what others wrote before.
            self.apply_from(connection, &mut news, &format!("({first}"))
                .await?;
            let (mut from, to) = (first.to_string(), newest.to_string());
            while let Some((last, batch)) = self.batch(connection, &from, &to).await? {
                for (position, item) in batch {
                    self.apply(position, item.clone());
                    there.push((position, item));
                }
                from = format!("({last}");
            }
        }
        self.apply_from(connection, &mut news, "+").await?;
        let is_emptied = news.emptied.is_some_and(|emptied| emptied > seen);
        let difference = known.compare(&there, &news.again);
        if difference.is_other {
            tracing::warn!("redis has lost the purge journal; the cache is emptied");
            (self.lost)();
            self.writer.log.forget_all();
            self.writer.known.lock().clear();
            // What other nodes and other servers have was perhaps purged too.
            if !is_emptied {
                // Owed and not written: a failure here must not make it be forgotten.
                self.writer.owed.push(Item::new(&Purge::All, false, false));
            }
            // What was written meanwhile comes by the stream.
            self.last = Some(Position::default());
            return Ok(());
        }
        self.mend(difference).await?;
        self.last = self.last.or(Some(Position::default()));
        Ok(())
    }

    /// Applies the purges by operators that the journal does not have any more.
    async fn read_ledger(
        &self,
        connection: &mut Exclusive,
        oldest: Position,
    ) -> Result<(), PoolError> {
        let ledger = &self.writer.ledger;
        let floor = ledger.floor(connection, oldest).await?;
        if let Some(floor) = floor.filter(|floor| self.last.is_none_or(|last| last < *floor)) {
            tracing::warn!(%floor, "purges up to there are not known; what is older counts as purged");
            self.writer.log.forget_before(floor.min(oldest));
        }
        let (mut from, to) = (self.last.unwrap_or_default(), format!("({oldest}"));
        loop {
            let after = match from {
                from if from == Position::default() => "-".to_owned(),
                from => format!("({from}"),
            };
            let batch = self.batch_of(connection, ledger.key(), &after, &to).await?;
            let Some((last, batch)) = batch else {
                return Ok(());
            };
            for (position, item) in batch.iter().filter(|(_, item)| !item.is_beginning()) {
                self.apply_at(*position, item);
            }
            from = last;
        }
    }

    /// Applies what comes after the last item that was applied, up to a place.
    async fn apply_from(
        &mut self,
        connection: &mut Exclusive,
        news: &mut News,
        to: &str,
    ) -> Result<(), PoolError> {
        loop {
            let from = match self.last {
                Some(last) if last > Position::default() => format!("({last}"),
                _ => "-".to_owned(),
            };
            let Some((_, batch)) = self.batch(connection, &from, to).await? else {
                return Ok(());
            };
            for (position, item) in batch {
                news.again.extend(item.original());
                if item.purge() == Some((Purge::All, false)) {
                    news.emptied = Some(position);
                }
                self.apply(position, item);
            }
        }
    }

    /// Writes again what is missing.
    async fn mend(&self, difference: Difference) -> Result<(), PoolError> {
        for (at, item) in difference.missing {
            self.writer.write_again(at, &item).await?;
        }
        for (at, item) in difference.belated {
            let position = self.writer.write_again(at, &item).await?;
            self.apply_at(position, &item);
        }
        Ok(())
    }

    /// Writes the purges that the journal did not take when they were made.
    async fn settle_debts(&self) -> Result<(), PoolError> {
        while let Some(item) = self.writer.owed.first() {
            let position = self.writer.write(item.clone()).await?;
            tracing::info!(%position, "a purge that did not reach the journal is in it now");
            self.apply_at(position, &item);
            self.writer.owed.settle(&item);
        }
        Ok(())
    }

    /// The next items of a range, and the position of the last; `None` if there are no more.
    async fn batch(
        &self,
        connection: &mut Exclusive,
        from: &str,
        to: &str,
    ) -> Result<Option<(Position, Vec<(Position, Item)>)>, PoolError> {
        self.batch_of(connection, &self.writer.key, from, to).await
    }

    async fn batch_of(
        &self,
        connection: &mut Exclusive,
        key: &str,
        from: &str,
        to: &str,
    ) -> Result<Option<(Position, Vec<(Position, Item)>)>, PoolError> {
        let args = vec![
            key.to_owned(),
            from.to_owned(),
            to.to_owned(),
            "COUNT".to_owned(),
            BATCH.to_string(),
        ];
        let command = command("XRANGE", key, false);
        let answer: Value = connection
            .execute(|client| async move { client.custom(command, args).await })
            .await?;
        let items = item::of_range(&answer);
        Ok(items
            .last()
            .map(|(last, _)| *last)
            .map(|last| (last, items)))
    }

    /// The oldest item, if there were older ones.
    async fn trimmed_to(&self, connection: &mut Exclusive) -> Result<Option<Position>, PoolError> {
        let key = self.writer.key.clone();
        let command = command("XINFO", &key, false);
        let answer = connection
            .execute(|client| async move {
                let args = vec!["STREAM".to_owned(), key];
                client.custom::<Value, String>(command, args).await
            })
            .await;
        match answer {
            Ok(answer) => Ok(item::trimmed_to(answer, self.writer.length)),
            // There is no stream yet.
            Err(PoolError::Command(error)) if error.details().contains("no such key") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the server's clock, and sees to it that the stream outlives every entry and not more.
    async fn tend(&self, connection: &mut Exclusive) -> Result<(), PoolError> {
        self.writer.open_ledger(connection, LIFE).await?;
        let (key, life) = (self.writer.key.clone(), signed_millis(LIFE));
        connection
            .execute(|client| async move { client.pexpire::<(), _>(key, life, None).await })
            .await?;
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
            let own = before + (after - before) / 2;
            self.standing.clock.store(server - own, Ordering::Relaxed);
        }
        Ok(())
    }
}
