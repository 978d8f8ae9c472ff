//! The open loop's gate: lanes that are free take the next arrival, in order, and are let through when it is due.
//!
//! An arrival that is due while no lane is free waits here: it is taken later, never skipped, and its latency counts from
//! its intended start. The clock is a timerfd, for the runtime's own timer is a millisecond coarse and rounds up: on a
//! quiet two-core machine half of all lanes were let through within 60 µs of the intended start (the test
//! `lanes_are_let_through_when_their_arrival_is_due` prints its figures).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lanes before their next request. One thread's.
pub(super) struct Gate {
    /// When the first lane may go.
    start: Instant,
    arrivals: RefCell<Box<dyn Iterator<Item = Duration>>>,
    /// Lanes that have taken an arrival which is not due yet, earliest first; at most one for each lane.
    parked: RefCell<VecDeque<(Instant, Rc<Ticket>)>>,
    timer: AsyncFd<OwnedFd>,
    stopped: Cell<bool>,
}

/// A lane's place in the gate, made once.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    through: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    /// For `arrivals` after `start`, in order. Within a runtime.
    ///
    /// # Errors
    /// No timer can be had.
    pub(super) fn new(
        start: Instant,
        arrivals: Box<dyn Iterator<Item = Duration>>,
    ) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that may close their descriptor early; an `OwnedFd` cannot"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self {
            start,
            arrivals: RefCell::new(arrivals),
            parked: RefCell::default(),
            timer,
            stopped: Cell::new(false),
        })
    }

    /// The next arrival's intended start, without waiting for it; `None` at their end.
    pub(super) fn take(&self) -> Option<Instant> {
        let offset = self.arrivals.borrow_mut().next()?;
        Some(self.start + offset)
    }

    /// Waits until `at`, which must be the latest of those [taken](Self::take). False if the gate was
    /// [shut](Self::shut) before.
    pub(super) async fn pass(&self, at: Instant, ticket: &Rc<Ticket>) -> bool {
        let now = Instant::now();
        if at <= now {
            return !self.stopped.get();
        }
        ticket.through.set(false);
        let first = {
            let mut parked = self.parked.borrow_mut();
            parked.push_back((at, Rc::clone(ticket)));
            parked.len() == 1
        };
        if first {
            self.arm(at, now);
        }
        poll_fn(|context| {
            if ticket.through.get() || self.stopped.get() {
                return Poll::Ready(());
            }
            let mut waker = ticket.waker.borrow_mut();
            if !waker
                .as_ref()
                .is_some_and(|old| old.will_wake(context.waker()))
            {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        ticket.through.get()
    }

    /// Lets lanes through as they become due. Without end: dropped with the run.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(super) async fn keep(&self) -> io::Result<()> {
        loop {
            // Setting the timer takes its count back, so there is nothing to read from it.
            self.timer.readable().await?.clear_ready();
            let now = Instant::now();
            let mut parked = self.parked.borrow_mut();
            while parked.front().is_some_and(|(at, _)| *at <= now) {
                if let Some((_, ticket)) = parked.pop_front() {
                    ticket.let_through();
                }
            }
            if let Some((at, _)) = parked.front() {
                self.arm(*at, now);
            }
        }
    }

    /// Lets nobody through any more, and tells those who wait.
    pub(super) fn shut(&self) {
        self.stopped.set(true);
        for (_, ticket) in self.parked.borrow_mut().drain(..) {
            if let Some(waker) = ticket.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    fn arm(&self, at: Instant, now: Instant) {
        // 0 would switch the timer off.
        let ahead = at
            .saturating_duration_since(now)
            .max(Duration::from_nanos(1));
        let timespec = |time: Duration| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let value = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(ahead),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value)
            .expect("a timer of our own takes a valid time");
    }
}

impl Ticket {
    fn let_through(&self) {
        self.through.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::record::Times;

    fn every(gap: Duration, count: u32) -> Box<dyn Iterator<Item = Duration>> {
        Box::new((1..=count).map(move |n| gap * n))
    }

    #[tokio::test]
    async fn lanes_are_let_through_when_their_arrival_is_due() {
        LocalSet::new()
            .run_until(async {
                let gap = Duration::from_micros(500);
                let gate = Gate::new(Instant::now(), every(gap, 1000)).unwrap();
                let gate = Rc::new(gate);
                let keeper = Rc::clone(&gate);
                let keeper = tokio::task::spawn_local(async move { keeper.keep().await });
                let mut lanes = tokio::task::JoinSet::new();
                let late = Rc::new(RefCell::new(Times::default()));
                for _ in 0..4 {
                    let (gate, late) = (Rc::clone(&gate), Rc::clone(&late));
                    lanes.spawn_local(async move {
                        let ticket = Rc::default();
                        let mut early = 0;
                        while let Some(at) = gate.take() {
                            assert!(gate.pass(at, &ticket).await);
                            let now = Instant::now();
                            early += u32::from(now < at);
                            late.borrow_mut().record(now.saturating_duration_since(at));
                        }
                        early
                    });
                }
                let early: u32 = lanes.join_all().await.into_iter().sum();
                keeper.abort();
                let late = late.borrow();
                println!(
                    "late: half within {:?}, 99 % within {:?}",
                    late.quantile(0.5),
                    late.quantile(0.99)
                );
                assert_eq!((early, late.count()), (0, 1000));
            })
            .await;
    }

    #[tokio::test]
    async fn arrivals_that_found_no_lane_are_taken_later_and_none_is_skipped() {
        let start = Instant::now() - Duration::from_secs(1);
        let gate = Gate::new(start, every(Duration::from_millis(1), 500)).unwrap();
        let ticket = Rc::default();
        for n in 1..=500 {
            let at = gate.take().unwrap();
            assert_eq!(at, start + Duration::from_millis(n));
            assert!(gate.pass(at, &ticket).await);
        }
        assert_eq!(gate.take(), None);
    }

    #[tokio::test]
    async fn a_shut_gate_sends_everybody_away() {
        LocalSet::new()
            .run_until(async {
                let gate = Gate::new(Instant::now(), every(Duration::from_secs(100), 2)).unwrap();
                let gate = Rc::new(gate);
                let waiting = Rc::clone(&gate);
                let waiting = tokio::task::spawn_local(async move {
                    let at = waiting.take().unwrap();
                    waiting.pass(at, &Rc::default()).await
                });
                tokio::task::yield_now().await;
                gate.shut();
                assert!(!waiting.await.unwrap());
            })
            .await;
    }
}
