//! `[auth]`

use super::Section;
use crate::config::secret;
use jsonwebtoken::Algorithm;
use std::{cell::Cell, collections::BTreeSet, fmt, path::PathBuf, sync::Arc};

/// `[auth]`
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// How requests are authenticated.
    pub mode: AuthMode,
    /// Wrong credentials that may come from one address in a minute; 0 is no limit.
    pub failures_per_minute: u32,
}

/// How requests are authenticated.
#[derive(Clone, Debug)]
pub enum AuthMode {
    /// Not at all.
    None,
    /// By the header `x-api-key`.
    ApiKey(Vec<ApiKey>),
    /// By a JSON Web Token in Authorization (RFC 7519, RFC 6750).
    Jwt(JwtConfig),
}

/// One API key and whose it is.
#[derive(Clone)]
pub struct ApiKey {
    /// The key.
    pub key: String,
    /// The user.
    pub user: Arc<str>,
    /// Their roles.
    pub roles: Vec<String>,
    /// Their scopes.
    pub scopes: Vec<String>,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What a token has to be.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// The algorithms that are accepted.
    pub algorithm: Algorithm,
    /// What signatures are checked with.
    pub key: JwtKey,
    /// The issuer, if one is required.
    pub issuer: Option<String>,
    /// The audience, if one is required.
    pub audience: Option<String>,
    /// Seconds by which clocks may differ.
    pub leeway: u64,
}

/// What signatures are checked with.
#[derive(Clone)]
pub enum JwtKey {
    /// A shared secret, or a public key in PEM.
    Inline(String),
    /// A file with either.
    File(PathBuf),
    /// A JWK Set (RFC 7517), read again when it changes.
    Jwks(PathBuf),
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(***)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Jwks(path) => f.debug_tuple("Jwks").field(path).finish(),
        }
    }
}

pub(super) fn read(mut section: Section<'_>) -> AuthConfig {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        None,
        ApiKey,
        Jwt,
    }
    let names = [
        ("none", Kind::None),
        ("api_key", Kind::ApiKey),
        ("jwt", Kind::Jwt),
    ];
    let kind = section.choice("mode", Kind::None, &names);
    let (keys, is_faulty) = api_keys(&mut section);
    let jwt = jwt(&mut section);
    let mode = match kind {
        Kind::None => AuthMode::None,
        Kind::ApiKey => {
            if keys.is_empty() && !is_faulty {
                section.fault("api_keys", "is empty, so that nobody could come in");
            }
            let distinct: BTreeSet<_> = keys.iter().map(|key| &key.key).collect();
            if distinct.len() < keys.len() {
                section.fault("api_keys", "has the same key twice");
            }
            AuthMode::ApiKey(keys)
        }
        Kind::Jwt => match jwt {
            Some(jwt) => AuthMode::Jwt(jwt),
            None => {
                section.fault("key", "or key_file, or jwks_file, is needed for mode jwt");
                AuthMode::None
            }
        },
    };
    let failures_per_minute = section.number("failures_per_minute", 30, 0..=1_000_000);
    section.finish();
    AuthConfig {
        mode,
        failures_per_minute,
    }
}

/// Those of `api_keys` and of `api_keys_file`, and whether one of them is faulty.
fn api_keys(section: &mut Section<'_>) -> (Vec<ApiKey>, bool) {
    let is_faulty = Cell::new(false);
    let key = |text: &str| api_key(text).inspect_err(|_| is_faulty.set(true));
    let mut keys = section.parsed_list("api_keys", key).unwrap_or_default();
    if let Some(path) = section.text("api_keys_file") {
        let faults = match secret::file(&path) {
            Ok(text) => keys_of_lines(&text, &mut keys),
            Err(what) => vec![what],
        };
        for what in faults {
            is_faulty.set(true);
            section.fault("api_keys_file", &what);
        }
    }
    (keys, is_faulty.get())
}

/// One key a line. Empty lines, and those that begin with `#`, are skipped. Gives what is wrong.
fn keys_of_lines(text: &str, keys: &mut Vec<ApiKey>) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = secret::trim(line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match api_key(line) {
            Ok(key) => keys.push(key),
            Err(what) => faults.push(format!("line {} {what}", at + 1)),
        }
    }
    faults
}

/// `KEY:USER:roles:scopes`; the last two may be left out. Its faults never show the key.
fn api_key(text: &str) -> Result<ApiKey, String> {
    let mut parts = text.split(':');
    let list = |part: Option<&str>| -> Vec<String> {
        part.unwrap_or("")
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut part = || secret::trim(parts.next().unwrap_or(""));
    let (key, user) = (part(), part());
    let (roles, scopes) = (list(parts.next()), list(parts.next()));
    if key.is_empty() || user.is_empty() || parts.next().is_some() {
        return Err("has an entry that is not KEY:USER:role1,role2:scope1,scope2".to_owned());
    }
    let key = secret::field_value(key).map_err(|_| {
        "has an entry whose key has a control character or one outside ASCII, which cannot be sent in \
         a header field"
    })?;
    Ok(ApiKey {
        key,
        user: user.into(),
        roles,
        scopes,
    })
}

fn jwt(section: &mut Section<'_>) -> Option<JwtConfig> {
    let algorithm = section.choice(
        "algorithm",
        Algorithm::HS256,
        &[
            ("HS256", Algorithm::HS256),
            ("RS256", Algorithm::RS256),
            ("ES256", Algorithm::ES256),
            ("EdDSA", Algorithm::EdDSA),
        ],
    );
    let inline = section.secret("key").map(JwtKey::Inline);
    let file = section
        .text("key_file")
        .map(|path| JwtKey::File(path.into()));
    let jwks = section
        .text("jwks_file")
        .map(|path| JwtKey::Jwks(path.into()));
    let (issuer, audience) = (section.text("issuer"), section.text("audience"));
    let leeway = section.number("leeway", 60, 0..=3600);
    let mut keys = [inline, file, jwks].into_iter().flatten();
    let key = keys.next()?;
    if keys.next().is_some() {
        section.fault(
            "key",
            "goes with neither key_file nor jwks_file, nor they together",
        );
    }
    if let JwtKey::Inline(secret) = &key
        && algorithm == Algorithm::HS256
        && secret.len() < 32
    {
        section.fault(
            "key",
            "is shorter than 32 bytes, which HS256 needs (RFC 7518 §3.2)",
        );
    }
    if let JwtKey::Inline(key) = &key
        && algorithm == Algorithm::HS256
        && key.trim_start().starts_with("-----BEGIN")
    {
        section.fault(
            "key",
            "is a key in PEM, which everybody may know and HS256 would take for a shared secret; \
             set auth.algorithm to RS256, ES256 or EdDSA",
        );
    }
    Some(JwtConfig {
        algorithm,
        key,
        issuer,
        audience,
        leeway,
    })
}
