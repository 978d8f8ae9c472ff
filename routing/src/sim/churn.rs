//! Edges that come and go while others look things up.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Edges, Learning, Matrix, Mesh, Times, Wire, draw,
    learn::estimated,
    lookups::look_up,
    partitions::{LOSS_SEEN, RETURN_SEEN},
};
use crate::{Key, NodeId, index::LookupLimits};

/// What edges go through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churn {
    /// How long an edge lives on average, exponentially.
    pub lives: Duration,
    /// How long it is away on average, exponentially. It comes back with its objects and nothing else.
    pub away: Duration,
    /// The part of edges that hold an object.
    pub held_by: f64,
    /// Objects.
    pub objects: usize,
    /// How long all of it goes on.
    pub lasts: Duration,
    /// The part of packets that is lost.
    pub loss: f64,
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Churned {
    /// Lookups of objects that an edge that lives holds, from edges that do not hold them.
    pub lookups: Times,
    /// The part of lookups whose providers were all dead.
    pub dead_ends: f64,
    /// Deaths.
    pub deaths: usize,
}

/// Lookups in a second, on what the mesh is at that moment.
const LOOKUPS_A_SECOND: usize = 10;

/// Lets edges come and go, and looks objects up all the time.
#[must_use]
pub fn churn(matrix: &Matrix, churn: Churn, seed: u64) -> Churned {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut edges = Edges::new(matrix, rng.random());
    let mut wire = Wire::new(matrix, rng.random()).losing(churn.loss);
    Learning::new(&edges, rng.random()).measure(&mut wire, &mut edges, 200);
    // Lookups have a network of their own, where the same edges are dead.
    let mut way = Wire::new(matrix, rng.random()).losing(churn.loss);
    let mut mesh = Mesh::new(&edges, wire, rng.random());
    let all: Vec<usize> = (0..edges.len()).collect();
    let keys: Vec<_> = (0..churn.objects)
        .map(|_| Key(draw::point(&mut rng)))
        .collect();
    let count = super::lookups::part(edges.len(), churn.held_by).max(1);
    for key in &keys {
        for holder in draw::some(&mut rng, &all, count) {
            mesh.provide(holder, *key);
        }
    }
    mesh.run_for(Duration::from_secs(10));
    let begun = mesh.now();
    let mut turns: Vec<Duration> = all
        .iter()
        .map(|_| begun + churn.lives.mul_f64(draw::exponential(&mut rng)))
        .collect();
    let mut result = Churned::default();
    let (mut times, mut dead_ends) = (Vec::new(), 0);
    while mesh.now() < begun + churn.lasts {
        mesh.run_for(Duration::from_millis(250));
        for edge in &all {
            if turns[*edge] > mesh.now() {
                continue;
            }
            let stays = match mesh.is_up(*edge) {
                true => {
                    mesh.kill(*edge, &LOSS_SEEN);
                    way.set_down(&[*edge], true);
                    result.deaths += 1;
                    churn.away
                }
                false => {
                    mesh.revive(*edge, &RETURN_SEEN);
                    way.set_down(&[*edge], false);
                    churn.lives
                }
            };
            turns[*edge] = mesh.now() + stays.mul_f64(draw::exponential(&mut rng));
        }
        for _ in 0..LOOKUPS_A_SECOND.div_ceil(4) {
            let (key, from) = (
                keys[rng.random_range(0..keys.len())],
                rng.random_range(0..all.len()),
            );
            let lives = |edge: &usize| mesh.is_up(*edge) && mesh.holds(*edge).contains(&key);
            if !mesh.is_up(from) || mesh.holds(from).contains(&key) || !all.iter().any(lives) {
                continue;
            }
            let owners = mesh.owners(from).clone();
            let (asker, limits) = (edges.state(from).id, LookupLimits::default());
            let rtt = |id: &NodeId| estimated(&edges, from, edges.place(id)?);
            let ended = look_up(
                &mut way,
                &edges,
                &owners,
                &rtt,
                key,
                limits,
                |node, wide| mesh.answer(node, &asker, &key, wide),
            );
            let named = |edge: &usize| {
                let id = edges.state(*edge).id;
                ended.providers.iter().any(|provider| provider.holder == id)
            };
            let is_found = !ended.providers.is_empty();
            dead_ends +=
                usize::from(is_found && !all.iter().any(|edge| named(edge) && lives(edge)));
            times.push(is_found.then_some(ended.took));
        }
    }
    result.dead_ends = dead_ends as f64 / times.len().max(1) as f64;
    result.lookups = Times::of(times);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Regions, seed};

    #[test]
    fn edges_that_come_and_go_leave_what_the_others_hold_to_be_found() {
        let seed = seed(1);
        let matrix = Matrix::on_earth(40, Regions::Parts, seed);
        let what = Churn {
            lives: Duration::from_mins(5),
            away: Duration::from_secs(30),
            held_by: 0.1,
            objects: 30,
            lasts: Duration::from_mins(1),
            loss: 0.02,
        };
        let result = churn(&matrix, what, seed);
        println!(
            "{} deaths, {} lookups, {} not found",
            result.deaths,
            result.lookups.tries(),
            result.lookups.failed
        );
        assert!(result.deaths > 0 && result.lookups.tries() > 100);
        assert!(result.lookups.failed_part() <= 0.02);
    }
}
