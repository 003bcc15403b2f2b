//! Large bodies: in parts, each under a key of its own, so that no single value keeps others waiting
//! and a body can be sent on before it is here whole.
//!
//! ```text
//! version u8 · code 16 (see [`crate::seal`]) · kind u8 (part) · the bytes
//! ```
//!
//! The parts are written first, under names that are new each time, then the head that leads to
//! them; so whoever finds a head finds its parts, whatever is written meanwhile. The parts of a head
//! that is replaced or removed are given a minute, for those who are reading them.

use super::RedisTier;
use crate::{
    codec::{self, KIND_PACKED, KIND_PART, KIND_REMOTE},
    entry::{Entry, Parts, Record, Remote},
    flight::Broken,
    identity::random,
    key,
    seal::{HEADER, Seal},
};
use actix_http::body::{MessageBody, SizedStream};
use bytes::{BufMut as _, Bytes, BytesMut};
use fred::{interfaces::KeysInterface, types::Expiration};
use futures_util::{StreamExt as _, stream};
use std::sync::Arc;
use weaver_pool::PoolError;

/// How long the parts outlive their head, in milliseconds.
const LONGER: i64 = 60_000;
/// Parts whose presence is asked for at once.
const LOOKS: usize = 64;
/// Parts that are asked for ahead of the one that is sent.
const AHEAD: usize = 2;

impl RedisTier {
    /// Whether a body of that many bytes is stored in parts.
    pub(super) fn is_large(&self, bytes: usize) -> bool {
        bytes as u64 > self.inner.part
    }

    /// Writes an entry's body, and gives what leads to it.
    pub(super) async fn write_parts(&self, entry: &Entry, life: i64) -> Result<Parts, PoolError> {
        let inner = &*self.inner;
        let parts = Parts {
            id: random(),
            length: entry.body.len() as u64,
            each: inner.part,
        };
        for (at, name) in self.names(&entry.key, &parts).enumerate() {
            let bytes = &entry.body[parts.range(at as u64)];
            let mut record = Seal::room(bytes.len() + 1);
            record.push(KIND_PART);
            record.extend_from_slice(bytes);
            let value = self.sealed(&name, record).await;
            let life = Some(Expiration::PX(life.saturating_add(LONGER)));
            let written = inner.pool.command("SET").key(name.as_bytes());
            let to = name.clone();
            written
                .once(|client| async move {
                    client.set::<(), _, _>(to, value, life, None, false).await
                })
                .await?;
        }
        Ok(parts)
    }

    /// The parts that what stands under a key leads to. An entry in one piece, which is what most
    /// are, costs no more than a look at its kind.
    pub(super) async fn parts_of(&self, key: &[u8]) -> Option<Parts> {
        let name = key::redis_name(&self.inner.prefix, key);
        if !self.may_lead_to_parts(&name).await {
            return None;
        }
        let value = self.value(&name, self.inner.deadline).await.ok()??;
        let whole = self.opened(&name, value, self.inner.most).await.ok()??;
        match codec::decode(&whole, key) {
            Some(Record::Remote(remote)) => Some(remote.parts),
            _ => None,
        }
    }

    async fn may_lead_to_parts(&self, name: &str) -> bool {
        let asked = name.to_owned();
        let look = self.inner.pool.command("GETRANGE").key(name.as_bytes());
        let kind: Result<Bytes, _> = look
            .within(self.inner.deadline)
            .once(|client| async move { client.getrange(asked, HEADER, HEADER).await })
            .await;
        kind.is_ok_and(|kind| kind == [KIND_REMOTE][..] || kind == [KIND_PACKED][..])
    }

    /// Lets parts that nothing leads to any more end soon; best effort, they end by themselves.
    pub(super) async fn retire(&self, key: &[u8], parts: &Parts) {
        for name in self.names(key, parts) {
            let ending = self.inner.pool.command("PEXPIRE").key(name.as_bytes());
            let asked = name.clone();
            let ended = ending
                .once(|client| async move { client.pexpire::<i64, _>(asked, LONGER, None).await })
                .await;
            if ended.is_err() {
                return;
            }
        }
    }

    /// The whole of an entry; `None`, counted, if a part of it is missing.
    pub(crate) async fn whole(&self, remote: &Remote) -> Option<Arc<Entry>> {
        if remote.parts.length > self.inner.most {
            return None;
        }
        let mut parts = std::pin::pin!(self.stream(remote, 0));
        let mut whole = BytesMut::new();
        while let Some(part) = parts.next().await {
            whole.put_slice(&part.ok()?);
        }
        Some(remote.with_body(whole.freeze()))
    }

    /// The first part, if all the others are there too.
    pub(crate) async fn first_part(&self, remote: &Remote) -> Option<Bytes> {
        let inner = &*self.inner;
        if remote.parts.length > inner.most {
            return None;
        }
        let rest = self.names(&remote.entry.key, &remote.parts).skip(1);
        let looks = stream::iter(rest)
            .map(|name| async move {
                let asked = name.clone();
                let look = inner.pool.command("EXISTS").key(name.as_bytes());
                look.within(inner.deadline)
                    .once(|client| async move { client.exists::<i64, _>(asked).await })
                    .await
            })
            .buffer_unordered(LOOKS);
        let all = looks.all(|there| async move { matches!(there, Ok(1)) });
        let (first, all) = tokio::join!(self.part(remote, 0), all);
        if !all {
            inner.metrics.error();
        }
        first.filter(|_| all)
    }

    /// A body whose first part is here already.
    pub(crate) fn body(&self, remote: &Arc<Remote>, first: Bytes) -> impl MessageBody + use<> {
        let (this, remote) = (self.clone(), Arc::clone(remote));
        let length = remote.parts.length;
        let rest = stream::iter(1..remote.parts.count()).map(move |at| {
            let (this, remote) = (this.clone(), Arc::clone(&remote));
            async move { this.part(&remote, at).await.ok_or(Broken) }
        });
        let parts = stream::iter([Ok(first)]).chain(rest.buffered(AHEAD));
        SizedStream::new(length, Box::pin(parts))
    }

    fn stream<'a>(
        &'a self,
        remote: &'a Remote,
        from: u64,
    ) -> impl stream::Stream<Item = Result<Bytes, Broken>> + 'a {
        stream::iter(from..remote.parts.count())
            .map(move |at| async move { self.part(remote, at).await.ok_or(Broken) })
            .buffered(AHEAD)
    }

    async fn part(&self, remote: &Remote, at: u64) -> Option<Bytes> {
        let inner = &*self.inner;
        let name = part_name(&inner.prefix, &remote.entry.key, &remote.parts, at);
        let answer = self.value(&name, inner.deadline).await;
        let wanted = remote.parts.range(at).len();
        let value = match answer {
            Ok(Some(value)) => value,
            Ok(None) => {
                tracing::debug!(key = name, "a part of a response is not in redis any more");
                inner.metrics.error();
                return None;
            }
            Err(error) => {
                self.failed(&error);
                return None;
            }
        };
        let opened = self.opened(&name, value, wanted as u64 + 1).await;
        let part = opened
            .ok()
            .flatten()
            .filter(|part| part.starts_with(&[KIND_PART]) && part.len() == wanted + 1)
            .map(|part| part.slice(1..));
        if part.is_none() {
            self.refuse(name).await;
        }
        part
    }

    fn names<'a>(&'a self, key: &'a [u8], parts: &'a Parts) -> impl Iterator<Item = String> + 'a {
        (0..parts.count()).map(move |at| part_name(&self.inner.prefix, key, parts, at))
    }
}

impl Remote {
    pub(super) fn without_body(entry: &Entry) -> Arc<Entry> {
        Self::made(entry, Bytes::new())
    }

    pub(crate) fn with_body(&self, body: Bytes) -> Arc<Entry> {
        Self::made(&self.entry, body)
    }

    fn made(entry: &Entry, body: Bytes) -> Arc<Entry> {
        Arc::new(Entry {
            key: Arc::clone(&entry.key),
            head: Arc::clone(&entry.head),
            body,
            fill_micros: entry.fill_micros,
            checked: entry.checked.carried(),
        })
    }
}

/// Not in one slot with the head: in a cluster the parts are on all nodes.
fn part_name(prefix: &str, key: &[u8], parts: &Parts, at: u64) -> String {
    let id = u128::from_be_bytes(parts.id);
    format!("{}:{id:032x}:{at}", key::redis_name(prefix, key))
}
