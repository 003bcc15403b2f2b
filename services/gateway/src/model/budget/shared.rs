//! Buckets that all nodes share: a hash in Redis for each identity, with a time to live.

use super::{COST, Empty, TOKENS};
use crate::{config::ModelLimitsConfig, limit::Subject};
use fred::types::Value;
use std::time::Duration;
use tokio::time::timeout;
use weaver_pool::{PoolError, RedisPool, Script, fred};

/// The deadline of a look at a bucket.
const DEADLINE: Duration = Duration::from_millis(100);

/// `ARGV`: tokens a minute, cost an hour, tokens and cost to take, whether only if there is any.
/// Answers what is used up, if anything is, and the seconds until there is some again.
const TAKE: &str = "\
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local most, dearest = tonumber(ARGV[1]), tonumber(ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'tokens', 'cost', 'at')
local passed = math.max(0, now - (tonumber(known[3]) or now))
local tokens = math.min(most, (tonumber(known[1]) or most) + passed * most / 60)
local cost = math.min(dearest, (tonumber(known[2]) or dearest) + passed * dearest / 3600)
local empty, wait = '', 0
if ARGV[5] == '1' then
  if most > 0 and tokens <= 0 then empty, wait = 'tokens', (1e-9 - tokens) / most * 60
  elseif dearest > 0 and cost <= 0 then empty, wait = 'cost', (1e-9 - cost) / dearest * 3600 end
end
if empty == '' then tokens, cost = tokens - ARGV[3], cost - ARGV[4] end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.9f', tokens),
  'cost', string.format('%.12f', cost), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], 86400000)
return { empty, string.format('%.0f', math.ceil(wait)) }";

pub(super) struct Shared {
    pool: RedisPool,
    limits: ModelLimitsConfig,
    prefix: String,
    secret: [u8; 32],
    take: Script,
}

impl Shared {
    pub(super) fn new(
        pool: RedisPool,
        limits: &ModelLimitsConfig,
        prefix: &str,
        secret: Option<[u8; 32]>,
    ) -> Self {
        Self {
            pool,
            prefix: prefix.to_owned(),
            limits: *limits,
            // Without one, whoever reads Redis may find out by trying whether a user is known.
            secret: secret.unwrap_or_default(),
            take: Script::new(TAKE),
        }
    }

    fn key(&self, subject: &Subject) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        match subject {
            Subject::User(user) => hasher.update(b"user ").update(user.as_bytes()),
            Subject::Address(address) => hasher
                .update(b"address ")
                .update(address.to_string().as_bytes()),
        };
        let hash = hasher.finalize().to_hex();
        format!("{}budget:{}", self.prefix, &hash[..32])
    }

    async fn take(
        &self,
        subject: &Subject,
        tokens: f64,
        cost: f64,
        check: bool,
    ) -> Result<(String, u64), PoolError> {
        let arguments: Vec<Value> = vec![
            self.limits.tokens_per_minute.to_string().into(),
            self.limits.cost_per_hour.to_string().into(),
            format!("{tokens:.9}").into(),
            format!("{cost:.12}").into(),
            u8::from(check).to_string().into(),
        ];
        let run = self
            .pool
            .run_script(&self.take, vec![self.key(subject)], arguments);
        let (empty, wait): (String, String) = timeout(DEADLINE, run)
            .await
            .map_err(|_| PoolError::Timeout(DEADLINE))??;
        Ok((empty, wait.parse().unwrap_or(1)))
    }

    pub(super) async fn reserve(
        &self,
        subject: &Subject,
        tokens: u64,
    ) -> Result<Result<(), Empty>, PoolError> {
        let (empty, wait) = self.take(subject, tokens as f64, 0.0, true).await?;
        Ok(match empty.as_str() {
            "tokens" => Err((TOKENS, wait.max(1))),
            "cost" => Err((COST, wait.max(1))),
            _ => Ok(()),
        })
    }

    pub(super) async fn charge(
        &self,
        subject: &Subject,
        tokens: f64,
        cost: f64,
    ) -> Result<(), PoolError> {
        self.take(subject, tokens, cost, false).await.map(|_| ())
    }
}
