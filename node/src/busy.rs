//! How busy the workers of a process are: the part of the time that their threads spend on a core.
//!
//! Each worker measures its own thread, so that several nodes in one process, and what else the process does, are told apart. What a worker waits for because the machine has too few cores
//! does not count: it is not known here how many it could have.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

use crate::WorkerId;

/// How often a worker looks at its thread.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was measured so long ago counts for about a third: a burst of a second is no load, half a minute of work is.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The shares of all workers.
pub struct Busy {
    /// Each worker's, as the bits of an `f64`.
    shares: Box<[AtomicU64]>,
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Busy").field(&self.share()).finish()
    }
}

impl Busy {
    /// Of so many workers, none of which has done anything.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            shares: (0..workers.max(1)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The mean of all workers, 0 to 1: a mean over the last 10 s, the latest weighing most.
    #[must_use]
    pub fn share(&self) -> f64 {
        let of = |share: &AtomicU64| f64::from_bits(share.load(Ordering::Relaxed));
        let sum: f64 = self.shares.iter().map(of).sum();
        #[expect(clippy::cast_precision_loss, reason = "at most 64 workers")]
        let workers = self.shares.len() as f64;
        (sum / workers).clamp(0.0, 1.0)
    }

    /// Measures the thread it runs on, again and again. Never ends. To be run by each worker, on its own runtime.
    pub async fn measure(&self, worker: WorkerId) {
        let Some(slot) = self.shares.get(worker.0) else {
            return std::future::pending().await;
        };
        let mut share = 0.0;
        let (mut began, mut used) = (Instant::now(), thread_time());
        loop {
            sleep(LOOK_EVERY).await;
            let (now, total) = (Instant::now(), thread_time());
            let took = now.duration_since(began);
            share = mixed(share, total.saturating_sub(used), took);
            (began, used) = (now, total);
            slot.store(f64::to_bits(share), Ordering::Relaxed);
        }
    }
}

/// The share after another stretch of time, `used` of `took` of which was spent on a core.
fn mixed(share: f64, used: Duration, took: Duration) -> f64 {
    if took.is_zero() {
        return share;
    }
    let new = (used.as_secs_f64() / took.as_secs_f64()).clamp(0.0, 1.0);
    let old = (-took.as_secs_f64() / REMEMBERED.as_secs_f64()).exp();
    share * old + new * (1.0 - old)
}

/// What this thread has spent on a core so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_no_load_and_steady_work_is() {
        let second = Duration::from_secs(1);
        let burst = mixed(0.0, second, second);
        assert!((0.05..0.15).contains(&burst), "{burst}");
        let steady = (0..60).fold(0.0, |share, _| mixed(share, second / 2, second));
        assert!((steady - 0.5).abs() < 0.01, "{steady}");
        let idle = (0..60).fold(1.0, |share, _| mixed(share, Duration::ZERO, second));
        assert!(idle < 0.01, "{idle}");
        // A clock that says nonsense makes no load beyond all of it.
        assert!(mixed(1.0, second * 9, second) <= 1.0);
        assert_eq!(mixed(0.3, second, Duration::ZERO), 0.3);
    }

    #[tokio::test]
    async fn a_thread_that_works_is_seen_to() {
        let busy = Busy::new(1);
        let working = async {
            // Until it is seen, or the test's own limit.
            while busy.share() < 0.02 {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(20) {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = busy.measure(WorkerId(0)) => {}
            done = tokio::time::timeout(Duration::from_secs(60), working) => done.unwrap(),
        }
    }
}
