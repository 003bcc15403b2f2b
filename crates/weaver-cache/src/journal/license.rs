//! Licenses: for each URL of which Redis has something, the place in the journal from which on what was
//! fetched is valid.
//!
//! ```text
//! <prefix>license:{hash of host and path}                      where a key stands for a whole path
//! <prefix>license:{hash of host and path}:<hash of the target> otherwise
//! ```
//!
//! A write removes the licenses of its URL, after its item is in the journal. Who stores gets a license
//! first, then makes sure that it has read the journal up to that moment, then writes. So one of the two
//! sees the other: either the write removes the license, or its item is read before anything is
//! stored. A node asks for a license only where it does not know the journal back to an entry's place.

use super::{Position, Purge};
use crate::{clock::signed_millis, key};
use fred::{interfaces::KeysInterface, types::Value};
use std::time::Duration;
use weaver_pool::{PoolError, RedisPool, Script, Topology};

/// A license outlives what it is for, so that this is never without.
const LONGER: Duration = Duration::from_secs(60);

/// Answers from where on the license holds, and the last item of the journal, if that is here too.
const GRANT: &str = "\
local from = redis.call('GET', KEYS[1])
if not from then
  from = ARGV[1]
  redis.call('SET', KEYS[1], from, 'PX', ARGV[2])
elseif redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
if not KEYS[2] then return { from, '' } end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
return { from, last[1] and last[1][1] or '0-0' }";

#[derive(Clone)]
pub(crate) struct Licenses {
    pool: RedisPool,
    prefix: String,
    journal: String,
    grant: Script,
}

/// What a license says of an entry.
pub(crate) struct Granted {
    /// Whether it covers the entry.
    pub(crate) is_valid: bool,
    /// Where the journal ended then, if that was seen at once.
    pub(crate) last: Option<Position>,
}

impl Licenses {
    pub(crate) fn new(pool: RedisPool, prefix: &str, journal: &str) -> Self {
        Self {
            pool,
            prefix: prefix.to_owned(),
            journal: journal.to_owned(),
            grant: Script::new(GRANT),
        }
    }

    /// Sees to it that there is a license for what is stored under a key for that long; one that is made
    /// holds from `since` on.
    pub(crate) async fn grant(
        &self,
        of: &[u8],
        position: Position,
        since: Position,
        life: Duration,
    ) -> Result<Granted, PoolError> {
        let Some(name) = self.name_of_key(of) else {
            return Ok(Granted {
                is_valid: false,
                last: None,
            });
        };
        let life = signed_millis(life.saturating_add(LONGER));
        let arguments: Vec<Value> = vec![since.to_string().into(), life.into()];
        let mut names = vec![name];
        // In a cluster the two are in different slots.
        if !matches!(self.pool.config().topology, Topology::Cluster { .. }) {
            names.push(self.journal.clone());
        }
        let (from, last): (String, String) =
            self.pool.run_script(&self.grant, names, arguments).await?;
        Ok(Granted {
            is_valid: Position::parse(&from).is_some_and(|from| from <= position),
            last: Position::parse(&last),
        })
    }

    /// Whether what was fetched from that position on is valid.
    pub(crate) async fn covers(
        &self,
        of: &[u8],
        position: Position,
        within: Duration,
    ) -> Result<bool, PoolError> {
        let Some(name) = self.name_of_key(of) else {
            return Ok(false);
        };
        let asked = name.clone();
        let from: Option<String> = self
            .pool
            .command("GET")
            .key(name.as_bytes())
            .within(within)
            .once(|client| async move { client.get(asked).await })
            .await?;
        let from = from.as_deref().and_then(Position::parse);
        Ok(from.is_some_and(|from| from <= position))
    }

    /// Removes the licenses of what a write reaches.
    pub(super) async fn revoke(&self, purge: &Purge) -> Result<(), PoolError> {
        let Purge::Url {
            host: Some(host),
            target,
        } = purge
        else {
            return Ok(());
        };
        let path = target.split('?').next().unwrap_or("");
        let of_path = self.name(host, path, None);
        let of_url = self.name(host, path, Some(target));
        self.remove(vec![of_path, of_url]).await
    }

    /// Removes the license of what is stored under a key.
    pub(crate) async fn revoke_key(&self, of: &[u8]) -> Result<(), PoolError> {
        match self.name_of_key(of) {
            Some(name) => self.remove(vec![name]).await,
            None => Ok(()),
        }
    }

    /// All of one slot.
    async fn remove(&self, names: Vec<String>) -> Result<(), PoolError> {
        let first = names.first().cloned().unwrap_or_default();
        self.pool
            .command("UNLINK")
            .key(first.as_bytes())
            .run(|client| {
                let names = names.clone();
                async move { client.unlink::<(), _>(names).await }
            })
            .await
    }

    fn name_of_key(&self, of: &[u8]) -> Option<String> {
        let url = key::parse(of)?;
        let target = (!url.stands_for_many()).then(|| url.target());
        Some(self.name(url.host, url.path, target.as_deref()))
    }

    fn name(&self, host: &str, path: &str, target: Option<&str>) -> String {
        let prefix = &self.prefix;
        let of_path = hash(&[host, path]);
        match target {
            Some(target) => format!("{prefix}license:{{{of_path}}}:{}", hash(&[target])),
            None => format!("{prefix}license:{{{of_path}}}"),
        }
    }
}

/// 128 bits: enough that no two URLs that anybody finds share one.
fn hash(texts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let mut hash = hasher.finalize().to_hex().to_string();
    hash.truncate(32);
    hash
}
