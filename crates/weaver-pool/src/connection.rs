//! One connection: a client, the task that serves it, and the one that watches it.

use crate::{
    PoolError, RedisPoolConfig,
    client::{self, Attempt},
    server::Target,
};
use fred::{
    clients::Client,
    error::ErrorKind,
    interfaces::{ClientLike, EventInterface},
    types::{ClusterHash, CustomCommand},
};
use parking_lot::Mutex;
use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    task::AbortHandle,
    time::timeout,
};

/// How long a connection may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(1);

/// What happens to all connections of a pool.
#[derive(Default)]
pub(crate) struct Events {
    /// A connection came or went.
    pub(crate) changed: Notify,
    pub(crate) reconnects: AtomicU64,
}

pub(crate) struct Connection {
    client: Client,
    trouble: Arc<Mutex<Option<String>>>,
    tasks: [AbortHandle; 2],
}

impl Connection {
    /// Starts to connect, and goes on until it has, or is dropped.
    pub(crate) fn open(
        config: &RedisPoolConfig,
        target: &Target,
        events: &Arc<Events>,
    ) -> Result<Self, PoolError> {
        Self::start(config, target, events, Attempt::Again)
    }

    fn start(
        config: &RedisPoolConfig,
        target: &Target,
        events: &Arc<Events>,
        attempt: Attempt,
    ) -> Result<Self, PoolError> {
        let client = client::builder(config, target.server.as_ref(), attempt)?
            .build()
            .map_err(|error| PoolError::Config(error.to_string()))?;
        Ok(Self::serve(client, target.replica, events))
    }

    /// Starts to connect a client that is not connected.
    pub(crate) fn serve(client: Client, replica: bool, events: &Arc<Events>) -> Self {
        let trouble = Arc::new(Mutex::new(None));
        let watch = watch(&client, replica, Arc::clone(&trouble), Arc::clone(events));
        let watch = tokio::spawn(watch).abort_handle();
        let serve = client.connect().abort_handle();
        Self {
            client,
            trouble,
            tasks: [serve, watch],
        }
    }

    /// Connects at once or not at all; `attempt` says what becomes of it when it is lost.
    pub(crate) async fn establish(
        config: &RedisPoolConfig,
        target: &Target,
        events: &Arc<Events>,
        attempt: Attempt,
    ) -> Result<Self, PoolError> {
        let connection = Self::start(config, target, events, attempt)?;
        connection.ready(config.socket_connect_timeout).await?;
        Ok(connection)
    }

    /// Waits until it is connected.
    pub(crate) async fn ready(&self, deadline: Duration) -> Result<(), PoolError> {
        match timeout(deadline, self.client.wait_for_connect()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(PoolError::NotConnected(error.to_string())),
            Err(_) => Err(PoolError::NotConnected(
                self.why(&format!("not made within {deadline:?}")),
            )),
        }
    }

    /// Whether commands can be sent. A client that does not connect again still says that it is
    /// connected after its task has ended.
    pub(crate) fn is_connected(&self) -> bool {
        let [serve, _] = &self.tasks;
        self.client.is_connected() && !serve.is_finished()
    }

    /// What a caller is told while it is not connected.
    pub(crate) fn not_connected(&self) -> PoolError {
        PoolError::NotConnected(self.why("not connected"))
    }

    /// Why the last attempt to connect failed, if it did.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    fn why(&self, what: &str) -> String {
        match &*self.trouble.lock() {
            Some(trouble) => format!("{what}; the last attempt: {trouble}"),
            None => what.to_owned(),
        }
    }

    /// Whether nobody at the other end answers a PING, though the connection is up. Any answer will
    /// do, an error of the server's too.
    pub(crate) async fn is_silent(&self, deadline: Duration) -> bool {
        if !self.client.is_connected() {
            return false;
        }
        match timeout(deadline, self.client.ping::<String>(None)).await {
            Ok(Ok(_)) => false,
            Ok(Err(error)) => *error.kind() == ErrorKind::Timeout,
            Err(_) => true,
        }
    }

    /// Closes it behind the commands that are outstanding, as far as there is time.
    pub(crate) async fn close(self: Arc<Self>) {
        // There is nobody to say it to.
        if !self.is_connected() {
            return;
        }
        // An error here means that the connection is gone, which is what we want.
        let _ = timeout(FAREWELL, self.client.quit()).await;
    }
}

/// What went wrong, without the notation in which fred quotes the system's errors.
fn readable(error: &fred::error::Error) -> String {
    let text = error.to_string();
    let quoted = text.split_once("message: \"");
    match quoted.and_then(|(_, rest)| rest.split_once('"')) {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}

/// Counts reconnections, remembers why the last attempt failed, and says when either happened.
fn watch(
    client: &Client,
    replica: bool,
    trouble: Arc<Mutex<Option<String>>>,
    events: Arc<Events>,
) -> impl Future<Output = ()> + Send + 'static {
    let mut errors = client.error_rx();
    let mut connects = client.reconnect_rx();
    let replica = replica.then(|| client.clone());
    let mut connected = false;
    async move {
        loop {
            tokio::select! {
                error = errors.recv() => match error {
                    Ok((error, server)) => {
                        let server = server.map_or(String::new(), |server| format!("{server}: "));
                        *trouble.lock() = Some(format!("{server}{}", readable(&error)));
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                connect = connects.recv() => match connect {
                    Ok(_) => {
                        *trouble.lock() = None;
                        if connected {
                            events.reconnects.fetch_add(1, Ordering::Relaxed);
                        }
                        connected = true;
                        if let Some(client) = &replica {
                            // Without it, or before it, a replica sends callers to its primary.
                            let readonly = CustomCommand::new_static("READONLY", ClusterHash::Random, false);
                            let asked = client.custom::<String, _>(readonly, Vec::<String>::new());
                            let _ = timeout(FAREWELL, asked).await;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
            events.changed.notify_one();
        }
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
        for task in &self.tasks {
            task.abort();
        }
    }
}
