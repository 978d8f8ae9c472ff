//! When a node says something new of itself: each time costs the cluster a statement to every node.
//!
//! What others act on goes out at once, at most every [`URGENT_EVERY`]. What drifts (load, coordinates, capacity) goes out when it has moved by something that changes a choice, and
//! at most every [`DRIFT_EVERY`].

use std::time::Duration;

use crate::node::{Coordinates, NodeState};

/// Least time between two statements: a gossip interval, for no more would be seen.
pub const URGENT_EVERY: Duration = Duration::from_millis(500);
/// Least time between two statements of which the second says only what drifted.
pub const DRIFT_EVERY: Duration = Duration::from_secs(10);

/// Load moves when it differs by this part of the whole.
const LOAD_STEP: f64 = 0.05;
/// Coordinates move when their vector or height does by this many milliseconds,
const COORDINATE_STEP_MS: f64 = 2.0;
/// or their error by this: small enough that an error of 0.25 is not published as one above 0.3, from which on they are not trusted.
const ERROR_STEP: f64 = 0.05;
/// Capacity moves when it does by a tenth.
const CAPACITY_STEP: f64 = 0.1;

/// What to do with a state that is wanted published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing: what is published says it.
    Never,
    /// Publish at this moment, now or later.
    At(Duration),
}

/// When `wanted` is to take the place of `published`, which went out at `last`.
#[must_use]
pub fn due(published: &NodeState, wanted: &NodeState, last: Duration) -> Due {
    if !drift_aside(published, wanted) {
        return Due::At(last.saturating_add(URGENT_EVERY));
    }
    if drifted(published, wanted) {
        return Due::At(last.saturating_add(DRIFT_EVERY));
    }
    Due::Never
}

/// Whether both say the same but for what drifts.
fn drift_aside(published: &NodeState, wanted: &NodeState) -> bool {
    let aside = NodeState {
        load: published.load,
        coordinates: published.coordinates,
        capacity: published.capacity,
        ..wanted.clone()
    };
    aside == *published
}

fn drifted(published: &NodeState, wanted: &NodeState) -> bool {
    let capacity = |state: &NodeState| -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a tenth of it is looked for, which 53 bits tell"
        )]
        let capacity = state.capacity as f64;
        capacity
    };
    let step = capacity(published) * CAPACITY_STEP;
    (published.load - wanted.load).abs() >= LOAD_STEP
        || (capacity(published) - capacity(wanted)).abs() > step
        || have_moved(published.coordinates, wanted.coordinates)
}

/// Whether coordinates differ by something that changes a choice: 2 ms along the vector or of height, or 0.05 of the error.
#[must_use]
pub fn have_moved(from: Option<Coordinates>, to: Option<Coordinates>) -> bool {
    match (from, to) {
        (None, None) => false,
        (Some(from), Some(to)) => {
            let squares = from.vector.iter().zip(to.vector);
            let distance: f64 = squares.map(|(one, other)| (one - other).powi(2)).sum();
            distance.sqrt() >= COORDINATE_STEP_MS
                || (from.height - to.height).abs() >= COORDINATE_STEP_MS
                || (from.error - to.error).abs() >= ERROR_STEP
        }
        (None, Some(_)) | (Some(_), None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Health, Zone};
    use crate::space::NodeId;

    const LAST: Duration = Duration::from_secs(100);

    fn node() -> NodeState {
        let mut node = NodeState::new(NodeId([1; 32]), "n", Zone::unknown());
        node.capacity = 1_000;
        node.coordinates = Some(Coordinates {
            vector: [1.0, 2.0, 3.0],
            height: 1.0,
            error: 0.5,
        });
        node
    }

    fn due_after(change: fn(&mut NodeState)) -> Due {
        let mut wanted = node();
        change(&mut wanted);
        due(&node(), &wanted, LAST)
    }

    #[test]
    fn what_others_act_on_goes_out_at_once_and_drift_when_it_matters() {
        let (soon, later) = (Due::At(LAST + URGENT_EVERY), Due::At(LAST + DRIFT_EVERY));
        assert_eq!(due_after(|_| ()), Due::Never);
        assert_eq!(due_after(|node| node.health = Health::Degraded), soon);
        assert_eq!(due_after(|node| node.draining = true), soon);
        assert_eq!(
            due_after(|node| node.zone = "eu-fra".parse().unwrap()),
            soon
        );
        assert_eq!(due_after(|node| node.purge_marks = vec![1]), soon);
        assert_eq!(due_after(|node| node.load = 0.04), Due::Never);
        assert_eq!(due_after(|node| node.load = 0.05), later);
        assert_eq!(due_after(|node| node.capacity = 1_100), Due::Never);
        assert_eq!(due_after(|node| node.capacity = 1_101), later);
        assert_eq!(due_after(|node| node.coordinates = None), later);
        assert_eq!(
            due_after(|node| node.coordinates.as_mut().unwrap().vector[1] = 3.9),
            Due::Never
        );
        assert_eq!(
            due_after(|node| node.coordinates.as_mut().unwrap().vector[1] = 4.0),
            later
        );
    }
}
