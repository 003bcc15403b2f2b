//! What answers behind the cache.

use crate::{
    ask, builtin,
    ingress::RequestContext,
    model,
    problem::problem,
    proxy::{self, Clients},
    routes::Target,
    state::State,
};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, http::StatusCode, web};
use std::rc::Rc;

pub(crate) async fn handle(
    req: HttpRequest,
    payload: web::Payload,
    state: web::Data<State>,
    clients: web::Data<Clients>,
) -> HttpResponse {
    let context = req.extensions().get::<Rc<RequestContext>>().cloned();
    let Some(context) = context else {
        // Ingress admits every request that comes here.
        return problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request was not context",
        );
    };
    let caller = model::Caller {
        req: &req,
        context: &context,
        state: &state,
        clients: &clients,
    };
    match context.matched.target.clone() {
        Target::Health => builtin::health(&req, &state),
        Target::Whoami => builtin::whoami(&req, &context, &state),
        Target::Metrics => builtin::metrics(&req, &state),
        Target::Ask => ask::handle(caller, payload).await,
        Target::Model(endpoint) => model::handle(caller, payload, endpoint).await,
        Target::ModelList => model::list(caller).await,
        Target::Route(route) => {
            let payload = payload.into_inner();
            let forwarding = proxy::forward(&req, payload, &context, &route, &clients, &state);
            let half_close = state.config.server.half_close;
            proxy::while_connected(&req, half_close, &route.config.name, forwarding).await
        }
        Target::Nothing => problem(StatusCode::NOT_FOUND, "no route has this path"),
    }
}
