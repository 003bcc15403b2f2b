//! A record as it lies in Redis: a fixed part, two short texts, the body, with a checksum before it.
//! Whatever else is found there reads as nothing.

use crate::{Answer, Key, Usage, store::Generation};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// Of this form; another form has another.
const VERSION: u8 = 1;
const CHECKSUM: usize = 16;

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

fn checksum(of: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&blake3::hash(of).as_bytes()[..CHECKSUM]);
    sum
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
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
        let mut all = Vec::with_capacity(rest.len() + 1 + CHECKSUM);
        all.push(VERSION);
        all.extend_from_slice(&checksum(&rest));
        all.append(&mut rest);
        all
    }

    pub(crate) fn decode(mut from: Bytes) -> Option<Self> {
        let (version, sum) = (take::<1>(&mut from)?, take::<CHECKSUM>(&mut from)?);
        if version != [VERSION] || checksum(&from) != sum {
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

    proptest! {
        #[test]
        fn what_is_written_is_read(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let record = record(body);
            prop_assert_eq!(Record::decode(record.encode().into()), Some(record));
        }

        #[test]
        fn what_was_changed_reads_as_nothing(
            body in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            to in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let good = record(body).encode();
            let mut changed = good.clone();
            let at = at.index(changed.len());
            changed[at] = to;
            if changed != good {
                prop_assert_eq!(Record::decode(changed.into()), None);
            }
            let cut = good[..cut.index(good.len())].to_vec();
            prop_assert_eq!(Record::decode(cut.into()), None);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::decode(bytes.into());
        }
    }
}
