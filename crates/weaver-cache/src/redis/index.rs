//! Indexes of variants: nodes that store variants of a URL at the same moment each add to what is there.

use super::RedisTier;
use crate::{
    codec,
    entry::{Index, Record},
    key,
    lease::Lease,
};
use bytes::Bytes;
use fred::types::Value;
use std::sync::Arc;
use weaver_pool::PoolError;

/// Replaces what was read, for as long as the longer of the two is to live.
pub(super) const REPLACE: &str = "\
local known = redis.call('GET', KEYS[1]) or ''
if known ~= ARGV[1] then return 0 end
local life = math.max(tonumber(ARGV[3]), redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], ARGV[2], 'PX', life)
return 1";

/// How often it is tried where others write at the same moment; each time one of them was done. Then
/// what is there is overwritten, and what is no longer led to is fetched again.
const ATTEMPTS: usize = 16;

impl RedisTier {
    /// Writes an index over the one that is there. `false` if the lease was lost, and nothing was
    /// written.
    pub(super) async fn join(
        &self,
        of: &Arc<[u8]>,
        index: &Arc<Index>,
        life: i64,
        lease: Option<&mut Lease>,
    ) -> Result<bool, PoolError> {
        if let Some(lease) = lease
            && !lease.is_held().await
        {
            return Ok(false);
        }
        let name = key::redis_name(&self.inner.prefix, of);
        // Nobody waits for it: it has the time of a write.
        let patience = self.inner.pool.config().socket_timeout;
        for _ in 0..ATTEMPTS {
            let known = self.value(&name, patience).await?;
            let joined = match (&known, self.decoded(&name, &known, of).await) {
                (_, Some(earlier)) => Arc::new(index.over(&earlier)),
                (None, None) => Arc::clone(index),
                // A response that did not vary, which need not come back to be compared.
                (Some(_), None) => break,
            };
            let record = Record::Index(Arc::clone(of), joined);
            let value = self.sealed(&name, codec::encode(&record)).await;
            let known = Value::Bytes(known.unwrap_or_default());
            let arguments: Vec<Value> = vec![known, Value::Bytes(value), life.into()];
            let written = self
                .inner
                .pool
                .run_script::<i64, _, _>(&self.inner.replace, vec![name.clone()], arguments)
                .await?;
            if written == 1 {
                return Ok(true);
            }
        }
        let record = Record::Index(Arc::clone(of), Arc::clone(index));
        self.set(&record, life, None, true).await
    }

    async fn decoded(&self, name: &str, value: &Option<Bytes>, of: &[u8]) -> Option<Arc<Index>> {
        let opened = self.opened(name, value.clone()?, self.inner.most).await;
        let whole = opened.ok()??;
        match codec::decode(&whole, of)? {
            Record::Index(_, index) => Some(index),
            _ => None,
        }
    }
}
