//! Reading a stream to its end and waiting there, on a connection of its own.

use crate::{Exclusive, PoolError, RedisPool};
use bytes::Bytes;
use fred::{
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
    util::redis_keyslot,
};
use std::time::Duration;
use tokio::time::sleep;

/// How long one XREAD waits for news before it asks again.
const BLOCK: Duration = Duration::from_secs(1);
/// Items of one answer.
const BATCH: u32 = 1000;
/// Pauses before a new connection, from the first to the longest; they double.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Reads a stream from a position on and then waits for what is added, from
/// [`RedisPool::stream_reader`].
#[derive(Debug)]
pub struct StreamReader {
    pool: RedisPool,
    key: String,
    last: String,
    connection: Option<Exclusive>,
    pause: Duration,
}

/// An item of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamItem {
    /// Its id, `milliseconds-sequence`.
    pub id: String,
    /// Names and values, in order.
    pub fields: Vec<(Bytes, Bytes)>,
}

impl RedisPool {
    /// A reader of a stream, of the items after the id `after`: `"0"` for all there are, `"$"` for
    /// those added after the first call has connected. It takes one of the `max_dedicated` connections.
    #[must_use]
    pub fn stream_reader(&self, key: impl Into<String>, after: impl Into<String>) -> StreamReader {
        StreamReader {
            pool: self.clone(),
            key: key.into(),
            last: after.into(),
            connection: None,
            pause: Duration::ZERO,
        }
    }
}

impl StreamReader {
    /// Waits for the next items, at least one, in order.
    ///
    /// After an error it may be called again: it pauses, connects, and goes on behind the last item
    /// that it gave. May be dropped and called again without losing any.
    ///
    /// # Errors
    ///
    /// As [`RedisPool::exclusive`] and [`Exclusive::execute`].
    pub async fn next(&mut self) -> Result<Vec<StreamItem>, PoolError> {
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let patience = BLOCK + self.pool.config().socket_timeout;
            if self.last == "$" {
                // Said once in each XREAD, it would pass over what came between two of them.
                self.last = connection.execute(|client| last(client, &self.key)).await?;
            }
            let read = connection.execute_within(patience, |client| {
                let args = arguments(&self.key, &self.last);
                let command = command("XREAD", &self.key, true);
                async move { client.custom::<Value, _>(command, args).await }
            });
            let items = items(read.await?);
            self.connection = Some(connection);
            self.pause = Duration::ZERO;
            if let Some(item) = items.last() {
                self.last.clone_from(&item.id);
                return Ok(items);
            }
        }
    }

    async fn connect(&mut self) -> Result<Exclusive, PoolError> {
        let (first, longest) = PAUSES;
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).clamp(first, longest);
        sleep(pause).await;
        self.pool.exclusive_for(self.key.as_bytes()).await
    }

    /// The id of the last item that it gave, or where it begins.
    #[must_use]
    pub fn position(&self) -> &str {
        &self.last
    }
}

fn command(name: &'static str, key: &str, blocking: bool) -> CustomCommand {
    let slot = ClusterHash::Custom(redis_keyslot(key.as_bytes()));
    CustomCommand::new_static(name, slot, blocking)
}

fn arguments(key: &str, after: &str) -> Vec<String> {
    let block = BLOCK.as_millis().to_string();
    let batch = BATCH.to_string();
    ["COUNT", &batch, "BLOCK", &block, "STREAMS", key, after]
        .map(str::to_owned)
        .to_vec()
}

/// The id of the newest item.
fn last(
    client: fred::clients::Client,
    key: &str,
) -> impl Future<Output = Result<String, fred::error::Error>> {
    let arguments = [key, "+", "-", "COUNT", "1"].map(str::to_owned).to_vec();
    let command = command("XREVRANGE", key, false);
    async move {
        let newest: Value = client.custom(command, arguments).await?;
        let newest = entries(newest).pop();
        Ok(newest.map_or_else(|| "0-0".to_owned(), |item| item.id))
    }
}

/// The items of an XREAD answer for one stream, RESP2 (`[[key, items]]`) or RESP3 (`{key: items}`).
fn items(answer: Value) -> Vec<StreamItem> {
    match answer {
        Value::Array(streams) => streams
            .into_iter()
            .filter_map(|stream| match stream {
                Value::Array(mut pair) if pair.len() == 2 => pair.pop(),
                _ => None,
            })
            .flat_map(entries)
            .collect(),
        Value::Map(streams) => streams.inner().into_values().flat_map(entries).collect(),
        _ => Vec::new(),
    }
}

/// `[[id, [name, value, …]], …]`
fn entries(answer: Value) -> Vec<StreamItem> {
    let Value::Array(entries) = answer else {
        return Vec::new();
    };
    entries.into_iter().filter_map(entry).collect()
}

fn entry(entry: Value) -> Option<StreamItem> {
    let Value::Array(pair) = entry else {
        return None;
    };
    let mut pair = pair.into_iter();
    let id = pair.next()?.into_string()?;
    let Value::Array(flat) = pair.next()? else {
        return None;
    };
    let mut flat = flat.into_iter();
    let mut fields = Vec::with_capacity(flat.len() / 2);
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        fields.push((name.into_bytes()?, value.into_bytes()?));
    }
    Some(StreamItem { id, fields })
}
