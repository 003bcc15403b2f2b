//! What each node finds hot, in Redis, so that it outlives the node.
//!
//! A hash with a field for each process, written now and then by itself: the time, then a line for
//! each URL, compressed. Fields of processes that are gone are removed by whoever reads.

use super::{HotUrl, sorted};
use crate::{
    clock::{signed_millis, unix_millis},
    compress,
    seal::Seal,
};
use bytes::Bytes;
use fred::{interfaces::HashesInterface, types::Value};
use std::{collections::HashMap, fmt::Write as _, time::Duration};
use weaver_pool::{PoolError, RedisPool, Script};

/// URLs that a node keeps in Redis.
const MAX_URLS: usize = 1000;
/// Bytes of a field once it is whole again: its URLs at their longest.
const MAX_VALUE: u64 = 4 << 20;
/// Fields there may be.
const MAX_NODES: usize = 64;
/// A process that wrote longer ago is forgotten, unless it is one of the last.
const FORGOTTEN: Duration = Duration::from_secs(86_400);
/// As many are remembered however long ago they wrote: all nodes may have been away.
const REMEMBERED: usize = 16;
/// How long the hash outlives the last that wrote to it.
const LIFE: Duration = Duration::from_secs(30 * 86_400);

const WRITE: &str = "\
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('HLEN', KEYS[1])";

pub(crate) struct Share {
    pool: RedisPool,
    key: String,
    own: String,
    script: Script,
    seal: Seal,
}

impl Share {
    pub(crate) fn new(pool: RedisPool, prefix: &str, own: String, seal: Seal) -> Self {
        Self {
            pool,
            key: format!("{prefix}hottest"),
            own,
            script: Script::new(WRITE),
            seal,
        }
    }

    /// Writes what this node finds hot; nothing where it has seen nothing yet, which would hide what
    /// it knew before.
    pub(crate) async fn write(&self, urls: &[HotUrl]) -> Result<(), PoolError> {
        if urls.is_empty() {
            return Ok(());
        }
        let text = lines(unix_millis(0), &urls[..urls.len().min(MAX_URLS)]);
        let mut record = Seal::room(text.len());
        record.extend_from_slice(text.as_bytes());
        let value = self
            .seal
            .close(&self.name_of(&self.own), compress::pack(record, 1).await);
        let arguments: Vec<Value> = vec![
            self.own.clone().into(),
            Value::Bytes(value),
            signed_millis(LIFE).into(),
        ];
        let fields: i64 = self
            .pool
            .run_script(&self.script, vec![self.key.clone()], arguments)
            .await?;
        if usize::try_from(fields).unwrap_or(0) > MAX_NODES {
            self.read_all().await?;
        }
        Ok(())
    }

    /// What the other nodes find hot, and those before them, with what this one does.
    pub(crate) async fn merged(
        &self,
        own: Vec<HotUrl>,
        most: usize,
    ) -> Result<Vec<HotUrl>, PoolError> {
        let mut sums: HashMap<String, u64> = HashMap::new();
        let others = self.read_all().await?.into_iter();
        let others = others.filter(|node| node.name != self.own);
        for hot in others.flat_map(|node| node.urls).chain(own) {
            let sum = sums.entry(hot.url).or_default();
            *sum = sum.saturating_add(hot.hits);
        }
        Ok(sorted(sums.iter().map(|(url, hits)| (&**url, *hits)), most))
    }

    /// What the code of a field is bound to.
    fn name_of(&self, field: &str) -> String {
        format!("{}/{field}", self.key)
    }

    async fn read_all(&self) -> Result<Vec<Written>, PoolError> {
        let key = self.key.clone();
        let fields: HashMap<String, Bytes> = self
            .pool
            .command("HGETALL")
            .key(self.key.as_bytes())
            .run(|client| {
                let key = key.clone();
                async move { client.hgetall(key).await }
            })
            .await?;
        let mut gone = Vec::new();
        let mut nodes = Vec::new();
        for (name, value) in fields {
            let whole = match self.seal.open(&self.name_of(&name), &value) {
                Ok(rest) => compress::unpack(rest, MAX_VALUE).await,
                Err(_) => None,
            };
            match whole.and_then(parsed) {
                Some((at, urls)) => nodes.push(Written { name, at, urls }),
                None => gone.push(name),
            }
        }
        gone.extend(forget(&mut nodes, unix_millis(0)));
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

struct Written {
    name: String,
    at: u64,
    urls: Vec<HotUrl>,
}

/// Takes out what is not remembered any more, and names it.
fn forget(nodes: &mut Vec<Written>, now: u64) -> Vec<String> {
    nodes.sort_by_key(|node| std::cmp::Reverse(node.at));
    let mut gone = nodes.split_off(nodes.len().min(MAX_NODES));
    let old = |node: &Written| Duration::from_millis(now.saturating_sub(node.at)) > FORGOTTEN;
    let from = nodes.iter().skip(REMEMBERED).position(old);
    if let Some(from) = from {
        gone.extend(nodes.split_off(REMEMBERED + from));
    }
    gone.into_iter().map(|node| node.name).collect()
}

fn lines(now: u64, urls: &[HotUrl]) -> String {
    let mut text = format!("{now}\n");
    for hot in urls {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} {}", hot.hits, hot.url);
    }
    text
}

fn parsed(value: Bytes) -> Option<(u64, Vec<HotUrl>)> {
    let text = std::str::from_utf8(&value).ok()?;
    let mut lines = text.lines();
    let at = lines.next()?.parse().ok()?;
    let hot = |line: &str| {
        let (hits, url) = line.split_once(' ')?;
        Some(HotUrl {
            url: url.to_owned(),
            hits: hits.parse().ok()?,
        })
    };
    Some((at, lines.take(MAX_URLS).filter_map(hot).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(name: usize, at: u64) -> Written {
        Written {
            name: name.to_string(),
            at,
            urls: Vec::new(),
        }
    }

    #[test]
    fn the_last_processes_are_remembered_and_old_ones_beside_them_are_not() {
        let day = 86_400_000;
        let mut all: Vec<_> = (0..100).map(|at| node(at, 10 * day + at as u64)).collect();
        assert_eq!(forget(&mut all, 10 * day + 100).len(), 100 - MAX_NODES);
        assert!(all.iter().all(|node| node.at >= 10 * day + 36));
        assert_eq!(forget(&mut all, 12 * day).len(), MAX_NODES - REMEMBERED);
        assert_eq!(forget(&mut all, 99 * day).len(), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(urls in proptest::collection::vec(("[!-~]{1,20}", any::<u64>()), 0..20)) {
            let urls: Vec<_> = urls.into_iter().map(|(url, hits)| HotUrl { url, hits }).collect();
            prop_assert_eq!(parsed(lines(7, &urls).into()), Some((7, urls)));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parsed(bytes.into());
        }
    }
}
