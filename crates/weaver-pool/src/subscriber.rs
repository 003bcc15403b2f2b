//! Pub/sub on a connection of its own.

use crate::{
    PoolError, RedisPool,
    client::{self, Attempt},
    connection::Connection,
};
use bytes::Bytes;
use fred::{
    clients::SubscriberClient,
    error::Error as RedisError,
    interfaces::{EventInterface, PubsubInterface},
    types::{Message, MessageKind},
};
use std::{fmt, future::Future, time::Duration};
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{Receiver, error::RecvError},
        watch,
    },
    task::JoinHandle,
    time::{sleep, timeout},
};

/// The pause before subscribing again after an attempt that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Subscriptions on a connection of their own, from [`RedisPool::subscriber`]. When the connection
/// is lost it comes back by itself, and so do they. Dropping it ends them.
pub struct Subscriber {
    deadline: Duration,
    client: SubscriberClient,
    messages: Receiver<Message>,
    gaps: watch::Receiver<()>,
    resubscribes: JoinHandle<()>,
    _connection: Connection,
    _permit: OwnedSemaphorePermit,
}

/// What a [`Subscriber`] hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriberEvent {
    /// A message.
    Message {
        /// The channel that it was published to.
        channel: String,
        /// What was published.
        payload: Bytes,
    },
    /// Messages may have been lost, for Redis keeps none for those who are away: the connection was
    /// lost and is back, or [`Subscriber::next`] was not called for more than 1024 of them.
    Gap,
}

impl RedisPool {
    /// Opens a connection for subscriptions; it counts toward `max_dedicated`.
    ///
    /// # Errors
    ///
    /// As [`RedisPool::exclusive`].
    pub async fn subscriber(&self) -> Result<Subscriber, PoolError> {
        let inner = &self.inner;
        let permit = inner.dedicated_permit().await?;
        inner.dedicated.make_room();
        let config = &inner.shared.config;
        let client = client::builder(config, None, Attempt::Once)?
            .build_subscriber_client()
            .map_err(|error| PoolError::Config(error.to_string()))?;
        let messages = client.message_rx();
        let connection = Connection::serve(client.to_client(), false, &inner.shared.events);
        connection.ready(config.socket_connect_timeout).await?;
        let (gap, gaps) = watch::channel(());
        let resubscribes = resubscribe(client.clone(), config.socket_timeout, gap);
        Ok(Subscriber {
            deadline: config.socket_timeout,
            messages,
            gaps,
            resubscribes: tokio::spawn(resubscribes),
            client,
            _connection: connection,
            _permit: permit,
        })
    }
}

/// Subscribes again after each reconnection, until that has succeeded, and says so.
fn resubscribe(
    client: SubscriberClient,
    deadline: Duration,
    gap: watch::Sender<()>,
) -> impl Future<Output = ()> + Send + 'static {
    let mut back = client.reconnect_rx();
    async move {
        while !matches!(back.recv().await, Err(RecvError::Closed)) {
            while !matches!(
                timeout(deadline, client.resubscribe_all()).await,
                Ok(Ok(()))
            ) {
                tracing::debug!("redis subscriptions are not back yet");
                sleep(PAUSE).await;
            }
            gap.send_replace(());
        }
    }
}

impl Subscriber {
    /// Subscribes to a channel.
    ///
    /// # Errors
    ///
    /// [`PoolError::Timeout`] after `socket_timeout`, [`PoolError::Connection`],
    /// [`PoolError::Command`].
    pub async fn subscribe(&self, channel: &str) -> Result<(), PoolError> {
        self.within(self.client.subscribe(channel)).await
    }

    /// Subscribes to all channels that match a pattern, as PSUBSCRIBE has it.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub async fn subscribe_pattern(&self, pattern: &str) -> Result<(), PoolError> {
        self.within(self.client.psubscribe(pattern)).await
    }

    /// Ends the subscription to a channel.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub async fn unsubscribe(&self, channel: &str) -> Result<(), PoolError> {
        self.within(self.client.unsubscribe(channel)).await
    }

    /// Ends the subscription to a pattern.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub async fn unsubscribe_pattern(&self, pattern: &str) -> Result<(), PoolError> {
        self.within(self.client.punsubscribe(pattern)).await
    }

    /// Waits for the next message. May be dropped and called again without losing any.
    ///
    /// # Errors
    ///
    /// [`PoolError::Closed`] once the connection is closed for good.
    pub async fn next(&mut self) -> Result<SubscriberEvent, PoolError> {
        loop {
            let message = tokio::select! {
                biased;
                Ok(()) = self.gaps.changed() => return Ok(SubscriberEvent::Gap),
                message = self.messages.recv() => message,
            };
            match message {
                Ok(message)
                    if matches!(message.kind, MessageKind::Message | MessageKind::PMessage) =>
                {
                    return Ok(SubscriberEvent::Message {
                        channel: message.channel.to_string(),
                        payload: message.value.into_bytes().unwrap_or_default(),
                    });
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Ok(SubscriberEvent::Gap),
                Err(RecvError::Closed) => return Err(PoolError::Closed),
            }
        }
    }

    async fn within(
        &self,
        command: impl Future<Output = Result<(), RedisError>>,
    ) -> Result<(), PoolError> {
        match timeout(self.deadline, command).await {
            Ok(outcome) => outcome.map_err(|error| PoolError::from_redis(error, self.deadline)),
            Err(_) => Err(PoolError::Timeout(self.deadline)),
        }
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("channels", &self.client.tracked_channels())
            .field("patterns", &self.client.tracked_patterns())
            .finish_non_exhaustive()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.resubscribes.abort();
    }
}
