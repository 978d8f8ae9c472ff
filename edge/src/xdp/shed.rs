//! How many newcomers are turned away at the door, and whether the others prove their address: what follows from the process's own load.
//!
//! A value that is told ten times a second how things stand. It rises within a second, so that a flood does not fill the process first, and
//! falls slowly while there is one, else at once: whoever spoofs does not go away because he is not heard. It says nothing of
//! connections that stand: they are never shed.
//!
//! Retry outlives the shed level by design: it costs a newcomer a round trip and the process nothing to remember, and as long as newcomers come
//! in numbers it is what keeps the level down.

use std::time::{Duration, Instant};

use stoq_ebpf::SHED_ALL;

/// How often it is told.
pub(super) const EVERY: Duration = Duration::from_millis(100);

/// Handshakes under way, a worker, from which on there is pressure: there the endpoint begins to ask for proof.
const HANDSHAKES_FROM: f64 = 256.0;
/// And where it is full: three quarters of what the endpoint takes.
const HANDSHAKES_FULL: f64 = 768.0;
/// The part of its cores from which on a process has none left.
const CPU: (f64, f64) = (0.85, 0.98);
/// Newcomers a second and worker from which on they are why: 6 % of a core at 300 µs a handshake; and 30 %.
const ARRIVALS: (f64, f64) = (200.0, 1000.0);
/// Resident memory as a part of `limits.memory`. Its parts are bounded, so beyond it is what is not counted among them: connections.
const MEMORY: (f64, f64) = (1.0, 1.1);

/// Pressure from which on more is shed, and below which less is.
const RAISE: f64 = 0.75;
const LOWER: f64 = 0.5;
/// The highest level, and the lowest that is not none.
const HIGHEST: f64 = 63.0 / 64.0;
const LOWEST: f64 = 1.0 / 64.0;
/// What is left of the level after a tick: with a flood half of it after 3.4 s, 20 s from the highest to none; without 4 s.
const IN_FLOOD: f64 = 0.98;
const IN_PEACE: f64 = 0.9;
/// Newcomers turned away in a second that count as a flood. Clients that the level holds up come again at most a few times.
const FLOOD_PER_SECOND: f64 = 200.0;
/// Newcomers a second and worker below which nobody needs to prove anything, once it has been so for [`CALM`].
const CALM_BELOW: f64 = 50.0;
const CALM: Duration = Duration::from_secs(5);

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    /// Worker threads.
    pub(super) workers: usize,
    /// Handshakes under way, QUIC and TLS over TCP, those that wait to be taken among them.
    pub(super) handshakes: usize,
    /// Newcomers a second that came as far as the process, refused and Retry included.
    pub(super) arrivals_per_second: f64,
    /// Newcomers a second that the limiter turned away by the level or by the budget of all.
    pub(super) turned_away_per_second: f64,
    /// CPU time used, as a part of the cores that the workers may use, over the last half second.
    pub(super) cpu: f64,
    /// Resident memory as a part of `limits.memory`.
    pub(super) memory: f64,
}

impl Load {
    /// 0: nothing is the matter; 1: something is full. The fullest counts.
    pub(super) fn pressure(&self) -> f64 {
        let workers = to_f64(self.workers.max(1));
        let handshakes = ramp(
            to_f64(self.handshakes) / workers,
            HANDSHAKES_FROM,
            HANDSHAKES_FULL,
        );
        // A process may well be busy with those it has, or have been given too little memory: then sending newcomers away helps nobody.
        let newcomers = ramp(self.arrivals_per_second / workers, ARRIVALS.0, ARRIVALS.1);
        let full = ramp(self.cpu, CPU.0, CPU.1).max(ramp(self.memory, MEMORY.0, MEMORY.1));
        handshakes.max(full * newcomers)
    }
}

fn ramp(value: f64, from: f64, full: f64) -> f64 {
    ((value - from) / (full - from)).clamp(0.0, 1.0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of threads and handshakes are far below 2^52"
)]
fn to_f64(count: usize) -> f64 {
    count as f64
}

/// The level, and what it remembers.
#[derive(Debug, Clone, Default)]
pub(super) struct Shed {
    /// 0 to [`HIGHEST`].
    level: f64,
    retrying: bool,
    /// Since when few newcomers have come.
    calm_since: Option<Instant>,
}

impl Shed {
    /// Takes note of how things stand. To be called every [`EVERY`].
    pub(super) fn tick(&mut self, now: Instant, load: &Load) {
        let pressure = load.pressure();
        if pressure >= RAISE {
            self.level = (self.level + (1.0 - self.level) / 4.0).min(HIGHEST);
        } else if pressure < LOWER {
            self.level *= if load.turned_away_per_second >= FLOOD_PER_SECOND {
                IN_FLOOD
            } else {
                IN_PEACE
            };
            if self.level < LOWEST {
                self.level = 0.0;
            }
        }
        let workers = to_f64(load.workers.max(1));
        if self.level > 0.0 {
            self.retrying = true;
            self.calm_since = None;
        } else if load.arrivals_per_second / workers >= CALM_BELOW {
            self.calm_since = None;
        } else {
            let since = *self.calm_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= CALM {
                self.retrying = false;
            }
        }
    }

    /// The part of newcomers' first packets over QUIC that is dropped, 0 to 1.
    pub(super) fn level(&self) -> f64 {
        self.level
    }

    /// The same as the limiter takes it.
    pub(super) fn of_all(&self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 65,536"
        )]
        let shed = (self.level * f64::from(SHED_ALL)) as u32;
        shed
    }

    /// Whether newcomers prove their address.
    pub(super) fn is_retrying(&self) -> bool {
        self.retrying
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Load = Load {
        workers: 2,
        handshakes: 0,
        arrivals_per_second: 0.0,
        turned_away_per_second: 0.0,
        cpu: 0.1,
        memory: 0.5,
    };

    /// A process and what comes to it, in steps of a tenth of a second.
    struct Rig {
        now: Instant,
        shed: Shed,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                now: Instant::now(),
                shed: Shed::default(),
            }
        }

        fn run(&mut self, load: Load, for_: Duration) -> &Shed {
            let end = self.now + for_;
            while self.now < end {
                self.shed.tick(self.now, &load);
                self.now += EVERY;
            }
            &self.shed
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pressure_is_that_of_what_is_fullest() {
        let of = |change: fn(&mut Load)| {
            let mut load = IDLE;
            change(&mut load);
            load.pressure()
        };
        assert_eq!(of(|_| {}), 0.0);
        assert_eq!(of(|l| l.handshakes = 512), 0.0);
        assert_eq!(of(|l| l.handshakes = 1024), 0.5);
        assert_eq!(of(|l| l.handshakes = 5000), 1.0);
        // Busy with downloads, or a cache that is full, is not under attack; with newcomers besides it is.
        assert_eq!(of(|l| l.cpu = 1.0), 0.0);
        assert_eq!(of(|l| l.memory = 1.2), 0.0);
        let larger = |l: &mut Load| {
            l.memory = 1.2;
            l.arrivals_per_second = 2000.0;
        };
        assert_eq!(of(larger), 1.0);
        let newcomers = |l: &mut Load| {
            l.cpu = 1.0;
            l.arrivals_per_second = 2000.0;
        };
        assert_eq!(of(newcomers), 1.0);
        assert_eq!(of(|l| l.arrivals_per_second = 2000.0), 0.0);
    }

    #[test]
    fn a_quiet_process_sheds_nobody_and_asks_nobody_for_proof() {
        let mut rig = Rig::new();
        let shed = rig.run(IDLE, 10 * SECOND);
        assert_eq!((shed.of_all(), shed.is_retrying()), (0, false));
    }

    #[test]
    fn under_pressure_it_sheds_nearly_all_within_a_second_and_never_all() {
        let mut rig = Rig::new();
        let full = Load {
            handshakes: 2048,
            arrivals_per_second: 8000.0,
            ..IDLE
        };
        let first = rig.run(full, EVERY).of_all();
        assert_eq!(first, SHED_ALL / 4);
        let shed = rig.run(full, SECOND);
        assert!(shed.level() > 0.9 && shed.is_retrying(), "{shed:?}");
        let highest = rig.run(full, 100 * SECOND).of_all();
        assert!(highest < SHED_ALL, "{highest}");
    }

    #[test]
    fn between_the_bounds_it_stays_as_it_is() {
        let mut rig = Rig::new();
        let full = Load {
            handshakes: 2048,
            ..IDLE
        };
        let half = Load {
            handshakes: 512 + 614,
            ..IDLE
        };
        assert!((LOWER..RAISE).contains(&half.pressure()));
        let level = rig.run(full, EVERY).of_all();
        assert_eq!(rig.run(half, 60 * SECOND).of_all(), level);
        let mut rig = Rig::new();
        assert_eq!(rig.run(half, 60 * SECOND).of_all(), 0);
    }

    #[test]
    fn after_a_flood_all_of_it_is_lifted_within_thirty_seconds() {
        let mut rig = Rig::new();
        let flood = Load {
            handshakes: 2048,
            arrivals_per_second: 8000.0,
            turned_away_per_second: 190_000.0,
            ..IDLE
        };
        rig.run(flood, 60 * SECOND);
        // Handshakes that nobody completes last for ten seconds.
        let lingering = Load {
            handshakes: 2048,
            ..IDLE
        };
        rig.run(lingering, 10 * SECOND);
        let shed = rig.run(IDLE, 12 * SECOND);
        assert_eq!((shed.of_all(), shed.is_retrying()), (0, false));
    }

    #[test]
    fn in_a_flood_that_retry_copes_with_the_level_falls_and_retry_stays() {
        let mut rig = Rig::new();
        let flood = Load {
            handshakes: 2048,
            arrivals_per_second: 8000.0,
            turned_away_per_second: 190_000.0,
            ..IDLE
        };
        rig.run(flood, 2 * SECOND);
        let coping = Load {
            handshakes: 3,
            ..flood
        };
        let before = rig.shed.level();
        let after = rig.run(coping, 3 * SECOND).level();
        assert!(after > before / 2.0, "{before} {after}: not at once");
        let shed = rig.run(coping, 20 * SECOND);
        assert_eq!((shed.of_all(), shed.is_retrying()), (0, true));
        // A few newcomers who come in waves do not end it and begin it again and again.
        rig.run(IDLE, 4 * SECOND);
        rig.run(coping, SECOND);
        assert!(rig.run(IDLE, 4 * SECOND).is_retrying());
        assert!(!rig.run(IDLE, 2 * SECOND).is_retrying());
    }
}
