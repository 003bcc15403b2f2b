//! Whose request it is, without anybody being able to read it from the store.

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use std::sync::Arc;

/// The authenticated user of a request.
///
/// Whatever authenticates puts it into the request's extensions before the cache sees the request.
/// The cache uses a keyed hash of it and never the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(pub Arc<str>);

/// The keyed hash (BLAKE3) under which users and headers are part of keys.
#[derive(Clone)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// The configured key, or one that this process makes up.
    pub(crate) fn new(configured: Option<[u8; 32]>) -> Self {
        Self(configured.unwrap_or_else(random))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn principal(&self, principal: &Principal) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"principal\0").update(principal.0.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The hash of all lines of a header; `None` where it is absent.
    pub(crate) fn header(&self, name: &HeaderName, headers: &HeaderMap) -> Option<[u8; 32]> {
        let mut lines = headers.get_all(name).peekable();
        lines.peek()?;
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"header\0").update(name.as_str().as_bytes());
        for line in lines {
            hasher
                .update(&(line.len() as u64).to_le_bytes())
                .update(line.as_bytes());
        }
        Some(*hasher.finalize().as_bytes())
    }

    /// What stands for the credentials: the principal where there is one, otherwise Authorization.
    pub(crate) fn credentials(
        &self,
        principal: Option<&Principal>,
        headers: &HeaderMap,
    ) -> Option<[u8; 32]> {
        match principal {
            Some(principal) => Some(self.principal(principal)),
            None => self.header(&AUTHORIZATION, headers),
        }
    }
}

/// Random bytes from the operating system.
///
/// Where it has none, which no system that runs a gateway lacks after its start, the hash state of
/// the standard library stands in.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        use std::hash::{BuildHasher, Hasher};
        for chunk in bytes.chunks_mut(8) {
            let word = std::hash::RandomState::new()
                .build_hasher()
                .finish()
                .to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
    bytes
}

/// That many random bytes, in hex.
pub(crate) fn random_hex<const N: usize>() -> String {
    let bytes = random::<N>().into_iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
