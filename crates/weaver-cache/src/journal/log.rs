//! What of the purges still matters: for each URL and tag the last purge, the last one of
//! everything, and recent prefixes, all bounded.
//!
//! What unsafe requests invalidated is apart from that ([`super::writes`]): there is much of it.
//!
//! What falls out never brings content back: names go to a coarser table ([`super::names`]), and a
//! prefix moves the floor, below which every entry is dead. When nothing was purged since an entry
//! was last looked at, judging it costs one comparison.

use super::{
    Position, Purge,
    limit::{TAG_FIELDS, is_between_tags},
    names::Names,
    writes::Writes,
};
use crate::{
    entry::{Entry, Fields, Head},
    key::Parsed,
};
use parking_lot::RwLock;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use weaver_cache_policy::Millis;

/// What the journal says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    /// Purged softly: its freshness ended then.
    Stale(Position),
    Dead,
}

impl Verdict {
    /// When a soft purge ended the freshness, by the clock that all nodes share.
    pub(crate) fn freshness_ended(self) -> Option<Millis> {
        match self {
            Self::Stale(at) => Some(Millis(at.time)),
            Self::Alive | Self::Dead => None,
        }
    }
}

/// Prefixes that a log remembers.
const MAX_PREFIXES: usize = 1024;

pub(crate) struct PurgeLog {
    /// Changes with every item; never 0, which stands for "never checked" in an entry.
    version: AtomicU64,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    head: Position,
    floor: Position,
    hard: Marks,
    soft: Marks,
    writes: Writes,
}

/// The last purge of each thing.
#[derive(Default)]
struct Marks {
    all: Position,
    /// URLs and tags; of URLs the paths too: what stands for many URLs goes with any of its path.
    names: Names,
    prefixes: BTreeSet<(Position, Option<String>, String)>,
}

impl PurgeLog {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(1),
            state: RwLock::default(),
        }
    }

    /// The position that a fetch which begins now carries.
    pub(crate) fn head(&self) -> Position {
        self.state.read().head
    }

    /// Applies a purge of this node's own, after everything known, and at `now` or later.
    pub(crate) fn apply_local(&self, purge: Purge, soft: bool, now: Millis) -> Position {
        let now = Position {
            time: now.0,
            sequence: 0,
        };
        let mut state = self.state.write();
        let at = state.head.next().max(now);
        state.apply(at, purge, soft);
        self.changed();
        at
    }

    /// Applies an item of the journal.
    pub(crate) fn apply(&self, at: Position, purge: Purge, soft: bool) {
        self.state.write().apply(at, purge, soft);
        self.changed();
    }

    /// Applies what an unsafe request of this node invalidates, after everything known.
    pub(crate) fn apply_local_write(&self, purge: Purge, now: Millis) {
        let now = Position {
            time: now.0,
            sequence: 0,
        };
        let mut state = self.state.write();
        let at = state.head.next().max(now);
        state.apply_write(at, purge);
        self.changed();
    }

    /// Applies an item of the journal that an unsafe request has caused.
    pub(crate) fn apply_write(&self, at: Position, purge: Purge) {
        self.state.write().apply_write(at, purge);
        self.changed();
    }

    /// Says that what unsafe requests invalidated up to there is not all known.
    pub(crate) fn forget_writes_before(&self, position: Position) {
        let mut state = self.state.write();
        state.writes.forget_before(position);
        state.head = state.head.max(position);
        self.changed();
    }

    /// Up to where it is known that the entry lives, if something from Redis with that position needs a
    /// license ([`super::license`]).
    pub(crate) fn license_needed(&self, entry: &Entry) -> Option<Position> {
        let state = self.state.read();
        (entry.head.position < state.writes.floor()).then_some(state.head)
    }

    /// From where on what was fetched for a key has not been reached by a write, as far as this node has
    /// read the journal.
    pub(crate) fn unwritten_since(&self, key: &[u8]) -> Position {
        let state = self.state.read();
        let written = crate::key::parse(key)
            .and_then(|url| state.writes.newest(&written_name(&url)))
            .unwrap_or_default();
        written.max(state.writes.floor())
    }

    /// Judges an entry that is to be kept in memory for that long. If it lives, what reaches it later will
    /// do so however many other purges come.
    pub(crate) fn admit(&self, entry: &Entry, life: Duration) -> Verdict {
        let state = self.state.read();
        let seen = entry.checked.seen.get().copied();
        let verdict = state.judge(&entry.key, &entry.head.fields, entry.head.position, seen);
        if verdict != Verdict::Dead
            && let Some(url) = crate::key::parse(&entry.key)
        {
            state.writes.keep(&written_name(&url), life);
            entry.checked.seen.get_or_init(|| state.head);
        }
        verdict
    }

    /// Says that nothing up to `position` can be known any more: all older entries are dead.
    pub(crate) fn forget_before(&self, position: Position) {
        let mut state = self.state.write();
        state.floor = state.floor.max(position);
        state.head = state.head.max(position);
        self.changed();
    }

    /// Says that nothing at all can be known of what was purged up to now.
    pub(crate) fn forget_all(&self) {
        let now = self.head().next();
        self.forget_before(now);
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Judges a response that comes in, by its head.
    pub(crate) fn judge_head(&self, key: &[u8], head: &Head) -> Verdict {
        let fields = &head.fields;
        self.state.read().judge(key, fields, head.position, None)
    }

    /// Judges a fetch from that position on, of which nothing is known but its key.
    pub(crate) fn judge_fetch(&self, key: &[u8], position: Position) -> Verdict {
        let state = self.state.read();
        if state.head == position {
            return Verdict::Alive;
        }
        state.judge(key, &Fields::new(), position, None)
    }

    /// Judges an entry.
    pub(crate) fn judge(&self, entry: &Entry) -> Verdict {
        let version = self.version.load(Ordering::Acquire);
        if entry.checked.version.load(Ordering::Relaxed) == version {
            return Verdict::Alive;
        }
        let (fields, position) = (&entry.head.fields, entry.head.position);
        let seen = entry.checked.seen.get().copied();
        let verdict = self.state.read().judge(&entry.key, fields, position, seen);
        if verdict == Verdict::Alive {
            entry.checked.version.store(version, Ordering::Relaxed);
        }
        verdict
    }
}

impl State {
    fn apply(&mut self, at: Position, purge: Purge, soft: bool) {
        self.head = self.head.max(at);
        let marks = if soft { &mut self.soft } else { &mut self.hard };
        match purge {
            Purge::All => marks.all = marks.all.max(at),
            Purge::Tag(tag) => marks.names.insert(of_tag(&tag), at),
            Purge::Url { host, target } => {
                let path = target.split('?').next().unwrap_or("");
                marks.names.insert(of_path(host.as_deref(), path), at);
                marks.names.insert(of_url(host.as_deref(), &target), at);
            }
            Purge::Prefix { host, prefix } => {
                marks.prefixes.insert((at, host, prefix));
                if marks.prefixes.len() > MAX_PREFIXES
                    && let Some((forgotten, ..)) = marks.prefixes.pop_first()
                {
                    self.floor = self.floor.max(forgotten);
                }
            }
        }
    }

    fn apply_write(&mut self, at: Position, purge: Purge) {
        let Purge::Url { host, target } = purge else {
            // One of a URL that is too long reaches what begins like it.
            return self.apply(at, purge, false);
        };
        self.head = self.head.max(at);
        let path = target.split('?').next().unwrap_or("");
        self.writes.insert(of_path(host.as_deref(), path), at);
        self.writes.insert(of_url(host.as_deref(), &target), at);
    }

    fn judge(
        &self,
        key: &[u8],
        fields: &Fields,
        position: Position,
        seen: Option<Position>,
    ) -> Verdict {
        if position < self.floor || self.hard.first(key, fields, position).is_some() {
            return Verdict::Dead;
        }
        if !self.writes.is_empty() {
            let Some(url) = crate::key::parse(key) else {
                return Verdict::Dead;
            };
            if self.writes.reach(&written_name(&url), position, seen) {
                return Verdict::Dead;
            }
        }
        match self.soft.first(key, fields, position) {
            Some(at) => Verdict::Stale(at),
            None => Verdict::Alive,
        }
    }
}

impl Marks {
    /// The first purge after `position` that reaches it, as far as is known: of each thing only the
    /// last is.
    fn first(&self, key: &[u8], fields: &Fields, position: Position) -> Option<Position> {
        let Some(url) = crate::key::parse(key) else {
            return Some(position);
        };
        let all = Some(self.all).filter(|all| *all > position);
        let named = self.first_named(&url, fields, position);
        let prefixed = self.first_prefixed(&url, position);
        [all, named, prefixed].into_iter().flatten().min()
    }

    fn first_named(
        &self,
        url: &Parsed<'_>,
        fields: &Fields,
        position: Position,
    ) -> Option<Position> {
        if self.names.is_empty() {
            return None;
        }
        let (host, path) = (url.host, url.path);
        let target = url.target();
        let of_urls = [of_url(Some(host), &target), of_url(None, &target)];
        let many = url.stands_for_many();
        let of_paths = many.then(|| [of_path(Some(host), path), of_path(None, path)]);
        of_urls
            .into_iter()
            .chain(of_paths.into_iter().flatten())
            .chain(tags(fields).map(of_tag))
            .map(|name| self.names.last(&name))
            .filter(|last| *last > position)
            .min()
    }

    fn first_prefixed(&self, url: &Parsed<'_>, position: Position) -> Option<Position> {
        let (host, path, query) = (url.host, url.path, url.query);
        let many = url.stands_for_many();
        self.prefixes
            .range((position.next(), None, String::new())..)
            .find(|(_, purged, prefix)| {
                let of_host = purged.as_deref().is_none_or(|purged| purged == host);
                let prefix = match prefix.split_once('?') {
                    Some((prefix, _)) if many => return of_host && prefix == path,
                    _ => prefix,
                };
                let whole = query.map(|query| format!("{path}?{query}"));
                of_host
                    && whole
                        .as_deref()
                        .unwrap_or(path)
                        .starts_with(prefix.as_str())
            })
            .map(|(at, ..)| *at)
    }
}

/// The name under which a write reaches what a key stands for: the URL, or for several the path.
fn written_name(url: &Parsed<'_>) -> String {
    if url.stands_for_many() {
        return of_path(Some(url.host), url.path);
    }
    of_url(Some(url.host), &url.target())
}

fn of_url(host: Option<&str>, target: &str) -> String {
    format!("u{}\n{target}", host.unwrap_or(""))
}

fn of_path(host: Option<&str>, path: &str) -> String {
    format!("p{}\n{path}", host.unwrap_or(""))
}

fn of_tag(tag: &str) -> String {
    format!("t{tag}")
}

/// The tags of a response: Surrogate-Key separated by spaces, Cache-Tag by commas.
fn tags(fields: &Fields) -> impl Iterator<Item = &str> {
    let lists = fields
        .iter()
        .filter(|(name, _)| TAG_FIELDS.contains(&name.as_str()));
    lists
        .filter_map(|(_, value)| std::str::from_utf8(value.as_bytes()).ok())
        .flat_map(|value| value.split(is_between_tags))
        .filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::names::MAX_NAMES;
    use super::*;
    use crate::{Rule, identity::Secret, key};
    use actix_web::http::{
        StatusCode,
        header::{HeaderMap, HeaderName, HeaderValue},
    };
    use proptest::prelude::*;
    use std::sync::Arc;
    use weaver_cache_policy::{Lifetime, Policy, url::Url};

    fn entry(target: &str, tags: &'static str, position: Position) -> Entry {
        let rule = Rule::new("r", Policy::standard());
        let url = Url::parse(&format!("http://h{target}")).unwrap();
        let target = key::RequestUrl::of_url(&url);
        let keyed = key::build(
            &target,
            &rule,
            &HeaderMap::new(),
            None,
            &Secret::new(Some([0; 32])),
        );
        Entry {
            key: keyed.key.as_slice().into(),
            head: Arc::new(Head {
                status: StatusCode::OK,
                fields: vec![(
                    HeaderName::from_static("surrogate-key"),
                    HeaderValue::from_static(tags),
                )],
                lifetime: Lifetime::default(),
                position,
                variant: None,
            }),
            body: bytes::Bytes::new(),
            fill_micros: 0,
            checked: crate::entry::Checked::default(),
        }
    }

    fn url(target: &str) -> Purge {
        Purge::Url {
            host: Some("h".to_owned()),
            target: target.to_owned(),
        }
    }

    #[test]
    fn a_purge_kills_what_began_before_it_and_nothing_after() {
        let log = PurgeLog::new();
        let before = entry("/a", "", log.head());
        log.apply_local(url("/a"), false, Millis(0));
        let after = entry("/a", "", log.head());
        assert_eq!(log.judge(&before), Verdict::Dead);
        assert_eq!(log.judge(&after), Verdict::Alive);
        assert_eq!(
            log.judge(&entry("/b", "", Position::default())),
            Verdict::Alive
        );
    }

    #[test]
    fn tags_prefixes_and_everything_reach_what_they_name() {
        for (purge, hit, missed) in [
            (Purge::Tag("t2".into()), ("/x", "t1 t2"), ("/x", "t1 t22")),
            (
                Purge::Prefix {
                    host: None,
                    prefix: "/a/".into(),
                },
                ("/a/b", ""),
                ("/ab", ""),
            ),
            (
                Purge::Prefix {
                    host: None,
                    prefix: "/a?x".into(),
                },
                ("/a?x=1", ""),
                ("/a?y=1", ""),
            ),
            (
                Purge::Url {
                    host: None,
                    target: "/q?x=1".into(),
                },
                ("/q?x=1", ""),
                ("/q?x=2", ""),
            ),
        ] {
            let log = PurgeLog::new();
            log.apply_local(purge.clone(), false, Millis(0));
            assert_eq!(
                log.judge(&entry(hit.0, hit.1, Position::default())),
                Verdict::Dead,
                "{purge:?}"
            );
            assert_eq!(
                log.judge(&entry(missed.0, missed.1, Position::default())),
                Verdict::Alive,
                "{purge:?}"
            );
        }
        let log = PurgeLog::new();
        log.apply_local(Purge::All, true, Millis(0));
        assert_eq!(
            log.judge(&entry("/x", "", Position::default())),
            Verdict::Stale(log.head())
        );
    }

    #[test]
    fn what_the_log_forgets_is_dead_and_what_was_never_purged_lives() {
        let log = PurgeLog::new();
        log.apply_local(url("/old"), false, Millis(0));
        for at in 0..MAX_NAMES {
            log.apply_local(url(&format!("/{at}")), false, Millis(0));
        }
        let judge = |target: &str| log.judge(&entry(target, "", Position::default()));
        assert_eq!(judge("/old"), Verdict::Dead);
        let alive = (0..1000)
            .filter(|at| judge(&format!("/other/{at}")) == Verdict::Alive)
            .count();
        assert!(alive > 500, "{alive} of 1000");
    }

    #[test]
    fn it_is_known_since_when_nobody_has_written_to_a_url() {
        let log = PurgeLog::new();
        let at = |time| Position { time, sequence: 0 };
        let key = |target: &str| entry(target, "", at(0)).key;
        log.forget_writes_before(at(3));
        log.apply_write(at(5), url("/a"));
        assert_eq!(log.unwritten_since(&key("/a")), at(5));
        assert_eq!(log.unwritten_since(&key("/b")), at(3));
        assert_eq!(log.judge(&entry("/a", "", at(4))), Verdict::Dead);
        assert_eq!(log.judge(&entry("/a", "", at(5))), Verdict::Alive);
        let old = entry("/b", "", at(2));
        assert_eq!(log.judge(&old), Verdict::Dead, "nothing is known of it");
        assert_eq!(log.license_needed(&old), Some(at(5)));
        old.checked.seen.get_or_init(|| at(5));
        assert_eq!(log.judge(&old), Verdict::Alive, "it has a license");
        log.apply_write(at(6), url("/b"));
        assert_eq!(log.judge(&old), Verdict::Dead);
    }

    proptest! {
        /// Against a plain list of all purges: never alive what the list kills.
        #[test]
        fn a_log_agrees_with_a_list(
            steps in proptest::collection::vec((0_u8..4, 0_u8..3, any::<bool>()), 1..40),
            born in 0_usize..40,
            which in 0_u8..3,
        ) {
            let log = PurgeLog::new();
            let targets = ["/a", "/b", "/a/c"];
            let subject_tags: &'static str = ["t0", "t1", "t2"][which as usize];
            let mut subject = None;
            let mut expected = Verdict::Alive;
            for (at, (kind, what, soft)) in steps.iter().enumerate() {
                if at == born {
                    subject = Some(entry(targets[which as usize], subject_tags, log.head()));
                }
                let target = targets[*what as usize];
                let purge = match kind {
                    0 => url(target),
                    1 => Purge::Tag(format!("t{what}")),
                    2 => Purge::Prefix { host: None, prefix: target.to_owned() },
                    _ => Purge::All,
                };
                let hits = match &purge {
                    Purge::Url { .. } | Purge::Tag(_) => *what == which,
                    Purge::Prefix { prefix, .. } => targets[which as usize].starts_with(prefix.as_str()),
                    Purge::All => true,
                };
                let at = log.apply_local(purge, *soft, Millis(0));
                if subject.is_some() && hits {
                    expected = match (expected, soft) {
                        (Verdict::Dead, _) | (_, false) => Verdict::Dead,
                        _ => Verdict::Stale(at),
                    };
                }
                if let Some(subject) = &subject {
                    let judged = log.judge(subject);
                    match (judged, expected) {
                        // After several, any of them but one that came before the subject.
                        (Verdict::Stale(judged), Verdict::Stale(last)) => {
                            prop_assert!(judged > subject.head.position && judged <= last);
                        }
                        _ => prop_assert_eq!(judged, expected),
                    }
                }
            }
        }
    }
}
