//! Answers on their way to a client.

use actix_http::body::{BodySize, MessageBody};
use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use bytes::{Bytes, BytesMut};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use weaver_model_cache::{Cached, Shared, Ticket};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const NAME: &str = "weaver";

/// What is known of an answer before its body.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    pub(super) length: Option<u64>,
}

impl Head {
    pub(super) fn media_type(&self) -> &str {
        let field = self
            .fields
            .iter()
            .find(|(name, _)| *name == header::CONTENT_TYPE);
        field
            .and_then(|(_, value)| value.to_str().ok())
            .unwrap_or("")
    }
}

/// How a call came to its answer.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// It was recorded before.
    Hit {
        class: Arc<str>,
        age: Duration,
        ttl: Duration,
    },
    /// It is fetched, and recorded.
    Miss { class: Arc<str>, ttl: Duration },
    /// Another call fetches it.
    Shared { class: Arc<str>, ttl: Duration },
    /// It is fetched and not recorded; why not.
    Bypass(&'static str),
}

/// An answer, whole or on its way.
pub(crate) struct Served {
    pub(crate) head: Head,
    body: Body,
    pub(crate) how: How,
}

enum Body {
    Whole(Bytes),
    Coming(Shared<Head>),
}

impl Served {
    pub(super) fn cached(cached: Cached) -> Self {
        let media_type = HeaderValue::try_from(&cached.answer.media_type);
        let json = HeaderValue::from_static("application/json");
        Self {
            head: Head {
                status: StatusCode::OK,
                fields: vec![(header::CONTENT_TYPE, media_type.unwrap_or(json))],
                length: None,
            },
            body: Body::Whole(cached.answer.body),
            how: How::Hit {
                class: cached.class,
                age: cached.age,
                ttl: cached.ttl,
            },
        }
    }

    pub(super) fn coming(head: Head, body: Shared<Head>, how: How) -> Self {
        Self {
            head,
            body: Body::Coming(body),
            how,
        }
    }

    pub(super) fn shared(mut head: Head, body: Shared<Head>, ticket: &Ticket) -> Self {
        // The rest is for the call that fetches.
        head.fields
            .retain(|(name, _)| *name == header::CONTENT_TYPE);
        let how = How::Shared {
            class: Arc::clone(ticket.class()),
            ttl: ticket.ttl(),
        };
        Self::coming(head, body, how)
    }

    /// The answer as a response, streamed as it comes.
    pub(crate) fn respond(self) -> HttpResponse {
        let status = self.status_field();
        let Self { head, body, how } = self;
        let mut response = match body {
            Body::Whole(bytes) => HttpResponse::build(head.status).body(bytes),
            Body::Coming(inner) => {
                let length = head.length;
                HttpResponse::build(head.status).body(Coming { inner, length })
            }
        };
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        for (name, value) in head.fields {
            headers.append(name, value);
        }
        if let How::Hit { age, .. } = how {
            headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
        }
        if let Ok(status) = HeaderValue::try_from(status) {
            headers.append(CACHE_STATUS, status);
        }
        // Shared caches between here and the client must not keep what a POST brought.
        if !headers.contains_key(header::CACHE_CONTROL) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }

    /// RFC 9211. An error is not recorded.
    pub(crate) fn status_field(&self) -> String {
        let failed = self.head.status != StatusCode::OK;
        let detail = |class: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            let token = class.bytes().all(plain)
                && class.starts_with(|first: char| first.is_ascii_alphabetic());
            if token {
                format!("; detail={class}")
            } else {
                String::new()
            }
        };
        match &self.how {
            How::Hit { class, ttl, .. } => {
                format!("{NAME}; hit; ttl={}{}", ttl.as_secs(), detail(class))
            }
            How::Miss { class, .. } if failed => format!("{NAME}; fwd=miss{}", detail(class)),
            How::Miss { class, ttl } => {
                let (ttl, detail) = (ttl.as_secs(), detail(class));
                format!("{NAME}; fwd=miss; ttl={ttl}; stored{detail}")
            }
            How::Shared { class, .. } => {
                format!("{NAME}; fwd=miss; collapsed{}", detail(class))
            }
            How::Bypass(why) => format!("{NAME}; fwd=bypass; detail={why}"),
        }
    }

    /// The whole answer; `None` if it broke off or is longer.
    pub(crate) async fn whole(self, most: usize) -> Option<(StatusCode, Bytes)> {
        let bytes = match self.body {
            Body::Whole(bytes) => bytes,
            Body::Coming(mut coming) => {
                let mut whole = BytesMut::new();
                while let Some(piece) = coming.next().await {
                    let piece = piece.ok()?;
                    if whole.len() + piece.len() > most {
                        return None;
                    }
                    whole.extend_from_slice(&piece);
                }
                whole.freeze()
            }
        };
        Some((self.head.status, bytes))
    }
}

/// An answer's body as it comes; one that breaks off is an error, never a clean end.
struct Coming {
    inner: Shared<Head>,
    length: Option<u64>,
}

impl MessageBody for Coming {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.length.map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let next = futures_util::Stream::poll_next(Pin::new(&mut self.inner), cx);
        next.map_err(Into::into)
    }
}
