//! Writes items into the stream, above everything that this node has seen.

use super::{
    Position, PurgeLog,
    item::{self, Item},
    known::Known,
    ledger::Ledger,
    license::Licenses,
    owed::Owed,
};
use fred::{
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
    util::redis_keyslot,
};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use weaver_pool::{Exclusive, PoolError, RedisPool};

/// Attempts to write above what was seen, where a server's clock is behind.
const ATTEMPTS: usize = 4;

#[derive(Clone)]
pub(super) struct Writer {
    pub(super) pool: RedisPool,
    pub(super) key: String,
    pub(super) log: Arc<PurgeLog>,
    pub(super) known: Arc<Mutex<Known>>,
    pub(super) owed: Arc<Owed>,
    pub(super) ledger: Ledger,
    pub(super) licenses: Licenses,
    /// Items that the stream keeps; older ones are trimmed.
    pub(super) length: u32,
}

impl Writer {
    /// Writes an item; it is durable as Redis is, and as long as a node lives that has seen it. If an
    /// unsafe request has caused it, nothing of its URL in Redis is licensed any more.
    pub(super) async fn write(&self, item: Item) -> Result<Position, PoolError> {
        let written_to = item.written_to();
        let position = self.place(item).await?;
        if let Some(url) = written_to {
            self.licenses.revoke(&url).await?;
        }
        Ok(position)
    }

    async fn place(&self, item: Item) -> Result<Position, PoolError> {
        let seen = self.log.head();
        let mut id = "*".to_owned();
        for _ in 0..ATTEMPTS {
            match self.add(&id, &item).await {
                Ok(position) if position > seen => {
                    self.known.lock().written(position, item);
                    return Ok(position);
                }
                // The clock of this server is behind that of the last one: entries carry later
                // positions, so that nothing would be purged there.
                Ok(_) => id = seen.next().to_string(),
                // Another node was first to set the stream right.
                Err(PoolError::Command(error)) if id != "*" => {
                    tracing::debug!(%error, "an explicit place in the purge journal");
                    "*".clone_into(&mut id);
                }
                Err(error) => return Err(error),
            }
        }
        Err(PoolError::Connection(format!(
            "the purge journal has no place after {seen}"
        )))
    }

    /// Writes again what was lost, and knows it by its new place only.
    pub(super) async fn write_again(
        &self,
        at: Position,
        item: &Item,
    ) -> Result<Position, PoolError> {
        let position = self.write(item.again(at)).await?;
        tracing::info!(%at, %position, "redis has lost an item of the purge journal; it is written again");
        self.known.lock().forget(at);
        Ok(position)
    }

    async fn add(&self, id: &str, item: &Item) -> Result<Position, PoolError> {
        let answer = if item.written_to().is_some() {
            self.add_write(id, item).await?
        } else {
            let (pool, key) = (&self.pool, &self.key);
            self.ledger
                .add(pool, key, self.length, id, item.flat())
                .await?
        };
        Position::parse(&answer).ok_or_else(|| {
            PoolError::Connection(format!("XADD answered {answer:?}, which is no stream id"))
        })
    }

    /// Sees to it that there is a ledger, and that it lives that long.
    pub(super) async fn open_ledger(
        &self,
        connection: &mut Exclusive,
        life: Duration,
    ) -> Result<(), PoolError> {
        let (pool, key) = (&self.pool, &self.key);
        self.ledger.open(pool, key, connection, life).await
    }

    /// The last place that is taken; the lowest if none is.
    pub(super) async fn last(&self) -> Result<Position, PoolError> {
        let args = ["+", "-", "COUNT", "1"].map(str::to_owned);
        let args: Vec<String> = [self.key.clone()].into_iter().chain(args).collect();
        let command = command("XREVRANGE", &self.key, false);
        let answer: Value = self
            .pool
            .command("XREVRANGE")
            .key(self.key.as_bytes())
            .once(|client| async move { client.custom(command, args).await })
            .await?;
        let last = item::of_range(&answer).first().map(|(at, _)| *at);
        Ok(last.unwrap_or_default())
    }

    /// What an unsafe request invalidates, which the ledger leaves out.
    async fn add_write(&self, id: &str, item: &Item) -> Result<String, PoolError> {
        let mut args = vec![
            self.key.clone(),
            "MAXLEN".into(),
            "~".into(),
            self.length.to_string(),
            id.to_owned(),
        ];
        args.extend(item.flat());
        let command = command("XADD", &self.key, false);
        self.pool
            .command("XADD")
            .key(self.key.as_bytes())
            .once(|client| async move { client.custom(command, args).await })
            .await
    }
}

pub(super) fn command(name: &'static str, key: &str, blocking: bool) -> CustomCommand {
    CustomCommand::new_static(
        name,
        ClusterHash::Custom(redis_keyslot(key.as_bytes())),
        blocking,
    )
}
