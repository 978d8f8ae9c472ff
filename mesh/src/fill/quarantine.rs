//! Nodes that sent other bytes than a chunk's, or let those who asked them wait in vain: nothing is asked of them for a while.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use stoq::identity::NodeId;
use tokio::time::Instant;

/// How long a node is left alone: 10 min. A machine with broken memory is mended or taken out by then, and an operator sees the counter.
const LASTS: Duration = Duration::from_secs(600);

/// How long a node rests that let time run out which a miss had for it: 10 s. So what one can hold up of misses is a tenth.
const RESTS: Duration = Duration::from_secs(10);

/// Nodes in quarantine: 1,024 × 48 B; beyond it the one that would be let out first is.
const NODES_MAX: usize = 1_024;

/// The nodes in quarantine, shared by all workers of a process.
#[derive(Debug, Default)]
pub struct Quarantine(Mutex<HashMap<NodeId, Instant>>);

impl Quarantine {
    /// A node sent wrong bytes.
    pub(super) fn put(&self, node: NodeId, now: Instant) {
        self.hold(node, LASTS, now);
    }

    /// A node was asked and did not answer in time.
    pub(super) fn rest(&self, node: NodeId, now: Instant) {
        self.hold(node, RESTS, now);
    }

    fn hold(&self, node: NodeId, lasts: Duration, now: Instant) {
        let mut nodes = self.0.lock();
        nodes.retain(|_, until| *until > now);
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&node) {
            let first = nodes.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(node, _)| *node) {
                nodes.remove(&first);
            }
        }
        let until = nodes.entry(node).or_insert(now);
        *until = (*until).max(now + lasts);
    }

    /// Whether a node is in quarantine.
    #[must_use]
    pub fn holds(&self, node: &NodeId, now: Instant) -> bool {
        self.0.lock().get(node).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_let_out_after_ten_minutes_and_the_oldest_where_there_are_too_many() {
        let (quarantine, now) = (Quarantine::default(), Instant::now());
        let node = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            NodeId(id)
        };
        quarantine.put(node(0), now);
        assert!(quarantine.holds(&node(0), now));
        assert!(!quarantine.holds(&node(1), now));
        quarantine.rest(node(0), now);
        quarantine.rest(node(1), now);
        assert!(quarantine.holds(&node(0), now + RESTS) && quarantine.holds(&node(1), now));
        assert!(!quarantine.holds(&node(1), now + RESTS));
        assert!(!quarantine.holds(&node(0), now + LASTS));
        for number in 1..=NODES_MAX {
            let at = now + Duration::from_millis(number as u64);
            quarantine.put(node(number), at);
        }
        assert_eq!(quarantine.0.lock().len(), NODES_MAX);
        assert!(!quarantine.holds(&node(0), now) && quarantine.holds(&node(1), now));
    }
}
