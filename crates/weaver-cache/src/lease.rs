//! One fetch for a key in the whole cluster: a lease in Redis, held by the node that fetches.
//!
//! The lease is a key with a time to live, in the slot of the entry that it is for, whose value is
//! the holder's token. It is renewed while the fetch goes on, and ends with what is stored: entry and
//! release are one script, which stores nothing if somebody else holds the lease by now (the fence:
//! a node that slept through its lease does not overwrite what came later). Where the response
//! turns out to be nobody else's, the lease becomes a mark for a moment, so that no node waits for
//! another.
//!
//! The token begins with the place in the purge journal from before the fetch. Whoever finds that what
//! is fetched has been purged since takes the lease over, and does not wait for it.
//!
//! A holder that dies costs the others the rest of the lease. Without Redis there are no leases, and
//! each node fetches for itself.

use crate::{Position, clock::signed_millis, flight::Requester, identity::random_hex, key};
use bytes::Bytes;
use fred::{
    interfaces::KeysInterface,
    types::{Expiration, SetOptions, Value},
};
use std::time::Duration;
use tokio::{runtime::Handle, task::JoinHandle, time::sleep};
use weaver_pool::{PoolError, RedisPool, Script};

/// The value of a lease whose holder found nothing to share.
const PASSED: &str = "-";

/// Stores an entry for the holder, and ends the lease if it is the last to store. With no lease at all it stores what is new.
const STORE: &str = "\
local held = redis.call('GET', KEYS[2])
if held == ARGV[1] or (not held and redis.call('EXISTS', KEYS[1]) == 0) then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  if held and ARGV[4] == '1' then redis.call('DEL', KEYS[2]) end
  return 1
end
return 0";

/// Gives the holder's lease this life: 0 ends it.
const RENEW: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// Puts something else in place of a holder's lease: another holder, or a mark.
const REPLACE: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

#[derive(Clone)]
pub(crate) struct Leases {
    pool: RedisPool,
    prefix: String,
    life: Duration,
    deadline: Duration,
    store: Script,
    renew: Script,
    replace: Script,
}

/// What a lease is for.
#[derive(Clone, Copy)]
pub(crate) struct Leased<'a> {
    /// The key of what is fetched.
    pub(crate) key: &'a [u8],
    /// For whom: each kind of requester has a lease of its own.
    pub(crate) requester: Requester,
}

/// What stands under a lease's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Held(Holder),
    Passed,
}

/// Who holds a lease: its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder(String);

impl Holder {
    fn new(position: Position) -> Self {
        Self(format!("{position}/{}", random_hex::<16>()))
    }

    /// Where the purge journal stood before it fetched.
    pub(crate) fn position(&self) -> Option<Position> {
        Position::parse(self.0.split_once('/')?.0)
    }
}

/// A right to fetch. Dropped, it goes to the next who asks.
pub(crate) struct Lease {
    leases: Leases,
    entry: String,
    name: String,
    token: String,
    renewal: JoinHandle<()>,
    /// Whether it has been ended already.
    ended: bool,
}

impl Leases {
    /// `life` is how long a lease lasts unless it is renewed; zero is no leases.
    pub(crate) fn new(pool: RedisPool, prefix: String, life: Duration, deadline: Duration) -> Self {
        Self {
            pool,
            prefix,
            life,
            deadline,
            store: Script::new(STORE),
            renew: Script::new(RENEW),
            replace: Script::new(REPLACE),
        }
    }

    pub(crate) fn enabled(&self) -> bool {
        !self.life.is_zero()
    }

    /// Asks for the lease of a key; `None` while another node holds it, or has found nothing to
    /// share. `position` is where the purge journal stands.
    pub(crate) async fn ask(
        &self,
        of: Leased<'_>,
        position: Position,
    ) -> Result<Option<Lease>, PoolError> {
        let (_, name) = self.names(of);
        let Holder(token) = Holder::new(position);
        let life = signed_millis(self.life);
        let won: Option<String> = self
            .pool
            .command("SET")
            .key(name.as_bytes())
            .within(self.deadline)
            .once(|client| {
                let (name, token) = (name.clone(), token.clone());
                async move {
                    let life = Some(Expiration::PX(life));
                    client
                        .set(name, token, life, Some(SetOptions::NX), false)
                        .await
                }
            })
            .await?;
        Ok(won.map(|_| self.won(of, token)))
    }

    /// Takes a lease over; `None` if it is no longer that holder's.
    pub(crate) async fn take(
        &self,
        of: Leased<'_>,
        from: Holder,
        position: Position,
    ) -> Result<Option<Lease>, PoolError> {
        let (_, name) = self.names(of);
        let Holder(token) = Holder::new(position);
        let life = signed_millis(self.life);
        let arguments: Vec<Value> = vec![from.0.into(), token.clone().into(), life.into()];
        let taken = self
            .pool
            .run_script::<i64, _, _>(&self.replace, vec![name], arguments)
            .await?;
        Ok((taken == 1).then(|| self.won(of, token)))
    }

    fn won(&self, of: Leased<'_>, token: String) -> Lease {
        let (entry, name) = self.names(of);
        let renewal = tokio::spawn(self.clone().keep(name.clone(), token.clone()));
        Lease {
            leases: self.clone(),
            entry,
            name,
            token,
            renewal,
            ended: false,
        }
    }

    /// How a key's lease stands.
    pub(crate) async fn state(&self, of: Leased<'_>) -> Result<State, PoolError> {
        let (_, name) = self.names(of);
        let asked = name.clone();
        let value: Option<String> = self
            .pool
            .command("GET")
            .key(name.as_bytes())
            .within(self.deadline)
            .once(|client| async move { client.get(asked).await })
            .await?;
        Ok(match value {
            None => State::Free,
            Some(value) if value == PASSED => State::Passed,
            Some(value) => State::Held(Holder(value)),
        })
    }

    /// The names of an entry and of its lease, which are in one slot.
    fn names(&self, of: Leased<'_>) -> (String, String) {
        let entry = key::redis_name(&self.prefix, of.key);
        let own = match of.requester {
            Requester::Anonymous => "",
            Requester::Credentialed => ":credentialed",
        };
        let name = format!("{}lease:{{{entry}}}{own}", self.prefix);
        (entry, name)
    }

    /// Renews a lease for as long as it is this holder's.
    async fn keep(self, name: String, token: String) {
        loop {
            sleep(self.life / 3).await;
            let arguments: Vec<Value> = vec![token.clone().into(), signed_millis(self.life).into()];
            let renewed = self
                .pool
                .run_script::<i64, _, _>(&self.renew, vec![name.clone()], arguments)
                .await;
            if let Ok(0) = renewed {
                return;
            }
        }
    }
}

impl Lease {
    /// Stores an entry, unless another holds the lease by now, and ends the lease with the `last`.
    /// `None` if the entry is not the one that the lease is for.
    pub(crate) async fn store(
        &mut self,
        entry: &str,
        value: &Bytes,
        life: i64,
        last: bool,
    ) -> Option<Result<bool, PoolError>> {
        if self.entry != entry {
            return None;
        }
        let keys = vec![self.entry.clone(), self.name.clone()];
        let arguments: Vec<Value> = vec![
            self.token.clone().into(),
            Value::Bytes(value.clone()),
            life.into(),
            i64::from(last).into(),
        ];
        let stored = self
            .leases
            .pool
            .run_script::<i64, _, _>(&self.leases.store, keys, arguments)
            .await;
        self.ended = last && stored.is_ok();
        Some(stored.map(|stored| stored == 1))
    }

    /// Whether it is still this holder's.
    pub(crate) async fn is_held(&self) -> bool {
        let asked = self.name.clone();
        let value = self
            .leases
            .pool
            .command("GET")
            .key(self.name.as_bytes())
            .once(|client| async move { client.get::<Option<String>, _>(asked).await })
            .await;
        value.is_ok_and(|value| value.as_deref() == Some(&self.token))
    }

    /// Ends the lease with word to all that there is nothing to wait for.
    pub(crate) fn pass(mut self, marked_for: Duration) {
        let mark = signed_millis(marked_for);
        if mark > 0 {
            let arguments = vec![self.token.clone().into(), PASSED.into(), mark.into()];
            self.end(self.leases.replace.clone(), arguments);
        }
    }

    fn end(&mut self, script: Script, arguments: Vec<Value>) {
        self.ended = true;
        let (pool, name) = (self.leases.pool.clone(), self.name.clone());
        // It ends by itself where nothing runs any more that could end it.
        if let Ok(runtime) = Handle::try_current() {
            // Bounded by the command's deadline; the pool bounds how many there are.
            runtime.spawn(async move {
                let ended = pool.run_script::<i64, _, _>(&script, vec![name], arguments);
                if let Err(error) = ended.await {
                    tracing::debug!(%error, "a lease ends by itself");
                }
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        if !self.ended {
            let arguments = vec![self.token.clone().into(), 0.into()];
            self.end(self.leases.renew.clone(), arguments);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_tells_from_where_it_fetches() {
        let position = Position {
            time: 17,
            sequence: 4,
        };
        assert_eq!(Holder::new(position).position(), Some(position));
        for other in ["", "-", "5f3a", "x/5f3a", "1-2"] {
            assert_eq!(Holder(other.to_owned()).position(), None, "{other}");
        }
    }
}
