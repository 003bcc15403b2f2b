//! Requests that go to the origin whatever is stored, and what their responses do to the store.

use super::{Exchange, Response, count, traits::Traits};
use crate::{
    Rule,
    entry::{MapFields, StoredFields},
    fill::{Reply, Times},
    flight::Lead,
    invalidate,
    key::RequestUrl,
    respond,
    shared::{Found, Shared},
};
use actix_http::body::MessageBody;
use actix_service::Service;
use actix_web::{
    Error,
    dev::{ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
    http::{Method, StatusCode},
};
use std::{rc::Rc, sync::Arc};
use tokio::sync::oneshot;
use weaver_cache_policy::{
    Outcome, invalidation,
    status::{Forward, Member},
    store::{self, Answered},
    validation,
};
use weaver_metrics::Tier;

/// The response of the origin as it is, with our member in Cache-Status.
pub(super) async fn pass<S, B>(
    shared: &Shared,
    service: &S,
    req: ServiceRequest,
    member: Member,
) -> Result<Response<B>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    let mut res = service.call(req).await?;
    respond::add_status(res.headers_mut(), member, &shared.config.name);
    Ok(res.map_into_left_body())
}

/// A request that may change the origin's state: what succeeds invalidates (RFC 9111 §4.4), and a
/// POST may bring what a GET would get (RFC 9110 §9.3.3).
pub(super) async fn unsafe_request<S, B>(
    shared: Arc<Shared>,
    service: Rc<S>,
    rule: Arc<Rule>,
    traits: Traits,
    req: ServiceRequest,
) -> Result<Response<B>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let exchange = (*req.method() == Method::POST && !traits.upgrade && !traits.range)
        .then(|| Exchange::new(&shared, &service, Arc::clone(&rule), traits, &req));
    let times = Times::begin(&shared);
    let mut res = service.call(req).await?;
    if invalidation::is_non_error(res.status().as_u16()) {
        let purges = invalidate::by(&res);
        match exchange.filter(|exchange| !exchange.anonymous && answers_get(&rule, &res, &times)) {
            Some(exchange) => {
                invalidate::apply_in_order(&shared, purges).await;
                // What comes now is newer than the invalidation that it has caused itself.
                let position = shared.log.head();
                let times = Times { position, ..times }.received(&shared);
                return exchange.keep_post(res, times).await;
            }
            None => invalidate::apply(&shared, purges),
        }
    }
    let member = Member {
        forward: Some(Forward::Method),
        ..Member::default()
    };
    respond::add_status(res.headers_mut(), member, &shared.config.name);
    Ok(res.map_into_left_body())
}

/// Whether a response to POST is what a GET of the same URL would get: it says so with a
/// Content-Location, and says how long it is fresh. What the rule would leave out of the query of a GET
/// was sent here, so that only a query without it will do.
fn answers_get<B>(rule: &Rule, res: &ServiceResponse<B>, times: &Times) -> bool {
    let url = RequestUrl::of_request(res.request());
    let query = res.request().uri().query();
    let as_keyed = rule.query_as_keyed(query).as_deref() == query;
    let answered = Answered {
        status: res.status().as_u16(),
        headers: &MapFields(res.headers()),
        requested_at: times.requested_at,
        received_at: times.received_at,
    };
    res.status() == StatusCode::OK
        && as_keyed
        && invalidate::content_location(res).as_deref() == Some(&*url.target())
        && store::is_explicitly_fresh(&rule.policy, &answered)
}

impl<S> Exchange<S> {
    async fn keep_post<B>(self, res: ServiceResponse<B>, times: Times) -> Result<Response<B>, Error>
    where
        B: MessageBody + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let mut fill = self.fill(Lead::solo(), Found::default(), false);
        fill.forward = Forward::Method;
        actix_rt::spawn(fill.received(res, times, Some(reply)));
        match answer.await {
            Ok(Reply::Own(mut res, member, _)) => {
                respond::add_status(res.headers_mut(), member, &self.shared.config.name);
                Ok(res.map_into_left_body())
            }
            Ok(Reply::Stream(req, head, reader, member)) => {
                // Counted already, when it was found to be unsafe.
                Ok(self.stream(req, &head, reader, member, None))
            }
            Ok(reply) => self.deliver(reply, None),
            Err(_) => Err(ErrorInternalServerError("the handler did not answer")),
        }
    }

    /// A HEAD that nothing stored answers: a 200 to it freshens a stored GET that it describes, and
    /// tells that another is out of date (RFC 9111 §4.3.5).
    pub(super) async fn head<B>(
        self,
        req: ServiceRequest,
        found: Found,
    ) -> Result<Response<B>, Error>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        count(&self.shared, &self.rule, Tier::None, Outcome::Miss);
        let stored = found.entry.clone();
        let fill = self.fill(Lead::solo(), found, false);
        let member = Member {
            forward: Some(fill.forward),
            ..Member::default()
        };
        let times = Times::begin(&self.shared);
        let mut res = self.service.call(req).await?;
        let times = times.received(&self.shared);
        if let Some(stored) = stored.filter(|stored| stored.head.status == StatusCode::OK)
            && res.status() == StatusCode::OK
        {
            let (update, old) = (MapFields(res.headers()), StoredFields(&stored.head.fields));
            let described = validation::describes(&update, &old, stored.body.len() as u64);
            match fill.freshen(&stored, &res, &times).kept {
                Ok(entry) if described => {
                    for (name, value) in &entry.head.fields {
                        if !res.headers().contains_key(name) {
                            res.headers_mut().append(name.clone(), value.clone());
                        }
                    }
                    self.shared.store(entry, None, None).await;
                }
                // What the request is the reason for says nothing about the stored response.
                Err(reason) if described && reason.is_of_request() => {}
                _ => self.shared.discard(&stored).await,
            }
        }
        respond::add_status(res.headers_mut(), member, &self.shared.config.name);
        Ok(res.map_into_left_body())
    }
}
