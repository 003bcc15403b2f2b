use crate::{
    Answer, Bypass, Cached, Call, Flights, Joined, Key, Landed, ModelCacheConfig, ModelCacheError,
    ModelCacheStats,
    class::Classifier,
    codec::Record,
    memory::Memory,
    redis::Redis,
    stats::Counters,
    store::{Generation, Store, Tombstone},
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use weaver_pool::RedisPool;

/// The cache; a handle, cheap to clone.
///
/// See the crate's documentation for what it promises.
#[derive(Clone, Debug)]
pub struct ModelCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ModelCacheConfig,
    classifier: Classifier,
    store: Store,
    counters: Counters,
    flights: Flights<Answer>,
}

/// What who asks allows (RFC 9111 §5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Not from the cache; what is fetched may be kept.
    pub no_cache: bool,
    /// Neither from the cache nor into it.
    pub no_store: bool,
    /// From the cache only if it is no older.
    pub max_age: Option<Duration>,
}

/// What a look-up came to.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// It is there.
    Hit(Cached),
    /// It is not; what is fetched now is kept by this.
    Miss(Ticket),
    /// It is neither looked for nor kept.
    Bypass(Bypass),
}

/// The right to keep what is fetched from now on, given before the fetch.
#[derive(Clone, Debug)]
pub struct Ticket {
    key: Key,
    class: Arc<str>,
    ttl: Duration,
    /// `None` if Redis did not say; then nothing is kept.
    state: Option<(Generation, Option<Tombstone>)>,
    began: Instant,
    model: String,
}

impl Ticket {
    /// The key for [`Flights`]: of the call, and of the state of the cache. Whoever asks after the
    /// answer was invalidated, or everything cleared, shares no fetch that began before.
    #[must_use]
    pub fn flight(&self) -> Key {
        let Some((generation, tombstone)) = &self.state else {
            return self.key;
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.key.0);
        hasher.update(generation);
        hasher.update(
            tombstone
                .as_ref()
                .map_or(&[][..], |tombstone| &tombstone[..]),
        );
        Key(*hasher.finalize().as_bytes())
    }

    /// The class of the question.
    #[must_use]
    pub fn class(&self) -> &Arc<str> {
        &self.class
    }

    /// How long the answer will be kept.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was in the cache.
    Cache,
    /// It was fetched.
    Fetch,
    /// Another call fetched it meanwhile.
    Shared,
}

/// An answer, from the cache or fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The answer.
    pub answer: Answer,
    /// Where it is from.
    pub source: Source,
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

impl ModelCache {
    /// A cache in this process alone.
    ///
    /// # Errors
    ///
    /// [`ModelCacheError::Config`] if a field of the configuration is out of its range.
    pub fn embedded(config: ModelCacheConfig) -> Result<Self, ModelCacheError> {
        config.validate()?;
        let memory = Memory::new(&config);
        Ok(Self::of(config, Store::Memory(memory)))
    }

    /// A cache that all share who have the same Redis, prefix and secret. Redis need not be there
    /// yet: without it every look-up is a miss.
    ///
    /// # Errors
    ///
    /// [`ModelCacheError::Config`] if a field of the configuration is out of its range.
    pub fn redis(pool: RedisPool, config: ModelCacheConfig) -> Result<Self, ModelCacheError> {
        config.validate()?;
        let longest = Classifier::new(&config).longest();
        let redis = Redis::new(pool, &config, longest);
        Ok(Self::of(config, Store::Redis(redis)))
    }

    fn of(config: ModelCacheConfig, store: Store) -> Self {
        Self {
            inner: Arc::new(Inner {
                classifier: Classifier::new(&config),
                flights: Flights::new(config.max_answer, config.max_filling),
                counters: Counters::default(),
                config,
                store,
            }),
        }
    }

    /// What it was configured with.
    #[must_use]
    pub fn config(&self) -> &ModelCacheConfig {
        &self.inner.config
    }

    /// Where the answer to a call is kept.
    #[must_use]
    pub fn key(&self, call: &Call) -> Key {
        let config = &self.inner.config;
        Key::of(call, config.per_user, config.secret.as_ref())
    }

    /// The class of a question, and how long its answer is kept.
    #[must_use]
    pub fn classify(&self, question: &str) -> (Arc<str>, Duration) {
        self.inner.classifier.classify(question)
    }

    /// Looks for the answer to a call. One round trip to Redis; a failure of it is a miss whose
    /// answer is not kept.
    pub async fn look_up(&self, call: &Call, wishes: Wishes) -> Lookup {
        match self.prepare(call, wishes) {
            Ok(ticket) => self.look_up_by(ticket, wishes).await,
            Err(bypass) => Lookup::Bypass(bypass),
        }
    }

    /// All of a look-up that needs the call, and no more than the processor: of a large call it takes a
    /// while. [`look_up_by`](Self::look_up_by) does the rest.
    ///
    /// # Errors
    ///
    /// Why the call is past the cache.
    pub fn prepare(&self, call: &Call, wishes: Wishes) -> Result<Ticket, Bypass> {
        let inner = &*self.inner;
        let bypass = call.bypass(&inner.config);
        let bypass = bypass.or_else(|| wishes.no_store.then_some(Bypass::NoStore));
        if let Some(bypass) = bypass {
            inner.counters.bypass(bypass);
            return Err(bypass);
        }
        let (class, ttl) = inner.classifier.class_of(call);
        Ok(Ticket {
            key: self.key(call),
            class,
            ttl,
            state: None,
            began: Instant::now(),
            model: call.model.clone(),
        })
    }

    /// [`look_up`](Self::look_up) of a call that is [prepared](Self::prepare).
    pub async fn look_up_by(&self, mut ticket: Ticket, wishes: Wishes) -> Lookup {
        let inner = &*self.inner;
        ticket.began = Instant::now();
        match inner.store.get(ticket.key).await {
            Ok(found) => {
                ticket.state = Some((found.generation, found.tombstone));
                if found.is_refused {
                    tracing::debug!(key = %ticket.key, "a record in redis is refused");
                    inner.counters.error();
                }
                if let Some(cached) = found.record.and_then(|record| usable(&record, wishes)) {
                    inner.counters.hit();
                    self.count_saved(&ticket.model, &cached.answer);
                    return Lookup::Hit(cached);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a model's answer could not be looked for");
                inner.counters.error();
            }
        }
        inner.counters.miss();
        Lookup::Miss(ticket)
    }

    fn count_saved(&self, model: &str, answer: &Answer) {
        let inner = &*self.inner;
        let price = inner.config.price(model);
        let money = price.map_or(0.0, |price| price.of(answer.usage));
        inner.counters.saved(answer.usage, money, answer.took);
    }

    /// Counts a call that shares another's fetch, by [`Flights`] of the caller's own.
    pub fn count_shared(&self) {
        self.inner.counters.shared();
    }

    /// Looks once more for what was not there, after a place in [`Flights`] was taken: another's
    /// fetch may have ended meanwhile. The ticket holds from here on.
    pub async fn look_again(&self, ticket: &mut Ticket, wishes: Wishes) -> Option<Cached> {
        let found = self.inner.store.get(ticket.key).await.ok()?;
        ticket.state = Some((found.generation, found.tombstone));
        ticket.began = Instant::now();
        let cached = usable(&*found.record?, wishes)?;
        self.inner.counters.hit_after_all();
        self.count_saved(&ticket.model, &cached.answer);
        Some(cached)
    }

    /// Keeps an answer that was fetched under a ticket; returns whether it is kept. It is not if its
    /// class is not to be, if it is too large or took too long, if it was invalidated meanwhile, or if
    /// Redis failed.
    pub async fn keep(&self, ticket: &Ticket, answer: Answer) -> bool {
        let inner = &*self.inner;
        let config = &inner.config;
        let Some((generation, tombstone)) = ticket.state else {
            return false;
        };
        if ticket.ttl.is_zero()
            || answer.body.len() > config.max_answer
            || ticket.began.elapsed() > config.max_fetch
        {
            return false;
        }
        let record = Record {
            key: ticket.key,
            generation,
            created_at: unix_millis(),
            ttl: ticket.ttl,
            class: Arc::clone(&ticket.class),
            answer,
        };
        match inner.store.put(record, tombstone).await {
            Ok(true) => {
                inner.counters.stored();
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::debug!(%error, model = ticket.model, "a model's answer could not be kept");
                inner.counters.error();
                false
            }
        }
    }

    /// The answer to a call, if it is there. [`look_up`](Self::look_up) without wishes.
    pub async fn get(&self, call: &Call) -> Option<Cached> {
        match self.look_up(call, Wishes::default()).await {
            Lookup::Hit(cached) => Some(cached),
            Lookup::Miss(_) | Lookup::Bypass(_) => None,
        }
    }

    /// Keeps the answer to a call; returns whether it is kept. Where the fetch and this are far
    /// apart [`keep`](Self::keep) is better: what was invalidated meanwhile stays so.
    pub async fn set(&self, call: &Call, answer: &Answer) -> bool {
        if call.bypass(&self.inner.config).is_some() {
            return false;
        }
        let (class, ttl) = self.inner.classifier.class_of(call);
        let key = self.key(call);
        let state = match self.inner.store.get(key).await {
            Ok(found) => Some((found.generation, found.tombstone)),
            Err(_) => {
                self.inner.counters.error();
                None
            }
        };
        let ticket = Ticket {
            key,
            class,
            ttl,
            state,
            began: Instant::now(),
            model: call.model.clone(),
        };
        self.keep(&ticket, answer.clone()).await
    }

    /// The answer to a call, from the cache or by `fetch`, of which one runs for a key in this
    /// process at a time. If it fails, one of those who waited fetches.
    ///
    /// # Errors
    ///
    /// Those of `fetch`.
    pub async fn get_or_fetch<E, F>(&self, call: &Call, fetch: F) -> Result<Fetched, E>
    where
        F: AsyncFnOnce() -> Result<Answer, E>,
    {
        let fetched = |answer, source| Ok(Fetched { answer, source });
        let mut ticket = match self.look_up(call, Wishes::default()).await {
            Lookup::Hit(cached) => return fetched(cached.answer, Source::Cache),
            Lookup::Bypass(_) => return fetched(fetch().await?, Source::Fetch),
            Lookup::Miss(ticket) => ticket,
        };
        let lead = loop {
            match self.inner.flights.join(ticket.flight()) {
                Joined::Leads(lead) => break lead,
                Joined::Follows(follower) => match follower.landed().await {
                    Landed::Shared(answer, _) => {
                        self.count_shared();
                        self.count_saved(&call.model, &answer);
                        return fetched(answer, Source::Shared);
                    }
                    Landed::Alone => break self.inner.flights.alone(),
                    Landed::Abandoned => {}
                },
            }
        };
        if let Some(cached) = self.look_again(&mut ticket, Wishes::default()).await {
            lead.land(cached.answer.clone());
            lead.finish();
            return fetched(cached.answer, Source::Cache);
        }
        let mut answer = fetch().await?;
        if answer.took.is_zero() {
            answer.took = ticket.began.elapsed();
        }
        self.keep(&ticket, answer.clone()).await;
        lead.land(answer.clone());
        lead.finish();
        fetched(answer, Source::Fetch)
    }

    /// Removes the answer to a call, and keeps none whose fetch has begun already. Returns whether
    /// there was one.
    ///
    /// # Errors
    ///
    /// [`ModelCacheError::Redis`]; then it may be there still.
    pub async fn invalidate(&self, call: &Call) -> Result<bool, ModelCacheError> {
        Ok(self.inner.store.invalidate(self.key(call)).await?)
    }

    /// Removes all answers, and keeps none whose fetch has begun already.
    ///
    /// # Errors
    ///
    /// [`ModelCacheError::Redis`]; then they may be there still.
    pub async fn clear(&self) -> Result<(), ModelCacheError> {
        Ok(self.inner.store.clear().await?)
    }

    /// What it has done, in this process.
    #[must_use]
    pub fn stats(&self) -> ModelCacheStats {
        self.inner.counters.read()
    }

    /// Whether the backend answers.
    ///
    /// # Errors
    ///
    /// [`ModelCacheError::Redis`], with the reason.
    pub async fn health(&self) -> Result<(), ModelCacheError> {
        Ok(self.inner.store.health().await?)
    }
}

fn usable(record: &Record, wishes: Wishes) -> Option<Cached> {
    let age = Duration::from_millis(unix_millis().saturating_sub(record.created_at));
    let ttl = record.ttl.checked_sub(age).filter(|left| !left.is_zero())?;
    let is_old = wishes.max_age.is_some_and(|most| age > most);
    (!wishes.no_cache && !is_old).then(|| Cached {
        answer: record.answer.clone(),
        class: Arc::clone(&record.class),
        age,
        ttl,
    })
}
