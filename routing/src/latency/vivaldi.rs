//! Where a node is by round trips: Vivaldi (Dabek, Cox, Kaashoek and Morris 2004), three dimensions and a height.
//!
//! Nodes are joined by springs as long as the round trip between them is, and each moves a little with each round trip it measures. What is
//! added to the paper, each because of what its users met:
//!
//! - A node begins at its place on the globe where it knows that, and a weak spring to it keeps the whole from turning and wandering, so a
//!   newcomer's first coordinates fit those the others have by now.
//! - The shortest of a peer's last four round trips counts (after Ledlie, Gardner and Seltzer 2007): queues only ever add.
//! - An error of a few milliseconds between neighbours is not a large relative one.
//! - What a peer says is judged: numbers that are none, numbers out of all bounds, a settled node that is suddenly elsewhere. And no single
//!   sample moves a settled node far, whatever it says.
//!
//! Not defended against: many members that lie together, slowly. One of n peers moves a node by at most its share of the samples.

use std::{collections::HashMap, time::Duration};

use rand::Rng;

use super::globe::Geography;
use crate::{Coordinates, NodeId, Position};

/// How much of a sample's weight moves the error (the paper's c_e), and the place (c_c).
const ERROR_GAIN: f64 = 0.25;
const PLACE_GAIN: f64 = 0.25;

/// The error of a node that knows nothing of its place, and the most there is.
pub(super) const ERROR_MAX: f64 = 1.5;

/// The error of a node that knows its place on the globe and has measured nothing.
const ERROR_SEEDED: f64 = 0.6;

/// The least there is, of peers as well: who says that it is never wrong would move the others with its whole weight.
const ERROR_MIN: f64 = 0.02;

/// Milliseconds below which differences are not told apart: they are queues, timers and virtual machines, not distance.
const RESOLUTION: f64 = 10.0;

/// Milliseconds. A height of zero would leave two neighbours nothing to differ by.
const HEIGHT_MIN: f64 = 0.1;

/// Milliseconds along an axis or of height beyond which nothing on earth is.
const COORDINATE_MAX: f64 = 5_000.0;

/// The longest round trip that is one; what needs longer is a fault on the way.
const RTT_MAX: Duration = Duration::from_secs(5);

/// Milliseconds that one sample moves a node at most, times its error: a settled one (0.1) by 10.
const STEP_MAX: f64 = 100.0;

/// Milliseconds from the seed at which the spring to it pulls by one for each sample; twice as far, by four.
const SEED_REACH: f64 = 200.0;

/// Who says its error is below this calls itself settled, and then it does not jump.
const SETTLED: f64 = 0.3;

/// Milliseconds that a settled peer may be elsewhere at once, and more for each second since it was last heard.
const JUMP_MAX: f64 = 60.0;
const JUMP_MAX_PER_SECOND: f64 = 1.0;

/// Jumps in a row after which the peer is believed: machines do move.
const JUMPS_BELIEVED: u8 = 8;

/// Round trips of a peer that are remembered.
const WINDOW: usize = 4;

/// Peers remembered, 136 bytes each; beyond it the one heard of longest ago is forgotten.
const PEERS_MAX: usize = 1_024;

/// Why a sample did not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadSample {
    /// No round trip is that: zero, or beyond 5 s.
    #[error("no round trip takes that long")]
    RoundTrip,
    /// A coordinate is not a number, out of all bounds, or an error or height is negative.
    #[error("coordinates that no node can have")]
    Coordinates,
    /// It says that it is settled, and is suddenly elsewhere.
    #[error("a settled node does not jump")]
    Jump,
}

/// What became of the samples so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SampleCounts {
    /// Samples that moved the node.
    pub taken: u64,
    /// Refused as [`BadSample::RoundTrip`].
    pub round_trip: u64,
    /// Refused as [`BadSample::Coordinates`].
    pub coordinates: u64,
    /// Refused as [`BadSample::Jump`].
    pub jump: u64,
}

/// One peer's last round trips and where it said it was.
#[derive(Debug, Clone)]
struct Peer {
    /// Milliseconds; the oldest is overwritten.
    window: [f64; WINDOW],
    samples: usize,
    last: Coordinates,
    heard: Duration,
    jumps: u8,
}

/// This node's coordinates, and what moves them.
#[derive(Debug, Clone)]
pub struct Vivaldi {
    here: Coordinates,
    seed: [f64; 3],
    peers: HashMap<NodeId, Peer>,
    counts: SampleCounts,
}

impl Coordinates {
    /// Milliseconds of round trip that two coordinates foretell: the distance of the vectors and both heights.
    #[must_use]
    pub fn round_trip(&self, other: &Self) -> f64 {
        distance(&self.vector, &other.vector) + self.height + other.height
    }

    /// Whether a node can have them: finite, the error and height not negative, nothing beyond 5 s.
    #[must_use]
    pub fn are_valid(&self) -> bool {
        let axis = |value: &f64| (-COORDINATE_MAX..=COORDINATE_MAX).contains(value);
        self.vector.iter().all(axis)
            && (0.0..=COORDINATE_MAX).contains(&self.height)
            && (0.0..=f64::MAX).contains(&self.error)
    }
}

impl Vivaldi {
    /// A node that has measured nothing: at its place on the globe where that is known (and valid), else at the origin.
    #[must_use]
    pub fn new(position: Option<&Position>) -> Self {
        // The assumption and not what this node measured: all nodes must lay their seeds on one sphere.
        let geography = Geography::default();
        let position = position.filter(|position| position.is_valid());
        let seed = position.map_or([0.0; 3], |position| {
            position.on_sphere().map(|km| km * geography.ms_per_km)
        });
        Self {
            here: Coordinates {
                vector: seed,
                height: geography.base_ms / 2.0,
                error: if position.is_some() {
                    ERROR_SEEDED
                } else {
                    ERROR_MAX
                },
            },
            seed,
            peers: HashMap::new(),
            counts: SampleCounts::default(),
        }
    }

    /// Goes on from coordinates that this node had before it was started anew, with no less error than a newcomer that knows its place.
    /// What is not valid is left out.
    #[must_use]
    pub fn resume(mut self, before: &Coordinates) -> Self {
        if before.are_valid() {
            self.here = Coordinates {
                error: before.error.clamp(ERROR_SEEDED, ERROR_MAX),
                ..*before
            };
        }
        self
    }

    /// Where this node is, for publishing.
    #[must_use]
    pub fn coordinates(&self) -> Coordinates {
        self.here
    }

    /// What became of the samples so far.
    #[must_use]
    pub fn counts(&self) -> SampleCounts {
        self.counts
    }

    /// Takes one round trip to a peer that says it is at `theirs`; the coordinates after it. `rng` only says in which direction two
    /// nodes at one point part.
    ///
    /// # Errors
    /// Why the sample does not count; nothing moved then.
    pub fn observe(
        &mut self,
        now: Duration,
        peer: NodeId,
        theirs: &Coordinates,
        rtt: Duration,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Coordinates, BadSample> {
        if rtt.is_zero() || rtt > RTT_MAX {
            self.counts.round_trip += 1;
            return Err(BadSample::RoundTrip);
        }
        if !theirs.are_valid() {
            self.counts.coordinates += 1;
            return Err(BadSample::Coordinates);
        }
        if self.jumps(now, &peer, theirs) {
            self.counts.jump += 1;
            return Err(BadSample::Jump);
        }
        let rtt = self.remember(now, peer, theirs, rtt.as_secs_f64() * 1_000.0);
        self.step(theirs, rtt, rng);
        self.counts.taken += 1;
        Ok(self.here)
    }

    /// Whether a peer that calls itself settled is farther from where it was than it can have come. While this node has not settled nobody is
    /// judged: the whole may still be on the move.
    fn jumps(&mut self, now: Duration, peer: &NodeId, theirs: &Coordinates) -> bool {
        let Some(known) = self.peers.get_mut(peer) else {
            return false;
        };
        let moved = distance(&known.last.vector, &theirs.vector)
            + (known.last.height - theirs.height).abs();
        let since = now.saturating_sub(known.heard).as_secs_f64();
        let is_jump = self.here.error < SETTLED
            && theirs.error < SETTLED
            && known.last.error < SETTLED
            && moved > JUMP_MAX + JUMP_MAX_PER_SECOND * since;
        if !is_jump || known.jumps >= JUMPS_BELIEVED {
            known.jumps = 0;
            return false;
        }
        known.jumps += 1;
        true
    }

    /// Milliseconds of the shortest round trip of late.
    fn remember(&mut self, now: Duration, id: NodeId, theirs: &Coordinates, rtt: f64) -> f64 {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&id) {
            let oldest = self
                .peers
                .iter()
                .min_by_key(|(id, peer)| (peer.heard, **id))
                .map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.peers.remove(&oldest);
            }
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer {
            window: [f64::INFINITY; WINDOW],
            samples: 0,
            last: *theirs,
            heard: now,
            jumps: 0,
        });
        if let Some(slot) = peer.window.get_mut(peer.samples % WINDOW) {
            *slot = rtt;
        }
        peer.samples = peer.samples.wrapping_add(1);
        peer.last = *theirs;
        peer.heard = now;
        peer.window.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The spring to one peer, then the one to the seed.
    fn step(&mut self, theirs: &Coordinates, rtt: f64, rng: &mut (impl Rng + ?Sized)) {
        let foretold = self.here.round_trip(theirs);
        let their_error = theirs.error.clamp(ERROR_MIN, ERROR_MAX);
        let weight = self.here.error / (self.here.error + their_error);
        let off = ((foretold - rtt).abs() / rtt.max(RESOLUTION)).min(ERROR_MAX);
        let step_max = STEP_MAX * self.here.error;
        let step = (PLACE_GAIN * weight * (rtt - foretold)).clamp(-step_max, step_max);
        let apart = distance(&self.here.vector, &theirs.vector);
        let heights = self.here.height + theirs.height;
        // A unit vector of the space with heights: moving along it changes what is foretold by the step.
        let (direction, along, upwards) = if apart > 1e-3 {
            let direction =
                std::array::from_fn(|at| (self.here.vector[at] - theirs.vector[at]) / apart);
            let all = apart + heights;
            (direction, apart / all, heights / all)
        } else if step > 0.0 {
            (any_direction(rng), 1.0, 0.0)
        } else {
            // At one point and still too far: only the heights are left to give.
            ([0.0; 3], 0.0, 1.0)
        };
        for (value, towards) in self.here.vector.iter_mut().zip(direction) {
            *value = (*value + step * along * towards).clamp(-COORDINATE_MAX, COORDINATE_MAX);
        }
        self.here.height = (self.here.height + step * upwards).clamp(HEIGHT_MIN, COORDINATE_MAX);
        let gain = ERROR_GAIN * weight;
        self.here.error = (off * gain + self.here.error * (1.0 - gain)).clamp(ERROR_MIN, ERROR_MAX);

        let astray = distance(&self.here.vector, &self.seed);
        if astray > 0.0 {
            let back = ((astray / SEED_REACH).powi(2) / astray).min(1.0);
            for (value, seed) in self.here.vector.iter_mut().zip(self.seed) {
                *value += (seed - *value) * back;
            }
        }
    }
}

fn distance(one: &[f64; 3], other: &[f64; 3]) -> f64 {
    let squares = one
        .iter()
        .zip(other)
        .map(|(one, other)| (one - other).powi(2));
    squares.sum::<f64>().sqrt()
}

/// A direction, each as likely.
fn any_direction(rng: &mut (impl Rng + ?Sized)) -> [f64; 3] {
    let upwards: f64 = rng.random_range(-1.0..=1.0);
    let round = rng.random_range(0.0..std::f64::consts::TAU);
    let out = (1.0 - upwards * upwards).sqrt();
    [out * round.cos(), out * round.sin(), upwards]
}

#[cfg(test)]
mod tests;
