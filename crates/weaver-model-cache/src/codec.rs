//! A record as it lies in Redis: a fixed part, two short texts, the body, with a message authentication
//! code before it. Whatever else is found there reads as nothing.
//!
//! The code is BLAKE3, keyed by the configured secret, over all of the record but itself; the key under
//! which it lies is part of the record. Without a secret the code's key is one that everybody knows,
//! and the code no more than a checksum.

use crate::{Answer, Key, Usage, store::Generation};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// Of this form; another form has another.
const VERSION: u8 = 2;
const CODE: usize = 16;

/// An answer as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Key,
    pub(crate) generation: Generation,
    /// Milliseconds since the Unix epoch.
    pub(crate) created_at: u64,
    pub(crate) ttl: Duration,
    pub(crate) class: Arc<str>,
    pub(crate) answer: Answer,
}

fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

/// What the records of a cache are sealed with.
#[derive(Clone)]
pub(crate) struct Seal([u8; 32]);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(***)")
    }
}

impl Seal {
    pub(crate) fn new(secret: Option<&[u8; 32]>) -> Self {
        Self(match secret {
            Some(secret) => {
                blake3::derive_key("weaver-model-cache 2026 record authentication", secret)
            }
            None => blake3::derive_key("weaver-model-cache 2026 record checksum", b""),
        })
    }

    fn code(&self, of: &[u8]) -> [u8; CODE] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[VERSION]).update(of);
        let mut code = [0; CODE];
        code.copy_from_slice(&hasher.finalize().as_bytes()[..CODE]);
        code
    }

    fn fits(&self, of: &[u8], code: [u8; CODE]) -> bool {
        let own = self.code(of);
        // Without a branch by what differs, which could be timed.
        let pairs = own.iter().zip(&code);
        pairs.fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }
}

impl Record {
    pub(crate) fn encode(&self, seal: &Seal) -> Vec<u8> {
        let answer = &self.answer;
        let mut rest = Vec::with_capacity(answer.body.len() + 160);
        rest.extend_from_slice(&self.key.0);
        rest.extend_from_slice(&self.generation);
        let numbers = [
            self.created_at,
            millis(self.ttl),
            answer.usage.prompt,
            answer.usage.completion,
            millis(answer.took),
        ];
        for number in numbers {
            rest.extend_from_slice(&number.to_le_bytes());
        }
        for text in [&*self.class, &answer.media_type] {
            let text = &text.as_bytes()[..text.len().min(u16::MAX.into())];
            // No more than that, by the line before.
            rest.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
            rest.extend_from_slice(text);
        }
        rest.extend_from_slice(&answer.body);
        let mut all = Vec::with_capacity(rest.len() + 1 + CODE);
        all.push(VERSION);
        all.extend_from_slice(&seal.code(&rest));
        all.append(&mut rest);
        all
    }

    pub(crate) fn decode(mut from: Bytes, seal: &Seal) -> Option<Self> {
        let (version, code) = (take::<1>(&mut from)?, take::<CODE>(&mut from)?);
        if version != [VERSION] || !seal.fits(&from, code) {
            return None;
        }
        let (key, generation) = (Key(take(&mut from)?), take(&mut from)?);
        let mut number = || Some(u64::from_le_bytes(take(&mut from)?));
        let (created_at, ttl) = (number()?, number()?);
        let (prompt, completion, took) = (number()?, number()?, number()?);
        let class = text(&mut from)?;
        let media_type = text(&mut from)?;
        Some(Self {
            key,
            generation,
            created_at,
            ttl: Duration::from_millis(ttl),
            class: class.into(),
            answer: Answer {
                body: from,
                media_type,
                usage: Usage { prompt, completion },
                took: Duration::from_millis(took),
            },
        })
    }
}

fn take<const N: usize>(from: &mut Bytes) -> Option<[u8; N]> {
    if from.len() < N {
        return None;
    }
    from.split_to(N)[..].try_into().ok()
}

fn text(from: &mut Bytes) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(take(from)?));
    if from.len() < length {
        return None;
    }
    String::from_utf8(from.split_to(length).to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body: Vec<u8>) -> Record {
        Record {
            key: Key([3; 32]),
            generation: [4; 16],
            created_at: 1_795_000_000_000,
            ttl: Duration::from_secs(300),
            class: "dynamic".into(),
            answer: Answer {
                body: body.into(),
                media_type: "text/event-stream".to_owned(),
                usage: Usage {
                    prompt: 7,
                    completion: 9,
                },
                took: Duration::from_millis(812),
            },
        }
    }

    #[test]
    fn who_does_not_know_the_secret_writes_nothing_that_is_read() {
        let seals = [
            Seal::new(None),
            Seal::new(Some(&[0; 32])),
            Seal::new(Some(&[1; 32])),
        ];
        for (at, written) in seals.iter().enumerate() {
            let bytes = Bytes::from(record(vec![1]).encode(written));
            for (other, read) in seals.iter().enumerate() {
                let is_read = Record::decode(bytes.clone(), read).is_some();
                assert_eq!(is_read, at == other, "written with {at}, read with {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let record = record(body);
            let seal = Seal::new(Some(&[1; 32]));
            prop_assert_eq!(Record::decode(record.encode(&seal).into(), &seal), Some(record));
        }

        #[test]
        fn what_was_changed_reads_as_nothing(
            body in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            to in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let seal = Seal::new(Some(&[1; 32]));
            let good = record(body).encode(&seal);
            let mut changed = good.clone();
            let at = at.index(changed.len());
            changed[at] = to;
            if changed != good {
                prop_assert_eq!(Record::decode(changed.into(), &seal), None);
            }
            let cut = good[..cut.index(good.len())].to_vec();
            prop_assert_eq!(Record::decode(cut.into(), &seal), None);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::decode(bytes.into(), &Seal::new(None));
        }
    }
}
