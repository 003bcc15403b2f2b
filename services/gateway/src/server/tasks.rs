//! The gateway's background tasks, and their end.

use crate::state::State;
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// Dropping it ends them all.
pub(super) struct Tasks(#[allow(dead_code, reason = "held for its drop")] JoinSet<()>);

impl Tasks {
    pub(super) fn start(state: &Arc<State>) -> Self {
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(state);
        tasks.spawn(every(Duration::from_secs(1), move || {
            let shared = Arc::clone(&shared);
            async move {
                // Reads a file's time, and the file when that has changed.
                let _ = tokio::task::spawn_blocking(move || shared.auth.reload()).await;
            }
        }));
        let shared = Arc::clone(state);
        tasks.spawn(every(Duration::from_secs(10), move || {
            let shared = Arc::clone(&shared);
            async move {
                if let Some(limiter) = &shared.limiter {
                    limiter.run_maintenance();
                }
                shared.auth.run_maintenance();
                if let Some(failures) = &shared.admin_failures {
                    failures.run_maintenance();
                }
                if let Some(budgets) = &shared.models.budgets {
                    budgets.tend();
                }
                if let Some(cache) = shared.cache() {
                    cache.tend().await;
                }
            }
        }));
        let shared = Arc::clone(state);
        tasks.spawn(every(Duration::from_secs(60), move || {
            let shared = Arc::clone(&shared);
            async move {
                if let Some(cache) = shared.cache()
                    && let Err(error) = cache.remember_hottest().await
                {
                    tracing::debug!(%error, "the hottest URLs could not be written");
                }
            }
        }));
        let shared = Arc::clone(state);
        tasks.spawn(async move { super::ready::await_redis(&shared).await });
        let shared = Arc::clone(state);
        tasks.spawn(async move { crate::warm::on_start(&shared).await });
        let shared = Arc::clone(state);
        tasks.spawn(every(Duration::from_secs(5), move || {
            let shared = Arc::clone(&shared);
            async move {
                if let Ok(stats) = shared.agents.get_stats().await {
                    shared.agent_metrics.set(stats.online, stats.offline);
                }
            }
        }));
        let shared = Arc::clone(state);
        tasks.spawn(async move { crate::agents::follow(&shared).await });
        for route in state.routes.all() {
            let (route, policy) = (Arc::clone(route), Arc::clone(&state.agent_addresses));
            let names = state.names.clone();
            let max_head = state.config.server.max_upstream_head;
            tasks.spawn(async move {
                crate::proxy::check_health(&route, &policy, &names, max_head).await;
            });
        }
        let shared = Arc::clone(state);
        tasks.spawn(async move { crate::proxy::follow_names(&shared).await });
        Self(tasks)
    }
}

async fn every<F, Fut>(period: Duration, mut work: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = ()>,
{
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        work().await;
    }
}
