//! What lies in Redis carries a message authentication code: who can write there and does not know the
//! secret can neither change a record nor put it in another's place.
//!
//! ```text
//! version u8 · code 16 · the rest of the record
//! ```
//!
//! The code is BLAKE3, keyed by `identity_secret`, over the record's name in Redis and all that stands
//! behind it. The name is a hash of the full key; that of a part of a body has the body's id
//! and the part's number too. Without a secret the key is one that everybody knows, and the code no
//! more than a checksum.

use bytes::Bytes;

/// Changes with the form of any record; the contexts of the keys end with it.
pub(crate) const VERSION: u8 = 3;
const CODE: usize = 16;
/// Bytes before the rest of the record.
pub(crate) const HEADER: usize = 1 + CODE;

/// A record whose code does not fit its name and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// Another version's, which is no fault.
    Version,
    /// Damaged, forged, moved, or of nodes with another secret.
    Code,
}

#[derive(Clone)]
pub(crate) struct Seal {
    key: [u8; 32],
}

impl Seal {
    pub(crate) fn new(secret: Option<&[u8; 32]>) -> Self {
        let key = match secret {
            Some(secret) => blake3::derive_key("weaver-cache 2026 record authentication 3", secret),
            None => blake3::derive_key("weaver-cache 2026 record checksum 3", b""),
        };
        Self { key }
    }

    /// Room for the header, for what is to be sealed to be written behind.
    pub(crate) fn room(capacity: usize) -> Vec<u8> {
        let mut record = Vec::with_capacity(capacity.saturating_add(HEADER));
        record.resize(HEADER, 0);
        record
    }

    /// Fills the header in.
    pub(crate) fn close(&self, name: &str, mut record: Vec<u8>) -> Bytes {
        let code = record
            .get(HEADER..)
            .map_or([0; CODE], |rest| self.code(name, rest));
        if let Some(header) = record.first_chunk_mut::<HEADER>() {
            header[0] = VERSION;
            header[1..].copy_from_slice(&code);
        }
        record.into()
    }

    /// The rest of a record, if it is as it was sealed, under that name.
    pub(crate) fn open(&self, name: &str, record: &Bytes) -> Result<Bytes, Rejected> {
        match record.first() {
            Some(version) if *version == VERSION => {}
            Some(_) => return Err(Rejected::Version),
            None => return Err(Rejected::Code),
        }
        let (header, rest) = record.split_first_chunk::<HEADER>().ok_or(Rejected::Code)?;
        let code = self.code(name, rest);
        // Without a branch by what differs, which could be timed.
        let differs = code
            .iter()
            .zip(&header[1..])
            .fold(0, |differs, (one, other)| differs | (one ^ other));
        if differs == 0 {
            Ok(record.slice(HEADER..))
        } else {
            Err(Rejected::Code)
        }
    }

    fn code(&self, name: &str, rest: &[u8]) -> [u8; CODE] {
        // Each name has a key of its own, so that the rest is hashed in one piece: BLAKE3 is faster
        // by up to half where it begins at the beginning of its input.
        let own = blake3::keyed_hash(&self.key, name.as_bytes());
        let whole = blake3::keyed_hash(own.as_bytes(), rest);
        let mut code = [0; CODE];
        code.copy_from_slice(&whole.as_bytes()[..CODE]);
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(seal: &Seal, name: &str, rest: &[u8]) -> Bytes {
        let mut record = Seal::room(rest.len());
        record.extend_from_slice(rest);
        seal.close(name, record)
    }

    #[test]
    fn a_record_opens_under_its_name_and_its_secret_alone() {
        let (one, other) = (Seal::new(Some(&[1; 32])), Seal::new(Some(&[2; 32])));
        let record = sealed(&one, "name", b"rest");
        assert_eq!(one.open("name", &record), Ok(Bytes::from_static(b"rest")));
        assert_eq!(one.open("nam", &record), Err(Rejected::Code));
        assert_eq!(other.open("name", &record), Err(Rejected::Code));
        assert_eq!(Seal::new(None).open("name", &record), Err(Rejected::Code));
        // An empty secret is not the same as none.
        let zero = Seal::new(Some(&[0; 32]));
        assert_eq!(
            Seal::new(None).open("name", &sealed(&zero, "name", b"")),
            Err(Rejected::Code)
        );
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let seal = Seal::new(None);
        let mut record = sealed(&seal, "name", b"rest").to_vec();
        record[0] = VERSION - 1;
        assert_eq!(seal.open("name", &record.into()), Err(Rejected::Version));
        assert_eq!(seal.open("name", &Bytes::new()), Err(Rejected::Code));
        assert_eq!(
            seal.open("name", &Bytes::from_static(&[VERSION])),
            Err(Rejected::Code)
        );
    }

    /// What it costs: `cargo test --release -p weaver-cache cost -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn cost() {
        let seal = Seal::new(Some(&[1; 32]));
        for size in [1 << 10, 100 << 10] {
            let record = sealed(&seal, &"n".repeat(75), &vec![7; size]);
            let rounds = 200_000_000 / size as u32;
            let since = std::time::Instant::now();
            for _ in 0..rounds {
                let opened = seal.open(&"n".repeat(75), std::hint::black_box(&record));
                assert!(std::hint::black_box(opened).is_ok());
            }
            println!("{size} bytes: {:?}", since.elapsed() / rounds);
        }
    }

    proptest! {
        #[test]
        fn what_was_changed_or_cut_does_not_open(
            rest in proptest::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            with in 1_u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let seal = Seal::new(Some(&[1; 32]));
            let record = sealed(&seal, "name", &rest);
            let mut changed = record.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= with;
            prop_assert!(seal.open("name", &changed.into()).is_err());
            let cut = record.slice(..cut.index(record.len()));
            prop_assert!(seal.open("name", &cut).is_err());
            let mut longer = record.to_vec();
            longer.push(with);
            prop_assert!(seal.open("name", &longer.into()).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Seal::new(None).open("name", &bytes.into());
        }
    }
}
