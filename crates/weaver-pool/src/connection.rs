//! One connection of the pool: a client, and the task that serves it.

use crate::{RedisPoolConfig, client};
use fred::{clients::Client, error::Error as RedisError, interfaces::ClientLike};
use std::{ops::Deref, sync::Arc, time::Duration};
use tokio::{task::AbortHandle, time::timeout};

/// How long a connection may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(1);

pub(crate) struct Connection {
    client: Client,
    task: AbortHandle,
}

impl Connection {
    /// Starts to connect, and goes on until it has, or is dropped.
    pub(crate) fn open(config: &RedisPoolConfig) -> Result<Self, RedisError> {
        let client = client::build(config, Duration::ZERO)?;
        let task = client.connect().abort_handle();
        Ok(Self { client, task })
    }

    /// Closes it behind the commands that are outstanding, as far as there is time.
    pub(crate) async fn close(self: Arc<Self>) {
        // An error here means that the connection is gone, which is what we want.
        let _ = timeout(FAREWELL, self.client.quit()).await;
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A client that is stuck in a write hears no good-bye; its task ends all the same.
impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
