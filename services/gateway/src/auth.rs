//! Who makes a request. Runs before the cache, so that a hit answers only whom it may.

mod jwt;

use crate::config::{AuthConfig, AuthMode};
use actix_web::http::{
    StatusCode,
    header::{HeaderMap, HeaderName},
};
use std::{collections::HashMap, sync::Arc};
use subtle::ConstantTimeEq;

/// An authenticated user.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) user: Arc<str>,
    pub(crate) roles: Vec<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) mode: &'static str,
}

/// Why a request is refused: the status, and words for the client.
pub(crate) type Refusal = (StatusCode, &'static str);

pub(crate) enum Authenticator {
    None,
    ApiKey(ApiKeys),
    Jwt(Box<jwt::Verifier>),
}

/// A key as a bearer token, as clients of models send theirs.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut lines = headers.get_all("authorization");
    let line = lines.next()?.as_bytes();
    let (scheme, token) = line.split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && lines.next().is_none()).then_some(token)
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");

impl Authenticator {
    pub(crate) fn new(config: &AuthConfig) -> anyhow::Result<Self> {
        Ok(match &config.mode {
            AuthMode::None => Self::None,
            AuthMode::ApiKey(keys) => Self::ApiKey(ApiKeys::new(keys)),
            AuthMode::Jwt(jwt) => Self::Jwt(Box::new(jwt::Verifier::new(jwt)?)),
        })
    }

    pub(crate) fn mode(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ApiKey(_) => "api_key",
            Self::Jwt(_) => "jwt",
        }
    }

    /// The challenge of a 401 (RFC 9110 §11.6.1).
    pub(crate) fn challenge(&self) -> &'static str {
        match self {
            Self::Jwt(_) => "Bearer realm=\"weaver\"",
            _ => "ApiKey realm=\"weaver\", header=\"x-api-key\"",
        }
    }

    /// The user of a request; `None` where nobody is asked for.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        let identity = match self {
            Self::None => return Ok(None),
            Self::ApiKey(keys) => keys.find(headers)?,
            Self::Jwt(verifier) => verifier.verify(headers)?,
        };
        // Whoever says who they are must be who they are.
        if let Some(claimed) = headers.get(X_USER_ID)
            && claimed.as_bytes() != identity.user.as_bytes()
        {
            return Err((
                StatusCode::FORBIDDEN,
                "x-user-id names another user than the credentials",
            ));
        }
        Ok(Some(identity))
    }

    /// Looks whether what keys come from has changed; does file I/O.
    pub(crate) fn reload(&self) {
        if let Self::Jwt(verifier) = self {
            verifier.reload();
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
        let given = match lines.next() {
            Some(given) => given.as_bytes(),
            None => bearer(headers).ok_or((StatusCode::UNAUTHORIZED, "x-api-key is missing"))?,
        };
        if lines.next().is_some() {
            return Err((StatusCode::BAD_REQUEST, "x-api-key is there twice"));
        }
        let hash = *blake3::hash(given).as_bytes();
        self.0
            .get_key_value(&hash)
            .filter(|(known, _)| bool::from(known.ct_eq(&hash)))
            .map(|(_, identity)| Arc::clone(identity))
            .ok_or((StatusCode::UNAUTHORIZED, "x-api-key is not valid"))
    }
}
