//! What the cache may serve: for each node and path the oldest version that no acknowledged purge
//! forbids.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Path = String;

/// The purges of which not every node has said that it applied them.
#[derive(Debug)]
struct Pending {
    /// The version of each purged path when the purge was asked for.
    versions: BTreeMap<Path, u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Reference {
    /// By process: nodes that restart are others.
    floors: BTreeMap<String, BTreeMap<Path, u64>>,
    /// What holds for nodes that are yet to come.
    everywhere: BTreeMap<Path, u64>,
    pending: Vec<Pending>,
}

fn raise(floors: &mut BTreeMap<Path, u64>, versions: &BTreeMap<Path, u64>) {
    for (path, version) in versions {
        let floor = floors.entry(path.clone()).or_default();
        *floor = (*floor).max(*version);
    }
}

impl Reference {
    /// A node starts: what is in the journal holds for it before it answers from Redis, and it has
    /// nothing else.
    pub(crate) fn joins(&mut self, node: &str) {
        let mut floors = self.everywhere.clone();
        for pending in &self.pending {
            raise(&mut floors, &pending.versions);
        }
        self.floors.insert(node.to_owned(), floors);
    }

    pub(crate) fn leaves(&mut self, node: &str) {
        self.floors.remove(node);
    }

    /// The oldest version of a path that a node may serve from now on.
    pub(crate) fn floor(&self, node: &str, path: &str) -> u64 {
        let floors = self.floors.get(node);
        floors
            .and_then(|floors| floors.get(path))
            .copied()
            .unwrap_or(0)
    }

    /// A purge holds in the node that was asked, whether or not the others hear of it.
    pub(crate) fn holds_locally(&mut self, node: &str, versions: &BTreeMap<Path, u64>) {
        if let Some(floors) = self.floors.get_mut(node) {
            raise(floors, versions);
        }
    }

    /// A purge is in the journal, and so in every node sooner or later.
    pub(crate) fn is_in_the_journal(&mut self, node: &str, versions: BTreeMap<Path, u64>) {
        self.holds_locally(node, &versions);
        self.pending.push(Pending { versions });
    }

    /// All nodes but these have applied the journal up to the last purge that was acknowledged.
    pub(crate) fn is_applied(&mut self, missing: &BTreeSet<String>) {
        for (node, floors) in &mut self.floors {
            if !missing.contains(node) {
                for pending in &self.pending {
                    raise(floors, &pending.versions);
                }
            }
        }
        if missing.iter().all(|node| !self.floors.contains_key(node)) {
            for pending in self.pending.drain(..) {
                raise(&mut self.everywhere, &pending.versions);
            }
        }
    }

    /// A node was frozen: when it wakes it applies what it missed before it answers.
    pub(crate) fn wakes(&mut self, node: &str) {
        if let Some(floors) = self.floors.get_mut(node) {
            for pending in &self.pending {
                raise(floors, &pending.versions);
            }
            raise(floors, &self.everywhere);
        }
    }
}
