//! The backend that all share.
//!
//! | key | what |
//! |---|---|
//! | prefix and key | `R` and a record, or `T` and a tombstone |
//! | prefix and `generation` | what clearing changes: records of another generation are dead |
//!
//! Commands of a look-up go out together and cost one round trip.

use crate::{
    Key, ModelCacheConfig,
    codec::{Record, Seal},
    store::{self, Found, Generation, Tombstone},
};
use bytes::Bytes;
use fred::{interfaces::KeysInterface, types::Value};
use std::{sync::Arc, time::Duration};
use weaver_pool::{PoolError, RedisPool, Script};

/// Keeps what `ARGV[1]` is, unless a tombstone stands there that is not `ARGV[2]`.
const PUT: &str = "\
local stands = redis.call('GETRANGE', KEYS[1], 0, 16)
if string.sub(stands, 1, 1) == 'T' and stands ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1";

/// Puts a tombstone where perhaps an answer is.
const INVALIDATE: &str = "\
local was = string.sub(redis.call('GETRANGE', KEYS[1], 0, 0), 1, 1) == 'R'
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return was and 1 or 0";

/// The generation, which is made if there is none, and lives on.
const GENERATION: &str = "\
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('GET', KEYS[1])";

/// Longer than any record and any fetch.
const MARGIN: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub(crate) struct Redis {
    pool: RedisPool,
    prefix: String,
    deadline: Duration,
    max_fetch: Duration,
    life: Duration,
    put: Script,
    invalidate: Script,
    generation: Script,
    seal: Seal,
}

fn millis(of: Duration) -> i64 {
    i64::try_from(of.as_millis()).unwrap_or(i64::MAX)
}

fn marked(mark: u8, rest: &[u8]) -> Value {
    let mut value = Vec::with_capacity(rest.len() + 1);
    value.push(mark);
    value.extend_from_slice(rest);
    Value::Bytes(value.into())
}

impl Redis {
    pub(crate) fn new(pool: RedisPool, config: &ModelCacheConfig, longest: Duration) -> Arc<Self> {
        Arc::new(Self {
            pool,
            prefix: config.prefix.clone(),
            deadline: config.deadline,
            max_fetch: config.max_fetch,
            life: longest + config.max_fetch + MARGIN,
            put: Script::new(PUT),
            invalidate: Script::new(INVALIDATE),
            generation: Script::new(GENERATION),
            seal: Seal::new(config.secret.as_ref()),
        })
    }

    fn name(&self, key: Key) -> String {
        format!("{}{key}", self.prefix)
    }

    fn generation_name(&self) -> String {
        format!("{}generation", self.prefix)
    }

    async fn value(&self, name: String) -> Result<Option<Bytes>, PoolError> {
        let asked = name.clone();
        self.pool
            .command("GET")
            .key(name.as_bytes())
            .within(self.deadline)
            .once(|client| async move { client.get(asked).await })
            .await
    }

    /// A script within the deadline, sent once.
    async fn run(
        &self,
        script: &Script,
        name: String,
        arguments: Vec<Value>,
    ) -> Result<Value, PoolError> {
        let run = self.pool.run_script(script, vec![name], arguments);
        match tokio::time::timeout(self.deadline, run).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PoolError::Timeout(self.deadline)),
        }
    }

    /// The generation, made if there is none.
    async fn generation(&self) -> Result<Generation, PoolError> {
        let made = Value::Bytes(store::random().to_vec().into());
        let arguments = vec![made, millis(self.life).into()];
        let script = &self.generation;
        let answer = self.run(script, self.generation_name(), arguments).await?;
        // What another program wrote there is a generation that no record has.
        Ok(generation(answer.into_bytes()).unwrap_or_default())
    }

    pub(crate) async fn get(&self, key: Key) -> Result<Found, PoolError> {
        let (value, known) = futures_util::future::try_join(
            self.value(self.name(key)),
            self.value(self.generation_name()),
        )
        .await?;
        let generation = match generation(known) {
            Some(generation) => generation,
            None => self.generation().await?,
        };
        let mut found = Found {
            record: None,
            tombstone: None,
            generation,
            is_refused: false,
        };
        let Some(mut value) = value.filter(|value| !value.is_empty()) else {
            return Ok(found);
        };
        let rest = value.split_off(1);
        match &value[..] {
            b"T" => found.tombstone = rest[..].try_into().ok(),
            b"R" => {
                let record = Record::decode(rest, &self.seal);
                found.is_refused = record.is_none();
                found.record = record
                    .filter(|record| record.key == key && record.generation == generation)
                    .map(Arc::new);
            }
            _ => {}
        }
        Ok(found)
    }

    pub(crate) async fn put(
        &self,
        record: &Record,
        seen: Option<Tombstone>,
    ) -> Result<bool, PoolError> {
        let seen = seen.map_or(Value::Bytes(Bytes::new()), |seen| marked(b'T', &seen));
        let arguments = vec![
            marked(b'R', &record.encode(&self.seal)),
            seen,
            millis(record.ttl).max(1).into(),
        ];
        let put = self.run(&self.put, self.name(record.key), arguments);
        // A generation that ended before its records would be none: it lives on with each of them.
        let (put, _) = futures_util::future::try_join(put, self.generation()).await?;
        Ok(put.as_i64() == Some(1))
    }

    pub(crate) async fn invalidate(&self, key: Key) -> Result<bool, PoolError> {
        let tombstone = marked(b'T', &store::random());
        let arguments = vec![tombstone, millis(self.max_fetch).into()];
        let was = self
            .run(&self.invalidate, self.name(key), arguments)
            .await?;
        Ok(was.as_i64() == Some(1))
    }

    pub(crate) async fn clear(&self) -> Result<(), PoolError> {
        let (name, made) = (self.generation_name(), store::random().to_vec());
        let life = fred::types::Expiration::PX(millis(self.life));
        let asked = name.clone();
        self.pool
            .command("SET")
            .key(name.as_bytes())
            .repeatable(true)
            .run(|client| async move {
                let made = Value::Bytes(made.into());
                client.set(asked, made, Some(life), None, false).await
            })
            .await
    }

    pub(crate) async fn health(&self) -> Result<(), PoolError> {
        self.pool.health_check().await.map(|_| ())
    }
}

fn generation(value: Option<Bytes>) -> Option<Generation> {
    value?[..].try_into().ok()
}
