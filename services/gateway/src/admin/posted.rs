//! Bodies of orders: read whole, decoded, and JSON.

use crate::{
    body::{BodyError, Received, receive},
    problem::problem,
    state::State,
};
use actix_web::{
    Error, FromRequest, HttpRequest, HttpResponse, dev::Payload, error::ErrorInternalServerError,
    http::StatusCode, web,
};
use serde::de::DeserializeOwned;
use std::{future::Future, pin::Pin};

/// Bytes of an order, where a resource does not say otherwise.
const MAX_BODY: usize = 1 << 20;

/// Bytes that a body of a resource may have.
#[derive(Clone, Copy)]
pub(super) struct MaxBody(pub(super) usize);

/// A body that has come whole, or why it has not.
pub(super) struct Posted(Result<Received, BodyError>);

impl Posted {
    pub(super) fn is_empty(&self) -> bool {
        let received = self.0.as_ref();
        received.is_ok_and(|received| received.encoded().is_empty())
    }

    /// What it says, or the refusal of a body that is not that.
    pub(super) async fn json<T: DeserializeOwned + Send + 'static>(
        self,
    ) -> Result<T, HttpResponse> {
        let received = self.0.map_err(|error| error.problem())?;
        let read = received.parse(|bytes| serde_json::from_slice::<T>(&bytes));
        let (read, _held) = read.await.map_err(|error| error.problem())?;
        read.map_err(|error| problem(StatusCode::BAD_REQUEST, &error.to_string()))
    }
}

impl FromRequest for Posted {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (req, payload) = (req.clone(), payload.take());
        Box::pin(async move {
            let Some(state) = req.app_data::<web::Data<State>>() else {
                return Err(ErrorInternalServerError("there is no state"));
            };
            let most = req.app_data::<MaxBody>().map_or(MAX_BODY, |most| most.0);
            let received = receive(&state.bodies, req.headers(), payload, most).await;
            Ok(Self(received))
        })
    }
}
