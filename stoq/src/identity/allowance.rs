//! How many audit lines there are of one peer: an audit that anybody can fill is one from which anybody can push what was there before.
//!
//! A peer that has proven who it is has an allowance of its own. Strangers, who may call themselves what they like, share one. What is beyond is counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::id::NodeId;

/// Lines of a node, or of all strangers, that may come at once.
const NODE_BURST: u32 = 64;
const STRANGERS_BURST: u32 = 1_024;
/// After which there may be one more.
const NODE_EVERY: Duration = Duration::from_secs(10);
const STRANGERS_EVERY: Duration = Duration::from_secs(1);
/// Nodes whose allowance is remembered: those beyond share that of strangers. 1,024 × some 60 B.
const NODES_MAX: usize = 1_024;

#[derive(Debug)]
pub(super) struct Allowances {
    nodes: HashMap<NodeId, Allowance>,
    strangers: Allowance,
}

impl Default for Allowances {
    fn default() -> Self {
        Self {
            nodes: HashMap::new(),
            strangers: Allowance::new(STRANGERS_BURST, STRANGERS_EVERY),
        }
    }
}

impl Allowances {
    /// Whether there is a line for this node; `None` is whoever has not proven to be one.
    pub(super) fn take(&mut self, node: Option<NodeId>, now: Instant) -> bool {
        let Some(node) = node else {
            return self.strangers.take(now);
        };
        if !self.nodes.contains_key(&node) {
            if self.nodes.len() >= NODES_MAX {
                self.nodes.retain(|_, allowance| !allowance.is_whole(now));
            }
            if self.nodes.len() >= NODES_MAX {
                return self.strangers.take(now);
            }
        }
        let new = || Allowance::new(NODE_BURST, NODE_EVERY);
        self.nodes.entry(node).or_insert_with(new).take(now)
    }
}

/// A bucket of lines.
#[derive(Debug)]
struct Allowance {
    burst: u32,
    every: Duration,
    left: u32,
    /// When the last that came back did so.
    since: Option<Instant>,
}

impl Allowance {
    fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            left: burst,
            since: None,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    fn refill(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_nanos() / self.every.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed >= self.burst - self.left {
            (self.left, self.since) = (self.burst, Some(now));
        } else {
            self.left += passed;
            self.since = Some(since + self.every * passed);
        }
    }

    fn is_whole(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> Option<NodeId> {
        Some(NodeId::of_spki(&number.to_be_bytes()))
    }

    /// How many of these are taken.
    fn taken(all: &mut Allowances, node: Option<NodeId>, times: u32, now: Instant) -> u32 {
        (0..times).map(|_| u32::from(all.take(node, now))).sum()
    }

    #[test]
    fn one_who_is_refused_again_and_again_takes_no_line_of_another() {
        let (mut all, now) = (Allowances::default(), Instant::now());
        assert_eq!(taken(&mut all, node(1), 9_999, now), NODE_BURST);
        assert_eq!(taken(&mut all, None, 9_999, now), STRANGERS_BURST);
        assert_eq!(taken(&mut all, node(2), 10, now), 10);
        let later = now + NODE_EVERY * 3 / 2;
        assert_eq!(taken(&mut all, node(1), 9, later), 1);
        assert_eq!(taken(&mut all, node(1), 9, now + NODE_EVERY * 2), 1);
        assert_eq!(taken(&mut all, None, 99, later), 15);
        // Nothing is saved up beyond the bound.
        let much_later = now + Duration::from_secs(1 << 20);
        assert_eq!(taken(&mut all, node(1), 9_999, much_later), NODE_BURST);
    }

    #[test]
    fn nodes_without_end_are_strangers_until_others_are_forgotten() {
        let (mut all, now) = (Allowances::default(), Instant::now());
        for number in 0..NODES_MAX {
            assert!(all.take(node(number), now));
        }
        assert_eq!(taken(&mut all, None, 9_999, now), STRANGERS_BURST);
        assert!(!all.take(node(NODES_MAX), now));
        assert!(all.take(node(NODES_MAX), now + NODE_EVERY));
        assert_eq!(all.nodes.len(), 1);
    }
}
