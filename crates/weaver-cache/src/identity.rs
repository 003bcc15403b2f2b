//! Whose request it is, without anybody being able to read it from the store.

use actix_web::http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName};
use std::{str::FromStr, sync::Arc};

/// The authenticated user of a request.
///
/// Whatever authenticates puts it into the request's extensions before the cache sees the request.
/// The cache uses a keyed hash of it and never the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(pub Arc<str>);

/// What tells users apart where nobody has authenticated them: see
/// [`Rule::identity`](crate::Rule::identity).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// The cookie of this name.
    Cookie(String),
    /// The request field of this name.
    Header(HeaderName),
}

impl FromStr for IdentitySource {
    type Err = &'static str;

    /// Reads `cookie:NAME` or `header:NAME`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("cookie", name)) if is_cookie_name(name) => Ok(Self::Cookie(name.to_owned())),
            Some(("header", name)) => HeaderName::from_str(name)
                .map(Self::Header)
                .map_err(|_| "the name behind header: is not a field name"),
            Some(("cookie", _)) => Err("the name behind cookie: is not a cookie name"),
            _ => Err("an identity is cookie:NAME or header:NAME"),
        }
    }
}

fn is_cookie_name(name: &str) -> bool {
    let separators = b"()<>@,;:\\\"/[]?={} \t";
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !separators.contains(&byte))
}

/// All values that a request has for a cookie, in their order. Several are told apart from each of
/// them: which one an origin reads is not known.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers
        .get_all(COOKIE)
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..at].trim_ascii_end() == name.as_bytes()).then(|| &pair[at + 1..])
    })
}

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

    /// What stands for the credentials: the principal, and what the listed sources have; where none are
    /// listed and nobody is known, Authorization. `None` if nothing of it is there.
    ///
    /// Beside what sources have Authorization counts too, for it reaches the origin; by itself it
    /// does not make a user.
    pub(crate) fn credentials(
        &self,
        principal: Option<&Principal>,
        sources: &[IdentitySource],
        headers: &HeaderMap,
    ) -> Option<[u8; 32]> {
        if sources.is_empty() {
            return match principal {
                Some(principal) => Some(self.principal(principal)),
                None => self.header(&AUTHORIZATION, headers),
            };
        }
        let listed = self.sources(sources, headers);
        if principal.is_none() && listed.is_none() {
            return None;
        }
        let authorization = match principal {
            Some(_) => None,
            None => self.header(&AUTHORIZATION, headers),
        };
        let parts = [
            principal.map(|principal| self.principal(principal)),
            listed,
            authorization,
        ];
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"credentials\0");
        for part in parts {
            match part {
                Some(hash) => hasher.update(&[1]).update(&hash),
                None => hasher.update(&[0]),
            };
        }
        Some(*hasher.finalize().as_bytes())
    }

    /// What the sources have that is not empty: an empty cookie is what is left of a user who has
    /// logged out.
    fn sources(&self, sources: &[IdentitySource], headers: &HeaderMap) -> Option<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"sources\0");
        let mut any = false;
        let mut put = |bytes: &[u8]| {
            any |= !bytes.is_empty();
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let mut ends = Vec::with_capacity(sources.len());
        for source in sources {
            let mut count = 0_u64;
            match source {
                IdentitySource::Cookie(name) => cookies(headers, name).for_each(|value| {
                    put(value);
                    count += 1;
                }),
                IdentitySource::Header(name) => headers.get_all(name).for_each(|value| {
                    put(value.as_bytes());
                    count += 1;
                }),
            }
            ends.push(count);
        }
        // How many values each source had, so that none can pass for another's.
        for count in ends {
            hasher.update(&count.to_le_bytes());
        }
        any.then(|| *hasher.finalize().as_bytes())
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

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn asked(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers
    }

    #[test]
    fn sources_tell_users_apart_and_nothing_else_does() {
        let sources: Vec<IdentitySource> = ["cookie:session", "header:X-User"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let secret = Secret::new(Some([7; 32]));
        let of = |fields: &[_]| secret.credentials(None, &sources, &asked(fields));
        assert_eq!(of(&[("cookie", "other=1"), ("authorization", "x")]), None);
        assert_eq!(of(&[("cookie", "xsession=1")]), None);
        assert_eq!(of(&[("cookie", "session="), ("x-user", "")]), None);
        let alice = of(&[("cookie", "a=b; session=alice")]);
        assert!(alice.is_some());
        assert_eq!(alice, of(&[("cookie", "session=alice"), ("cookie", "c=d")]));
        for other in [
            &[("cookie", "session=bob")][..],
            &[("cookie", "session=alice"), ("authorization", "bob")],
            &[("x-user", "alice")],
            &[("cookie", "session=alice"), ("x-user", "")],
            &[("cookie", "session=alice; session=bob")],
            &[("cookie", "session=alice"), ("cookie", "session=alice")],
        ] {
            let other = of(other);
            assert!(other.is_some() && other != alice);
        }
    }

    #[test]
    fn a_principal_is_told_apart_by_what_is_listed_besides() {
        let sources = ["cookie:session".parse().unwrap()];
        let secret = Secret::new(Some([7; 32]));
        let principal = Principal("ann".into());
        let of = |fields: &[_]| secret.credentials(Some(&principal), &sources, &asked(fields));
        let (none, a, b) = (
            of(&[]),
            of(&[("cookie", "session=a")]),
            of(&[("cookie", "session=b")]),
        );
        assert!(none.is_some() && none != a && a != b);
        // The application has read Authorization already.
        assert_eq!(none, of(&[("authorization", "x")]));
    }

    #[test]
    fn a_source_that_is_none_is_refused() {
        for bad in ["session", "cookie:", "cookie:a b", "header:a b", "query:x"] {
            assert!(bad.parse::<IdentitySource>().is_err(), "{bad}");
        }
    }
}
