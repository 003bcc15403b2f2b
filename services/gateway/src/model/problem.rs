//! Refusals, in the form that OpenAI's clients understand.

use super::served::Head;
use crate::{body::BodyError, problem};
use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
};
use bytes::Bytes;
use serde_json::json;

/// Why a call is not answered.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<&'static str>,
    /// Seconds after which it may be tried again.
    retry_after: Option<u64>,
    /// The methods that are answered, where this one is not.
    allow: Option<&'static str>,
    /// Why the body was not read, if it was not.
    body: Option<Box<BodyError>>,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            kind,
            code: None,
            param: None,
            retry_after: None,
            allow: None,
            body: None,
        }
    }

    pub(super) fn bad_request(param: Option<&'static str>, message: impl Into<String>) -> Self {
        let kind = "invalid_request_error";
        Self {
            param,
            ..Self::new(StatusCode::BAD_REQUEST, kind, message)
        }
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let message = format!("only {allow} is answered here");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self {
            allow: Some(allow),
            ..Self::new(status, "invalid_request_error", message)
        }
    }

    /// `is_any_up`: whether there was an upstream to ask.
    pub(super) fn no_list(is_any_up: bool) -> Self {
        let (status, message) = if is_any_up {
            let message = "no upstream of models listed what it has";
            (StatusCode::BAD_GATEWAY, message)
        } else {
            let message = "no upstream of models is online";
            (StatusCode::SERVICE_UNAVAILABLE, message)
        };
        Self::new(status, "api_error", message)
    }

    /// The body is not read.
    pub(crate) fn of_body(error: BodyError) -> Self {
        let kind = if error.status().is_server_error() {
            "api_error"
        } else {
            "invalid_request_error"
        };
        let refusal = Self::new(error.status(), kind, error.message());
        Self {
            body: Some(Box::new(error)),
            ..refusal
        }
    }

    pub(super) fn unknown_model(model: &str) -> Self {
        let message = format!("no [[models]] of the configuration answers for the model {model:?}");
        Self {
            code: Some("model_not_found"),
            param: Some("model"),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
        }
    }

    /// RFC 9111 §5.2.1.7
    pub(super) fn not_cached() -> Self {
        let message = "only-if-cached, and the answer is not in the cache";
        let status = StatusCode::GATEWAY_TIMEOUT;
        Self {
            code: Some("not_cached"),
            ..Self::new(status, "invalid_request_error", message)
        }
    }

    pub(super) fn over_budget(what: &str, retry_after: u64) -> Self {
        let message = format!("the limit of {what} is used up; try again in {retry_after} s");
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self {
            code: Some("rate_limit_exceeded"),
            retry_after: Some(retry_after),
            ..Self::new(status, "rate_limit_error", message)
        }
    }

    pub(super) fn upstream(status: StatusCode, name: &str, what: &str) -> Self {
        let message = format!("models {name}: {what}");
        Self {
            code: Some("upstream_error"),
            ..Self::new(status, "api_error", message)
        }
    }

    /// No upstream of the models has room.
    pub(super) fn overloaded(name: &str, retry_after: u64) -> Self {
        let what = "the upstreams have as much to do as they can";
        let message = format!("models {name}: {what}; try again in {retry_after} s");
        Self {
            code: Some("overloaded"),
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "api_error", message)
        }
    }

    /// Of `/ask`, to people.
    pub(crate) fn of_ask(status: StatusCode, message: &str) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    /// The client left before there was an answer.
    pub(super) fn client_left() -> Self {
        let (status, message) = crate::proxy::client_closed_request();
        Self::new(status, "invalid_request_error", message)
    }

    pub(super) fn internal() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "api_error", "the call was not carried out")
    }

    pub(super) fn body(&self) -> Bytes {
        let error = json!({ "error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        } });
        error.to_string().into()
    }

    /// The same for those who share the fetch.
    pub(super) fn head(&self) -> Head {
        let json = HeaderValue::from_static("application/json");
        let mut fields = vec![(header::CONTENT_TYPE, json)];
        if let Some(seconds) = self.retry_after {
            fields.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        }
        Head {
            status: self.status,
            fields,
            length: Some(self.body().len() as u64),
        }
    }

    fn finish(&self, mut response: HttpResponse) -> HttpResponse {
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(error) = &self.body {
            error.put_fields(headers);
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// As OpenAI's clients want it.
    pub(crate) fn respond(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((header::CONTENT_TYPE, "application/json"));
        self.finish(response.body(self.body()))
    }

    /// As everybody else does (RFC 9457).
    pub(crate) fn problem(&self) -> HttpResponse {
        self.finish(problem::problem(self.status, &self.message))
    }
}
