//! What edges learn of round trips by measuring them: the coordinates that a node publishes ([`Vivaldi`]), and what they are worth.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Edges, Wire, draw};
use crate::{Latency, Vivaldi};

/// Between two measurements of an edge.
const EVERY: Duration = Duration::from_secs(1);

/// The coordinates of all edges, as each works them out for itself.
#[derive(Debug)]
pub struct Learning {
    vivaldis: Vec<Vivaldi>,
    now: Duration,
    rng: StdRng,
}

impl Learning {
    /// Edges that know their places on the globe and have measured nothing.
    #[must_use]
    pub fn new(edges: &Edges, seed: u64) -> Self {
        let vivaldi = |at| Vivaldi::new(edges.state(at).position.as_ref());
        Self {
            vivaldis: (0..edges.len()).map(vivaldi).collect(),
            now: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Each edge measures so many round trips, a second apart, each to another it meets by chance; then all publish where they are.
    pub fn measure(&mut self, wire: &mut Wire<'_>, edges: &mut Edges, samples: usize) {
        for _ in 0..samples {
            self.now += EVERY;
            for at in 0..edges.len() {
                let peer = self.rng.random_range(0..edges.len());
                let Some(rtt) = wire.asked(at, peer).filter(|_| peer != at) else {
                    continue;
                };
                let theirs = self.vivaldis[peer].coordinates();
                let id = edges.state(peer).id;
                // What it refuses is counted by it, and moves nothing.
                let _ = self.vivaldis[at].observe(self.now, id, &theirs, rtt, &mut self.rng);
            }
        }
        for (at, vivaldi) in self.vivaldis.iter().enumerate() {
            edges.change(at, |state| state.coordinates = Some(vivaldi.coordinates()));
        }
    }
}

/// Mean milliseconds lost by taking the one of five holders that `takes` does, for so many choices.
pub fn lost_by_choosing_ms(
    wire: &Wire<'_>,
    edges: &Edges,
    choices: usize,
    seed: u64,
    mut takes: impl FnMut(usize, &[usize]) -> Option<usize>,
) -> f64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let all: Vec<usize> = (0..edges.len()).collect();
    let mut lost = 0.0;
    for _ in 0..choices {
        let drawn = draw::some(&mut rng, &all, 6);
        let Some((me, holders)) = drawn.split_first() else {
            return 0.0;
        };
        let is = |holder: &usize| wire.matrix().round_trip(*me, *holder);
        let taken = takes(*me, holders);
        let best = holders.iter().map(is).min();
        if let (Some(taken), Some(best)) = (taken, best) {
            lost += (is(&taken) - best).as_secs_f64() * 1e3;
        }
    }
    lost / choices.max(1) as f64
}

/// What an edge takes the round trip to another for when it has measured none to it.
#[must_use]
pub fn estimated(edges: &Edges, from: usize, to: usize) -> Option<Duration> {
    let (from, to) = (edges.state(from), edges.state(to));
    let (rtt, _) = Latency::new(from.id).estimate(from, to, Duration::ZERO)?;
    Some(rtt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Matrix, Regions, seed};

    #[test]
    fn after_200_measurements_the_choice_of_a_provider_loses_at_most_10_ms() {
        let seed = seed(1);
        let matrix = Matrix::on_earth(100, Regions::Parts, seed);
        let mut edges = Edges::new(&matrix, seed);
        let mut wire = Wire::new(&matrix, seed);
        let lost = |wire: &Wire<'_>, edges: &Edges| {
            lost_by_choosing_ms(wire, edges, 1_000, seed, |me, holders| {
                let nearest = |holder: &usize| estimated(edges, me, *holder);
                holders.iter().copied().min_by_key(nearest)
            })
        };
        let before = lost(&wire, &edges);
        Learning::new(&edges, seed).measure(&mut wire, &mut edges, 200);
        let after = lost(&wire, &edges);
        println!("{before:.1} ms by geography, {after:.1} ms by coordinates");
        assert!(after <= 10.0 && after < before, "{before} {after}");
    }
}
