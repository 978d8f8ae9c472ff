//! Partitions at random, one after the other: what is held changes on all sides meanwhile, and after each heals all owners must know all holders.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Edges, Matrix, Mesh, Regions, Times, Wire, draw};
use crate::Key;

/// When an edge sees that others are gone: what gossip every 500 ms and a phi of 8 need.
pub(super) const LOSS_SEEN: std::ops::Range<Duration> =
    Duration::from_secs(2)..Duration::from_secs(5);

/// When it sees that they are back.
pub(super) const RETURN_SEEN: std::ops::Range<Duration> =
    Duration::from_millis(200)..Duration::from_secs(2);

/// How often it is looked whether all has settled.
const STEP: Duration = Duration::from_millis(250);

/// After how long without it the partition counts as one that did not converge.
const PATIENCE: Duration = Duration::from_mins(2);

/// Partitions of one mesh, before another mesh is drawn.
const PARTITIONS_A_MESH: usize = 50;

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Partitions {
    /// From the heal to where every owner of every key knew every holder.
    pub converged: Times,
    /// Those that did not, each with the seed of its mesh and how many partitions that had seen.
    pub failed: Vec<(u64, usize)>,
    /// The part of owners' hints that name edges which hold the object no longer, on average at that moment.
    pub stale: f64,
}

/// So many partitions, on meshes of 8 to 40 edges with 1 % loss and clocks that are wrong by up to 2 s, each cut into 2 to 4 sides for 2 s to 15 min.
#[must_use]
pub fn partitions(count: usize, seed: u64) -> Partitions {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut times = Vec::with_capacity(count);
    let mut failed = Vec::new();
    let (mut stale, mut hints) = (0, 0);
    while times.len() < count {
        let seed = rng.random();
        let so_many = PARTITIONS_A_MESH.min(count - times.len());
        let mut rng = StdRng::seed_from_u64(seed);
        let matrix = Matrix::on_earth(rng.random_range(8..=40), Regions::Parts, rng.random());
        let edges = Edges::new(&matrix, rng.random());
        let wire = Wire::new(&matrix, rng.random()).losing(0.01);
        let mut mesh = Mesh::new(&edges, wire, rng.random());
        let keys: Vec<_> = (0..60).map(|_| Key(draw::point(&mut rng))).collect();
        let all: Vec<usize> = (0..edges.len()).collect();
        for key in &keys {
            for holder in draw::some(&mut rng, &all, 3) {
                mesh.provide(holder, *key);
            }
        }
        mesh.run_for(Duration::from_secs(10));
        for number in 0..so_many {
            let took = partition(&mut mesh, &keys, &mut rng);
            if took.is_none() {
                failed.push((seed, number));
            }
            times.push(took);
            let (these, of) = mesh.stale_hints(&keys);
            stale += these;
            hints += of;
        }
    }
    Partitions {
        converged: Times::of(times),
        failed,
        stale: stale as f64 / hints.max(1) as f64,
    }
}

/// One partition. How long after its heal all had settled, if it did.
fn partition(mesh: &mut Mesh<'_>, keys: &[Key], rng: &mut StdRng) -> Option<Duration> {
    let edges = mesh.edges();
    let sides = rng.random_range(2..=4);
    let cut: Vec<u8> = (0..edges).map(|_| rng.random_range(0..sides)).collect();
    mesh.set_sides(&cut, &LOSS_SEEN);
    // Most are short, one in ten is longer than a lease may be.
    let lasts = match rng.random_bool(0.9) {
        true => rng.random_range(2..60),
        false => rng.random_range(60..900),
    };
    let changes = 10;
    for _ in 0..changes {
        mesh.run_for(Duration::from_secs(lasts) / changes);
        let key = keys[rng.random_range(0..keys.len())];
        let edge = rng.random_range(0..edges);
        match mesh.holds(edge).contains(&key) {
            true => mesh.withdraw(edge, &key),
            false => mesh.provide(edge, key),
        }
    }
    mesh.set_sides(&vec![0; edges], &RETURN_SEEN);
    let healed = mesh.now();
    while mesh.now() < healed + PATIENCE {
        mesh.run_for(STEP);
        if mesh.unsettled().is_none() {
            return Some(mesh.now() - healed);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::seed;

    #[test]
    fn owners_know_every_holder_again_after_each_of_20_partitions() {
        let seed = seed(1);
        let result = partitions(20, seed);
        println!(
            "converged after p50 {:.0} ms, p95 {:.0} ms; stale hints {:.3}",
            result.converged.p50_ms(),
            result.converged.p95_ms(),
            result.stale
        );
        assert_eq!(result.failed, []);
    }
}
