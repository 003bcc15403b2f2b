//! What unsafe requests have invalidated: many, and most of it never stored.
//!
//! The newest names are remembered exactly. An older one matters only to what is in this node's
//! memory from before: it goes to the coarse table if memory may hold something of that name
//! ([`Interest`]), and nowhere else. What begins below the [`floor`](Writes::floor) and was not looked
//! at before cannot be judged by this: what Redis has needs a license ([`super::license`]), what was
//! being fetched is not stored.

use super::{Position, names::Names};
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Places of the filter, 4 bytes each, and how many a name has.
const PLACES: usize = 1 << 20;
const PLACES_OF_NAME: u64 = 4;

#[derive(Default)]
pub(super) struct Writes {
    names: Names,
    interest: Interest,
    /// Of what was written up to here not everything is known.
    floor: Position,
}

impl Writes {
    pub(super) fn insert(&mut self, name: String, at: Position) {
        let interest = &self.interest;
        let forgotten = self.names.insert_if(name, at, |name| interest.has(name));
        self.floor = self.floor.max(forgotten.unwrap_or_default());
    }

    pub(super) fn forget_before(&mut self, position: Position) {
        self.floor = self.floor.max(position);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.floor == Position::default()
    }

    pub(super) fn floor(&self) -> Position {
        self.floor
    }

    /// When a name was last written to, if that is remembered exactly.
    pub(super) fn newest(&self, name: &str) -> Option<Position> {
        self.names.newest(name)
    }

    /// Whether a name was written to after `position`. `seen` is up to where that was known not to be so,
    /// when what is judged came into memory.
    pub(super) fn reach(&self, name: &str, position: Position, seen: Option<Position>) -> bool {
        if let Some(at) = self.names.newest(name) {
            return at > position;
        }
        match seen {
            _ if position >= self.floor => false,
            Some(seen) => self.names.forgotten(name) > position.max(seen),
            None => true,
        }
    }

    /// Memory has something of that name for that long.
    pub(super) fn keep(&self, name: &str, life: Duration) {
        self.interest.add(name, life);
    }
}

/// Of which names memory may hold something: a Bloom filter (Bloom 1970) that has the time of expiry
/// instead of a bit, so that it empties itself. With 131,072 names in memory it is wrong of one in
/// forty others.
#[derive(Default)]
struct Interest {
    /// Seconds since `epoch`; not there until the first name comes.
    until: OnceLock<Box<[AtomicU32]>>,
    epoch: OnceLock<Instant>,
    hashers: [RandomState; 2],
}

impl Interest {
    fn add(&self, name: &str, life: Duration) {
        let until = self.seconds().saturating_add(seconds(life)).max(1);
        let made = || (0..PLACES).map(|_| AtomicU32::new(0)).collect();
        let places = self.until.get_or_init(made);
        for place in self.places_of(name) {
            places[place].fetch_max(until, Ordering::Relaxed);
        }
    }

    fn has(&self, name: &str) -> bool {
        let Some(places) = self.until.get() else {
            return false;
        };
        let now = self.seconds();
        self.places_of(name)
            .all(|place| places[place].load(Ordering::Relaxed) > now)
    }

    fn seconds(&self) -> u32 {
        let elapsed = self.epoch.get_or_init(Instant::now).elapsed();
        u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX - 1)
    }

    fn places_of(&self, name: &str) -> impl Iterator<Item = usize> + use<> {
        let [first, step] = self.hashers.each_ref().map(|hasher| hasher.hash_one(name));
        (0..PLACES_OF_NAME).map(move |number| {
            let hash = first.wrapping_add(number.wrapping_mul(step | 1));
            // The remainder is below PLACES on every platform.
            usize::try_from(hash % PLACES as u64).unwrap_or(0)
        })
    }
}

/// Rounded up, and one more for the second that has begun.
fn seconds(life: Duration) -> u32 {
    u32::try_from(life.as_secs().saturating_add(2)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::names::MAX_NAMES, *};

    fn at(sequence: u64) -> Position {
        Position { time: 1, sequence }
    }

    fn name(number: u64) -> String {
        format!("u h\n/{number}")
    }

    fn flood(writes: &mut Writes, from: u64, count: u64) {
        (from..from + count).for_each(|number| writes.insert(name(number), at(number)));
    }

    #[test]
    fn what_memory_has_is_reached_by_a_write_that_is_long_forgotten() {
        let mut writes = Writes::default();
        writes.keep(&name(0), Duration::from_secs(60));
        flood(&mut writes, 0, MAX_NAMES as u64 * 2);
        assert!(writes.reach(&name(0), Position::default(), Some(Position::default())));
    }

    #[test]
    fn a_flood_of_writes_leaves_what_it_does_not_name() {
        let mut writes = Writes::default();
        let mine = |number: u64| format!("u h\n/mine/{number}");
        (0..1000).for_each(|number| writes.keep(&mine(number), Duration::from_secs(60)));
        flood(&mut writes, 1, MAX_NAMES as u64 * 8);
        let seen = Some(Position::default());
        let reached = (0..1000).filter(|number| writes.reach(&mine(*number), at(0), seen));
        assert_eq!(reached.count(), 0);
    }

    #[test]
    fn what_began_before_all_that_is_known_counts_as_reached() {
        let mut writes = Writes::default();
        flood(&mut writes, 1, MAX_NAMES as u64 + 10);
        assert_eq!(writes.floor(), at(10));
        assert!(writes.reach("u h\n/other", at(9), None));
        assert!(!writes.reach("u h\n/other", at(10), None));
    }
}
