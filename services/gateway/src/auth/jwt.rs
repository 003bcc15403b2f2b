//! JSON Web Tokens (RFC 7519) as bearer tokens (RFC 6750).

mod crypto;
mod keys;
mod verified;

use super::{Identity, Refusal, bearer};
use crate::config::{JwtConfig, JwtKey};
use actix_web::http::header::HeaderMap;
use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use keys::Keys;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use verified::Verified;

/// Bytes of a token; longer ones are not looked at.
const MAX_TOKEN: usize = 8 << 10;

const INVALID: Refusal = Refusal::Wrong("the bearer token is not valid");

pub(crate) struct Verifier {
    validation: Validation,
    algorithm: Algorithm,
    loaded: ArcSwap<Loaded>,
    /// The file that the keys come from, and its time when it was last read.
    file: Option<(PathBuf, Mutex<Option<SystemTime>>)>,
}

/// Keys, and the tokens that were verified with them: new keys begin without any.
struct Loaded {
    keys: Keys,
    verified: Verified,
}

impl Loaded {
    fn new(keys: Keys) -> Self {
        Self {
            keys,
            verified: Verified::default(),
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    /// One text (RFC 7519 §4.1.1), where a list would be taken by what verifies it.
    #[serde(default, rename = "iss")]
    _issuer: Option<String>,
    #[serde(default)]
    roles: Option<Names>,
    #[serde(default)]
    scope: Option<Names>,
    #[serde(default)]
    scopes: Option<Names>,
}

/// A list, or text with spaces (RFC 8693 §4.2).
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Text(String),
}

impl Names {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::List(list) => list,
            Self::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

impl Verifier {
    pub(super) fn new(config: &JwtConfig) -> anyhow::Result<Self> {
        crypto::install();
        let mut validation = Validation::new(config.algorithm);
        validation.leeway = config.leeway;
        validation.validate_nbf = true;
        let mut required = vec!["sub", "exp"];
        match &config.issuer {
            Some(issuer) => {
                validation.set_issuer(&[issuer]);
                required.push("iss");
            }
            None => validation.iss = None,
        }
        match &config.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        let algorithm = config.algorithm;
        let (keys, file) = match &config.key {
            JwtKey::Inline(key) => (keys::one(algorithm, key.as_bytes())?, None),
            JwtKey::File(path) => (keys::one_of_file(algorithm, path)?, None),
            JwtKey::Jwks(path) => {
                let seen = modified(path);
                let keys = keys::set(algorithm, path)?;
                (keys, Some((path.clone(), Mutex::new(seen))))
            }
        };
        Ok(Self {
            validation,
            algorithm,
            loaded: ArcSwap::from_pointee(Loaded::new(keys)),
            file,
        })
    }

    pub(super) fn verify(&self, headers: &HeaderMap) -> Result<Arc<Identity>, Refusal> {
        let token = bearer(headers).ok_or(Refusal::Missing("a bearer token is missing"))?;
        let token = std::str::from_utf8(token).map_err(|_| INVALID)?.trim_end();
        if token.len() > MAX_TOKEN {
            return Err(INVALID);
        }
        let loaded = self.loaded.load();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let hash = verified::hash(token);
        if let Some(identity) = loaded.verified.find(&hash, now) {
            return Ok(identity);
        }
        let claims = self.claims(token, &loaded.keys)?;
        if claims.sub.is_empty() {
            return Err(INVALID);
        }
        let until = claims.exp as u64;
        let names = |names: Option<Names>| names.map(Names::into_list).unwrap_or_default();
        let identity = Arc::new(Identity {
            user: claims.sub.into(),
            roles: names(claims.roles),
            scopes: names(claims.scope.or(claims.scopes)),
            mode: "jwt",
        });
        loaded.verified.keep(hash, Arc::clone(&identity), until);
        Ok(identity)
    }

    /// What a token says, if one of the keys that it may be signed with has signed it.
    fn claims(&self, token: &str, keys: &Keys) -> Result<Claims, Refusal> {
        check_extensions(token).ok_or(INVALID)?;
        let header = decode_header(token).map_err(|_| INVALID)?;
        let mut refusal = INVALID;
        for key in keys.candidates(header.kid.as_deref()) {
            match self.decode(token, key) {
                Ok(claims) => return Ok(claims),
                // The signature was right, so that no other key's will be.
                Err(refused @ Refusal::Expired(_)) => return Err(refused),
                Err(refused) => refusal = refused,
            }
        }
        Err(refusal)
    }

    fn decode(&self, token: &str, key: &DecodingKey) -> Result<Claims, Refusal> {
        let decoded = decode::<Claims>(token, key, &self.validation);
        decoded
            .map(|token| token.claims)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature => {
                    Refusal::Expired("the bearer token has expired, or is not valid yet")
                }
                _ => INVALID,
            })
    }

    pub(super) fn reload(&self) {
        let Some((path, seen)) = &self.file else {
            return;
        };
        let now = modified(path);
        if *seen.lock() == now {
            return;
        }
        // A set from which all keys have been taken away revokes them.
        match keys::set_or_none(self.algorithm, path) {
            Ok(keys) => {
                self.loaded.store(Arc::new(Loaded::new(keys)));
                tracing::info!(file = %path.display(), "JWK set read again");
            }
            // The old keys stay: a file that is being written must not lock everybody out.
            Err(error) => tracing::error!(%error, "JWK set not read again; the old one stays"),
        }
        *seen.lock() = now;
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|data| data.modified()).ok()
}

/// Refuses a token whose header asks for an extension: `crit` names some that must be understood
/// (RFC 7515 §4.1.11), of which there are none here, and may not be empty; `b64` changes what is
/// signed (RFC 7797).
fn check_extensions(token: &str) -> Option<()> {
    let header = token.split('.').next()?;
    let header = URL_SAFE_NO_PAD.decode(header).ok()?;
    let header: Map<String, Value> = serde_json::from_slice(&header).ok()?;
    let has = |name| header.contains_key(name);
    (!has("crit") && !has("b64")).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_token_panics(token in ".{0,80}") {
            let _ = check_extensions(&token);
        }
    }
}
