//! What changed between two views, and the log of it that an operator reads.
//!
//! Only what an operator acts on counts as a change: who is there, where, and how. Load and coordinates change all the time and are in no log.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use crate::node::{Health, NodeState, Zone};
use crate::space::NodeId;
use crate::view::View;

/// Changes that a [`ChangeLog`] keeps.
pub const CHANGES_MAX: usize = 100;

/// What happened to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It is seen.
    Joined,
    /// It is seen no more.
    Left,
    /// It is in another zone.
    Zone {
        /// Before.
        from: Zone,
        /// After.
        to: Zone,
    },
    /// Others reach it elsewhere.
    Addresses {
        /// Before.
        from: Vec<SocketAddr>,
        /// After.
        to: Vec<SocketAddr>,
    },
    /// It fares otherwise.
    Health {
        /// Before.
        from: Health,
        /// After.
        to: Health,
    },
    /// It began to be emptied, or is taking work again.
    Draining(bool),
}

impl What {
    /// The word for it in tables and JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Zone { .. } => "zone",
            Self::Addresses { .. } => "addresses",
            Self::Health { .. } => "health",
            Self::Draining(_) => "draining",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |addresses: &[SocketAddr]| {
            let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            texts.join(",")
        };
        match self {
            Self::Joined => f.write_str("joined"),
            Self::Left => f.write_str("left"),
            Self::Zone { from, to } => write!(f, "zone {from} -> {to}"),
            Self::Addresses { from, to } => {
                write!(f, "addresses {} -> {}", list(from), list(to))
            }
            Self::Health { from, to } => {
                write!(f, "health {} -> {}", from.as_str(), to.as_str())
            }
            Self::Draining(true) => f.write_str("drains"),
            Self::Draining(false) => f.write_str("drains no more"),
        }
    }
}

/// A change of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When this node saw it, unix milliseconds.
    pub at_ms: u64,
    /// Whom it is about.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What.
    pub what: What,
}

/// What is in `after` otherwise than in `before`, by node.
#[must_use]
pub fn between(before: &View, after: &View, at_ms: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut note = |node: &NodeState, what| {
        changes.push(Change {
            at_ms,
            node: node.id,
            name: node.name.clone(),
            what,
        });
    };
    for node in before.nodes() {
        if after.get(&node.id).is_none() {
            note(node, What::Left);
        }
    }
    for node in after.nodes() {
        match before.get(&node.id) {
            None => note(node, What::Joined),
            Some(was) => of_one(was, node, |what| note(node, what)),
        }
    }
    changes
}

fn of_one(was: &NodeState, is: &NodeState, mut note: impl FnMut(What)) {
    if was.zone != is.zone {
        note(What::Zone {
            from: was.zone.clone(),
            to: is.zone.clone(),
        });
    }
    if was.addresses != is.addresses {
        note(What::Addresses {
            from: was.addresses.clone(),
            to: is.addresses.clone(),
        });
    }
    if was.health != is.health {
        note(What::Health {
            from: was.health,
            to: is.health,
        });
    }
    if was.draining != is.draining {
        note(What::Draining(is.draining));
    }
}

/// The last [`CHANGES_MAX`] changes, and how many there were in all.
#[derive(Debug, Clone, Default)]
pub struct ChangeLog {
    last: VecDeque<Change>,
    total: u64,
}

impl ChangeLog {
    /// Takes note of changes, in their order.
    pub fn add(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            if self.last.len() == CHANGES_MAX {
                self.last.pop_front();
            }
            self.last.push_back(change);
            self.total = self.total.saturating_add(1);
        }
    }

    /// The last ones, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.last.iter()
    }

    /// How many there were since the node started.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn view(nodes: &[NodeState]) -> View {
        View::new(
            NodeId([0; 32]),
            1,
            true,
            nodes.iter().cloned().map(Arc::new),
        )
    }

    fn node(number: u8) -> NodeState {
        NodeState::new(NodeId([number; 32]), format!("n{number}"), Zone::unknown())
    }

    #[test]
    fn what_an_operator_acts_on_is_a_change_and_load_is_none() {
        let (a, b, c) = (node(1), node(2), node(3));
        let mut b2 = b.clone();
        b2.health = Health::Ill;
        b2.draining = true;
        b2.zone = "eu-fra".parse().unwrap();
        b2.addresses = vec!["192.0.2.1:7443".parse().unwrap()];
        b2.load = 0.7;
        let mut a2 = a.clone();
        a2.load = 0.9;
        let changes = between(&view(&[a, b]), &view(&[a2, b2, c]), 5);
        let texts: Vec<_> = changes
            .iter()
            .map(|change| format!("{} {}", change.name, change.what))
            .collect();
        assert_eq!(
            texts,
            [
                "n2 zone world-any -> eu-fra",
                "n2 addresses  -> 192.0.2.1:7443",
                "n2 health well -> ill",
                "n2 drains",
                "n3 joined",
            ]
        );
        let gone = between(&view(&[node(1), node(2)]), &view(&[node(2)]), 6);
        assert_eq!(gone.len(), 1);
        assert_eq!((gone[0].what.word(), gone[0].at_ms), ("left", 6));
    }

    #[test]
    fn the_log_keeps_the_last_hundred_and_counts_all() {
        let mut log = ChangeLog::default();
        let change = |at_ms| Change {
            at_ms,
            node: NodeId([1; 32]),
            name: "n".to_owned(),
            what: What::Joined,
        };
        log.add((0..250).map(change));
        assert_eq!(log.total(), 250);
        let kept: Vec<_> = log.iter().map(|change| change.at_ms).collect();
        assert_eq!(kept, (150..250).collect::<Vec<_>>());
    }
}
