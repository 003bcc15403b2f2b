//! Writes items into the stream, above everything that this node has seen.

use super::{Position, PurgeLog, item::Item, known::Known, owed::Owed};
use fred::{
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand},
    util::redis_keyslot,
};
use parking_lot::Mutex;
use std::sync::Arc;
use weaver_pool::{PoolError, RedisPool};

/// Items that the stream keeps; older ones are trimmed, and entries from before them are dead.
pub(super) const MAX_ITEMS: u32 = 100_000;
/// Attempts to write above what was seen, where a server's clock is behind.
const ATTEMPTS: usize = 4;

#[derive(Clone)]
pub(super) struct Writer {
    pub(super) pool: RedisPool,
    pub(super) key: String,
    pub(super) log: Arc<PurgeLog>,
    pub(super) known: Arc<Mutex<Known>>,
    pub(super) owed: Arc<Owed>,
}

impl Writer {
    /// Writes an item; it is durable as Redis is, and as long as a node lives that has seen it.
    pub(super) async fn write(&self, item: Item) -> Result<Position, PoolError> {
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
        let mut args = vec![
            self.key.clone(),
            "MAXLEN".into(),
            "~".into(),
            MAX_ITEMS.to_string(),
            id.to_owned(),
        ];
        args.extend(item.flat());
        let command = command("XADD", &self.key, false);
        let answer: String = self
            .pool
            .command("XADD")
            .key(self.key.as_bytes())
            .once(|client| async move { client.custom(command, args).await })
            .await?;
        Position::parse(&answer).ok_or_else(|| {
            PoolError::Connection(format!("XADD answered {answer:?}, which is no stream id"))
        })
    }
}

pub(super) fn command(name: &'static str, key: &str, blocking: bool) -> CustomCommand {
    CustomCommand::new_static(
        name,
        ClusterHash::Custom(redis_keyslot(key.as_bytes())),
        blocking,
    )
}
