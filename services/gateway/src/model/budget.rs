//! What each identity may use of models: tokens a minute, and money an hour.
//!
//! A bucket fills steadily up to what may be used in the whole time. A call is let through while
//! there is anything in it, takes what its question is estimated at, and settles for what the answer
//! turned out to cost, which may leave the bucket empty beyond nothing. Hits cost nothing.
//!
//! With Redis all nodes share the buckets ([`shared`]). This node's own ([`local`]) are kept as well,
//! and decide while Redis is out of reach.

mod local;
mod shared;

use super::Refusal;
use crate::{config::ModelLimitsConfig, limit::Subject};
use local::{Local, Place};
use shared::Shared;
use std::sync::Arc;
use weaver_pool::RedisPool;

/// What is used up, and the seconds until there is some again.
type Empty = (&'static str, u64);

const TOKENS: &str = "tokens a minute";
const COST: &str = "cost an hour";

#[derive(Clone)]
pub(crate) struct Budgets(Arc<Inner>);

struct Inner {
    local: Local,
    shared: Option<Shared>,
}

impl Budgets {
    /// `None` where nothing is limited. `secret` is the key under which identities are known in
    /// Redis, under names that begin with `prefix`.
    pub(crate) fn new(
        limits: &ModelLimitsConfig,
        pool: Option<RedisPool>,
        prefix: &str,
        secret: Option<[u8; 32]>,
    ) -> Option<Self> {
        let limited = limits.tokens_per_minute > 0 || limits.cost_per_hour > 0.0;
        limited.then(|| {
            Self(Arc::new(Inner {
                local: Local::new(limits),
                shared: pool.map(|pool| Shared::new(pool, limits, prefix, secret)),
            }))
        })
    }

    /// Lets a call through, or says when to come back.
    pub(super) async fn reserve(
        &self,
        subject: Subject,
        tokens: u64,
    ) -> Result<Reservation, Refusal> {
        let inner = &*self.0;
        let (place, here) = inner.local.reserve(&subject, tokens);
        // The others may let through what this node alone would not.
        let reserved_here = if here.is_ok() { tokens } else { 0 };
        let reserved = match &inner.shared {
            Some(shared) => match shared.reserve(&subject, tokens).await {
                Ok(everywhere) => {
                    if everywhere.is_err() && here.is_ok() {
                        inner.local.charge(place, &subject, -(tokens as f64), 0.0);
                    }
                    everywhere
                }
                Err(error) => {
                    tracing::debug!(%error, "the shared limits of models");
                    here
                }
            },
            None => here,
        };
        reserved.map_err(|(what, seconds)| Refusal::over_budget(what, seconds))?;
        Ok(Reservation {
            budgets: self.clone(),
            subject,
            place,
            reserved_here,
            reserved: tokens,
        })
    }

    /// Forgets those whose buckets are full again.
    pub(crate) fn tend(&self) {
        self.0.local.tend();
    }
}

/// What a call has taken before it is known what it costs. Dropped, it has cost that.
pub(super) struct Reservation {
    budgets: Budgets,
    subject: Subject,
    /// Of this node's own buckets.
    place: Place,
    reserved_here: u64,
    reserved: u64,
}

impl Reservation {
    /// Takes what it has cost in its place.
    pub(super) async fn settle(self, tokens: u64, cost: f64) {
        let inner = &*self.budgets.0;
        let here = tokens as f64 - self.reserved_here as f64;
        inner.local.charge(self.place, &self.subject, here, cost);
        let more = tokens as f64 - self.reserved as f64;
        if let Some(shared) = &inner.shared
            && let Err(error) = shared.charge(&self.subject, more, cost).await
        {
            tracing::debug!(%error, "the shared limits of models");
        }
    }
}
