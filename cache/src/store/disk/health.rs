//! Whether a device may be used, and why not.
//!
//! Writes that fail turn writing off; reads that fail or hang, several in a row, turn reading off. A volume that is off is tried now and then with
//! a block of its own ([`Health::probe_due`]) and comes back by itself.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// Reads in a row that fail or hang before no more are tried.
const READ_FAILURES_MAX: u32 = 8;
/// The first try after this, then twice as long each time.
const PROBE_FIRST: Duration = Duration::from_secs(1);
/// Tries are at most this far apart.
const PROBE_LAST: Duration = Duration::from_secs(30);

/// The health of a volume.
#[derive(Debug, Default)]
pub(super) struct Health {
    failed_reads: AtomicU32,
    failures: AtomicU64,
    closed: AtomicBool,
    ended: AtomicBool,
    state: Mutex<State>,
    ill: Notify,
}

#[derive(Debug, Default)]
struct State {
    writes_off: Option<String>,
    reads_off: Option<String>,
    /// Why no further segment could be had.
    space: Option<String>,
    probe: Option<(Instant, Duration)>,
}

/// What is wrong with a volume, if anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ailments {
    /// Why nothing is written to it.
    pub writes: Option<String>,
    /// Why nothing is read from it.
    pub reads: Option<String>,
    /// Why it is smaller than configured.
    pub space: Option<String>,
}

impl Health {
    /// Whether records may be put.
    pub(super) fn writes(&self) -> bool {
        !self.closed.load(Ordering::Relaxed) && self.state.lock().writes_off.is_none()
    }

    /// Whether writing is off until the device works again.
    pub(super) fn is_ill(&self) -> bool {
        self.state.lock().writes_off.is_some()
    }

    /// Whether reads may be tried.
    pub(super) fn reads(&self) -> bool {
        self.failed_reads.load(Ordering::Relaxed) < READ_FAILURES_MAX
    }

    /// Takes no more, for good: the volume is about to end.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Nothing writes any more what was put.
    pub(super) fn end(&self) {
        self.close();
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Whether nothing writes any more what was put.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Writes that failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    /// What is wrong.
    pub(super) fn ailments(&self) -> Ailments {
        let state = self.state.lock();
        Ailments {
            writes: state.writes_off.clone(),
            reads: state.reads_off.clone(),
            space: state.space.clone(),
        }
    }

    /// A write failed. Whether this turned writing off.
    pub(super) fn write_failed(&self, error: &io::Error) -> bool {
        self.failures.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock();
        let first = state.writes_off.is_none();
        state.writes_off = Some(error.to_string());
        self.expect_probe(&mut state);
        first
    }

    /// A read failed, or hung. Whether this turned reading off.
    pub(super) fn read_failed(&self, why: &str) -> bool {
        let before = self.failed_reads.fetch_add(1, Ordering::Relaxed);
        if before + 1 < READ_FAILURES_MAX {
            return false;
        }
        let mut state = self.state.lock();
        let first = state.reads_off.is_none();
        state.reads_off = Some(why.to_owned());
        self.expect_probe(&mut state);
        first
    }

    /// A read succeeded.
    pub(super) fn read_succeeded(&self) {
        // Once off, only a probe turns it on again.
        if self.reads() && self.failed_reads.load(Ordering::Relaxed) != 0 {
            self.failed_reads.store(0, Ordering::Relaxed);
        }
    }

    /// Room for a further segment was refused, or (`None`) given. Whether that is news.
    pub(super) fn space(&self, refused: Option<&io::Error>) -> bool {
        let mut state = self.state.lock();
        let news = state.space.is_some() != refused.is_some();
        state.space = refused.map(ToString::to_string);
        news
    }

    /// When the device is to be tried.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        self.state.lock().probe.map(|(at, _)| at)
    }

    /// Rung when the volume falls ill: then [`Health::probe_due`] has a time.
    pub(super) fn fallen_ill(&self) -> Notified<'_> {
        self.ill.notified()
    }

    fn expect_probe(&self, state: &mut State) {
        if state.probe.is_none() {
            state.probe = Some((Instant::now() + PROBE_FIRST, PROBE_FIRST));
            self.ill.notify_one();
        }
    }

    /// What a try came to. Whether the volume is back.
    pub(super) fn probed(&self, worked: bool) -> bool {
        let mut state = self.state.lock();
        if !worked {
            if let Some((at, apart)) = &mut state.probe {
                *apart = (*apart * 2).min(PROBE_LAST);
                *at = Instant::now() + *apart;
            }
            return false;
        }
        state.writes_off = None;
        state.reads_off = None;
        state.probe = None;
        self.failed_reads.store(0, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_write_or_eight_reads_turn_off_and_a_probe_turns_on() {
        let health = Health::default();
        for _ in 0..READ_FAILURES_MAX - 1 {
            assert!(!health.read_failed("EIO"));
        }
        health.read_succeeded();
        assert!(!health.read_failed("EIO") && health.reads() && health.probe_due().is_none());
        for _ in 0..READ_FAILURES_MAX - 1 {
            health.read_failed("EIO");
        }
        assert!(!health.reads() && health.writes() && health.probe_due().is_some());
        assert!(health.write_failed(&io::Error::from(io::ErrorKind::StorageFull)));
        assert!(!health.write_failed(&io::Error::from(io::ErrorKind::StorageFull)));
        assert!(!health.writes() && health.failures() == 2);
        assert!(!health.probed(false) && !health.writes());
        assert!(health.probed(true) && health.writes() && health.reads());
        assert_eq!(health.ailments(), Ailments::default());
    }

    #[test]
    fn tries_come_twice_as_far_apart_up_to_a_bound() {
        let health = Health::default();
        health.write_failed(&io::Error::from(io::ErrorKind::Other));
        for _ in 0..20 {
            health.probed(false);
        }
        assert_eq!(
            health.state.lock().probe.map(|(_, apart)| apart),
            Some(PROBE_LAST)
        );
    }
}
