//! Responses that answer for several queries of a path (No-Vary-Search, RFC 9875).
//!
//! Such a response is stored under a key whose query is in canonical form, and beside it a record,
//! under a key of the path, of how the path's responses vary. A request that finds nothing under its
//! own URL looks for the record, and with it under the canonical key. Where a path's responses vary
//! in different ways the last one's way is known; the others are found again by fetching them.

use crate::{
    entry::{Checked, Entry, Head, Record, StoredFields},
    journal::Verdict,
    key::{self, KeyBytes},
    shared::{Found, Shared},
};
use actix_web::http::header::{HeaderMap, HeaderName};
use bytes::Bytes;
use std::sync::Arc;
use weaver_cache_policy::search::Variance;
use weaver_metrics::Tier;

const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

impl Shared {
    /// [`Self::find`], and where there is nothing of just this URL, of one that is equivalent; then
    /// `key` becomes the one that stands for both.
    pub(crate) async fn find_equivalent(
        &self,
        tier: Tier,
        key: &mut KeyBytes,
        headers: &HeaderMap,
    ) -> Found {
        let found = self.find(tier, key, headers).await;
        if !found.is_nothing() {
            return found;
        }
        // Every first request would pay for a look into Redis; one without a query rarely gains.
        let worth =
            tier == Tier::Memory || key::parse(key).is_some_and(|url| url.query != Some(""));
        let Some(search) = key::of_search(key).filter(|_| worth) else {
            return found;
        };
        let Some(Record::Entry(record)) = self.get(tier, &search).await else {
            return found;
        };
        let Some(canonical) = self.canonical(key, &record) else {
            return found;
        };
        if let (Tier::Redis, Some(memory)) = (tier, &self.memory) {
            let until = self.until(&record);
            self.remember(memory, Record::Entry(record), until, self.now())
                .await;
        }
        *key = canonical;
        self.find(tier, key, headers).await
    }

    /// [`Self::find_equivalent`] in memory without waiting; `None` where it would have to.
    pub(crate) fn find_equivalent_now(
        &self,
        key: &mut KeyBytes,
        headers: &HeaderMap,
    ) -> Option<Found> {
        let found = self.find_now(key, headers)?;
        let Some(memory) = self.memory.as_ref().filter(|_| found.is_nothing()) else {
            return Some(found);
        };
        let Some(search) = key::of_search(key) else {
            return Some(found);
        };
        let Some(Record::Entry(record)) = memory.get_now(&search)? else {
            return Some(found);
        };
        let Some(canonical) = self.canonical(key, &record) else {
            return Some(found);
        };
        *key = canonical;
        self.find_now(key, headers)
    }

    fn canonical(&self, key: &[u8], record: &Entry) -> Option<KeyBytes> {
        if self.log.judge(record) == Verdict::Dead {
            return None;
        }
        canonical_key(key, &Variance::of(&StoredFields(&record.head.fields))?)
    }

    /// The key under which a response to the URL of `exact` is to be stored. If it answers for other
    /// URLs too, that is remembered.
    pub(crate) async fn place_search(&self, exact: &KeyBytes, head: &Head) -> KeyBytes {
        let variance = Variance::of(&StoredFields(&head.fields));
        let placed = variance
            .and_then(|variance| Some((canonical_key(exact, &variance)?, key::of_search(exact)?)));
        let Some((canonical, search)) = placed else {
            return exact.clone();
        };
        let lines = head
            .fields
            .iter()
            .filter(|(name, _)| *name == NO_VARY_SEARCH);
        let record = Arc::new(Entry {
            key: search.as_slice().into(),
            head: Arc::new(Head {
                status: head.status,
                fields: lines.cloned().collect(),
                lifetime: head.lifetime,
                position: head.position,
                variant: None,
            }),
            body: Bytes::new(),
            fill_micros: 0,
            checked: Checked::default(),
        });
        let until = self.until(&record);
        self.put(vec![(Record::Entry(record), until)], None).await;
        canonical
    }
}

fn canonical_key(key: &[u8], variance: &Variance) -> Option<KeyBytes> {
    key::with_canonical(key, &variance.canonical(key::parse(key)?.query))
}
