//! A response that may be stored: streamed to all who wait, and put into the tiers once it is whole.

use super::{Fill, Reply, Sender, Times, micros, send};
use crate::{
    entry::{Checked, Entry, Fields, Head, MapFields},
    flight::{Broken, Landing, Reserved},
    partial,
};
use actix_http::body::{BodySize, MessageBody};
use actix_web::{
    dev::ServiceResponse,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderValue},
    },
};
use bytes::Bytes;
use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use weaver_cache_policy::{
    Bypass, Lifetime, date, reuse,
    status::Member,
    store, validation,
    vary::{self, Variant},
};

/// How long one reader may keep a window from moving before it is cut off.
const STALL: Duration = Duration::from_secs(30);

/// The stored beginning of a response whose rest comes in.
pub(super) struct Begun {
    pub(super) bytes: Bytes,
    /// The length of the whole.
    pub(super) whole: u64,
}

impl Fill {
    /// A response that may be stored: streamed to all who wait, and kept if it comes whole.
    pub(super) async fn keep<B>(
        mut self,
        res: ServiceResponse<B>,
        lifetime: Lifetime,
        times: Times,
        mut reply: Sender<B>,
        begun: Option<Begun>,
    ) where
        B: MessageBody + 'static,
    {
        let length = match res.response().body().size() {
            BodySize::Sized(bytes) => Some(bytes),
            BodySize::None => Some(0),
            BodySize::Stream => None,
        };
        let length = begun.as_ref().map_or(length, |begun| Some(begun.whole));
        let mut reserved = self.shared.budget.reserve();
        let room = length.is_none_or(|bytes| reserved.grow(bytes));
        // What came is only the rest where there is a beginning: then it streams on behind it,
        // unkept, and never alone.
        if !room && begun.is_none() {
            return self.pass(res, Bypass::NoRoom, reply).await;
        }
        let Some(names) = vary::names(&MapFields(res.headers())) else {
            return self.pass(res, Bypass::VaryStar, reply).await;
        };
        let variant = (!names.is_empty()).then(|| {
            Variant::new(
                self.shared.secret.bytes(),
                names,
                &MapFields(res.request().headers()),
                &MapFields(res.headers()),
            )
        });
        let view = MapFields(res.headers());
        let withheld = store::withheld_fields(&view, &self.rule.policy, self.partitioned);
        let mut fields = self.storable_fields(res.headers(), &withheld);
        if !res.headers().contains_key(header::DATE) {
            // RFC 9110 §6.6.1: who keeps a response without a Date gives it the time of its coming.
            let now = date::format(times.received_at);
            fields.extend(HeaderValue::try_from(now).map(|now| (header::DATE, now)));
        }
        let head = Arc::new(Head {
            status: res.status(),
            fields,
            lifetime,
            position: times.position,
            variant,
        });
        // Its own client gets the withheld fields too: for it the response is new.
        let own = if withheld.is_empty() {
            Arc::clone(&head)
        } else {
            let fields = self.storable_fields(res.headers(), &[]);
            let (status, position, variant) = (head.status, head.position, head.variant.clone());
            Arc::new(Head {
                status,
                fields,
                lifetime,
                position,
                variant,
            })
        };
        let (req, response) = res.into_parts();
        let stored = Member {
            forward: Some(self.forward),
            stored: true,
            ..Member::default()
        };
        // The client's reader exists before anyone can see the flight, so that nothing is missed.
        if let Some(reader) = self.lead.flight.reader(length) {
            send(&mut reply, Reply::Stream(req, own, reader, stored));
        }
        // The others' turn comes at once where they have to ask for themselves.
        let landing = if reuse::may_answer_others(&lifetime) {
            Landing::Streaming(Arc::clone(&head), length, None)
        } else {
            self.mark().await;
            Landing::Alone
        };
        self.lead.flight.land(landing);
        let body = response.into_body();
        let begun_bytes = begun.map(|begun| begun.bytes);
        if !room {
            self.stop_keeping();
        }
        if let Ok(true) = self
            .pump(begun_bytes, body, length, room.then_some(&mut reserved))
            .await
        {
            self.commit(head, times.begun).await;
            self.lead.close();
            self.lead.flight.body().end(Ok(()));
        }
    }

    /// Everything but the fields of the connection, those that must not be stored, and those that
    /// are made anew for each answer (RFC 9111 §3.1).
    pub(super) fn storable_fields(&self, headers: &HeaderMap, withheld: &[String]) -> Fields {
        let view = MapFields(headers);
        headers
            .iter()
            .filter(|(name, _)| {
                **name != header::AGE
                    && **name != header::CONTENT_LENGTH
                    && !validation::is_hop_by_hop(name.as_str(), &view)
                    && !withheld.iter().any(|field| field == name.as_str())
            })
            .map(|(name, value)| (name.clone(), HeaderValue::clone(value)))
            .collect()
    }

    /// Nobody can join any more, and what every reader has is dropped.
    pub(super) fn stop_keeping(&mut self) {
        self.lead.close();
        self.lead.flight.body().stop_keeping();
    }

    /// Passes the body on, keeping it for as long as it has a share of the budget.
    /// `Ok(true)`: it is whole and kept. `Ok(false)`: it ended, and was not
    /// kept. An error: it broke off.
    pub(super) async fn pump<B: MessageBody>(
        &mut self,
        begun: Option<Bytes>,
        body: B,
        length: Option<u64>,
        mut reserved: Option<&mut Reserved>,
    ) -> Result<bool, Broken> {
        let mut body = pin!(body);
        let mut total = 0_u64;
        if let Some(begun) = begun {
            total = begun.len() as u64;
            self.lead.flight.body().push(begun);
        }
        while let Some(chunk) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
            let chunk: Bytes = chunk.map_err(|_| Broken)?;
            total += chunk.len() as u64;
            if let Some(share) = reserved.as_deref_mut() {
                let room = length.is_some() || share.grow(chunk.len() as u64);
                if total > self.shared.config.max_object || !room {
                    reserved = None;
                    self.stop_keeping();
                    self.mark().await;
                }
            }
            if reserved.is_none() && !self.wait_for_readers().await {
                return Ok(false);
            }
            self.lead.flight.body().push(chunk);
        }
        if length.is_some_and(|length| length != total) {
            return Err(Broken);
        }
        if reserved.is_none() {
            self.lead.flight.body().end(Ok(()));
        }
        Ok(reserved.is_some())
    }

    /// Waits for room in the window; `false` if nobody reads.
    pub(super) async fn wait_for_readers(&self) -> bool {
        loop {
            match timeout(STALL, self.lead.flight.body().room()).await {
                Ok(reading) => return reading,
                Err(_) => self.lead.flight.body().cut_off_stalled(),
            }
        }
    }

    pub(super) async fn commit(&mut self, head: Arc<Head>, begun: Instant) {
        if self.lead.flight.is_doomed() {
            return;
        }
        let key = self.shared.place_search(&self.exact, &head).await;
        if key != self.key {
            // Another key's variants are not this one's.
            (self.key, self.index) = (key, None);
        }
        if head.status == StatusCode::PARTIAL_CONTENT {
            self.key = partial::key(&self.key);
            // One part is kept, so its index begins anew.
            self.index = None;
        } else if head.variant.is_some() {
            let known = self.shared.known_index(&self.key).await;
            self.index = known.or_else(|| self.index.take());
        }
        let placed = head.variant.as_ref().map(|variant| {
            self.shared
                .place_variant(&self.key, self.index.as_ref(), variant)
        });
        let (key, index) = match placed {
            Some((key, index)) => (key, Some(index)),
            None => (self.key.clone(), None),
        };
        let entry = Arc::new(Entry {
            key: key.as_slice().into(),
            head,
            body: self.lead.flight.body().whole(),
            fill_micros: micros(begun),
            checked: Checked::default(),
        });
        self.shared.hot.stored(&self.exact);
        self.shared
            .store(
                entry,
                index.map(|index| (&self.key[..], index)),
                self.lease.take(),
            )
            .await;
    }
}
