//! The keys that verify signatures: one, or those of a JWK Set (RFC 7517).
//!
//! They are read once for each change of their file. A key is taken only for what it says that it is
//! for: `use`, `key_ops` and `alg` count, its type has to fit the algorithm, and a key that is too
//! weak for it is no key.

use crate::config::trim_secret;
use anyhow::{Context, bail};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{
        AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse,
    },
};
use std::path::Path;

/// Keys with the same name that are tried.
const MAX_TRIED: usize = 4;
/// Keys of one set.
const MAX_KEYS: usize = 1000;
/// Of a shared secret (RFC 7518 §3.2).
const MIN_SECRET: usize = 32;
/// Bytes of an RSA modulus (RFC 7518 §3.3).
const MIN_MODULUS: usize = 256;

pub(super) enum Keys {
    One(DecodingKey),
    Set(Vec<(Option<String>, DecodingKey)>),
}

impl Keys {
    /// The keys that a token with this `kid` may be signed with.
    pub(super) fn candidates(&self, kid: Option<&str>) -> Vec<&DecodingKey> {
        match (self, kid) {
            (Self::One(key), _) => vec![key],
            (Self::Set(set), Some(kid)) => {
                let named = set.iter().filter(|(name, _)| name.as_deref() == Some(kid));
                named.map(|(_, key)| key).take(MAX_TRIED).collect()
            }
            // Which of several is meant cannot be told.
            (Self::Set(set), None) => match &set[..] {
                [(_, key)] => vec![key],
                _ => Vec::new(),
            },
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("auth: cannot read {}", path.display()))
}

/// A set that verifies something.
pub(super) fn set(algorithm: Algorithm, path: &Path) -> anyhow::Result<Keys> {
    let keys = set_or_none(algorithm, path)?;
    if matches!(&keys, Keys::Set(keys) if keys.is_empty()) {
        bail!(
            "auth.jwks_file: {} has no key that verifies {algorithm:?}",
            path.display()
        );
    }
    Ok(keys)
}

/// A set that may be empty, or have keys for other uses alone.
pub(super) fn set_or_none(algorithm: Algorithm, path: &Path) -> anyhow::Result<Keys> {
    let set: JwkSet = serde_json::from_slice(&read(path)?)
        .with_context(|| format!("auth.jwks_file: {} is no JWK set", path.display()))?;
    if set.keys.len() > MAX_KEYS {
        bail!(
            "auth.jwks_file: {} has more than {MAX_KEYS} keys",
            path.display()
        );
    }
    let mut keys = Vec::new();
    for jwk in &set.keys {
        let kid = jwk.common.key_id.as_deref();
        match verifying(algorithm, jwk) {
            Ok(key) => keys.push((kid.map(str::to_owned), key)),
            Err(why) => tracing::warn!(kid, why, "a key of the JWK set is not used"),
        }
    }
    Ok(Keys::Set(keys))
}

/// A key of a set, if signatures of this algorithm may be checked with it.
fn verifying(algorithm: Algorithm, jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    let common = &jwk.common;
    if common
        .public_key_use
        .as_ref()
        .is_some_and(|is_for| *is_for != PublicKeyUse::Signature)
    {
        return Err("its use is not sig");
    }
    if common
        .key_operations
        .as_ref()
        .is_some_and(|operations| !operations.contains(&KeyOperations::Verify))
    {
        return Err("its key_ops do not name verify");
    }
    if common
        .key_algorithm
        .is_some_and(|own| own != KeyAlgorithm::from(algorithm))
    {
        return Err("its alg is not auth.algorithm");
    }
    let fits = match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::OctetKey(_), Algorithm::HS256)
        | (AlgorithmParameters::RSA(_), Algorithm::RS256) => true,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => {
            key.curve == EllipticCurve::P256
        }
        (AlgorithmParameters::OctetKeyPair(key), Algorithm::EdDSA) => {
            key.curve == EllipticCurve::Ed25519
        }
        _ => false,
    };
    if !fits {
        return Err("its type or curve does not fit auth.algorithm");
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "it cannot be read")?;
    if is_weak(algorithm, &key) {
        return Err("it is too short for auth.algorithm (RFC 7518 §3.2, §3.3)");
    }
    Ok(key)
}

fn is_weak(algorithm: Algorithm, key: &DecodingKey) -> bool {
    use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
    match (algorithm, key.kind()) {
        (Algorithm::HS256, SecretOrDer(secret)) => secret.len() < MIN_SECRET,
        (_, RsaModulusExponent { n, .. }) => {
            let zeros = n.iter().take_while(|byte| **byte == 0).count();
            n.len() - zeros < MIN_MODULUS
        }
        _ => false,
    }
}

pub(super) fn one_of_file(algorithm: Algorithm, path: &Path) -> anyhow::Result<Keys> {
    let whole = read(path)?;
    let key = match algorithm {
        Algorithm::HS256 => shared_secret(&whole),
        _ => &whole,
    };
    if algorithm == Algorithm::HS256 && key.len() < MIN_SECRET {
        bail!(
            "auth.key_file: {} is shorter than {MIN_SECRET} bytes, which HS256 needs (RFC 7518 §3.2)",
            path.display()
        );
    }
    one(algorithm, key)
}

/// A secret that is text, without the end of the line and spaces around it. One of random bytes stays as it
/// is: such bytes may be part of it.
fn shared_secret(whole: &[u8]) -> &[u8] {
    match std::str::from_utf8(whole).map(trim_secret) {
        Ok(text) if !text.contains(char::is_control) => text.as_bytes(),
        _ => whole,
    }
}

pub(super) fn one(algorithm: Algorithm, key: &[u8]) -> anyhow::Result<Keys> {
    let key = match algorithm {
        // Everybody knows a public key: as a shared secret it would let everybody sign.
        Algorithm::HS256 if key.trim_ascii_start().starts_with(b"-----BEGIN") => {
            bail!(
                "auth.key_file: a key in PEM is no shared secret; set auth.algorithm to RS256, ES256 or EdDSA"
            )
        }
        Algorithm::HS256 => DecodingKey::from_secret(key),
        Algorithm::RS256 => {
            DecodingKey::from_rsa_pem(key).context("auth.key: no RSA public key in PEM")?
        }
        Algorithm::ES256 => {
            DecodingKey::from_ec_pem(key).context("auth.key: no EC public key in PEM")?
        }
        _ => DecodingKey::from_ed_pem(key).context("auth.key: no Ed25519 public key in PEM")?,
    };
    Ok(Keys::One(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(algorithm: Algorithm, jwk: Value) -> Result<(), &'static str> {
        let jwk: Jwk = serde_json::from_value(jwk).unwrap();
        verifying(algorithm, &jwk).map(|_| ())
    }

    #[test]
    fn a_key_verifies_only_what_it_is_for() {
        // base64url of 32 times 'a'
        let k = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE";
        // base64url of 256 bytes, all ones
        let n = format!("{}_w", "_".repeat(340));
        for (algorithm, jwk) in [
            (Algorithm::HS256, json!({ "kty": "oct", "k": k })),
            (
                Algorithm::HS256,
                json!({ "kty": "oct", "k": k, "use": "sig", "alg": "HS256" }),
            ),
            (
                Algorithm::HS256,
                json!({ "kty": "oct", "k": k, "key_ops": ["sign", "verify"] }),
            ),
            (
                Algorithm::RS256,
                json!({ "kty": "RSA", "n": n, "e": "AQAB" }),
            ),
        ] {
            assert_eq!(judged(algorithm, jwk.clone()), Ok(()), "{jwk}");
        }
        for (algorithm, jwk) in [
            (
                Algorithm::HS256,
                json!({ "kty": "oct", "k": k, "use": "enc" }),
            ),
            (
                Algorithm::HS256,
                json!({ "kty": "oct", "k": k, "use": "other" }),
            ),
            (
                Algorithm::HS256,
                json!({ "kty": "oct", "k": k, "key_ops": ["encrypt"] }),
            ),
            (
                Algorithm::HS256,
                json!({ "kty": "oct", "k": k, "key_ops": [] }),
            ),
            (
                Algorithm::HS256,
                json!({ "kty": "oct", "k": k, "alg": "HS512" }),
            ),
            (
                Algorithm::HS256,
                json!({ "kty": "oct", "k": k, "alg": "A256KW" }),
            ),
            (Algorithm::HS256, json!({ "kty": "oct", "k": "" })),
            (
                Algorithm::HS256,
                json!({ "kty": "RSA", "n": n, "e": "AQAB" }),
            ),
            (Algorithm::RS256, json!({ "kty": "oct", "k": k })),
            (
                Algorithm::RS256,
                json!({ "kty": "RSA", "n": "_".repeat(168), "e": "AQAB" }),
            ),
            (
                Algorithm::ES256,
                json!({ "kty": "EC", "crv": "P-384", "x": k, "y": k }),
            ),
        ] {
            assert!(judged(algorithm, jwk.clone()).is_err(), "{jwk}");
        }
    }

    #[test]
    fn a_shared_secret_of_a_file_ends_with_its_text() {
        assert_eq!(shared_secret(b" s3cr et\r\n"), b"s3cr et");
        for binary in [&b"\0s3cret\n"[..], b"\xffs3cret\n", b"s3c\nret\n"] {
            assert_eq!(shared_secret(binary), binary);
        }
    }

    #[test]
    fn a_public_key_is_no_shared_secret() {
        let pem = b"\n-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYI\n-----END PUBLIC KEY-----\n";
        assert!(one(Algorithm::HS256, pem).is_err());
    }
}
