//! How much a process has on its hands: what its endpoints counted, its handshakes over TCP, its CPU time and its memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use stoq::quic::Counters;
use stoq_node::resident_bytes;

use super::shed::Load;

/// Rates are of the last half second: shorter, and a burst looks like a flood.
const LOOKS: usize = 5;

/// What the workers' sockets say of themselves. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doorstep(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    endpoints: Mutex<Vec<Arc<Counters>>>,
    tls: AtomicUsize,
}

/// A handshake over TCP that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Shaking(Doorstep);

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.0.tls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Doorstep {
    /// Counts what comes to this endpoint too. One for each worker and address.
    pub(crate) fn add(&self, endpoint: &Arc<Counters>) {
        self.0.endpoints.lock().push(Arc::clone(endpoint));
    }

    /// A handshake over TCP begins.
    pub(crate) fn shaking(&self) -> Shaking {
        self.0.tls.fetch_add(1, Ordering::Relaxed);
        Shaking(self.clone())
    }

    /// Handshakes under way, and newcomers so far.
    fn read(&self) -> (usize, u64) {
        let mut under_way = self.0.tls.load(Ordering::Relaxed) as u64;
        let mut arrived = 0;
        for counters in self.0.endpoints.lock().iter() {
            let accepted = counters.attempts_accepted.get();
            let ended = counters.handshakes_completed.get()
                + counters.handshakes_failed.get()
                + counters.handshakes_timed_out.get();
            under_way += accepted.saturating_sub(ended);
            arrived += accepted
                + counters.retries_sent.get()
                + counters.refused_connections.get()
                + counters.refused_prefix.get()
                + counters.refused_handshakes.get();
        }
        (usize::try_from(under_way).unwrap_or(usize::MAX), arrived)
    }
}

/// Sums at one moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    arrived: u64,
    turned_away: u64,
    cpu: Duration,
}

/// Makes rates of sums.
#[derive(Debug)]
pub(super) struct Gauge {
    doorstep: Doorstep,
    workers: usize,
    /// Cores that the workers can use at once.
    cores: usize,
    memory: u64,
    looks: VecDeque<Look>,
}

impl Gauge {
    pub(super) fn new(doorstep: Doorstep, workers: usize, memory: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            doorstep,
            workers,
            cores: cores.min(workers).max(1),
            memory: memory.max(1),
            looks: VecDeque::with_capacity(LOOKS + 1),
        }
    }

    /// How things stand now; `turned_away` is what the limiter turned away so far.
    pub(super) fn look(&mut self, now: Instant, turned_away: u64) -> Load {
        let (handshakes, arrived) = self.doorstep.read();
        self.take(now, handshakes, arrived, turned_away)
    }

    fn take(&mut self, now: Instant, handshakes: usize, arrived: u64, turned_away: u64) -> Load {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default();
        let look = Look {
            at: now,
            arrived,
            turned_away,
            cpu,
        };
        self.looks.push_back(look);
        if self.looks.len() > LOOKS + 1 {
            self.looks.pop_front();
        }
        let first = self.looks.front().copied().unwrap_or(look);
        let seconds = now.saturating_duration_since(first.at).as_secs_f64();
        let a_second = |sum: u64, before: u64| match seconds > 0.0 {
            true => to_f64(sum.saturating_sub(before)) / seconds,
            false => 0.0,
        };
        let used = cpu.saturating_sub(first.cpu).as_secs_f64();
        let cores = to_f64(self.cores as u64);
        Load {
            workers: self.workers,
            handshakes,
            arrivals_per_second: a_second(arrived, first.arrived),
            turned_away_per_second: a_second(turned_away, first.turned_away),
            cpu: if seconds > 0.0 {
                used / seconds / cores
            } else {
                0.0
            },
            memory: to_f64(resident_bytes().unwrap_or(0)) / to_f64(self.memory),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "rates and parts, of which a few digits matter"
)]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_over_tcp_count_while_they_last() {
        let doorstep = Doorstep::default();
        doorstep.add(&Arc::new(Counters::default()));
        assert_eq!(doorstep.read(), (0, 0));
        let (one, other) = (doorstep.shaking(), doorstep.clone().shaking());
        assert_eq!(doorstep.read(), (2, 0));
        drop(one);
        drop(other);
        assert_eq!(doorstep.read(), (0, 0));
    }

    #[test]
    fn rates_are_of_the_last_half_second() {
        let mut gauge = Gauge::new(Doorstep::default(), 2, u64::MAX);
        let start = Instant::now();
        let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
        assert_eq!(gauge.take(at(0), 3, 0, 7).arrivals_per_second, 0.0);
        for tenth in 1..=10 {
            let sum = u64::from(tenth);
            let load = gauge.take(at(tenth), 3, sum * 100, 7 + sum * 20);
            assert!((load.arrivals_per_second - 1000.0).abs() < 1e-6, "{load:?}");
            assert!((load.turned_away_per_second - 200.0).abs() < 1e-6);
            assert_eq!(load.handshakes, 3);
        }
        for tenth in 11..=15 {
            gauge.take(at(tenth), 3, 1000, 207);
        }
        let load = gauge.take(at(16), 3, 1000, 207);
        assert_eq!(load.arrivals_per_second, 0.0);
        assert!(load.cpu >= 0.0 && load.memory > 0.0, "{load:?}");
    }
}
