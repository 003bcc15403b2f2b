//! Which node has which slots.

use super::Node;
use crate::server::Server;
use std::sync::Arc;

pub(super) const SLOTS: usize = 16_384;
/// Stands for a slot that nobody serves.
const NOBODY: u16 = u16::MAX;
/// The largest cluster that the specification has, primaries and replicas.
pub(super) const MOST_NODES: usize = 1000;

/// A range of slots, the primary that has them, and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) primary: Server,
    pub(super) replicas: Vec<Server>,
}

#[derive(Clone)]
pub(super) struct Table {
    /// For each slot the index of its node.
    owners: Box<[u16]>,
    nodes: Vec<Arc<Node>>,
    /// For each node its replicas.
    replicas: Vec<Vec<Arc<Node>>>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            owners: vec![NOBODY; SLOTS].into_boxed_slice(),
            nodes: Vec::new(),
            replicas: Vec::new(),
        }
    }
}

impl Table {
    /// The table of those ranges. `open` gives a node by name, as a replica or not:
    /// one that there is, or a new one.
    pub(super) fn new(
        ranges: &[Range],
        mut open: impl FnMut(&Server, bool) -> Option<Arc<Node>>,
    ) -> Self {
        let mut table = Self::default();
        for range in ranges {
            let Some(at) = table.enter(&range.primary, &mut open) else {
                continue;
            };
            let slots = usize::from(range.first)..=usize::from(range.last).min(SLOTS - 1);
            if let (Ok(owner), Some(slots)) = (u16::try_from(at), table.owners.get_mut(slots)) {
                slots.fill(owner);
            }
            if table.replicas[at].is_empty() {
                let replicas = range.replicas.iter().take(MOST_NODES);
                table.replicas[at] = replicas.filter_map(|server| open(server, true)).collect();
            }
        }
        table
    }

    fn enter(
        &mut self,
        server: &Server,
        open: &mut impl FnMut(&Server, bool) -> Option<Arc<Node>>,
    ) -> Option<usize> {
        if let Some(at) = self.nodes.iter().position(|node| node.server == *server) {
            return Some(at);
        }
        if self.nodes.len() >= MOST_NODES {
            return None;
        }
        self.nodes.push(open(server, false)?);
        self.replicas.push(Vec::new());
        Some(self.nodes.len() - 1)
    }

    /// Primaries, in the order in which they were found.
    pub(super) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// Every node, replicas too.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().chain(self.replicas.iter().flatten())
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        self.nodes.get(self.index(slot)?)
    }

    /// A replica of the node that has a slot, one that is up; they take turns.
    pub(super) fn replica(&self, slot: u16, turn: usize) -> Option<&Arc<Node>> {
        let replicas = self.replicas.get(self.index(slot)?)?;
        up(replicas, turn)
    }

    /// Any node, one that is up if there is one.
    pub(super) fn any(&self, turn: usize) -> Option<&Arc<Node>> {
        up(&self.nodes, turn).or_else(|| self.nodes.first())
    }

    pub(super) fn primary(&self, server: &Server) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.server == *server)
    }

    /// The node of that name that is used as a replica, or as a primary.
    pub(super) fn named(&self, server: &Server, replica: bool) -> Option<&Arc<Node>> {
        if replica {
            let mut replicas = self.replicas.iter().flatten();
            replicas.find(|node| node.server == *server)
        } else {
            self.primary(server)
        }
    }

    pub(super) fn with_owner(&self, slot: u16, node: &Arc<Node>) -> Option<Self> {
        let at = self
            .nodes
            .iter()
            .position(|known| Arc::ptr_eq(known, node))?;
        let mut table = self.clone();
        *table.owners.get_mut(usize::from(slot))? = u16::try_from(at).ok()?;
        Some(table)
    }

    /// With another node; unless there are too many.
    pub(super) fn with_node(&self, node: &Arc<Node>) -> Self {
        let mut table = self.clone();
        if table.nodes.len() < MOST_NODES {
            table.nodes.push(Arc::clone(node));
            table.replicas.push(Vec::new());
        }
        table
    }

    fn index(&self, slot: u16) -> Option<usize> {
        self.owners.get(usize::from(slot)).copied().map(usize::from)
    }
}

fn up(nodes: &[Arc<Node>], turn: usize) -> Option<&Arc<Node>> {
    let count = nodes.len();
    let mut turns = (0..count).map(|more| &nodes[(turn % count + more) % count]);
    turns.find(|node| node.group.is_connected())
}
