//! How late an event loop is: a timer each 10 ms, and when its waking was noticed.
//!
//! The timer is the kernel's (`timerfd`), for tokio's own is a millisecond coarse. A loop that is held up for long
//! misses many timers, and each of them counts with its own lateness: else one second of standing still would be one
//! value among thousands.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::record::{Counted, Times};

/// Between timers.
pub(super) const INTERVAL: Duration = Duration::from_millis(10);

/// Watches the event loop that it was made in, until it is dropped or [finished](Self::finish).
#[derive(Debug)]
pub struct Lag {
    state: Rc<RefCell<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    counted: Counted,
    /// When the next timer goes off.
    due: Instant,
    times: Times,
}

impl Lag {
    /// Watches from now on, in a task of this thread, and counts the timers due within `counted`. Within a
    /// `LocalSet`, whose tasks it is among: its lateness is theirs.
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub fn watch(counted: Counted) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(INTERVAL.subsec_nanos()),
        };
        let each = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        // Before the timer is set, so that it is never early.
        let due = Instant::now() + INTERVAL;
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &each)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for the sake of types that change or close what they hold; an OwnedFd does neither"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        let state = Rc::new(RefCell::new(State {
            counted,
            due,
            times: Times::default(),
        }));
        let task = tokio::task::spawn_local(watch(timer, Rc::clone(&state)));
        Ok(Self { state, task })
    }

    /// How late timers were noticed. Those that went off and were not noticed yet count with their lateness by now.
    #[must_use]
    pub fn finish(self) -> Times {
        self.task.abort();
        let mut state = self.state.borrow_mut();
        state.catch_up(Instant::now());
        std::mem::take(&mut state.times)
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    /// Counts all timers that have gone off.
    fn catch_up(&mut self, now: Instant) {
        while self.due <= now {
            if self.counted.contains(self.due) {
                self.times.record(now - self.due);
            }
            self.due += INTERVAL;
        }
    }
}

/// Ends only with the timer, so in effect never: its owner aborts it. May be cancelled anywhere.
async fn watch(timer: AsyncFd<OwnedFd>, state: Rc<RefCell<State>>) {
    let mut expirations = [0; 8];
    loop {
        let Ok(mut ready) = timer.readable().await else {
            return;
        };
        match rustix::io::read(timer.get_ref(), &mut expirations) {
            // How many does not matter: the clock says which.
            Ok(_) => state.borrow_mut().catch_up(Instant::now()),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(_) => return,
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn counted_for(time: Duration) -> Counted {
        let from = Instant::now();
        let until = from + time;
        Counted { from, until }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, future)
    }

    fn spin(time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn each_timer_of_the_counted_time_is_noticed_once() {
        let times = block_on(async {
            let lag = Lag::watch(counted_for(Duration::from_millis(300))).unwrap();
            tokio::time::sleep(Duration::from_millis(400)).await;
            lag.finish()
        });
        assert!((29..=30).contains(&times.count()), "{}", times.count());
    }

    #[test]
    fn a_loop_that_stands_still_is_late_for_all_timers_it_missed() {
        let times = block_on(async {
            let lag = Lag::watch(counted_for(Duration::from_secs(1))).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            spin(Duration::from_millis(400));
            tokio::time::sleep(Duration::from_millis(50)).await;
            lag.finish()
        });
        assert!(times.count() >= 48);
        assert!(times.quantile(1.0) >= Duration::from_millis(385));
        // Of fifty timers forty were late, by 200 ms in the middle.
        assert!(times.quantile(0.6) >= Duration::from_millis(100));
    }

    #[test]
    fn a_loop_that_stands_still_to_the_end_is_not_let_off() {
        let times = block_on(async {
            let lag = Lag::watch(counted_for(Duration::from_secs(1))).unwrap();
            spin(Duration::from_millis(300));
            lag.finish()
        });
        assert!(times.count() >= 29);
        assert!(times.quantile(1.0) >= Duration::from_millis(285));
    }

    #[test]
    fn timers_outside_the_counted_time_do_not_count() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut state = State {
            counted: Counted {
                from: at(100),
                until: at(200),
            },
            due: at(10),
            times: Times::default(),
        };
        state.catch_up(at(95));
        assert_eq!(state.times.count(), 0);
        state.catch_up(at(500));
        assert_eq!(state.times.count(), 10);
        assert!(state.times.quantile(1.0) >= Duration::from_millis(395));
    }
}
