//! Requests that fetch: for their client, or to refresh what it was given.

use super::{
    Exchange, Response,
    answer::{self, Served},
};
use crate::{
    entry::Entry,
    fill::{self, Fill},
    flight::{Joined, Lead},
    shared::Found,
};
use actix_http::body::MessageBody;
use actix_service::Service;
use actix_web::{
    Error,
    dev::{ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
    http::Method,
};
use std::{rc::Rc, sync::Arc};
use tokio::sync::oneshot;
use weaver_cache_policy::{
    Outcome,
    status::{Forward, Member},
};
use weaver_metrics::Tier;

impl<S> Exchange<S> {
    /// Why the request goes forward, given what memory had.
    fn forward(&self, found: &Found) -> Forward {
        match (&found.entry, &found.index) {
            (Some(_), _) if self.wishes.no_cache => Forward::Request,
            (Some(_), _) if self.traits.directives && found_fresh(self, found) => Forward::Request,
            (Some(_), _) => Forward::Stale,
            (None, Some(_)) => Forward::VaryMiss,
            (None, None) => Forward::UriMiss,
        }
    }

    /// The client gets what is stored, and the request goes on to refresh it: stale (RFC 5861 §3), or
    /// soon to be.
    pub(super) fn answer_and_refresh<B>(
        self,
        req: ServiceRequest,
        entry: Arc<Entry>,
        found: Found,
        outcome: Outcome,
    ) -> Response<B>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        let now = self.shared.now();
        let flight_key = self
            .shared
            .flight_key(&self.exact, found.index.as_ref(), req.headers());
        let position = self.shared.log.head();
        let lead = match self.shared.flights.join(&flight_key, position) {
            Joined::Leads(lead) if *req.method() == Method::GET && !self.traits.range => lead,
            _ => return self.answer(req, &entry, Tier::Memory, outcome, now),
        };
        let client = fill::stand_in(&req);
        let served = Served {
            tier: Tier::Memory,
            outcome,
            now,
            member: Member::default(),
        };
        let response = self.serve(req.method(), req.headers(), &entry, served);
        let service = Rc::clone(&self.service);
        let fill = self.fill(lead, found);
        actix_rt::spawn(fill.run(service, req, None));
        answer::with(client, response)
    }

    pub(super) fn fill(&self, lead: Lead, found: Found) -> Fill {
        let forward = self.forward(&found);
        Fill {
            shared: Arc::clone(&self.shared),
            rule: Arc::clone(&self.rule),
            exact: self.exact.clone(),
            key: self.key.clone(),
            partitioned: self.partitioned,
            authenticated: (self.principal || self.traits.authorization)
                && !self.rule.credentials_in_key(),
            wishes: self.wishes,
            forward,
            lead,
            lease: None,
            stored: found.entry,
            softly_purged: found.softly_purged,
            index: found.index,
            ranged: self.traits.range,
            early: self.early,
        }
    }

    pub(super) async fn lead<B>(
        self,
        req: ServiceRequest,
        lead: Lead,
        found: Found,
    ) -> Result<Response<B>, Error>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        // The fill takes the client's conditions off the request; they still shape this answer.
        let own_headers = self.traits.conditional.then(|| req.headers().clone());
        let (reply, answer) = oneshot::channel();
        let fill = self.fill(lead, found);
        actix_rt::spawn(fill.run(Rc::clone(&self.service), req, Some(reply)));
        let Ok(reply) = answer.await else {
            return Err(ErrorInternalServerError("the handler did not answer"));
        };
        self.deliver(reply, own_headers)
    }
}

fn found_fresh<S>(exchange: &Exchange<S>, found: &Found) -> bool {
    let now = exchange.shared.now();
    found
        .entry
        .as_ref()
        .is_some_and(|entry| entry.head.lifetime.ttl(now) > 0)
}
