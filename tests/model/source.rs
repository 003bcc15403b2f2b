//! The origin: every path has a version that a step may raise. An answer carries the version from
//! when it was asked for, so that a slow one brings old content.

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt as _, time::sleep};
use weaver_tests::Origin;

pub(crate) const HOST: &str = "h";
/// Freshness of paths under `/short/`.
pub(crate) const SHORT: Duration = Duration::from_secs(1);
/// Bodies of some paths are larger than what Redis holds in one piece.
const LARGE: usize = 20_000;

#[derive(Debug)]
pub(crate) struct Source {
    pub versions: Mutex<BTreeMap<String, u64>>,
    pub fails: AtomicBool,
    epoch: Instant,
}

/// What an answer says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub path: String,
    pub version: u64,
    pub user: String,
    pub language: String,
    pub made_at: Duration,
}

/// The paths there are: shared ones with tags, a user's own, by language, and short-lived ones.
pub(crate) fn paths() -> Vec<String> {
    let kinds = ["/shared/", "/own/", "/lang/", "/short/"];
    let of = |kind: &str| (0..3).map(|at| format!("{kind}{at}")).collect::<Vec<_>>();
    kinds.into_iter().flat_map(of).collect()
}

/// The tag of a path.
pub(crate) fn tag(path: &str) -> String {
    let number: u32 = path.bytes().map(u32::from).sum();
    format!("t{}", number % 3)
}

fn field(head: &str, name: &str) -> String {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
        .map_or_else(|| "-".to_owned(), |(_, value)| value.to_owned())
}

impl Source {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            versions: Mutex::new(paths().into_iter().map(|path| (path, 1)).collect()),
            fails: AtomicBool::new(false),
            epoch: Instant::now(),
        })
    }

    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(crate) fn version(&self, path: &str) -> u64 {
        self.versions.lock().get(path).copied().unwrap_or(0)
    }

    pub(crate) fn raise(&self, path: &str) {
        if let Some(version) = self.versions.lock().get_mut(path) {
            *version += 1;
        }
    }

    pub(crate) async fn serve(self: &Arc<Self>) -> Result<Origin> {
        let source = Arc::clone(self);
        Origin::start(move |head, mut stream| {
            let source = Arc::clone(&source);
            async move {
                let target = head.split(' ').nth(1)?.to_owned();
                let (version, made_at) = (source.version(&target), source.now());
                let slow = if fastrand::u8(..) < 64 { 300 } else { 20 };
                sleep(Duration::from_millis(fastrand::u64(0..slow))).await;
                let fails = source.fails.load(Ordering::SeqCst);
                if fails && fastrand::bool() {
                    let sorry = "HTTP/1.1 500 Sorry\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(sorry.as_bytes()).await.ok()?;
                    return Some(stream);
                }
                let answer = answer(&head, &target, version, made_at);
                if fails {
                    // Cut in the middle.
                    let half = &answer.as_bytes()[..answer.len() / 2];
                    stream.write_all(half).await.ok()?;
                    return None;
                }
                stream.write_all(answer.as_bytes()).await.ok()?;
                Some(stream)
            }
        })
        .await
    }
}

fn answer(head: &str, path: &str, version: u64, made_at: Duration) -> String {
    let (user, language) = (field(head, "x-user-id"), field(head, "x-lang"));
    let control = match path.split('/').nth(1) {
        Some("own") => "private, max-age=60",
        Some("short") => "public, max-age=1, stale-if-error=0",
        _ => "public, max-age=60",
    };
    let mut fields = format!(
        "cache-control: {control}\r\nsurrogate-key: all {}\r\n",
        tag(path)
    );
    let whom = if path.starts_with("/own/") {
        user
    } else {
        "-".to_owned()
    };
    let language = if path.starts_with("/lang/") {
        fields.push_str("vary: x-lang\r\n");
        language
    } else {
        "-".to_owned()
    };
    if !path.starts_with("/short/") {
        let etag = format!("\"{version}-{whom}-{language}\"");
        fields.push_str(&format!("etag: {etag}\r\n"));
        if field(head, "if-none-match") == etag {
            return format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n");
        }
    }
    let size = if path.ends_with(['0', '1']) {
        LARGE
    } else {
        100
    };
    let said = format!(
        "{path} {version} {whom} {language} {} ",
        made_at.as_millis()
    );
    let body = format!("{said}{}", filling(size, version));
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\n{fields}content-length: {length}\r\n\r\n{body}")
}

/// Different for each version, so that no two can be mixed unnoticed.
fn filling(size: usize, version: u64) -> String {
    let digit = char::from(b'a' + u8::try_from(version % 26).unwrap_or(0));
    std::iter::repeat_n(digit, size).collect()
}

impl Said {
    pub(crate) fn of(body: &str) -> Result<Self> {
        let mut words = body.split(' ');
        let mut word = || words.next().context("it ends in the middle");
        let said = Self {
            path: word()?.to_owned(),
            version: word()?.parse()?,
            user: word()?.to_owned(),
            language: word()?.to_owned(),
            made_at: Duration::from_millis(word()?.parse()?),
        };
        let size = if said.path.ends_with(['0', '1']) {
            LARGE
        } else {
            100
        };
        if word()? != filling(size, said.version) {
            bail!("its body is not whole: {} bytes", body.len());
        }
        Ok(said)
    }
}
