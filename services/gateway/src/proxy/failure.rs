//! Why an upstream gave no response that can be passed on.

use super::{cause, framing::Misframed, interim};
use crate::problem;
use actix_web::{
    HttpResponse,
    http::{StatusCode, header::HeaderValue},
};
use std::{io, time::Duration};
use weaver_cache::OriginUnreachable;

/// Why there is no response.
pub(crate) enum Failure {
    Connect(hyper_util::client::legacy::Error),
    ConnectTimeout,
    FirstByte(Duration),
    Broken(hyper_util::client::legacy::Error),
    /// The head is no HTTP/1.1, or its fields contradict one another.
    Malformed(hyper_util::client::legacy::Error),
    /// The head is larger than `max_upstream_head`.
    HeadTooLarge,
    /// Nobody can tell where the body ends, or how it is coded.
    Misframed(Misframed),
    /// A 101 that nobody asked for, or to another protocol.
    Unasked,
    /// More interim responses than anybody needs.
    Flood,
}

impl Failure {
    pub(crate) fn of(error: hyper_util::client::legacy::Error) -> Self {
        if !error.is_connect() {
            let parse = std::error::Error::source(&error)
                .and_then(|cause| cause.downcast_ref::<hyper::Error>());
            return match parse {
                Some(parse) if parse.is_parse_too_large() => Self::HeadTooLarge,
                Some(parse) if parse.is_parse() => Self::Malformed(error),
                _ => Self::Broken(error),
            };
        }
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(cause) = source {
            if cause
                .downcast_ref::<io::Error>()
                .is_some_and(|io| io.kind() == io::ErrorKind::TimedOut)
            {
                return Self::ConnectTimeout;
            }
            source = cause.source();
        }
        Self::Connect(error)
    }

    /// Whether nothing of the request can have reached the upstream.
    pub(crate) fn is_before_sending(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout)
    }

    /// Whether another attempt may fare better. An upstream that answers wrongly would do so again.
    pub(super) fn is_worth_another_attempt(&self) -> bool {
        self.is_before_sending() || matches!(self, Self::FirstByte(_) | Self::Broken(_))
    }

    /// Whether it tells that the upstream as a whole is failing. A head that is too large does not:
    /// it belongs to one URL, and a client that finds it must not be able to eject the upstream.
    pub(crate) fn counts_against_upstream(&self) -> bool {
        !matches!(self, Self::HeadTooLarge)
    }

    /// What a client is told of it.
    pub(crate) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Connect(_) => (StatusCode::BAD_GATEWAY, "the upstream could not be reached"),
            Self::ConnectTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "the upstream did not accept a connection in time",
            ),
            Self::FirstByte(_) => (
                StatusCode::GATEWAY_TIMEOUT,
                "the upstream did not answer in time",
            ),
            Self::Broken(_) => (
                StatusCode::BAD_GATEWAY,
                "the upstream broke off before it had answered",
            ),
            Self::Malformed(_) => (
                StatusCode::BAD_GATEWAY,
                "the head of the upstream's response is not valid HTTP/1.1",
            ),
            Self::HeadTooLarge => (
                StatusCode::BAD_GATEWAY,
                "the head of the upstream's response is larger than max_upstream_head",
            ),
            Self::Misframed(how) => (StatusCode::BAD_GATEWAY, how.as_str()),
            Self::Unasked => (
                StatusCode::BAD_GATEWAY,
                "the upstream switched to a protocol that was not asked for",
            ),
            Self::Flood => (
                StatusCode::BAD_GATEWAY,
                "the upstream sent too many interim responses",
            ),
        }
    }

    pub(super) fn respond(&self, upstream: &str) -> HttpResponse {
        let (status, detail) = self.status();
        unreachable(
            problem::of_upstream(status, detail, upstream),
            OriginUnreachable::Asked,
        )
    }

    /// Says in one line of the log which upstream failed whom, and of what.
    pub(crate) fn log(&self, attempt: &Attempt<'_>) {
        tracing::warn!(
            upstream = attempt.upstream,
            route = attempt.route,
            request_id = attempt.request_id.to_str().unwrap_or(""),
            cause = self.cause(attempt.connect_timeout),
            "upstream failed"
        );
    }

    /// The whole cause, down to what the system said.
    fn cause(&self, connect_timeout: Duration) -> String {
        match self {
            Self::Connect(error) => {
                let cause = cause::chain(error);
                if cause.contains("failed to lookup address") {
                    format!("no such host: {cause}")
                } else {
                    cause
                }
            }
            Self::Broken(error) => {
                format!("broke off before it had answered: {}", cause::chain(error))
            }
            Self::Malformed(error) => format!("{}: {}", self.status().1, cause::chain(error)),
            Self::ConnectTimeout => {
                let after = cause::seconds(connect_timeout);
                format!("timed out after {after}: no connection was made")
            }
            Self::FirstByte(limit) => {
                let after = cause::seconds(*limit);
                format!("timed out after {after}: no byte of a response came")
            }
            Self::Flood => {
                let (most, bytes) = (interim::MAX_RECEIVED, interim::MAX_RECEIVED_BYTES);
                format!("more than {most} interim responses, or {bytes} bytes of them")
            }
            Self::HeadTooLarge | Self::Misframed(_) | Self::Unasked => self.status().1.to_owned(),
        }
    }
}

/// Which attempt failed.
pub(crate) struct Attempt<'a> {
    /// Scheme and authority.
    pub(crate) upstream: &'a str,
    pub(crate) route: &'a str,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) connect_timeout: Duration,
}

/// Tells the cache that the origin was not reached, so that it may serve what it has.
pub(super) fn unreachable(mut response: HttpResponse, how: OriginUnreachable) -> HttpResponse {
    response.extensions_mut().insert(how);
    response
}
