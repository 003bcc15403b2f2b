//! Why a body is not read.

use super::coding;
use crate::problem::problem;
use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderValue},
    },
};

/// Seconds after which there may be room again: bodies are held for as long as a call lasts.
const RETRY_AFTER: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    Slow,
    Broken,
    /// It has more bytes than this, as it came or decoded.
    TooLarge(usize),
    /// It takes more memory than all bodies together may.
    TooDear(u64),
    /// All bodies together hold as much as they may.
    Full,
    UnknownCoding,
    /// It is not what its Content-Encoding says.
    Malformed(&'static str),
    /// Work on it ended in a fault of ours.
    Failed,
}

impl BodyError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) | Self::TooDear(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::UnknownCoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Slow => "the body did not come in time".to_owned(),
            Self::Broken => "the body of the request broke off".to_owned(),
            Self::TooLarge(most) => format!("the body has more than {most} bytes, decoded"),
            Self::TooDear(limit) => format!(
                "the body takes more memory than the {limit} bytes of server.max_parsed_bodies"
            ),
            Self::Full => {
                "the bodies of other requests take all the memory that there is for them \
                 (server.max_parsed_bodies); try again"
                    .to_owned()
            }
            Self::UnknownCoding => format!(
                "the Content-Encoding of the body is not understood; use up to {} of {}",
                coding::MOST,
                coding::ACCEPTED
            ),
            Self::Malformed(coding) => {
                format!("the body is no {coding}, as its Content-Encoding says")
            }
            Self::Failed => "the body was not read".to_owned(),
        }
    }

    /// What the response tells besides: when to try again, or which codings are understood (RFC 9110
    /// §15.5.16, RFC 7694).
    pub(crate) fn put_fields(&self, headers: &mut HeaderMap) {
        match self {
            Self::Full => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
            }
            Self::UnknownCoding => {
                let accepted = HeaderValue::from_static(coding::ACCEPTED);
                headers.insert(header::ACCEPT_ENCODING, accepted);
            }
            _ => {}
        }
    }

    pub(crate) fn problem(&self) -> HttpResponse {
        let mut response = problem(self.status(), &self.message());
        self.put_fields(response.headers_mut());
        response
    }
}
