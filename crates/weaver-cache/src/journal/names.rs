//! The last purge of each name: exact for the newest names, coarser for older ones.

use super::Position;
use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

/// Names that are remembered exactly.
pub(super) const MAX_NAMES: usize = 131_072;
/// And their bytes.
const MAX_BYTES: usize = 32 << 20;
/// Places of the coarse table, 16 bytes each.
const PLACES: usize = 1 << 19;

#[derive(Default)]
pub(super) struct Names {
    by_name: HashMap<Arc<str>, Position>,
    by_age: BTreeSet<(Position, Arc<str>)>,
    bytes: usize,
    forgotten: Coarse,
}

impl Names {
    pub(super) fn insert(&mut self, name: String, at: Position) {
        self.insert_if(name, at, |_| true);
    }

    /// Remembers a name; what it pushes out goes to the coarse table if `matters` says so. Gives the last
    /// position that is pushed out.
    pub(super) fn insert_if(
        &mut self,
        name: String,
        at: Position,
        matters: impl Fn(&str) -> bool,
    ) -> Option<Position> {
        let name: Arc<str> = name.into();
        if let Some(before) = self.by_name.get(&name).copied() {
            // Items may come twice, and from two sides.
            if before >= at {
                return None;
            }
            self.by_age.remove(&(before, Arc::clone(&name)));
        }
        if self.by_name.insert(Arc::clone(&name), at).is_none() {
            self.bytes += name.len();
        }
        self.by_age.insert((at, name));
        let mut last = None;
        while (self.by_name.len() > MAX_NAMES || self.bytes > MAX_BYTES)
            && let Some((at, name)) = self.by_age.pop_first()
        {
            self.by_name.remove(&name);
            self.bytes -= name.len();
            if matters(&name) {
                self.forgotten.insert(&name, at);
            }
            last = Some(at);
        }
        last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// When the name was last purged, if that is remembered exactly.
    pub(super) fn newest(&self, name: &str) -> Option<Position> {
        self.by_name.get(name).copied()
    }

    /// When a name that is not remembered exactly was last purged, or later.
    pub(super) fn forgotten(&self, name: &str) -> Position {
        self.forgotten.last(name)
    }

    /// When the name was last purged, or later; the lowest position if it never was.
    pub(super) fn last(&self, name: &str) -> Position {
        let known = self.by_name.get(name).copied();
        known.unwrap_or_else(|| self.forgotten.last(name))
    }
}

/// The last purges of names that are forgotten: a Bloom filter (Bloom 1970) that has a position
/// instead of a bit. A name may seem to be purged later than it was, never earlier, by names that
/// share both of its places; of 131,072 such names one in six.
#[derive(Default)]
struct Coarse {
    /// Empty until the first name comes.
    places: Box<[Position]>,
    hashers: [RandomState; 2],
}

impl Coarse {
    fn insert(&mut self, name: &str, at: Position) {
        if self.places.is_empty() {
            self.places = vec![Position::default(); PLACES].into_boxed_slice();
        }
        for place in self.places_of(name) {
            let known = &mut self.places[place];
            *known = at.max(*known);
        }
    }

    fn last(&self, name: &str) -> Position {
        let places = self.places_of(name);
        let known = places.iter().filter_map(|place| self.places.get(*place));
        known.min().copied().unwrap_or_default()
    }

    fn places_of(&self, name: &str) -> [usize; 2] {
        self.hashers.each_ref().map(|hasher| {
            // The remainder is below PLACES on every platform.
            usize::try_from(hasher.hash_one(name) % PLACES as u64).unwrap_or(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Position {
        Position { time: 1, sequence }
    }

    #[test]
    fn a_name_is_never_purged_earlier_than_it_was_and_seldom_later() {
        let mut names = Names::default();
        let count = (MAX_NAMES + 65_536) as u64;
        for number in 1..=count {
            names.insert(format!("n{number}"), at(number));
        }
        assert_eq!(names.by_name.len(), MAX_NAMES);
        assert_eq!(names.by_age.len(), MAX_NAMES);
        for number in 1..=count {
            assert!(names.last(&format!("n{number}")) >= at(number), "{number}");
        }
        let wrong = (1..=10_000_u64)
            .filter(|number| names.last(&format!("other{number}")) > at(0))
            .count();
        assert!(wrong < 1000, "{wrong} of 10,000 that were never purged");
        assert!(names.last("n1") <= at(count));
    }

    #[test]
    fn long_names_take_no_more_bytes_than_may_be_and_are_not_lost() {
        let mut names = Names::default();
        let name = |number: u64| format!("{number:08192}");
        for number in 1..=6000 {
            names.insert(name(number), at(number));
            names.insert(name(number), at(number + 1));
        }
        let sum: usize = names.by_name.keys().map(|name| name.len()).sum();
        assert_eq!(names.bytes, sum);
        assert!(sum <= MAX_BYTES && names.by_age.len() == names.by_name.len());
        for number in 1..=6000 {
            assert!(names.last(&name(number)) >= at(number + 1), "{number}");
        }
    }

    #[test]
    fn an_older_purge_of_a_name_changes_nothing() {
        let mut names = Names::default();
        names.insert("a".into(), at(5));
        names.insert("a".into(), at(3));
        names.insert("a".into(), at(5));
        assert_eq!(names.last("a"), at(5));
        assert_eq!(names.by_age.len(), 1);
    }
}
