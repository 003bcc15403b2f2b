//! Following an ASK: the command goes to the other node right behind an ASKING.
//!
//! Between the two no other command may slip in, and the pool's connections are shared. So each node
//! has one connection for this, made when it is first needed, on which one caller at a time sends.

use crate::{PoolError, client::Attempt, connection::Connection, group::Group};
use fred::{
    clients::Client,
    error::Error as RedisError,
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand},
};
use std::{future::Future, time::Duration};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

/// For how long the connection is kept after it was last needed.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Asking(Mutex<Option<(Connection, Instant)>>);

impl Asking {
    pub(super) async fn call<T, F, Fut>(
        &self,
        group: &Group,
        until: Instant,
        command: F,
    ) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let shared = &group.shared;
        let began = Instant::now();
        let late = |_| PoolError::Timeout(until - began);
        let mut line = timeout_at(until, self.0.lock()).await.map_err(late)?;
        // Taken out, so that a call that is dropped in the middle leaves nothing behind.
        let connection = match line.take() {
            Some((connection, _)) if connection.is_connected() => connection,
            _ => {
                let made = Connection::establish(
                    &shared.config,
                    &group.target,
                    &shared.events,
                    Attempt::Once,
                );
                timeout_at(until, made).await.map_err(late)??
            }
        };
        let asking = CustomCommand::new_static("ASKING", ClusterHash::Random, false);
        let client = Client::clone(&connection);
        let outcome = timeout_at(until, async {
            let _: String = client.custom(asking, Vec::<String>::new()).await?;
            command(client.clone()).await
        });
        let outcome = match outcome.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(PoolError::from_redis(error, until - began)),
            Err(_) => Err(PoolError::Timeout(until - began)),
        };
        match &outcome {
            Ok(_) => shared.counters.succeeded(),
            Err(_) => shared.counters.failed(),
        }
        if !matches!(
            outcome,
            Err(PoolError::Timeout(_) | PoolError::Connection(_))
        ) {
            *line = Some((connection, Instant::now()));
        }
        outcome
    }

    /// Closes the connection if nobody needs it any more.
    pub(super) fn shrink(&self) {
        if let Ok(mut line) = self.0.try_lock()
            && line.as_ref().is_some_and(|(_, used)| used.elapsed() > IDLE)
        {
            *line = None;
        }
    }
}
