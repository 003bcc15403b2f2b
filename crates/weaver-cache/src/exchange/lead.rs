//! Requests that fetch: for their client, or to refresh what it was given.

use super::{
    Exchange, Response,
    answer::{self, Served},
};
use crate::{
    entry::Entry,
    fill::{self, Fill},
    flight::{Flight, Joined, Lead, Requester},
    key::KeyBytes,
    shared::Found,
};
use actix_http::body::MessageBody;
use actix_service::Service;
use actix_web::{
    Error,
    dev::{ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
    http::{Method, header},
};
use std::{rc::Rc, sync::Arc};
use tokio::sync::oneshot;
use weaver_cache_policy::{
    Outcome,
    status::{Forward, Member},
};
use weaver_metrics::Tier;

/// A request's place among those for the same key.
pub(super) enum Place {
    Leads(Lead),
    /// In the flight under that key.
    Follows(Arc<Flight>, KeyBytes),
    Alone,
}

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
        // What cannot be stored refreshes nothing.
        let refreshes = *req.method() == Method::GET && !self.traits.range && !self.wishes.no_store;
        let flight_key = self
            .shared
            .flight_key(&self.exact, found.index.as_ref(), req.headers());
        let lead = match refreshes.then(|| self.join(&flight_key)) {
            Some(Place::Leads(lead)) => lead,
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
        let fill = self.fill(lead, found, false);
        actix_rt::spawn(fill.run(service, req, None));
        answer::with(client, response)
    }

    /// Who asks, as far as others may have to get something else: one user's own store has no others.
    pub(super) fn requester(&self) -> Requester {
        let cookies = self.traits.cookie && !self.rule.vary_on.contains(&header::COOKIE);
        if !self.partitioned && (self.is_authenticated() || cookies) {
            Requester::Credentialed
        } else {
            Requester::Anonymous
        }
    }

    fn is_authenticated(&self) -> bool {
        (self.principal || self.traits.authorization) && !self.rule.credentials_in_key()
    }

    /// A place in a flight: with credentials in that of requests without them too, if there is one,
    /// for what it brings is for all. Without a right to store nobody can be led.
    pub(super) fn join(&self, plain: &KeyBytes) -> Place {
        let flights = &self.shared.flights;
        let requester = self.requester();
        let own = requester.own(plain);
        let plain_one = (requester == Requester::Credentialed)
            .then(|| flights.find(plain))
            .flatten();
        match plain_one {
            Some(flight) => Place::Follows(flight, plain.clone()),
            None if self.wishes.no_store => match flights.find(&own) {
                Some(flight) => Place::Follows(flight, own),
                None => Place::Alone,
            },
            None => match flights.join(&own, self.shared.log.head()) {
                Joined::Leads(lead) => Place::Leads(lead),
                Joined::Follows(flight) => Place::Follows(flight, own),
            },
        }
    }

    /// `takes_over` says that another's fetch takes too long to be waited for.
    pub(super) fn fill(&self, lead: Lead, found: Found, takes_over: bool) -> Fill {
        let forward = self.forward(&found);
        Fill {
            shared: Arc::clone(&self.shared),
            rule: Arc::clone(&self.rule),
            exact: self.exact.clone(),
            key: self.key.clone(),
            partitioned: self.partitioned,
            authenticated: self.is_authenticated(),
            requester: self.requester(),
            takes_over,
            wishes: self.wishes,
            forward,
            lead,
            lease: None,
            stored: found.entry,
            softly_purged: found.softly_purged,
            index: found.index,
            ranged: self.traits.range,
            early: self.early,
            may_be_stored: !self.wishes.no_store && !self.marked,
        }
    }

    pub(super) async fn lead<B>(
        self,
        req: ServiceRequest,
        lead: Lead,
        found: Found,
        takes_over: bool,
    ) -> Result<Response<B>, Error>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        // The fill takes the client's conditions off the request; they still shape this answer.
        let own_headers = self.traits.conditional.then(|| req.headers().clone());
        let (reply, answer) = oneshot::channel();
        let fill = self.fill(lead, found, takes_over);
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
