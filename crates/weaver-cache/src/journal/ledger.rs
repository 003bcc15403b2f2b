//! The ledger: purges by operators, kept when the journal has moved on.
//!
//! A stream beside the journal, in its slot, which has the same items at the same places, but no
//! writes; so these do not push it out. It begins with an item that says from where on it is complete.
//! Only a node that does not find its place in the journal any more reads it.

use super::{Position, append::command};
use crate::clock::signed_millis;
use fred::{
    interfaces::{ClientLike, KeysInterface},
    types::Value,
};
use std::time::Duration;
use weaver_pool::{Exclusive, PoolError, RedisPool, Script};

/// Purges that it keeps. What is older than its oldest counts as purged.
const MAX_ITEMS: u32 = 100_000;

/// Begins the ledger where there is none: from the last item of the journal on, of whose purges nothing
/// is known.
const OPEN: &str = "\
if redis.call('EXISTS', KEYS[2]) == 0 then
  local last = '0-1'
  if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' and info[at + 1] ~= '0-0' then last = info[at + 1] end
    end
  end
  redis.call('XADD', KEYS[2], last, 'kind', 'begin')
end
";

/// Writes a purge into both. A ledger that is ahead is of another journal, and begins anew.
const ADD: &str = "\
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], ARGV[1], unpack(ARGV, 4))
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], id, unpack(ARGV, 4))
if type(added) == 'table' and added.err then
  redis.call('DEL', KEYS[2])
  redis.call('XADD', KEYS[2], id, 'kind', 'begin')
end
return id";

#[derive(Clone)]
pub(super) struct Ledger {
    key: String,
    open: Script,
    add: Script,
}

impl Ledger {
    pub(super) fn new(journal: &str) -> Self {
        Self {
            // In the journal's slot, also where the prefix has a hash tag.
            key: format!("{journal}:purges:{{{journal}}}"),
            open: Script::new(&format!("{OPEN}return 1")),
            add: Script::new(&format!("{OPEN}{ADD}")),
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Sees to it that there is one, and that it lives that long.
    pub(super) async fn open(
        &self,
        pool: &RedisPool,
        journal: &str,
        connection: &mut Exclusive,
        life: Duration,
    ) -> Result<(), PoolError> {
        let keys = vec![journal.to_owned(), self.key.clone()];
        pool.run_script::<i64, _, Value>(&self.open, keys, Vec::new())
            .await?;
        let (key, life) = (self.key.clone(), signed_millis(life));
        connection
            .execute(|client| async move { client.pexpire::<(), _>(key, life, None).await })
            .await
    }

    /// Writes a purge here and into the journal, which keeps that many items.
    pub(super) async fn add(
        &self,
        pool: &RedisPool,
        journal: &str,
        length: u32,
        id: &str,
        item: impl Iterator<Item = String>,
    ) -> Result<String, PoolError> {
        let keys = vec![journal.to_owned(), self.key.clone()];
        let arguments = [id.to_owned(), length.to_string(), MAX_ITEMS.to_string()];
        let arguments: Vec<String> = arguments.into_iter().chain(item).collect();
        pool.run_script(&self.add, keys, arguments).await
    }

    /// Its oldest place: of purges up to there nothing is known. `None` if it is complete. One that was
    /// removed a moment ago knows no more than the journal, whose oldest place is given.
    pub(super) async fn floor(
        &self,
        connection: &mut Exclusive,
        oldest: Position,
    ) -> Result<Option<Position>, PoolError> {
        let args = ["-", "+", "COUNT", "1"].map(str::to_owned);
        let args: Vec<String> = [self.key.clone()].into_iter().chain(args).collect();
        let command = command("XRANGE", &self.key, false);
        let answer: Value = connection
            .execute(|client| async move { client.custom(command, args).await })
            .await?;
        let first = super::item::of_range(&answer).into_iter().next();
        let complete = Position {
            time: 0,
            sequence: 1,
        };
        Ok(match first {
            Some((at, _)) if at == complete => None,
            Some((at, _)) => Some(at),
            None => Some(oldest),
        })
    }
}
