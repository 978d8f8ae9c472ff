//! From statements of nodes that live to one view: which of them hold, who is in it, and what changed.
//!
//! Invariants: of a node's statements the latest that was seen holds, and only its latest generation can be alive, so a replay of what it said before changes
//! nothing. Once its latest process has been dead for [`SUPERSEDED_FOR`], one that calls itself older is believed: a node whose clock was ahead, and which has lost its state since, comes back. Who is
//! revoked is not in the view, whatever lives. The number of nodes is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::changes::{ChangeLog, between};
use super::statement::{Order, Statement};
use crate::node::NodeState;
use crate::space::NodeId;
use crate::view::View;

/// Nodes of a view. Beyond them newcomers are left out and the view is not [complete](View::complete).
pub const NODES_MAX: usize = 1_024;

/// Nodes whose latest order is remembered, so that what they said before is known for old: 4,096 × some 80 B. The one that was not
/// seen for longest is forgotten.
pub const REMEMBERED_MAX: usize = 4_096;

/// How long after a node's latest process was last alive an older one that lives is taken for outdated: 5 min, in which the node itself hears of the later one while anybody remembers it, and
/// begins anew above it.
pub const SUPERSEDED_FOR: Duration = Duration::from_secs(300);

/// What one look at the living found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looked {
    /// Whether there is another view now.
    pub changed: bool,
    /// Statements passed over because their node has said something later.
    pub outdated: usize,
    /// Nodes left out at [`NODES_MAX`].
    pub left_out: usize,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Roster {
    view: Arc<View>,
    latest: BTreeMap<NodeId, Latest>,
    log: ChangeLog,
    looks: u64,
}

#[derive(Debug)]
struct Latest {
    order: Order,
    /// The state of that order; let go when the node is not in the view.
    state: Option<Arc<NodeState>>,
    /// The look in which it was last alive, and when that was.
    seen: u64,
    at: Duration,
}

impl Roster {
    /// With this node alone in view.
    #[must_use]
    pub fn new(own: NodeState) -> Self {
        let me = own.id;
        Self {
            view: Arc::new(View::new(me, 0, false, [Arc::new(own)])),
            latest: BTreeMap::new(),
            log: ChangeLog::default(),
            looks: 0,
        }
    }

    /// The view now.
    #[must_use]
    pub const fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// What changed.
    #[must_use]
    pub const fn log(&self) -> &ChangeLog {
        &self.log
    }

    /// Takes in all statements whose makers live, one a living process; `own` is this node's state. `complete` is what is known of the rest
    /// of the cluster: see [`View::complete`]. `now` never goes back; `now_ms` is for the log.
    pub fn look<'a>(
        &mut self,
        own: &Arc<NodeState>,
        living: impl IntoIterator<Item = &'a Statement>,
        complete: bool,
        now: Duration,
        now_ms: u64,
    ) -> Looked {
        self.looks += 1;
        let mut looked = Looked::default();
        for statement in living {
            if statement.state.id == self.view.me {
                continue;
            }
            self.take(statement, now, &mut looked);
        }
        self.forget();
        let mut nodes = vec![Arc::clone(own)];
        // Who is in view stays before newcomers come.
        for newcomers in [false, true] {
            for (id, latest) in &self.latest {
                let alive = latest.seen == self.looks;
                if !alive || self.view.get(id).is_none() != newcomers {
                    continue;
                }
                match &latest.state {
                    Some(_) if nodes.len() >= NODES_MAX => looked.left_out += 1,
                    Some(state) => nodes.push(Arc::clone(state)),
                    None => {}
                }
            }
        }
        let complete = complete && looked.left_out == 0;
        let next = View::new(self.view.me, self.view.generation + 1, complete, nodes);
        let same = next.complete == self.view.complete && next.nodes() == self.view.nodes();
        if !same {
            self.log.add(between(&self.view, &next, now_ms));
            self.view = Arc::new(next);
            looked.changed = true;
        }
        looked
    }

    fn take(&mut self, statement: &Statement, now: Duration, looked: &mut Looked) {
        let (id, order, looks) = (statement.state.id, statement.order, self.looks);
        let begun = Latest {
            order,
            state: None,
            seen: 0,
            at: now,
        };
        let latest = self.latest.entry(id).or_insert(begun);
        if order.generation < latest.order.generation {
            if now.saturating_sub(latest.at) < SUPERSEDED_FOR {
                looked.outdated += 1;
                return;
            }
            (latest.order, latest.state) = (order, None);
        }
        (latest.seen, latest.at) = (looks, now);
        if order < latest.order {
            looked.outdated += 1;
        } else if order > latest.order || latest.state.is_none() {
            latest.order = order;
            latest.state = Some(Arc::new(statement.state.clone()));
        }
    }

    /// Lets go of the states of the dead, and of those that were not seen for longest.
    fn forget(&mut self) {
        let looks = self.looks;
        for latest in self.latest.values_mut() {
            if latest.seen != looks {
                latest.state = None;
            }
        }
        while self.latest.len() > REMEMBERED_MAX {
            let oldest = self.latest.iter().min_by_key(|(_, latest)| latest.seen);
            let Some(id) = oldest.map(|(id, _)| *id) else {
                return;
            };
            self.latest.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Zone;

    fn state(number: u16) -> NodeState {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        NodeState::new(NodeId(id), format!("n{number}"), Zone::unknown())
    }

    fn said(number: u16, generation: u64, revision: u64) -> Statement {
        let mut state = state(number);
        state.capacity = generation * 100 + revision;
        Statement {
            order: Order {
                generation,
                revision,
            },
            state,
        }
    }

    struct Rig {
        roster: Roster,
        own: Arc<NodeState>,
        now: Duration,
    }

    fn rig() -> Rig {
        let own = Arc::new(state(0));
        Rig {
            roster: Roster::new((*own).clone()),
            own,
            now: Duration::ZERO,
        }
    }

    impl Rig {
        fn look(&mut self, living: &[Statement]) -> Looked {
            self.now += Duration::from_millis(250);
            self.roster.look(&self.own, living, true, self.now, 7)
        }

        fn capacities(&self) -> Vec<u64> {
            let nodes = self.roster.view().nodes();
            nodes.iter().map(|node| node.capacity).collect()
        }
    }

    #[test]
    fn who_lives_is_in_view_and_nothing_changes_without_a_change() {
        let mut rig = rig();
        assert!(rig.look(&[said(1, 1, 1), said(2, 1, 1)]).changed);
        assert_eq!(rig.roster.view().nodes().len(), 3);
        let generation = rig.roster.view().generation;
        assert!(!rig.look(&[said(1, 1, 1), said(2, 1, 1)]).changed);
        assert_eq!(rig.roster.view().generation, generation);
        assert!(rig.look(&[said(2, 1, 1)]).changed);
        assert_eq!(rig.roster.view().nodes().len(), 2);
        let words: Vec<_> = rig
            .roster
            .log()
            .iter()
            .map(|change| change.what.word())
            .collect();
        assert_eq!(words, ["joined", "joined", "left"]);
    }

    #[test]
    fn a_replay_of_a_nodes_older_words_loses() {
        let mut rig = rig();
        rig.look(&[said(1, 5, 9)]);
        // An older revision of the same process: it lives, and its later word holds.
        let looked = rig.look(&[said(1, 5, 8)]);
        assert_eq!((looked.changed, looked.outdated), (false, 1));
        assert_eq!(rig.capacities(), [0, 509]);
        // An older process beside the new one.
        assert_eq!(rig.look(&[said(1, 4, 99), said(1, 5, 9)]).outdated, 1);
        assert_eq!(rig.capacities(), [0, 509]);
        // The node died; its older process does not live for it.
        assert!(rig.look(&[said(1, 4, 99)]).changed);
        assert_eq!(rig.capacities(), [0]);
        // And long after that neither.
        rig.look(&[]);
        rig.look(&[said(1, 4, 99)]);
        assert_eq!(rig.capacities(), [0]);
        rig.look(&[said(1, 6, 2)]);
        assert_eq!(rig.capacities(), [0, 602]);
    }

    #[test]
    fn an_older_process_that_lives_is_believed_once_the_latest_has_long_been_dead() {
        let mut rig = rig();
        rig.look(&[said(1, 5, 9)]);
        let until = rig.now + SUPERSEDED_FOR;
        while rig.now + Duration::from_millis(250) < until {
            assert_eq!(rig.look(&[said(1, 4, 2)]).outdated, 1);
        }
        assert_eq!(rig.look(&[said(1, 4, 2)]).outdated, 0);
        assert_eq!(rig.capacities(), [0, 402]);
        // It is the latest now; while it lives the other, older or later, is judged as any.
        assert_eq!(rig.look(&[said(1, 3, 9), said(1, 4, 2)]).outdated, 1);
        rig.look(&[said(1, 5, 10)]);
        assert_eq!(rig.capacities(), [0, 510]);
    }

    #[test]
    fn nobody_speaks_for_this_node_but_itself() {
        let mut rig = rig();
        assert!(rig.look(&[said(0, 9, 9)]).changed, "complete now");
        assert_eq!(rig.capacities(), [0]);
    }

    #[test]
    fn beyond_the_bound_newcomers_are_left_out_and_the_view_is_not_complete() {
        let mut rig = rig();
        let bound = u16::try_from(NODES_MAX).unwrap();
        let all: Vec<_> = (1..bound).map(|number| said(number + 1000, 1, 1)).collect();
        rig.look(&all);
        assert!(rig.roster.view().complete);
        let more: Vec<_> = (1..=2)
            .map(|number| said(number, 1, 1))
            .chain(all)
            .collect();
        let looked = rig.look(&more);
        assert_eq!(looked.left_out, 2);
        let view = rig.roster.view();
        assert!(!view.complete);
        assert_eq!(view.nodes().len(), NODES_MAX);
        assert!(view.get(&state(1).id).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_longest_unseen_goes_first() {
        let mut rig = rig();
        let bound = u16::try_from(REMEMBERED_MAX).unwrap();
        rig.look(&[said(1, 5, 5)]);
        for group in 0..5 {
            let from = 100 + group * 1_000;
            let living: Vec<_> = (from..from + 1_000)
                .map(|number| said(number, 1, 1))
                .collect();
            rig.look(&living);
        }
        assert!(rig.roster.latest.len() <= usize::from(bound));
        assert!(!rig.roster.latest.contains_key(&state(1).id));
        assert!(rig.roster.latest.contains_key(&state(5_000).id));
    }
}
