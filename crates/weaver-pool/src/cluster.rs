//! A cluster: which node has which slots, calls that go there, and redirections that are followed.
//!
//! In: calls, with the key that decides where they go, if they have one. Each node has connections
//! and a circuit breaker of its own, so that one that is gone, frozen or slow holds up nobody else.
//! The table of slots is read without a lock; one task makes new ones, whenever a node redirects or
//! a connection is lost, and now and then.
//!
//! Redis Cluster specification, <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

mod asking;
mod discovery;
mod table;

use crate::{
    PoolError,
    error::Redirect,
    group::{Group, Shared},
    server::{Server, Target},
};
use arc_swap::ArcSwap;
use asking::Asking;
use fred::{clients::Client, error::Error as RedisError, util::redis_keyslot};
use parking_lot::Mutex;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use table::Table;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// Redirections that one call follows.
const REDIRECTIONS: usize = 5;

pub(crate) struct Cluster {
    state: Arc<State>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    shared: Arc<Shared>,
    table: ArcSwap<Table>,
    /// Somebody has reason to doubt the table.
    doubt: Notify,
    /// How often the table was made anew.
    made: watch::Sender<u64>,
    next: AtomicUsize,
    closed: AtomicBool,
}

/// A node, and how to reach it.
pub(super) struct Node {
    server: Server,
    group: Arc<Group>,
    asking: Asking,
}

/// Where a call goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Destination<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) replica: bool,
}

impl Cluster {
    /// Starts to look for the nodes.
    pub(crate) fn open(shared: &Arc<Shared>) -> Self {
        let state = Arc::new(State {
            shared: Arc::clone(shared),
            table: ArcSwap::from_pointee(Table::default()),
            doubt: Notify::new(),
            made: watch::Sender::new(0),
            next: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let task = tokio::spawn(discovery::run(Arc::downgrade(&state)));
        Self {
            state,
            task: Mutex::new(Some(task)),
        }
    }

    /// Waits until the nodes are known and reached.
    pub(crate) async fn ready(&self, until: Instant) -> Result<(), PoolError> {
        let mut made = self.state.made.subscribe();
        let found = async { made.wait_for(|made| *made > 0).await.is_ok() };
        if !matches!(timeout_at(until, found).await, Ok(true)) {
            return Err(PoolError::NotConnected(
                "no node of the cluster said which nodes there are".to_owned(),
            ));
        }
        for group in self.groups() {
            group.ready(until).await?;
        }
        Ok(())
    }

    /// The connections to each node, replicas too where they are used.
    pub(crate) fn groups(&self) -> Vec<Arc<Group>> {
        let table = self.state.table.load();
        table.all().map(|node| Arc::clone(&node.group)).collect()
    }

    /// The node that a call goes to.
    pub(crate) fn server(&self, destination: Destination<'_>) -> Option<Server> {
        Some(self.state.choose(destination)?.server.clone())
    }

    pub(crate) async fn call<T, F, Fut>(
        &self,
        destination: Destination<'_>,
        deadline: Duration,
        command: F,
    ) -> Result<T, PoolError>
    where
        F: FnOnce(Client) -> Fut + Clone,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let state = &*self.state;
        let until = Instant::now() + deadline;
        let Some(mut node) = state.choose(destination) else {
            state.doubt.notify_one();
            return Err(PoolError::NotConnected(
                "no node of the cluster is known to serve that slot".to_owned(),
            ));
        };
        let mut asking = false;
        let mut followed = 0;
        loop {
            let outcome = if asking {
                node.asking.call(&node.group, until, command.clone()).await
            } else {
                node.group
                    .call(Some(until), deadline, true, command.clone())
                    .await
            };
            let redirect = match &outcome {
                Ok(_) => return outcome,
                // A new table has no place for this node, and its connections are being closed.
                // Nothing was sent.
                Err(PoolError::Closed)
                    if followed < REDIRECTIONS && !state.closed.load(Ordering::Acquire) =>
                {
                    followed += 1;
                    asking = false;
                    match state.choose(destination) {
                        Some(found) => node = found,
                        None => return outcome,
                    }
                    continue;
                }
                Err(error) => {
                    if error.is_transient() {
                        state.doubt.notify_one();
                    }
                    error.redirect()
                }
            };
            let Some(redirect) = redirect.filter(|_| followed < REDIRECTIONS) else {
                return outcome;
            };
            followed += 1;
            asking = matches!(redirect, Redirect::Ask { .. });
            let found = match &redirect {
                Redirect::Moved { slot, server } => state.moved(*slot, server, &node.server),
                Redirect::Ask { server } => {
                    Server::parse(server, &node.server.host).and_then(|server| state.node(&server))
                }
            };
            match found {
                Some(found) => node = found,
                None => return outcome,
            }
        }
    }

    /// Refuses new calls.
    pub(crate) fn shut(&self) {
        self.state.closed.store(true, Ordering::Release);
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
        for group in self.groups() {
            group.shut();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

impl State {
    fn choose(&self, destination: Destination<'_>) -> Option<Arc<Node>> {
        let table = self.table.load();
        match destination.key {
            Some(key) => {
                let slot = redis_keyslot(key);
                let replica = destination
                    .replica
                    .then(|| table.replica(slot, self.turn()))
                    .flatten();
                replica.or_else(|| table.owner(slot)).cloned()
            }
            None => table.any(self.turn()).cloned(),
        }
    }

    fn turn(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A node says that another has the slot now. That one is asked, and the whole table is made
    /// anew soon.
    fn moved(&self, slot: u16, to: &str, from: &Server) -> Option<Arc<Node>> {
        let server = Server::parse(to, &from.host)?;
        let node = self.node(&server)?;
        self.table.rcu(|table| {
            table
                .with_owner(slot, &node)
                .unwrap_or_else(|| Table::clone(table))
        });
        self.doubt.notify_one();
        Some(node)
    }

    /// A node by name, which may be new.
    fn node(&self, server: &Server) -> Option<Arc<Node>> {
        if let Some(node) = self.table.load().primary(server) {
            return Some(Arc::clone(node));
        }
        let new = self.open(server, false).ok()?;
        let mut result = None;
        // Somebody else may have made it at the same time.
        self.table.rcu(|table| match table.primary(server) {
            Some(node) => {
                result = Some(Arc::clone(node));
                Table::clone(table)
            }
            None => {
                let table = table.with_node(&new);
                result = table.primary(server).cloned();
                table
            }
        });
        result
    }

    fn open(&self, server: &Server, replica: bool) -> Result<Arc<Node>, PoolError> {
        let target = Target {
            server: Some(server.clone()),
            replica,
        };
        Ok(Arc::new(Node {
            server: server.clone(),
            group: Group::open(&self.shared, target)?,
            asking: Asking::default(),
        }))
    }
}
