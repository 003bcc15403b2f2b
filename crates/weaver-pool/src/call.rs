//! Calls as a program makes them: by name and key, sent again where that is safe, and seen in traces.

use crate::{
    PoolError, RedisPool,
    cluster::Destination,
    commands::{self, Repeat},
    pool::Route,
    retry,
};
use fred::{clients::Client, error::Error as RedisError};
use futures_util::future::Either;
use std::{future::Future, time::Duration};
use tokio::time::sleep;
use tracing::{Instrument, Span, field};

/// A call of a named command, from [`RedisPool::command`].
///
/// Its name says whether it may be sent again, its key which node of a cluster it is for.
#[must_use = "it does nothing until it is run"]
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pool: &'a RedisPool,
    name: &'static str,
    destination: Destination<'a>,
    deadline: Duration,
    repeat: Repeat,
}

impl RedisPool {
    /// Sends a command, or a few that belong together, over one connection, within
    /// `socket_timeout`.
    ///
    /// `command` is given a client of that connection. It is called once and nothing is sent twice,
    /// except that a cluster may send it on to another node, which is why it is `Clone`. In a
    /// cluster it begins at any node; where there is a key, [`command`](Self::command) is better.
    ///
    /// # Errors
    ///
    /// [`PoolError::Exhausted`] if no place became free, [`PoolError::Timeout`] if the deadline
    /// passed, [`PoolError::CircuitOpen`] while the breaker refuses calls, [`PoolError::Connection`],
    /// [`PoolError::Command`] and [`PoolError::Closed`].
    pub fn execute<T, F, Fut>(
        &self,
        command: F,
    ) -> impl Future<Output = Result<T, PoolError>> + use<'_, T, F, Fut>
    where
        F: FnOnce(Client) -> Fut + Clone,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        self.execute_within(self.inner.shared.config.socket_timeout, command)
    }

    /// [`execute`](Self::execute) with a deadline of its own, which waiting for a place counts
    /// against.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn execute_within<T, F, Fut>(
        &self,
        deadline: Duration,
        command: F,
    ) -> impl Future<Output = Result<T, PoolError>> + use<'_, T, F, Fut>
    where
        F: FnOnce(Client) -> Fut + Clone,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        self.perform(None, Destination::default(), deadline, command)
    }

    /// A call of the command of that name, such as `"GET"`, to be run within `socket_timeout`.
    ///
    /// More than one command may be sent; then the name is that of the most dangerous.
    ///
    /// ```
    /// use fred::interfaces::KeysInterface;
    /// use std::time::Duration;
    ///
    /// # async fn run(pool: weaver_pool::RedisPool) -> Result<(), weaver_pool::PoolError> {
    /// let stock: Option<u64> = pool
    ///     .command("GET")
    ///     .key(b"stock")
    ///     .within(Duration::from_millis(20))
    ///     .run(|client| async move { client.get("stock").await })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn command(&self, name: &'static str) -> Call<'_> {
        Call {
            pool: self,
            name,
            destination: Destination::default(),
            deadline: self.inner.shared.config.socket_timeout,
            repeat: commands::repeat(name),
        }
    }

    /// A call to where its key belongs, in a span if anybody listens.
    ///
    /// A future is copied as a whole when it becomes part of another, and those of commands are
    /// large: 5 KB. So there are few layers, and what is rarely needed is boxed.
    fn perform<'a, T, F, Fut>(
        &'a self,
        operation: Option<&'static str>,
        destination: Destination<'a>,
        deadline: Duration,
        command: F,
    ) -> impl Future<Output = Result<T, PoolError>> + use<'a, T, F, Fut>
    where
        F: FnOnce(Client) -> Fut + Clone,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let span = self.span(operation);
        match &self.inner.route {
            Route::One(group) if span.is_disabled() => {
                Either::Left(group.call(None, deadline, true, command))
            }
            route => Either::Right(Box::pin(async move {
                let call = async {
                    match route {
                        Route::One(group) => group.call(None, deadline, true, command).await,
                        Route::Cluster(_) if self.is_closed() => Err(PoolError::Closed),
                        Route::Cluster(cluster) => {
                            cluster.call(destination, deadline, command).await
                        }
                    }
                };
                let outcome = call.instrument(span.clone()).await;
                if let Err(error) = &outcome {
                    record(&span, error);
                }
                outcome
            })),
        }
    }

    /// A span whose fields are those of OpenTelemetry's semantic conventions for Redis.
    fn span(&self, operation: Option<&'static str>) -> Span {
        let config = &self.inner.shared.config;
        let span = tracing::debug_span!(
            "redis",
            otel.name = operation.unwrap_or("redis"),
            otel.kind = "client",
            db.system.name = "redis",
            db.operation.name = operation,
            db.namespace = config.db,
            server.address = field::Empty,
            server.port = field::Empty,
            db.response.status_code = field::Empty,
            error.r#type = field::Empty,
        );
        if let crate::Topology::Standalone = config.topology
            && !span.is_disabled()
        {
            span.record("server.address", config.host.as_str());
            span.record("server.port", config.port);
        }
        span
    }
}

fn record(span: &Span, error: &PoolError) {
    span.record("error.type", error.kind());
    if let Some(code) = error.code() {
        span.record("db.response.status_code", code);
    }
}

impl<'a> Call<'a> {
    /// The key that decides which node of a cluster the command goes to. Each node has a circuit
    /// breaker of its own, and so one that is gone costs the others nothing.
    pub fn key(mut self, key: &'a [u8]) -> Self {
        self.destination.key = Some(key);
        self
    }

    /// Prefers a replica of the node, in a cluster whose `replicas` are used; what it answers may be
    /// old.
    pub fn from_replica(mut self) -> Self {
        self.destination.replica = true;
        self
    }

    /// A deadline instead of `socket_timeout`, for each attempt.
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether it does no harm twice, if the table by name says otherwise.
    pub fn repeatable(mut self, repeatable: bool) -> Self {
        self.repeat = if repeatable {
            Repeat::Always
        } else {
            Repeat::Never
        };
        self
    }

    /// Sends it, and again where that is safe and may help, up to `retries` times, after pauses
    /// that double and are drawn at random.
    ///
    /// A command that only reads is sent again if its deadline passed or its connection broke
    /// (`retry_on_timeout`). Any is if the server was in no state to run it (`retry_on_error`), or
    /// if there was no connection to send it over (`retry_on_timeout`).
    ///
    /// # Errors
    ///
    /// As [`RedisPool::execute`], of the last attempt.
    pub async fn run<T, F, Fut>(self, command: F) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut + Clone,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let inner = &*self.pool.inner;
        inner.retries.earn();
        let mut repeated = 0;
        loop {
            match self.clone().once(command.clone()).await {
                Err(error)
                    if repeated < inner.shared.config.retries
                        && retry::is_worth_it(&error, self.repeat, &inner.shared.config)
                        && inner.retries.spend() =>
                {
                    sleep(retry::pause(repeated)).await;
                    repeated += 1;
                    inner.shared.counters.repeated();
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends it once, whatever comes of it.
    ///
    /// # Errors
    ///
    /// As [`RedisPool::execute`].
    pub fn once<T, F, Fut>(
        self,
        command: F,
    ) -> impl Future<Output = Result<T, PoolError>> + use<'a, T, F, Fut>
    where
        F: FnOnce(Client) -> Fut + Clone,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        self.pool
            .perform(Some(self.name), self.destination, self.deadline, command)
    }
}
