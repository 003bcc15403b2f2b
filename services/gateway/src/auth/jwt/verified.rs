//! Tokens that were verified, by their hash, until they expire.
//!
//! Checking a signature takes far longer than a hit. Only what was verified is kept, so nobody
//! without a key can fill it, and what was kept under other keys goes with them.

use super::Identity;
use parking_lot::RwLock;
use std::{collections::HashMap, sync::Arc};

/// Tokens of one of the two generations.
const GENERATION: usize = 5000;

type Hash = [u8; 32];
type Generation = HashMap<Hash, (Arc<Identity>, u64)>;

/// At most 10,000 tokens. When the young generation is full it becomes the old one, whose tokens are
/// forgotten unless they were used again.
#[derive(Default)]
pub(super) struct Verified(RwLock<Generations>);

#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

pub(super) fn hash(token: &str) -> Hash {
    *blake3::hash(token.as_bytes()).as_bytes()
}

impl Verified {
    /// Whose token it is, if it was verified and has not expired at `now`, in seconds since the Unix
    /// epoch.
    pub(super) fn find(&self, token: &Hash, now: u64) -> Option<Arc<Identity>> {
        let (identity, until, is_old) = {
            let generations = self.0.read();
            let young = generations.young.get(token).map(|found| (found, false));
            let old = || generations.old.get(token).map(|found| (found, true));
            let ((identity, until), is_old) = young.or_else(old)?;
            (Arc::clone(identity), *until, is_old)
        };
        if now >= until {
            return None;
        }
        if is_old {
            self.keep(*token, Arc::clone(&identity), until);
        }
        Some(identity)
    }

    pub(super) fn keep(&self, token: Hash, identity: Arc<Identity>, until: u64) {
        let mut generations = self.0.write();
        if generations.young.len() >= GENERATION {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(token, (identity, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Arc<Identity> {
        Arc::new(Identity {
            user: "ann".into(),
            roles: Vec::new(),
            scopes: Vec::new(),
            mode: "jwt",
        })
    }

    #[test]
    fn a_token_is_known_until_it_expires() {
        let verified = Verified::default();
        verified.keep(hash("a"), identity(), 100);
        assert!(verified.find(&hash("a"), 99).is_some());
        assert!(verified.find(&hash("a"), 100).is_none());
        assert!(verified.find(&hash("b"), 0).is_none());
    }

    #[test]
    fn the_number_of_tokens_is_bounded_and_used_ones_stay() {
        let verified = Verified::default();
        for number in 0..(5 * GENERATION) {
            verified.keep(hash(&number.to_string()), identity(), 100);
            assert!(number == 0 || verified.find(&hash("0"), 0).is_some());
        }
        let generations = verified.0.read();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }
}
