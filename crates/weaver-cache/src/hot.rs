//! The URLs that this node answers most often from what is stored: what is worth warming after a
//! restart.
//!
//! In: keys of entries as they are stored and, by sampling, served. Out: the hottest URLs, here and,
//! through [`share`], of all nodes. Only what any client may have is counted, never what is stored
//! for one user.

pub(crate) mod share;

use crate::key;
use parking_lot::Mutex;
use std::collections::HashMap;

/// URLs that are counted. When there are more, the colder half is forgotten, which costs little for
/// each, and the hottest stay (lossy counting; Manku and Motwani 2002 bound the error of its kin).
const MAX_COUNTED: usize = 4096;
/// Longer ones, in bytes, are not counted.
const MAX_URL: usize = 2048;
/// One hit in so many is counted, for all of them.
const SAMPLE: u8 = 64;
/// When this many were counted all counts are halved: what was hot yesterday gives way.
const MAX_TOTAL: u64 = 10_000_000;

/// A URL and how often it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotUrl {
    /// With its scheme and host.
    pub url: String,
    /// About how often it was served from the cache or stored, lately.
    pub hits: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Hot {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    urls: HashMap<Box<str>, u64>,
    total: u64,
}

impl Hot {
    /// Counts a hit; most do no more than throw a die.
    pub(crate) fn hit(&self, key: &[u8]) {
        if fastrand::u8(..) < u8::MAX / SAMPLE + 1 {
            self.count(key, u64::from(SAMPLE));
        }
    }

    pub(crate) fn stored(&self, key: &[u8]) {
        self.count(key, 1);
    }

    fn count(&self, key: &[u8], weight: u64) {
        // Nobody waits for it: a sample more or less makes no difference.
        let Some(mut counts) = self.counts.try_lock() else {
            return;
        };
        let Some(url) = key::public_url(key).filter(|url| url.len() <= MAX_URL) else {
            return;
        };
        counts.add(url, weight);
    }

    /// The hottest first.
    pub(crate) fn top(&self, most: usize) -> Vec<HotUrl> {
        let counts = self.counts.lock();
        sorted(counts.urls.iter().map(|(url, hits)| (&**url, *hits)), most)
    }
}

impl Counts {
    fn add(&mut self, url: String, weight: u64) {
        *self.urls.entry(url.into()).or_default() += weight;
        self.total += weight;
        if self.total > MAX_TOTAL {
            self.total = 0;
            self.urls.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
        }
        if self.urls.len() > MAX_COUNTED {
            let mut all: Vec<u64> = self.urls.values().copied().collect();
            let (_, middle, _) = all.select_nth_unstable(MAX_COUNTED / 2);
            let middle = *middle;
            // Of those that are equally cold, the newcomers may go: they come again if they are hot.
            let mut equal = MAX_COUNTED / 4;
            self.urls.retain(|_, count| {
                let keeps_equal = *count == middle && equal > 0;
                equal -= usize::from(keeps_equal);
                *count > middle || keeps_equal
            });
        }
    }
}

fn sorted<'a>(urls: impl Iterator<Item = (&'a str, u64)>, most: usize) -> Vec<HotUrl> {
    let mut all: Vec<_> = urls.collect();
    all.sort_unstable_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(other.0)));
    let hot = |(url, hits): (&str, u64)| HotUrl {
        url: url.to_owned(),
        hits,
    };
    all.into_iter().take(most).map(hot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_survive_a_crawl_through_everything() {
        let mut counts = Counts::default();
        for at in 0..100_000_u32 {
            counts.add(format!("http://h/cold/{at}"), 1);
            if at % 50 == 0 {
                counts.add(format!("http://h/hot/{}", at % 20), 64);
            }
            assert!(counts.urls.len() <= MAX_COUNTED);
        }
        let urls = counts.urls.iter().map(|(url, hits)| (&**url, *hits));
        let top = sorted(urls, 2);
        assert!(
            top.iter().all(|hot| hot.url.starts_with("http://h/hot/")),
            "{top:?}"
        );
        assert!(top[0].hits > 10_000);
    }

    #[test]
    fn old_heat_fades() {
        let mut counts = Counts::default();
        counts.add("http://h/old".to_owned(), 1000);
        for _ in 0..30 {
            counts.add("http://h/new".to_owned(), MAX_TOTAL / 2);
        }
        assert!(!counts.urls.contains_key("http://h/old"));
    }
}
