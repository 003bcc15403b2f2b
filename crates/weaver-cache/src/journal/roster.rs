//! Which nodes there are, and how far each has applied the journal.
//!
//! A hash beside the journal, with a field for each node: its last position and when it said so, by
//! the clock that all share. A node reports every second, and at once where a purge asks for it.
//! Fields of nodes that are gone are removed after a minute, by whoever reads them. A node that takes
//! its leave says so in its field: a report of its own that arrives later, by another connection,
//! changes nothing any more.

use super::Position;
use crate::{
    clock::{signed_millis, unix_millis},
    identity::random_hex,
};
use fred::{interfaces::HashesInterface, types::Value};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use weaver_pool::{PoolError, RedisPool, Script};

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// A node that has said nothing for this long does not live.
const LIVE: Duration = Duration::from_secs(5);
/// A node that has said nothing for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// In place of the position of a node that has taken its leave.
const LEFT: &str = "left";

/// Says how far a node is, unless it has taken its leave.
const REPORT: &str = "\
local said = redis.call('HGET', KEYS[1], ARGV[1])
if said and string.sub(said, 1, 5) == 'left ' then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])";

/// A node that shares the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique to the process.
    pub name: String,
    /// How far it has applied the journal.
    pub position: Position,
    /// How long ago it said so.
    pub seen: Duration,
}

impl Node {
    /// Whether it has said something lately: in the last five seconds.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.seen < LIVE
    }
}

#[derive(Clone)]
pub(crate) struct Roster {
    pool: RedisPool,
    key: String,
    own: String,
    script: Script,
    reported: Option<Instant>,
}

impl Roster {
    /// `name` gets an ending of its own.
    pub(crate) fn new(pool: RedisPool, journal: &str, name: &str) -> Self {
        Self {
            pool,
            key: format!("{journal}:nodes"),
            own: format!("{name}.{}", random_hex::<4>()),
            script: Script::new(REPORT),
            reported: None,
        }
    }

    pub(crate) fn is_due(&self) -> bool {
        self.reported.is_none_or(|at| at.elapsed() >= INTERVAL)
    }

    pub(crate) async fn report(&mut self, at: Position, clock: i64) -> Result<(), PoolError> {
        self.reported = Some(Instant::now());
        let arguments: Vec<Value> = vec![
            self.own.clone().into(),
            format!("{at} {}", unix_millis(clock)).into(),
            signed_millis(FORGOTTEN).into(),
        ];
        let keys = vec![self.key.clone()];
        self.pool
            .run_script::<i64, _, _>(&self.script, keys, arguments)
            .await
            .map(|_| ())
    }

    /// Takes this node off, for good.
    pub(crate) async fn leave(&self, clock: i64) -> Result<(), PoolError> {
        let (key, own) = (self.key.clone(), self.own.clone());
        let said = format!("{LEFT} {}", unix_millis(clock));
        let leaving = self.pool.command("HSET").key(self.key.as_bytes());
        leaving
            .once(|client| async move { client.hset::<i64, _, _>(key, (own, said)).await })
            .await
            .map(|_| ())
    }

    /// All nodes that were seen in the last minute, by name.
    pub(crate) async fn read(&self, clock: i64) -> Result<Vec<Node>, PoolError> {
        let key = self.key.clone();
        let fields: HashMap<String, String> = self
            .pool
            .command("HGETALL")
            .key(self.key.as_bytes())
            .run(|client| async move { client.hgetall(key).await })
            .await?;
        let now = unix_millis(clock);
        let (mut nodes, mut gone) = (Vec::new(), Vec::new());
        for (name, value) in fields {
            match said(&value, now) {
                Some((_, seen)) if seen >= FORGOTTEN => gone.push(name),
                Some((Some(position), seen)) => nodes.push(Node {
                    name,
                    position,
                    seen,
                }),
                Some((None, _)) => {}
                None => gone.push(name),
            }
        }
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        if !gone.is_empty() {
            let key = self.key.clone();
            let removal = self.pool.command("HDEL").key(self.key.as_bytes());
            // What stays is removed by the next who reads.
            let _ = removal
                .once(|client| async move { client.hdel::<i64, _, _>(key, gone).await })
                .await;
        }
        Ok(nodes)
    }
}

/// What a field says: how far its node is, unless it has left, and how long ago it said so.
fn said(value: &str, now: u64) -> Option<(Option<Position>, Duration)> {
    let (position, at) = value.split_once(' ')?;
    let seen = Duration::from_millis(now.saturating_sub(at.parse().ok()?));
    if position == LEFT {
        return Some((None, seen));
    }
    Some((Some(Position::parse(position)?), seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_field_of_a_node_is_none() {
        let position = Position {
            time: 5,
            sequence: 1,
        };
        let ago = Duration::from_millis(100);
        assert_eq!(said("5-1 900", 1000), Some((Some(position), ago)));
        assert_eq!(said("left 900", 1000), Some((None, ago)));
        for bad in ["", "5-1", "5 900", "5-1 x", "5-1 900 1", "left", "left x"] {
            assert!(said(bad, 1000).is_none(), "{bad}");
        }
    }
}
