//! JSON Web Tokens (RFC 7519) as bearer tokens (RFC 6750).

use super::{Identity, Refusal};
use crate::config::{JwtConfig, JwtKey};
use actix_web::http::{
    StatusCode,
    header::{AUTHORIZATION, HeaderMap},
};
use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use parking_lot::Mutex;
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

pub(crate) struct Verifier {
    validation: Validation,
    keys: ArcSwap<Keys>,
    /// The file that the keys come from, and its time when it was last read.
    file: Option<(PathBuf, Mutex<Option<SystemTime>>)>,
}

enum Keys {
    One(DecodingKey),
    Set(JwkSet),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
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
        let (keys, file) = match &config.key {
            JwtKey::Inline(key) => (Keys::One(one(config.algorithm, key.as_bytes())?), None),
            JwtKey::File(path) => {
                let key = read(path)?;
                (Keys::One(one(config.algorithm, &key)?), None)
            }
            JwtKey::Jwks(path) => {
                let seen = modified(path);
                (set(path)?, Some((path.clone(), Mutex::new(seen))))
            }
        };
        Ok(Self {
            validation,
            keys: ArcSwap::from_pointee(keys),
            file,
        })
    }

    pub(super) fn verify(&self, headers: &HeaderMap) -> Result<Arc<Identity>, Refusal> {
        const INVALID: Refusal = (StatusCode::UNAUTHORIZED, "the bearer token is not valid");
        let mut lines = headers.get_all(AUTHORIZATION);
        let given = lines
            .next()
            .ok_or((StatusCode::UNAUTHORIZED, "a bearer token is missing"))?;
        if lines.next().is_some() {
            return Err((StatusCode::BAD_REQUEST, "Authorization is there twice"));
        }
        let token = given
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or((StatusCode::UNAUTHORIZED, "a bearer token is missing"))?;
        let keys = self.keys.load();
        let claims = match &**keys {
            Keys::One(key) => decode::<Claims>(token, key, &self.validation),
            Keys::Set(set) => {
                let header = decode_header(token).map_err(|_| INVALID)?;
                let jwk = match &header.kid {
                    Some(kid) => set.find(kid),
                    None if set.keys.len() == 1 => set.keys.first(),
                    None => None,
                };
                let key = DecodingKey::from_jwk(jwk.ok_or(INVALID)?).map_err(|_| INVALID)?;
                decode::<Claims>(token, &key, &self.validation)
            }
        };
        let claims = claims.map_err(|_| INVALID)?.claims;
        let names = |names: Option<Names>| names.map(Names::into_list).unwrap_or_default();
        Ok(Arc::new(Identity {
            user: claims.sub.into(),
            roles: names(claims.roles),
            scopes: names(claims.scope.or(claims.scopes)),
            mode: "jwt",
        }))
    }

    pub(super) fn reload(&self) {
        let Some((path, seen)) = &self.file else {
            return;
        };
        let now = modified(path);
        if *seen.lock() == now {
            return;
        }
        match set(path) {
            Ok(keys) => {
                self.keys.store(Arc::new(keys));
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

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("auth: cannot read {}", path.display()))
}

fn set(path: &Path) -> anyhow::Result<Keys> {
    let set: JwkSet = serde_json::from_slice(&read(path)?)
        .with_context(|| format!("auth.jwks_file: {} is no JWK set", path.display()))?;
    if set.keys.is_empty() {
        bail!("auth.jwks_file: {} has no key", path.display());
    }
    Ok(Keys::Set(set))
}

fn one(algorithm: Algorithm, key: &[u8]) -> anyhow::Result<DecodingKey> {
    match algorithm {
        Algorithm::HS256 => Ok(DecodingKey::from_secret(key)),
        Algorithm::RS256 => {
            DecodingKey::from_rsa_pem(key).context("auth.key: no RSA public key in PEM")
        }
        Algorithm::ES256 => {
            DecodingKey::from_ec_pem(key).context("auth.key: no EC public key in PEM")
        }
        _ => DecodingKey::from_ed_pem(key).context("auth.key: no Ed25519 public key in PEM"),
    }
}
