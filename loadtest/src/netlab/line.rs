//! What a link does to frames, as a value without sockets and clocks: frames go in with the time of their arrival and come
//! out when they are due.
//!
//! * **delay** is constant, one way. **jitter** adds to each frame a time drawn evenly from −jitter to +jitter,
//!   independently of its neighbours; so frames closer to each other than the jitter can change places, as they do under
//!   the kernel's `netem`. Without jitter and reordering a line is first in, first out.
//! * **loss** is independent for each frame, or comes in bursts (Gilbert and Elliott's chain of two states).
//! * **reorder** holds a share of the frames back by a further time, whereby those behind overtake them.
//!
//! Each frame takes the same number of draws from the seeded generator, whatever becomes of it: the n-th frame of a line
//! meets the same fate in each run with the same seed.
//!
//! What is held is bounded: [`HELD_BYTES_MAX`]. A frame that finds no room is dropped and counted apart from those lost
//! on purpose; it makes a run INVALID.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// What a line holds at most, counting each frame with 64 bytes of bookkeeping: 1 Gbit/s for 500 ms is 62 MB.
pub(super) const HELD_BYTES_MAX: usize = 64 << 20;

/// Bookkeeping of a held frame, bytes.
const HELD_OVERHEAD: usize = 64;

/// Buffers kept for reuse: 1,024 × an Ethernet frame = 1.5 MB a line.
const SPARE_MAX: usize = 1024;

/// What a link does to frames in each direction. Nothing, by default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Impairment {
    /// One way.
    pub delay: Duration,
    /// At most `delay`.
    pub jitter: Duration,
    /// Share of frames lost, each by itself.
    pub loss: f64,
    /// Loss in bursts, beside `loss`.
    pub bursts: Option<Bursts>,
    /// Share of frames held back.
    pub reorder: f64,
    /// How much later those are due.
    pub reorder_by: Duration,
}

impl Impairment {
    /// Whether it leaves frames alone.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Loss by a chain of two states, asked once a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursts {
    /// Chance of going from the good state to the bad.
    pub enter: f64,
    /// Chance of going back. A burst is 1/leave frames long on average.
    pub leave: f64,
    /// Share of frames lost in the bad state.
    pub lost: f64,
}

/// What happened to frames in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Frames that came in.
    pub taken: u64,
    /// Their bytes, Ethernet header included.
    pub taken_bytes: u64,
    /// Frames that came out.
    pub passed: u64,
    /// Their bytes.
    pub passed_bytes: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Held back on purpose.
    pub held_back: u64,
    /// Dropped because `HELD_BYTES_MAX` was reached: the relay's own fault.
    pub overflowed: u64,
    /// Frames that the far side's device did not take: the relay's own fault.
    pub refused: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Line {
    set: Impairment,
    rng: StdRng,
    in_burst: bool,
    held: BinaryHeap<Held>,
    held_bytes: usize,
    held_bytes_max: usize,
    sequence: u64,
    spare: Vec<Vec<u8>>,
    counters: Counters,
}

impl Line {
    /// An empty line.
    pub(super) fn new(set: Impairment, seed: u64, held_bytes_max: usize) -> Self {
        Self {
            set,
            rng: StdRng::seed_from_u64(seed),
            in_burst: false,
            held: BinaryHeap::new(),
            held_bytes: 0,
            held_bytes_max,
            sequence: 0,
            spare: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a frame that arrived at `now`.
    pub(super) fn take(&mut self, now: Duration, frame: &[u8]) {
        self.counters.taken += 1;
        self.counters.taken_bytes += frame.len() as u64;
        // Five draws for each frame, needed or not: see the head of this file.
        let [lost, turn, burst, held_back, jitter]: [f64; 5] =
            std::array::from_fn(|_| self.rng.random());
        let mut gone = lost < self.set.loss;
        if let Some(bursts) = self.set.bursts {
            let change = if self.in_burst {
                bursts.leave
            } else {
                bursts.enter
            };
            self.in_burst ^= turn < change;
            gone |= self.in_burst && burst < bursts.lost;
        }
        if gone {
            self.counters.lost += 1;
            return;
        }
        let cost = frame.len() + HELD_OVERHEAD;
        if self.held_bytes + cost > self.held_bytes_max {
            self.counters.overflowed += 1;
            return;
        }
        let mut due = now + self.set.delay + self.set.jitter.mul_f64(jitter * 2.0);
        due = due.saturating_sub(self.set.jitter);
        if held_back < self.set.reorder {
            due += self.set.reorder_by;
            self.counters.held_back += 1;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(frame);
        self.held_bytes += cost;
        self.sequence += 1;
        self.held.push(Held {
            due,
            sequence: self.sequence,
            bytes,
        });
    }

    /// When the next frame is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.held.peek().map(|held| held.due)
    }

    /// The next frame due by `now`, with the time it was due. Hand its buffer back with [`Line::reuse`].
    pub(super) fn release(&mut self, now: Duration) -> Option<(Duration, Vec<u8>)> {
        if self.due()? > now {
            return None;
        }
        let held = self.held.pop()?;
        self.held_bytes -= held.bytes.len() + HELD_OVERHEAD;
        Some((held.due, held.bytes))
    }

    /// Counts what became of a released frame, and keeps its buffer.
    pub(super) fn reuse(&mut self, mut bytes: Vec<u8>, sent: bool) {
        if sent {
            self.counters.passed += 1;
            self.counters.passed_bytes += bytes.len() as u64;
        } else {
            self.counters.refused += 1;
        }
        if self.spare.len() < SPARE_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// What happened so far.
    pub(super) const fn counters(&self) -> Counters {
        self.counters
    }

    /// Counts from zero again; what is held stays held, and counts as passed when it leaves.
    pub(super) fn count_anew(&mut self) {
        self.counters = Counters::default();
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Held {
    due: Duration,
    sequence: u64,
    bytes: Vec<u8>,
}

impl Ord for Held {
    /// The greatest is the one due first; of two due at once, the one that came first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends `frames` frames, one each `gap`, and gives what came out: number of the frame and when.
    fn through(line: &mut Line, frames: u32, gap: Duration) -> Vec<(u32, Duration)> {
        let mut out = Vec::new();
        let mut drain = |line: &mut Line, until: Duration| {
            while let Some(due) = line.due().filter(|due| *due <= until) {
                let (said, bytes) = line.release(due).unwrap();
                assert_eq!(said, due);
                let number = u32::from_be_bytes(bytes[..4].try_into().unwrap());
                out.push((number, due));
                line.reuse(bytes, true);
            }
        };
        for number in 0..frames {
            let now = gap * number;
            drain(line, now);
            line.take(now, &number.to_be_bytes());
        }
        drain(line, Duration::MAX);
        out
    }

    fn line(set: Impairment, seed: u64) -> Line {
        Line::new(set, seed, HELD_BYTES_MAX)
    }

    proptest! {
        #[test]
        fn without_jitter_a_line_is_first_in_first_out(
            delay in 0_u64..200, gap_us in 0_u64..5_000, frames in 1_u32..300, loss in 0.0_f64..0.5, seed: u64,
        ) {
            let set = Impairment { delay: MS * u32::try_from(delay).unwrap(), loss, ..Impairment::default() };
            let wanted = set.delay;
            let gap = Duration::from_micros(gap_us);
            let out = through(&mut line(set, seed), frames, gap);
            prop_assert!(out.is_sorted_by_key(|(number, _)| *number));
            for (number, at) in out {
                prop_assert_eq!(at, gap * number + wanted);
            }
        }

        #[test]
        fn no_frame_is_counted_twice_or_forgotten(
            loss in 0.0_f64..1.0, reorder in 0.0_f64..1.0, room in 0_usize..20_000, frames in 0_u32..500, seed: u64,
        ) {
            let set = Impairment {
                delay: MS * 50, jitter: MS * 20, loss, reorder, reorder_by: MS * 5,
                bursts: Some(Bursts { enter: 0.1, leave: 0.3, lost: 0.9 }),
            };
            let mut line = Line::new(set, seed, room);
            let out = through(&mut line, frames, MS);
            let counted = line.counters();
            prop_assert_eq!(counted.taken, u64::from(frames));
            prop_assert_eq!(counted.passed, out.len() as u64);
            prop_assert_eq!(counted.taken, counted.passed + counted.lost + counted.overflowed);
            prop_assert_eq!(line.held_bytes, 0);
        }
    }

    #[test]
    fn jitter_is_even_and_within_its_bounds() {
        let set = Impairment {
            delay: MS * 20,
            jitter: MS * 5,
            ..Impairment::default()
        };
        let out = through(&mut line(set, 7), 20_000, MS * 20);
        let own: Vec<f64> = out
            .iter()
            .map(|(number, at)| (*at - MS * 20 * *number).as_secs_f64() * 1e3)
            .collect();
        assert!(own.iter().all(|ms| (15.0..=25.0).contains(ms)));
        let mean = own.iter().sum::<f64>() / 20_000.0;
        assert!((mean - 20.0).abs() < 0.1, "{mean}");
        let lower_quarter = own.iter().filter(|ms| **ms < 17.5).count();
        assert!((4_700..5_300).contains(&lower_quarter), "{lower_quarter}");
    }

    #[test]
    fn loss_is_the_share_asked_for() {
        for (share, seed) in [(0.01, 1), (0.3, 2), (0.9, 3)] {
            let set = Impairment {
                loss: share,
                ..Impairment::default()
            };
            let mut line = line(set, seed);
            through(&mut line, 100_000, MS);
            let lost = f64::from(u32::try_from(line.counters().lost).unwrap()) / 100_000.0;
            assert!((lost - share).abs() < 0.005, "{share}: {lost}");
        }
    }

    #[test]
    fn bursts_lose_in_runs_of_the_length_asked_for() {
        let bursts = Bursts {
            enter: 0.01,
            leave: 0.2,
            lost: 1.0,
        };
        let set = Impairment {
            bursts: Some(bursts),
            ..Impairment::default()
        };
        let out = through(&mut line(set, 11), 200_000, MS);
        // In the long run enter / (enter + leave) of the frames meet the bad state, in bursts of 1 / leave.
        let lost = 200_000.0 - f64::from(u32::try_from(out.len()).unwrap());
        let share = lost / 200_000.0;
        assert!((share - 0.01 / 0.21).abs() < 0.004, "{share}");
        let runs = out.windows(2).filter(|two| two[1].0 - two[0].0 > 1).count();
        let length = lost / f64::from(u32::try_from(runs).unwrap());
        assert!((length - 5.0).abs() < 0.5, "{length}");
    }

    #[test]
    fn frames_held_back_are_overtaken() {
        let set = Impairment {
            delay: MS * 10,
            reorder: 0.1,
            reorder_by: MS * 5,
            ..Impairment::default()
        };
        let mut line = line(set, 5);
        let out = through(&mut line, 10_000, MS);
        let late = out
            .iter()
            .filter(|(number, at)| *at == MS * *number + MS * 15)
            .count();
        assert_eq!(late as u64, line.counters().held_back);
        assert!((900..1_100).contains(&late), "{late}");
        assert!(!out.is_sorted_by_key(|(number, _)| *number));
    }

    #[test]
    fn the_same_seed_is_the_same_fate() {
        let set = Impairment {
            delay: MS * 10,
            jitter: MS * 3,
            loss: 0.2,
            ..Impairment::default()
        };
        let first = through(&mut line(set.clone(), 42), 500, MS);
        assert_eq!(first, through(&mut line(set.clone(), 42), 500, MS));
        assert_ne!(first, through(&mut line(set, 43), 500, MS));
    }
}
