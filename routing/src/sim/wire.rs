//! What lies between nodes: how long a message takes, and whether it arrives.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Matrix, draw};

/// A message whose packet was lost this often in a row is given up.
const LOST_IN_A_ROW_MAX: u32 = 6;

/// What a receiver may hold back an acknowledgement for (RFC 9000 §18.2, the default of `max_ack_delay`).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// The network between the nodes of a matrix. Messages travel on streams of connections that are open already, for the index as for the
/// yardstick.
#[derive(Debug)]
pub struct Wire<'a> {
    matrix: &'a Matrix,
    rng: StdRng,
    /// The part of packets that is lost, 0 to below 1.
    loss: f64,
    /// What a node takes to answer.
    work: Duration,
    down: Vec<bool>,
    /// The side of the partition that each node is on.
    side: Vec<u8>,
    sent: u64,
}

impl<'a> Wire<'a> {
    /// A whole network without loss, on which a node takes 0.2 ms to answer.
    #[must_use]
    pub fn new(matrix: &'a Matrix, seed: u64) -> Self {
        Self {
            matrix,
            rng: StdRng::seed_from_u64(seed),
            loss: 0.0,
            work: Duration::from_micros(200),
            down: vec![false; matrix.nodes()],
            side: vec![0; matrix.nodes()],
            sent: 0,
        }
    }

    /// Loses this part of all packets.
    #[must_use]
    pub fn losing(mut self, loss: f64) -> Self {
        self.loss = loss.clamp(0.0, 0.99);
        self
    }

    /// Takes nodes down, or up again.
    pub fn set_down(&mut self, nodes: &[usize], down: bool) {
        for node in nodes {
            self.down[*node] = down;
        }
    }

    /// Whether a node is down.
    #[must_use]
    pub fn is_down(&self, node: usize) -> bool {
        self.down[node]
    }

    /// Cuts the network: only nodes of one side hear each other.
    pub fn set_sides(&mut self, sides: &[u8]) {
        self.side.copy_from_slice(sides);
    }

    /// Messages sent so far.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// How long a message takes that is sent now, or `None` where it never arrives.
    ///
    /// That is half of the round trip; what routers add, exponential with a mean of 0.1 ms and 2 % of the way; for a message in a
    /// hundred 20 ms more, exponential; and for each time its packet is lost a probe timeout, doubled each time (RFC 9002 §6.2).
    pub fn takes(&mut self, from: usize, to: usize) -> Option<Duration> {
        self.sent += 1;
        if self.down[from] || self.down[to] || self.side[from] != self.side[to] {
            return None;
        }
        let round_trip = self.matrix.round_trip(from, to);
        let way = round_trip / 2;
        let mut takes = way
            + way.mul_f64(0.02 * draw::exponential(&mut self.rng))
            + Duration::from_micros(100).mul_f64(draw::exponential(&mut self.rng));
        if self.rng.random_bool(0.01) {
            takes += Duration::from_millis(20).mul_f64(draw::exponential(&mut self.rng));
        }
        let mut timeout = round_trip + (round_trip / 8).max(Duration::from_millis(1)) + ACK_DELAY;
        let mut lost = 0;
        while self.loss > 0.0 && self.rng.random_bool(self.loss) {
            lost += 1;
            if lost > LOST_IN_A_ROW_MAX {
                return None;
            }
            takes += timeout;
            timeout *= 2;
        }
        Some(takes)
    }

    /// How long a question and its answer take that are sent now, or `None` where the answer never arrives.
    pub fn asked(&mut self, from: usize, to: usize) -> Option<Duration> {
        Some(self.takes(from, to)? + self.work + self.takes(to, from)?)
    }

    /// The round trips it was made from.
    #[must_use]
    pub const fn matrix(&self) -> &'a Matrix {
        self.matrix
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Regions;

    fn mean_ms(wire: &mut Wire<'_>) -> f64 {
        let total: Duration = (0..4000).filter_map(|_| wire.asked(0, 1)).sum();
        total.as_secs_f64() / 4.0
    }

    #[test]
    fn an_answer_takes_the_round_trip_and_a_little() {
        let matrix = Matrix::on_earth(2, Regions::Parts, 3);
        let base = matrix.round_trip(0, 1).as_secs_f64() * 1e3;
        let mean = mean_ms(&mut Wire::new(&matrix, 1));
        assert!(mean > base && mean < base * 1.05 + 2.0, "{base} {mean}");
    }

    #[test]
    fn loss_costs_time_and_a_cut_or_a_death_costs_the_answer() {
        let matrix = Matrix::on_earth(2, Regions::Parts, 3);
        let clean = mean_ms(&mut Wire::new(&matrix, 1));
        let mut wire = Wire::new(&matrix, 1).losing(0.1);
        assert!(mean_ms(&mut wire) > clean * 1.1);
        wire.set_sides(&[0, 1]);
        assert_eq!(wire.asked(0, 1), None);
        wire.set_sides(&[1, 1]);
        wire.set_down(&[1], true);
        assert_eq!(wire.asked(0, 1), None);
        wire.set_down(&[1], false);
        assert!(wire.asked(0, 1).is_some());
    }
}
