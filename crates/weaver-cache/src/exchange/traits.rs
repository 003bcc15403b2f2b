//! What a request is like, and whether it goes past the cache.

use crate::{PassBy, Rule, shared::Shared};
use actix_web::{
    HttpMessage as _,
    dev::ServiceRequest,
    http::{
        Method,
        header::{self, HeaderMap},
    },
};
use weaver_cache_policy::{Bypass, invalidation, status::Forward};

/// What the request's headers say, from one pass over them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits {
    pub(super) conditional: bool,
    pub(super) for_origin: bool,
    pub(super) range: bool,
    pub(super) directives: bool,
    pub(super) body: bool,
    pub(super) upgrade: bool,
    pub(super) authorization: bool,
    pub(super) cookie: bool,
}

impl Traits {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut traits = Self::default();
        for (name, value) in headers {
            match *name {
                header::IF_NONE_MATCH | header::IF_MODIFIED_SINCE => traits.conditional = true,
                header::IF_MATCH | header::IF_UNMODIFIED_SINCE => traits.for_origin = true,
                header::RANGE => traits.range = true,
                header::CACHE_CONTROL | header::PRAGMA => traits.directives = true,
                header::CONTENT_LENGTH => traits.body |= value.as_bytes() != b"0",
                header::TRANSFER_ENCODING => traits.body = true,
                header::UPGRADE => traits.upgrade = true,
                header::AUTHORIZATION => traits.authorization = true,
                header::COOKIE => traits.cookie = true,
                _ => {}
            }
        }
        traits
    }
}

/// Ways past the cache.
pub(super) enum Past {
    Unsafe,
    Bypass(Bypass, Forward),
}

pub(super) fn past(
    shared: &Shared,
    rule: &Rule,
    req: &ServiceRequest,
    traits: Traits,
) -> Option<Past> {
    let method = req.method();
    if invalidation::is_unsafe(method.as_str()) {
        Some(Past::Unsafe)
    } else if !shared.config.cache_methods.contains(method)
        || !matches!(*method, Method::GET | Method::HEAD)
    {
        Some(Past::Bypass(Bypass::Method, Forward::Method))
    } else if let Some(PassBy(reason)) = req.extensions().get::<PassBy>() {
        Some(Past::Bypass(*reason, Forward::Bypass))
    } else if rule.bypasses(req.headers()) {
        Some(Past::Bypass(Bypass::Rule, Forward::Bypass))
    } else if traits.upgrade || traits.body {
        Some(Past::Bypass(Bypass::NotPlain, Forward::Bypass))
    } else if traits.for_origin {
        Some(Past::Bypass(Bypass::Precondition, Forward::Request))
    } else {
        None
    }
}
