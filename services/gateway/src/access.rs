//! The access log: a line for each request, written when the last byte of its response is gone.
//!
//! In: a request that was let in or refused, then its response. Out: a line, as an event of the log or
//! in the combined format of Apache. Queries are left out, since some carry secrets; a user is known by
//! a keyed hash.

mod body;
mod combined;

use crate::{
    config::{AccessLogFormat, Config, LogFormat},
    ingress::RequestContext,
    proxy::Upstream,
};
use actix_web::{
    dev::ServiceRequest,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName},
    },
};
pub(crate) use body::Logged;
use serde::Serialize;
use std::{
    cell::RefCell,
    io::Write as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Longest text of a client's that goes into a line.
const MAX_TEXT: usize = 1024;
/// Bytes of a user's hash.
const USER_BYTES: usize = 8;

/// Which upstream answered, and how long that took until its head was there.
#[derive(Default)]
pub(crate) struct Answerer(RefCell<Option<(Arc<Upstream>, Duration)>>);

impl Answerer {
    pub(crate) fn note(&self, upstream: &Arc<Upstream>, since: Instant) {
        *self.0.borrow_mut() = Some((Arc::clone(upstream), since.elapsed()));
    }
}

/// How lines are written.
#[derive(Clone)]
pub(crate) struct AccessLog {
    format: AccessLogFormat,
    own_lines: bool,
    key: [u8; 32],
}

impl AccessLog {
    /// `None` where it is off.
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let telemetry = &config.telemetry;
        let secret = match config.cache.identity_secret {
            Some(secret) => secret.to_vec(),
            // Of this process only.
            None => random().to_vec(),
        };
        telemetry.access_log.then(|| Self {
            format: telemetry.access_log_format,
            own_lines: telemetry.log_format != LogFormat::Json,
            key: blake3::derive_key("weaver 2026 users in the access log", &secret),
        })
    }

    /// The line of a request, before it is answered.
    pub(crate) fn begin(&self, req: &ServiceRequest, started: Instant) -> Line {
        let headers = req.headers();
        Line {
            record: Record {
                method: req.method().as_str().to_owned(),
                path: clipped(req.path()),
                version: format!("{:?}", req.version()),
                host: text(headers, &header::HOST),
                referer: text(headers, &header::REFERER),
                user_agent: text(headers, &header::USER_AGENT),
                trace_id: trace_id(headers),
                client: req.peer_addr().map(|peer| peer.ip()),
                ..Record::default()
            },
            is_bodiless: *req.method() == Method::HEAD,
            log: self.clone(),
            started,
            upstream: None,
        }
    }

    fn hash(&self, user: &str) -> String {
        let hash = blake3::keyed_hash(&self.key, user.as_bytes());
        let bytes = hash.as_bytes().iter().take(USER_BYTES);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A request's line, written when it is dropped.
pub(crate) struct Line {
    record: Record,
    log: AccessLog,
    started: Instant,
    is_bodiless: bool,
    upstream: Option<std::rc::Rc<RequestContext>>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Record {
    method: String,
    path: String,
    #[serde(skip)]
    version: String,
    status: u16,
    /// Of the body.
    bytes: u64,
    /// Whether the body was sent to its end.
    complete: bool,
    /// Until the end of the body.
    seconds: f64,
    /// Until the head of the response.
    head_seconds: f64,
    route: String,
    cache: &'static str,
    cache_status: Option<String>,
    upstream: Option<String>,
    upstream_seconds: Option<f64>,
    host: Option<String>,
    client: Option<IpAddr>,
    user: Option<String>,
    user_agent: Option<String>,
    #[serde(skip)]
    referer: Option<String>,
    request_id: String,
    trace_id: Option<String>,
}

impl Line {
    /// Who asks, of a request that was let in.
    pub(crate) fn admitted(&mut self, context: &std::rc::Rc<RequestContext>) {
        let identity = context.identity.as_ref();
        self.record.user = identity.map(|identity| self.log.hash(&identity.user));
        self.record.client = context.canonical.client.address.or(self.record.client);
        self.record.route = clipped(context.matched.target.name());
        self.upstream = Some(std::rc::Rc::clone(context));
    }

    pub(crate) fn refused(&mut self, route: &str) {
        self.record.route = clipped(route);
    }

    /// The head of the response is there.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        let record = &mut self.record;
        record.status = status.as_u16();
        record.head_seconds = self.started.elapsed().as_secs_f64();
        let id = headers.get(crate::ingress::X_REQUEST_ID);
        let id = id.and_then(|id| id.to_str().ok());
        record.request_id = id.unwrap_or_default().to_owned();
        // The last member is ours: those before are of caches nearer to the origin.
        let member = headers.get_all("cache-status").last();
        let member = member.and_then(|member| member.to_str().ok());
        let member = member.and_then(|member| member.rsplit(", ").next());
        record.cache = outcome(member);
        record.cache_status = member.map(clipped);
        self.is_bodiless |= matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT
        );
    }

    fn count(&mut self, bytes: usize) {
        self.record.bytes += bytes as u64;
    }

    fn completed(&mut self) {
        self.record.complete = true;
    }

    fn write(&mut self) {
        let record = &mut self.record;
        record.seconds = self.started.elapsed().as_secs_f64();
        if self.is_bodiless {
            record.bytes = 0;
            record.complete = true;
        }
        if let Some(context) = self.upstream.take()
            && let Some((upstream, took)) = &*context.upstream.0.borrow()
        {
            record.upstream = Some(upstream.endpoint.dialled().to_owned());
            record.upstream_seconds = Some(took.as_secs_f64());
        }
        let own = match self.log.format {
            AccessLogFormat::Combined => combined::line(record, SystemTime::now()),
            AccessLogFormat::Json if self.log.own_lines => {
                serde_json::to_string(record).unwrap_or_default()
            }
            AccessLogFormat::Json => return event(record),
        };
        // A log that cannot be written must not end what is logged.
        let _ = writeln!(std::io::stdout().lock(), "{own}");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.write();
    }
}

fn event(record: &Record) {
    tracing::info!(
        target: "weaver_gateway::access",
        method = record.method,
        path = record.path,
        status = record.status,
        bytes = record.bytes,
        complete = record.complete,
        seconds = record.seconds,
        head_seconds = record.head_seconds,
        route = record.route,
        cache = record.cache,
        cache_status = record.cache_status,
        upstream = record.upstream,
        upstream_seconds = record.upstream_seconds,
        host = record.host,
        client = record.client.map(|client| client.to_string()),
        user = record.user,
        user_agent = record.user_agent,
        request_id = record.request_id,
        trace_id = record.trace_id,
    );
}

/// In a word what the member of Cache-Status says.
fn outcome(member: Option<&str>) -> &'static str {
    match member {
        None => "none",
        Some(member) if member.contains("; hit") && member.contains("ttl=-") => "stale",
        Some(member) if member.contains("; hit") => "hit",
        Some(member) if member.contains("; collapsed") => "collapsed",
        Some(member) if member.contains("fwd-status=304") => "revalidated",
        Some(member) if member.contains("fwd=bypass") || member.contains("fwd=method") => "bypass",
        Some(_) => "miss",
    }
}

fn clipped(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(clipped(&String::from_utf8_lossy(value.as_bytes())))
}

/// Of `traceparent` (W3C Trace Context §3.2): version, trace id, parent id, flags.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let id = value.split('-').nth(1)?;
    let is_id = id.len() == 32
        && id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && id.bytes().any(|byte| byte != b'0');
    is_id.then(|| id.to_owned())
}

fn random() -> [u8; 16] {
    use std::hash::{BuildHasher as _, Hasher as _};
    let one = || std::hash::RandomState::new().build_hasher().finish();
    ((u128::from(one()) << 64) | u128::from(one())).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn only_a_valid_traceparent_has_a_trace_id() {
        let of = |value: &str| {
            let request = TestRequest::default().insert_header(("traceparent", value));
            trace_id(request.to_http_request().headers())
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            of(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(),
            Some(id)
        );
        for bad in [
            "",
            "00",
            "00-xyz-1-1",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_outcome_is_a_word() {
        for (member, word) in [
            ("weaver; hit; ttl=5", "hit"),
            ("weaver; hit; ttl=-5", "stale"),
            ("weaver; fwd=uri-miss; stored", "miss"),
            ("weaver; fwd=uri-miss; collapsed", "collapsed"),
            ("weaver; fwd=stale; fwd-status=304", "revalidated"),
            ("weaver; fwd=bypass; detail=rule", "bypass"),
        ] {
            assert_eq!(outcome(Some(member)), word, "{member}");
        }
        assert_eq!(outcome(None), "none");
    }

    #[test]
    fn long_texts_are_clipped_between_characters() {
        assert_eq!(clipped(&"ä".repeat(MAX_TEXT)).len(), MAX_TEXT);
        assert_eq!(
            clipped(&format!("x{}", "ä".repeat(MAX_TEXT))).len(),
            MAX_TEXT - 1
        );
    }
}
