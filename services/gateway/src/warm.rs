//! Warming: URLs fetched into the cache ahead of their use, through this node's own public port, as
//! clients would: with its authentication, its limits and its rules.

use crate::{config::shown, state::State};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use subtle::ConstantTimeEq as _;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use weaver_cache::{CacheHandle, HotUrl, policy::url::Url};

/// URLs of one job.
pub(crate) const MAX_URLS: usize = 10_000;
/// Jobs that run at once.
const MAX_RUNNING: usize = 4;
/// Jobs whose progress is remembered.
const MAX_REMEMBERED: usize = 64;
/// Requests of a job at once.
const AT_ONCE: usize = 8;
/// For one response; the route's own deadlines are shorter.
const DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks whether Redis is there.
const POLL: Duration = Duration::from_millis(20);

/// What is to be warmed.
pub(crate) struct Order {
    /// With their hosts.
    pub(crate) urls: Vec<Uri>,
    /// Requests a second.
    pub(crate) rate: u32,
    /// Headers of the requests.
    pub(crate) headers: HeaderMap,
}

/// A URL with its host.
pub(crate) fn url(line: &str) -> Result<Uri, String> {
    let bad = |why: &dyn std::fmt::Display| {
        let shown = shown(line);
        format!("{shown:?}: {why}; it needs its host, as in http://example.com/path")
    };
    Url::parse(line).map_err(|error| bad(&error))?;
    // What is asked for is the URL as it was written; only its identity is in normal form.
    line.parse().map_err(|error| bad(&error))
}

fn random_token() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = || std::hash::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// The name and the value of `Name: value`.
pub(crate) fn header_line(line: &str) -> Result<(&str, &str), String> {
    line.split_once(':')
        .map(|(name, value)| (name.trim(), value.trim()))
        .ok_or_else(|| "a header is \"Name: value\"".to_owned())
}

/// A job, and how far it is.
#[derive(Default)]
pub(crate) struct Job {
    id: u64,
    total: u64,
    ended: watch::Sender<bool>,
    stored: AtomicU64,
    hits: AtomicU64,
    unstored: AtomicU64,
    failed: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl Job {
    pub(crate) fn report(&self) -> Value {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (stored, hits) = (read(&self.stored), read(&self.hits));
        let (unstored, failed) = (read(&self.unstored), read(&self.failed));
        json!({
            "job": self.id,
            "total": self.total,
            "done": stored + hits + unstored + failed,
            "stored": stored,
            "hits": hits,
            "unstored": unstored,
            "failed": failed,
            "last_problem": *self.problem.lock(),
            "ended": *self.ended.borrow(),
        })
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        // The sender is the job's own, so it is there.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn count(&self, outcome: Result<&AtomicU64, String>) {
        let count = outcome.unwrap_or_else(|problem| {
            *self.problem.lock() = Some(problem);
            &self.failed
        });
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// By this field a request of the warmer's own says that it stands for one by https; its value is
/// known in this process alone.
pub(crate) const BY_HTTPS: &str = "x-weaver-by-https";

/// Runs the jobs; it stops them when it is dropped.
pub(crate) struct Warmer {
    public: SocketAddr,
    /// The value of [`BY_HTTPS`].
    token: Arc<str>,
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    known: VecDeque<Arc<Job>>,
    last: u64,
    tasks: JoinSet<()>,
}

impl Warmer {
    pub(crate) fn new(mut public: SocketAddr) -> Self {
        if public.ip().is_unspecified() {
            public.set_ip(match public.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Self {
            public,
            token: random_token().into(),
            jobs: Mutex::default(),
        }
    }

    /// Whether a value of [`BY_HTTPS`] is the warmer's own.
    pub(crate) fn has_sent(&self, value: &[u8]) -> bool {
        bool::from(value.ct_eq(self.token.as_bytes()))
    }

    /// Begins a job; `None` if too many run already.
    pub(crate) fn begin(&self, order: Order) -> Option<Arc<Job>> {
        let mut jobs = self.jobs.lock();
        while jobs.tasks.try_join_next().is_some() {}
        if jobs.tasks.len() >= MAX_RUNNING {
            return None;
        }
        jobs.last += 1;
        let job = Arc::new(Job {
            id: jobs.last,
            total: order.urls.len() as u64,
            ..Job::default()
        });
        jobs.known.push_back(Arc::clone(&job));
        if jobs.known.len() > MAX_REMEMBERED {
            jobs.known.pop_front();
        }
        let token = Arc::clone(&self.token);
        jobs.tasks
            .spawn(work(self.public, token, order, Arc::clone(&job)));
        Some(job)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Job>> {
        self.jobs.lock().known.iter().cloned().collect()
    }

    pub(crate) fn find(&self, id: u64) -> Option<Arc<Job>> {
        let jobs = self.jobs.lock();
        jobs.known.iter().find(|job| job.id == id).cloned()
    }

    pub(crate) fn stop(&self) {
        self.jobs.lock().tasks.abort_all();
    }
}

type OwnClient = Client<HttpConnector, Empty<Bytes>>;

async fn work(public: SocketAddr, token: Arc<str>, order: Order, job: Arc<Job>) {
    let client: OwnClient = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .set_host(false)
        .build_http();
    let mut pace = interval(Duration::from_secs(1) / order.rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pace = futures_util::stream::unfold(pace, |mut pace| async move {
        pace.tick().await;
        Some(((), pace))
    });
    let (client, token, headers, known) = (&client, &*token, &order.headers, &job);
    futures_util::stream::iter(order.urls)
        .zip(pace)
        .for_each_concurrent(AT_ONCE, |(url, ())| async move {
            let fetched = fetch(client, (public, token), &url, headers);
            let outcome = match timeout(DEADLINE, fetched).await {
                Ok(Ok(Fetched::Stored)) => Ok(&known.stored),
                Ok(Ok(Fetched::Hit)) => Ok(&known.hits),
                Ok(Ok(Fetched::Unstored)) => Ok(&known.unstored),
                Ok(Err(problem)) => Err(format!("{url}: {problem}")),
                Err(_) => Err(format!("{url}: no answer in {DEADLINE:?}")),
            };
            known.count(outcome);
        })
        .await;
    job.ended.send_replace(true);
}

enum Fetched {
    Stored,
    Hit,
    Unstored,
}

async fn fetch(
    client: &OwnClient,
    (public, token): (SocketAddr, &str),
    url: &Uri,
    headers: &HeaderMap,
) -> Result<Fetched, String> {
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::get(format!("http://{public}{target}"))
        .header(header::HOST, host)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    request.headers_mut().extend(headers.clone());
    if url.scheme_str() == Some("https") {
        let token = HeaderValue::from_str(token).map_err(|error| error.to_string())?;
        request.headers_mut().insert(BY_HTTPS, token);
    }
    let response = client
        .request(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = response.status();
    let said = response.headers().get("cache-status");
    let said = said
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| format!("the body broke off: {error}"))?;
    }
    if said.contains("; hit") {
        Ok(Fetched::Hit)
    } else if said.contains("; stored") || said.contains("; collapsed") {
        Ok(Fetched::Stored)
    } else if status.is_client_error() || status.is_server_error() {
        Err(format!("status {}", status.as_u16()))
    } else {
        Ok(Fetched::Unstored)
    }
}

/// Warms what the configuration names, then says that the node is ready; after the configured time
/// it is so in any case, and what is left goes on behind.
pub(crate) async fn on_start(state: &State) {
    let config = &state.config.warm;
    if config.is_needed() && timeout(config.timeout, warm_up(state)).await.is_err() {
        tracing::warn!(after = ?config.timeout, "ready although not warm yet");
    }
    state.warming.store(false, Ordering::Release);
}

async fn warm_up(state: &State) {
    let config = &state.config.warm;
    let mut urls = config.urls.clone();
    if let (Some(cache), true) = (state.cache(), config.hottest > 0) {
        // What is listed is not to wait for a Redis that does not come.
        match timeout(config.timeout / 2, hottest(&cache, state)).await {
            Ok(hottest) => urls.extend(hottest.iter().filter_map(|hot| url(&hot.url).ok())),
            Err(_) => tracing::warn!("redis was not reached, and with it what was hottest"),
        }
    }
    urls.truncate(MAX_URLS);
    let order = Order {
        urls,
        rate: config.rate,
        headers: config.headers.clone(),
    };
    let Some(job) = state.warmer.begin(order) else {
        return;
    };
    job.ended().await;
    tracing::info!(report = %job.report(), "warm");
}

async fn hottest(cache: &CacheHandle, state: &State) -> Vec<HotUrl> {
    // What Redis has must not be fetched from the upstreams for want of a moment.
    while state.redis.is_some() && !cache.uses_redis() {
        sleep(POLL).await;
    }
    loop {
        match cache.hottest(state.config.warm.hottest).await {
            Ok(hottest) => return hottest,
            Err(_) => sleep(POLL).await,
        }
    }
}
