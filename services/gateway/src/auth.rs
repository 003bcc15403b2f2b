//! Who makes a request. Runs before the cache, so that a hit answers only whom it may.

mod failures;
mod jwt;

pub(crate) use failures::FailureBudget;

use crate::{
    config::{AuthConfig, AuthMode},
    problem::problem,
};
use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use std::{collections::HashMap, net::IpAddr, sync::Arc};
use subtle::ConstantTimeEq;

/// An authenticated user.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) user: Arc<str>,
    pub(crate) roles: Vec<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) mode: &'static str,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There are no credentials.
    Missing(&'static str),
    /// They are wrong: what a guesser sees.
    Wrong(&'static str),
    /// They were right, and are not any more, or not yet.
    Expired(&'static str),
    /// It cannot be told which credentials, or which user, are meant.
    Ambiguous(&'static str),
    /// They are another user's.
    Forbidden(&'static str),
    /// Too many wrong ones came from the same address; the seconds until they are looked at again.
    TooManyFailures(u64),
}

pub(crate) struct Authenticator {
    method: Method,
    failures: Option<FailureBudget>,
}

enum Method {
    None,
    ApiKey(ApiKeys),
    Jwt(Box<jwt::Verifier>),
}

/// The token of one Authorization line with the scheme Bearer, which is written in any case.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut lines = headers.get_all(header::AUTHORIZATION);
    let line = lines.next()?.as_bytes();
    let (scheme, token) = line.split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && lines.next().is_none())
        .then(|| token.trim_ascii_start())
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");

impl Authenticator {
    pub(crate) fn new(config: &AuthConfig) -> anyhow::Result<Self> {
        let method = match &config.mode {
            AuthMode::None => Method::None,
            AuthMode::ApiKey(keys) => Method::ApiKey(ApiKeys::new(keys)),
            AuthMode::Jwt(jwt) => Method::Jwt(Box::new(jwt::Verifier::new(jwt)?)),
        };
        Ok(Self {
            method,
            failures: FailureBudget::new(config.failures_per_minute),
        })
    }

    pub(crate) fn mode(&self) -> &'static str {
        match &self.method {
            Method::None => "none",
            Method::ApiKey(_) => "api_key",
            Method::Jwt(_) => "jwt",
        }
    }

    /// The user of a request from an address; `None` where nobody is asked for. Otherwise the
    /// response that refuses it.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Result<Option<Arc<Identity>>, Box<HttpResponse>> {
        if matches!(self.method, Method::None) {
            return Ok(None);
        }
        let identity = self.identify(headers, address);
        if let (Err(Refusal::Wrong(_)), Some(failures)) = (&identity, &self.failures) {
            failures.failed(address);
        }
        identity.map_err(|refusal| Box::new(self.respond(refusal)))
    }

    fn identify(
        &self,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        if let Some(failures) = &self.failures {
            failures.check(address).map_err(Refusal::TooManyFailures)?;
        }
        // The upstream may read another of the lines than we do.
        if headers.get_all(header::AUTHORIZATION).nth(1).is_some() {
            return Err(Refusal::Ambiguous("Authorization is there twice"));
        }
        let mut claimed = headers.get_all(X_USER_ID);
        let (claimed, more) = (claimed.next(), claimed.next());
        if more.is_some() {
            return Err(Refusal::Ambiguous("x-user-id is there twice"));
        }
        let identity = match &self.method {
            Method::None => return Ok(None),
            Method::ApiKey(keys) => keys.find(headers)?,
            Method::Jwt(verifier) => verifier.verify(headers)?,
        };
        // Whoever says who they are must be who they are.
        if claimed.is_some_and(|claimed| claimed.as_bytes() != identity.user.as_bytes()) {
            let what = "x-user-id names another user than the credentials";
            return Err(Refusal::Forbidden(what));
        }
        Ok(Some(identity))
    }

    /// Whose store a request is answered from: the user's, and apart from it, where there is an
    /// Authorization that was not read here, what that says. It reaches the upstream too.
    pub(crate) fn partition(&self, identity: &Identity, headers: &HeaderMap) -> Arc<str> {
        let user = &identity.user;
        match headers.get(header::AUTHORIZATION) {
            Some(other)
                if matches!(self.method, Method::ApiKey(_)) && bearer(headers).is_none() =>
            {
                let hash = blake3::hash(other.as_bytes()).to_hex();
                format!("{} {user} {hash}", user.len()).into()
            }
            _ => Arc::clone(user),
        }
    }

    fn respond(&self, refusal: Refusal) -> HttpResponse {
        let (status, what) = match refusal {
            Refusal::Missing(what) | Refusal::Wrong(what) | Refusal::Expired(what) => {
                (StatusCode::UNAUTHORIZED, what)
            }
            Refusal::Ambiguous(what) => (StatusCode::BAD_REQUEST, what),
            Refusal::Forbidden(what) => (StatusCode::FORBIDDEN, what),
            Refusal::TooManyFailures(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too many wrong credentials came from this address; try again later",
            ),
        };
        let mut response = problem(status, what);
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static(self.challenge());
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Refusal::TooManyFailures(seconds) = refusal {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The challenge of a 401 (RFC 9110 §11.6.1).
    fn challenge(&self) -> &'static str {
        match &self.method {
            Method::Jwt(_) => "Bearer realm=\"weaver\"",
            _ => "ApiKey realm=\"weaver\", header=\"x-api-key\"",
        }
    }

    /// Looks whether what keys come from has changed; does file I/O.
    pub(crate) fn reload(&self) {
        if let Method::Jwt(verifier) = &self.method {
            verifier.reload();
        }
    }

    /// Forgets whose wrong credentials are forgiven.
    pub(crate) fn run_maintenance(&self) {
        if let Some(failures) = &self.failures {
            failures.run_maintenance();
        }
    }
}

/// Keys by their hash, so that neither finding nor comparing takes longer for a key that is nearly
/// right.
pub(crate) struct ApiKeys(HashMap<[u8; 32], Arc<Identity>>);

impl ApiKeys {
    fn new(keys: &[crate::config::ApiKey]) -> Self {
        Self(
            keys.iter()
                .map(|key| {
                    let identity = Identity {
                        user: Arc::clone(&key.user),
                        roles: key.roles.clone(),
                        scopes: key.scopes.clone(),
                        mode: "api_key",
                    };
                    (
                        *blake3::hash(key.key.as_bytes()).as_bytes(),
                        Arc::new(identity),
                    )
                })
                .collect(),
        )
    }

    fn find(&self, headers: &HeaderMap) -> Result<Arc<Identity>, Refusal> {
        let mut lines = headers.get_all(X_API_KEY);
        let (field, more) = (lines.next().map(HeaderValue::as_bytes), lines.next());
        if more.is_some() {
            return Err(Refusal::Ambiguous("x-api-key is there twice"));
        }
        let given = match (field, bearer(headers)) {
            (Some(field), Some(bearer)) if field != bearer => {
                let what = "x-api-key and the bearer token of Authorization are different keys";
                return Err(Refusal::Ambiguous(what));
            }
            (Some(given), _) | (None, Some(given)) => given,
            (None, None) => return Err(Refusal::Missing("x-api-key is missing")),
        };
        let hash = *blake3::hash(given).as_bytes();
        self.0
            .get_key_value(&hash)
            .filter(|(known, _)| bool::from(known.ct_eq(&hash)))
            .map(|(_, identity)| Arc::clone(identity))
            .ok_or(Refusal::Wrong("x-api-key is not valid"))
    }
}
