//! Asking the cluster who has what, in a task of its own.

use super::{
    State,
    table::{Range, SLOTS, Table},
};
use crate::{
    PoolError, Topology,
    client::Attempt,
    connection::Connection,
    group::Group,
    server::{Server, Target},
};
use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// The least time between two looks, however many callers have reason to doubt.
const PAUSE: Duration = Duration::from_millis(50);
/// The time after which it looks though nobody doubts.
const ROUTINE: Duration = Duration::from_secs(15);
/// The longest that one node is waited for, since the others may know as well.
const PATIENCE: Duration = Duration::from_millis(500);

/// Makes tables until the cluster is dropped; it holds it weakly.
pub(super) async fn run(cluster: Weak<State>) {
    let mut closing = JoinSet::new();
    loop {
        let Some(state) = cluster.upgrade() else {
            return;
        };
        match look(&state).await {
            Some(ranges) => {
                for group in renew(&state, &ranges) {
                    closing.spawn(async move { group.close().await });
                }
                state.made.send_modify(|made| *made += 1);
                state.shared.events.changed.notify_one();
            }
            None => tracing::debug!("no node of the redis cluster answers"),
        }
        while closing.try_join_next().is_some() {}
        sleep(PAUSE).await;
        let routine = if *state.made.borrow() == 0 {
            PAUSE
        } else {
            ROUTINE
        };
        let _ = timeout(routine, state.doubt.notified()).await;
    }
}

/// Asks the nodes that are connected, then those of the configuration, until one answers.
async fn look(state: &State) -> Option<Vec<Range>> {
    let config = &state.shared.config;
    let patience = config.socket_timeout.min(PATIENCE);
    let nodes = state.table.load_full();
    for node in nodes.nodes() {
        let connections = node.group.slots.clients();
        let up = connections.iter().find(|one| one.is_connected());
        if let Some(connection) = up
            && let Some(ranges) = ask(connection, &node.server.host, patience).await
        {
            return Some(ranges);
        }
    }
    let Topology::Cluster { nodes: seeds, .. } = &config.topology else {
        return None;
    };
    for (host, port) in seeds {
        let server = Server {
            host: host.clone(),
            port: *port,
        };
        let target = Target::node(server.clone());
        let made = Connection::establish(config, &target, &state.shared.events, Attempt::Once);
        match timeout(config.socket_connect_timeout.min(PATIENCE * 2), made).await {
            Ok(Ok(connection)) => {
                if let Some(ranges) = ask(&connection, host, patience).await {
                    return Some(ranges);
                }
            }
            Ok(Err(error)) => tracing::debug!(%server, %error, "a redis cluster's node"),
            Err(_) => tracing::debug!(%server, "a redis cluster's node does not answer"),
        }
    }
    None
}

async fn ask(client: &Client, host: &str, patience: Duration) -> Option<Vec<Range>> {
    let command = CustomCommand::new_static("CLUSTER", ClusterHash::Random, false);
    let slots = client.custom::<Value, _>(command, vec!["SLOTS"]);
    match timeout(patience, slots).await {
        Ok(Ok(answer)) => {
            let ranges = ranges(&answer, host);
            (!ranges.is_empty()).then_some(ranges)
        }
        Ok(Err(error)) => {
            tracing::debug!(host, %error, "CLUSTER SLOTS");
            None
        }
        Err(_) => None,
    }
}

/// Puts the new table in place and gives the connections that are not needed any more. What a call
/// learned from a redirection since the question was asked may be forgotten, and is learned again.
fn renew(state: &State, ranges: &[Range]) -> Vec<Arc<Group>> {
    let replicas = matches!(
        state.shared.config.topology,
        Topology::Cluster { replicas: true, .. }
    );
    let old = state.table.load_full();
    let open = |server: &Server, replica: bool| -> Result<_, PoolError> {
        match old.named(server, replica) {
            Some(node) => Ok(Arc::clone(node)),
            None => state.open(server, replica),
        }
    };
    let ranges: Vec<Range> = ranges
        .iter()
        .cloned()
        .map(|range| Range {
            replicas: if replicas { range.replicas } else { Vec::new() },
            ..range
        })
        .collect();
    let new = Arc::new(Table::new(&ranges, |server, replica| {
        open(server, replica)
            .inspect_err(|error| tracing::warn!(%server, %error, "a redis cluster's node"))
            .ok()
    }));
    for node in new.all() {
        node.asking.shrink();
    }
    let last = state.table.swap(Arc::clone(&new));
    // Also what was added since `old` was read.
    let gone = last
        .all()
        .filter(|node| !new.all().any(|kept| Arc::ptr_eq(kept, node)))
        .map(|node| Arc::clone(&node.group));
    gone.collect()
}

/// `[[first, last, [host, port, …], [host, port, …] …], …]`; what does not look like that is left
/// out.
fn ranges(answer: &Value, answered: &str) -> Vec<Range> {
    let Value::Array(ranges) = answer else {
        return Vec::new();
    };
    ranges
        .iter()
        .take(SLOTS)
        .filter_map(|range| {
            let Value::Array(parts) = range else {
                return None;
            };
            let number = |at: usize| {
                let number = parts.get(at)?.as_u64()?;
                u16::try_from(number)
                    .ok()
                    .filter(|slot| usize::from(*slot) < SLOTS)
            };
            let mut servers = parts.get(2..)?.iter().map(|part| server(part, answered));
            let range = Range {
                first: number(0)?,
                last: number(1)?,
                primary: servers.next()??,
                replicas: servers.flatten().collect(),
            };
            (range.first <= range.last).then_some(range)
        })
        .collect()
}

/// A node whose own name is unknown to it is where it was reached.
fn server(part: &Value, answered: &str) -> Option<Server> {
    let Value::Array(part) = part else {
        return None;
    };
    let host = part.first()?.as_string().unwrap_or_default();
    let known = !host.is_empty() && host != "?";
    Some(Server {
        host: if known { host } else { answered.to_owned() },
        port: u16::try_from(part.get(1)?.as_u64()?)
            .ok()
            .filter(|port| *port != 0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn array(items: Vec<Value>) -> Value {
        Value::Array(items)
    }

    fn node(host: Value, port: i64) -> Value {
        array(vec![host, Value::Integer(port), Value::from("id")])
    }

    #[test]
    fn an_answer_is_read_and_what_is_wrong_in_it_left_out() {
        let good = array(vec![
            Value::Integer(0),
            Value::Integer(99),
            node(Value::from("a"), 1),
            node(Value::Null, 2),
        ]);
        let wrong = [
            array(vec![
                Value::Integer(100),
                Value::Integer(99),
                node(Value::from("a"), 1),
            ]),
            array(vec![
                Value::Integer(0),
                Value::Integer(16_384),
                node(Value::from("a"), 1),
            ]),
            array(vec![
                Value::Integer(0),
                Value::Integer(1),
                node(Value::from("a"), 0),
            ]),
            array(vec![Value::Integer(0), Value::Integer(1)]),
            Value::Null,
        ];
        let answer = array(wrong.into_iter().chain([good]).collect());
        let server = |host: &str, port| Server {
            host: host.to_owned(),
            port,
        };
        assert_eq!(
            ranges(&answer, "me"),
            [Range {
                first: 0,
                last: 99,
                primary: server("a", 1),
                replicas: vec![server("me", 2)],
            }]
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            ".{0,8}".prop_map(|text| Value::from(text.as_str())),
            Just(Value::Null),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            proptest::collection::vec(inner, 0..6).prop_map(Value::Array)
        })
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(answer in any_value()) {
            for range in ranges(&answer, "me") {
                prop_assert!(range.first <= range.last && usize::from(range.last) < SLOTS);
                prop_assert!(range.primary.port != 0);
            }
        }
    }
}
