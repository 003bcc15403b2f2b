//! The nodes, what is done to them, and what they answer.

use crate::{
    reference::Reference,
    source::{HOST, SHORT, Said, Source, paths, tag},
};
use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};
use weaver_tests::{Gateway, Origin, Redis};

const NODES: usize = 3;
const USERS: [(&str, &str); 3] = [("key-one", "ann"), ("key-two", "ben"), ("key-three", "eve")];
const LANGUAGES: [&str; 2] = ["de", "en"];
/// How much later than it should an answer may be noticed to be old, on a busy machine.
const TOLERANCE: Duration = Duration::from_millis(500);
/// How long a node has to be frozen to notice it.
const NOTICED: Duration = Duration::from_millis(700);

/// Whether a purge is of a path.
type Selects = Box<dyn Fn(&str) -> bool>;

pub(crate) struct World {
    source: Arc<Source>,
    origin: Origin,
    redis: Redis,
    nodes: Vec<Node>,
    reference: Reference,
    random: Rng,
    client: reqwest::Client,
    asking: JoinSet<Result<Heard>>,
    begun: Instant,
    generation: usize,
    story: String,
    checked: usize,
    hits: usize,
    purges: usize,
    /// Until when answers may be errors, although the origin has recovered.
    excused: Instant,
    redis_is_well: bool,
    redis_excused: Instant,
}

struct Node {
    name: String,
    gateway: Gateway,
    frozen: bool,
    since: Instant,
}

/// An answer, and what was known when it was asked for.
struct Heard {
    asked: Asked,
    outcome: Result<(u16, String, String), reqwest::Error>,
}

#[derive(Clone, Debug)]
struct Asked {
    node: String,
    path: String,
    user: &'static str,
    language: &'static str,
    floor: u64,
    at: Duration,
    excused: bool,
}

impl World {
    pub(crate) async fn start(seed: u64) -> Result<Self> {
        let source = Source::new();
        let mut world = Self {
            origin: source.serve().await?,
            redis: Redis::start().await?,
            source,
            nodes: Vec::new(),
            reference: Reference::default(),
            random: Rng::with_seed(seed),
            client: reqwest::Client::builder()
                .timeout(Duration::from_secs(15))
                .no_proxy()
                .build()?,
            asking: JoinSet::new(),
            begun: Instant::now(),
            generation: 0,
            story: String::new(),
            checked: 0,
            hits: 0,
            purges: 0,
            excused: Instant::now(),
            redis_is_well: true,
            redis_excused: Instant::now(),
        };
        for _ in 0..NODES {
            let node = world.node().await?;
            world.nodes.push(node);
        }
        for node in &world.nodes {
            node.gateway.ready_for_redis().await?;
        }
        Ok(world)
    }

    /// What was done, for a failure's message.
    pub(crate) fn story(&self) -> &str {
        &self.story
    }

    fn tell(&mut self, what: &str) {
        let at = self.begun.elapsed();
        // Writing to a String does not fail.
        let _ = writeln!(self.story, "{at:8.3?} {what}");
    }

    async fn node(&mut self) -> Result<Node> {
        self.generation += 1;
        let name = format!("n{}", self.generation);
        let keys = USERS.map(|(key, user)| format!("\"{key}:{user}\""));
        let own = format!(
            "[[routes]]\npath = \"/own\"\nper_user = true\nupstreams = [\"http://127.0.0.1:{}\"]\n",
            self.origin.port()
        );
        // A busy machine must not look like a Redis that is gone, after which memory is served.
        let config = format!(
            "{}socket_timeout = \"500ms\"\n[auth]\nmode = \"api_key\"\napi_keys = [{}]\n[cache]\nnode = \"{name}\"\nlease = \"1s\"\nredis_deadline = \"2s\"\nredis_part = \"4KiB\"\n{}{own}",
            self.redis.section(),
            keys.join(","),
            self.origin.route("retries = 0"),
        );
        let gateway = Gateway::start(&config).await?;
        self.reference.joins(&name);
        Ok(Node {
            name,
            gateway,
            frozen: false,
            since: Instant::now(),
        })
    }

    pub(crate) async fn run(&mut self, steps: usize) -> Result<String> {
        for _ in 0..steps {
            self.step().await?;
            while let Some(heard) = self.asking.try_join_next() {
                self.check(heard??)?;
            }
        }
        self.recover().await?;
        while let Some(heard) = self.asking.join_next().await {
            self.check(heard??)?;
        }
        // All is well again, so all is served.
        for at in 0..NODES {
            for path in paths() {
                self.ask(at, &path);
            }
        }
        while let Some(heard) = self.asking.join_next().await {
            self.check(heard??)?;
        }
        Ok(format!(
            "{} answers, {} of them hits, {} purges",
            self.checked, self.hits, self.purges
        ))
    }

    async fn step(&mut self) -> Result<()> {
        match self.random.u32(0..100) {
            0..70 => self.fetch(),
            70..75 => self.purge().await?,
            75..80 => self.purge_under_load().await?,
            80..85 => sleep(Duration::from_millis(self.random.u64(0..600))).await,
            85..88 => self.fail_or_recover(),
            88..92 => self.freeze_a_node().await?,
            92..96 => self.restart_a_node().await?,
            _ => self.redis_fails().await?,
        }
        Ok(())
    }

    fn fetch(&mut self) {
        let path = self.path();
        for _ in 0..self.random.usize(2..12) {
            let node = self.random.usize(0..NODES);
            self.ask(node, &path);
        }
    }

    fn ask(&mut self, node: usize, path: &str) {
        let node = &self.nodes[node];
        if node.frozen {
            return;
        }
        let (key, user) = USERS[self.random.usize(0..USERS.len())];
        let language = LANGUAGES[self.random.usize(0..LANGUAGES.len())];
        let asked = Asked {
            node: node.name.clone(),
            path: path.to_owned(),
            user,
            language,
            floor: self.reference.floor(&node.name, path),
            at: self.source.now(),
            excused: self.source.fails.load(Ordering::SeqCst) || Instant::now() < self.excused,
        };
        let request = self
            .client
            .get(node.gateway.url(path))
            .header("host", HOST)
            .header("x-api-key", key)
            // For the origin; the gateway checks that it is true.
            .header("x-user-id", user)
            .header("x-lang", language);
        self.asking.spawn(async move {
            let outcome = async {
                let answer = request.send().await?;
                let status = answer.status().as_u16();
                let said = answer.headers().get("cache-status");
                let said = said.and_then(|said| said.to_str().ok()).unwrap_or("");
                let said = said.to_owned();
                Ok((status, said, answer.text().await?))
            };
            let outcome = outcome.await;
            Ok(Heard { asked, outcome })
        });
    }

    fn check(&mut self, heard: Heard) -> Result<()> {
        let asked = heard.asked;
        // A node that was killed meanwhile owes nothing.
        let lives = self.nodes.iter().any(|node| node.name == asked.node);
        let excused = asked.excused || !lives || Instant::now() < self.excused;
        let excused = excused || self.source.fails.load(Ordering::SeqCst);
        let (status, said, body) = match heard.outcome {
            Ok((status, said, body)) if status == 200 => (status, said, body),
            Ok((status, ..)) if excused && status >= 500 => return Ok(()),
            Err(_) if excused => return Ok(()),
            Ok((status, said, body)) => bail!("{asked:?}: {status} {said} {body}"),
            Err(error) => bail!("{asked:?}: {error:?}"),
        };
        let answer = Said::of(&body).with_context(|| format!("{asked:?}: {status} {said}"))?;
        let context = || format!("{asked:?} got {answer:?}, {said}");
        if answer.path != asked.path {
            bail!("of another URL: {}", context());
        }
        if asked.path.starts_with("/own/") && answer.user != asked.user {
            bail!("another user's: {}", context());
        }
        if asked.path.starts_with("/lang/") && answer.language != asked.language {
            bail!("in another language: {}", context());
        }
        if answer.version < asked.floor {
            bail!("purged: {}", context());
        }
        if answer.version > self.source.version(&asked.path) {
            bail!("of the future: {}", context());
        }
        let old = asked.at.saturating_sub(answer.made_at);
        if asked.path.starts_with("/short/") && old > SHORT + TOLERANCE {
            bail!("too old by {:?}: {}", old - SHORT, context());
        }
        self.checked += 1;
        self.hits += usize::from(said.contains("; hit"));
        Ok(())
    }

    fn path(&mut self) -> String {
        let all = paths();
        all[self.random.usize(0..all.len())].clone()
    }

    /// With clients who ask for what is purged before and after.
    async fn purge_under_load(&mut self) -> Result<()> {
        let path = self.path();
        for _ in 0..2 {
            for node in 0..NODES {
                self.ask(node, &path);
            }
            if self.random.bool() {
                sleep(Duration::from_millis(self.random.u64(0..150))).await;
            }
        }
        self.purge_of(&path).await?;
        for node in (0..NODES).chain(0..NODES) {
            self.ask(node, &path);
        }
        Ok(())
    }

    async fn purge(&mut self) -> Result<()> {
        let path = self.path();
        self.purge_of(&path).await
    }

    /// Changes some content at the origin, then purges it.
    async fn purge_of(&mut self, path: &str) -> Result<()> {
        let all = paths();
        let path = path.to_owned();
        let beginning = &path[..path.rfind('/').map_or(0, |at| at + 1)];
        let (what, hit): (Value, Selects) = match self.random.u8(0..10) {
            0..5 => {
                let only = path.clone();
                let url = format!("http://{HOST}{path}");
                (json!({ "url": url }), Box::new(move |path| path == only))
            }
            5..7 => {
                let wanted = tag(&path);
                let tags = json!({ "tags": [&wanted] });
                (tags, Box::new(move |path| tag(path) == wanted))
            }
            7..9 => {
                let prefix = beginning.to_owned();
                let json = json!({ "prefix": format!("http://{HOST}{prefix}") });
                (json, Box::new(move |path| path.starts_with(&prefix)))
            }
            _ => (json!({ "all": true }), Box::new(|_| true)),
        };
        let mut what = what;
        let soft = self.random.u8(0..8) == 0;
        what["soft"] = json!(soft);
        let purged: Vec<_> = all.into_iter().filter(|path| hit(path)).collect();
        purged.iter().for_each(|path| self.source.raise(path));
        let versions: BTreeMap<_, _> = purged
            .into_iter()
            .map(|path| (path.clone(), self.source.version(&path)))
            .collect();
        let at = self.random.usize(0..NODES);
        let node = &self.nodes[at];
        if node.frozen {
            return Ok(());
        }
        let waits = self.random.bool();
        let query = if waits {
            "?wait=applied&timeout=1s"
        } else {
            ""
        };
        let url = node.gateway.admin_url(&format!("/purge{query}"));
        let name = node.name.clone();
        // A node that has just started may not be connected, and says so.
        let trouble = !self.redis_is_well
            || Instant::now() < self.redis_excused
            || node.since.elapsed() < Duration::from_secs(3);
        let sent = self.client.post(url).json(&what).send().await;
        let answer = sent.with_context(|| format!("purge at {name}: {what}"))?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await?;
        self.tell(&format!(
            "{name} purges {what} {query} of {versions:?}: {status} {body}"
        ));
        self.purges += 1;
        // What is stale may be served in place of an error.
        let versions = if soft { BTreeMap::new() } else { versions };
        match status {
            200 => self.reference.is_in_the_journal(&name, versions),
            // The journal may have it all the same.
            // The breaker of a node may be open for a while after Redis is back.
            503 if trouble => self.reference.holds_locally(&name, &versions),
            _ => bail!("purge at {name}: {status} {body}"),
        }
        if waits && status == 200 {
            let missing = body["missing"].as_array().into_iter().flatten();
            let missing: BTreeSet<String> = missing
                .filter_map(|name| Some(name.as_str()?.split('.').next()?.to_owned()))
                .collect();
            self.reference.is_applied(&missing);
        }
        Ok(())
    }

    fn fail_or_recover(&mut self) {
        let fails = !self.source.fails.load(Ordering::SeqCst);
        self.tell(if fails {
            "the origin fails"
        } else {
            "the origin is well"
        });
        self.source.fails.store(fails, Ordering::SeqCst);
        self.excuse();
    }

    /// What was begun under a fault may fail for a while.
    fn excuse(&mut self) {
        self.excused = Instant::now() + Duration::from_secs(3);
    }

    async fn freeze_a_node(&mut self) -> Result<()> {
        if !self.redis_is_well {
            return Ok(());
        }
        let at = self.random.usize(0..NODES);
        let name = self.nodes[at].name.clone();
        self.nodes[at].gateway.process().signal("STOP")?;
        self.nodes[at].frozen = true;
        self.tell(&format!("{name} is frozen"));
        let frozen = Instant::now();
        for _ in 0..self.random.usize(1..4) {
            self.fetch();
            self.purge().await?;
        }
        sleep(NOTICED.saturating_sub(frozen.elapsed())).await;
        self.nodes[at].gateway.process().signal("CONT")?;
        self.nodes[at].frozen = false;
        self.tell(&format!("{name} wakes"));
        self.reference.wakes(&name);
        // At once: it has to notice by itself.
        for path in paths() {
            self.ask(at, &path);
        }
        Ok(())
    }

    async fn restart_a_node(&mut self) -> Result<()> {
        let at = self.random.usize(0..NODES);
        let old = self.nodes[at].name.clone();
        let how = if self.random.bool() { "KILL" } else { "TERM" };
        self.nodes[at].gateway.process().signal(how)?;
        self.excuse();
        self.nodes[at] = self.node().await?;
        self.reference.leaves(&old);
        let new = self.nodes[at].name.clone();
        self.tell(&format!("{old} ends by {how}, {new} takes its place"));
        Ok(())
    }

    async fn redis_fails(&mut self) -> Result<()> {
        // A node that has just woken learns from Redis what it missed; one that cannot serves what it
        // has, which is no promise.
        while let Some(heard) = self.asking.join_next().await {
            self.check(heard??)?;
        }
        let frozen = self.random.bool();
        self.tell(if frozen {
            "redis is frozen"
        } else {
            "redis is killed"
        });
        self.redis_is_well = false;
        if frozen {
            self.redis.freeze()?;
        } else {
            self.redis.kill();
        }
        for _ in 0..self.random.usize(2..6) {
            match self.random.u8(0..4) {
                0 => self.purge().await?,
                1 => self.restart_a_node().await?,
                _ => self.fetch(),
            }
            sleep(Duration::from_millis(self.random.u64(0..300))).await;
        }
        if frozen {
            self.redis.thaw()?;
        } else {
            self.redis.up().await?;
        }
        self.tell("redis is back");
        if self.random.bool() {
            // Some of what follows finds the nodes on their way back.
            self.fetch();
            self.purge().await?;
        }
        for node in &self.nodes {
            node.gateway.ready_for_redis().await?;
        }
        self.redis_is_well = true;
        self.redis_excused = Instant::now() + Duration::from_secs(3);
        self.tell("redis is in use");
        Ok(())
    }

    async fn recover(&mut self) -> Result<()> {
        self.source.fails.store(false, Ordering::SeqCst);
        for node in &self.nodes {
            node.gateway.ready_for_redis().await?;
        }
        sleep(self.excused.saturating_duration_since(Instant::now())).await;
        Ok(())
    }
}
