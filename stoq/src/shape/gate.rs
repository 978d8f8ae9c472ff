//! The schedule as writers meet it: they wait, it grants.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::limits::{Class, Limits};
use super::schedule::{Ran, Schedule};
use crate::counter::{Counter, counters};

counters! {
    /// What one [`Shaper`] granted since it was made, limited or not.
    ShapeCounters {
        /// Bytes granted to serve.
        serve_bytes,
        /// Grants of serve that did not come at once; with the next, the mean wait.
        serve_waits,
        /// Microseconds these took.
        serve_waited_micros,
        /// Bytes granted to fill.
        fill_bytes,
        /// Grants of fill that did not come at once; with the next, the mean wait.
        fill_waits,
        /// Microseconds these took.
        fill_waited_micros,
        /// Bytes granted to replicate.
        replicate_bytes,
        /// Grants of replicate that did not come at once; with the next, the mean wait.
        replicate_waits,
        /// Microseconds these took.
        replicate_waited_micros,
    }
}

impl ShapeCounters {
    /// Bytes, waits, and microseconds of waiting.
    fn of(&self, class: Class) -> (&Counter, &Counter, &Counter) {
        match class {
            Class::Serve => (
                &self.serve_bytes,
                &self.serve_waits,
                &self.serve_waited_micros,
            ),
            Class::Fill => (&self.fill_bytes, &self.fill_waits, &self.fill_waited_micros),
            Class::Replicate => (
                &self.replicate_bytes,
                &self.replicate_waits,
                &self.replicate_waited_micros,
            ),
        }
    }
}

/// Holds writers to [`Limits`]. Cheap to clone; the clones are one shaper. One is shared by all workers of a node:
/// a grant takes a lock for some hundred nanoseconds.
#[derive(Clone)]
pub struct Shaper(Arc<Inner>);

struct Inner {
    schedule: Mutex<Schedule>,
    lines: [Queue; 3],
    counters: ShapeCounters,
}

/// The writers of one class, in the order they came.
#[derive(Default)]
struct Queue {
    /// Whoever holds it is first in line. Its waiters stand in their own futures, so that the line takes no memory here.
    first: tokio::sync::Mutex<()>,
    /// Tells the first that it was granted something, or should look again.
    look: Notify,
}

impl Shaper {
    /// A shaper whose buckets are full.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let now = Instant::now().into_std();
        Self(Arc::new(Inner {
            schedule: Mutex::new(Schedule::new(limits, now)),
            lines: Default::default(),
            counters: ShapeCounters::default(),
        }))
    }

    /// Waits for leave to send, and returns how many of `bytes` may be sent now: at least one, unless `bytes` is 0, and
    /// at most [`PIECE_BYTES_MAX`](super::PIECE_BYTES_MAX) where a limit holds. Ask again for the rest; meanwhile others have
    /// their turn. Writers of a class are granted in the order they ask.
    ///
    /// Cancel-safe: a dropped future has taken nothing. Must be called inside a tokio runtime with its timer on.
    pub async fn take(&self, class: Class, bytes: usize) -> usize {
        if bytes == 0 {
            return 0;
        }
        let inner = &*self.0;
        let queue = inner.queue(class);
        let begun = Instant::now();
        let (turn, mut waited) = match queue.first.try_lock() {
            Ok(turn) => (turn, false),
            // Held across a wait on purpose: it is a place in a line, and guards no data.
            Err(_) => (queue.first.lock().await, true),
        };
        // Dropped before `turn`, so that the next in line finds the place free.
        let mut place = Place {
            inner,
            class,
            taken: false,
        };
        inner
            .schedule
            .lock()
            .ask(class, u64::try_from(bytes).unwrap_or(u64::MAX));
        let granted = loop {
            // Both can be cancelled: a wake that came early is kept for the next round.
            match inner.run(class, Instant::now()) {
                Turn::Granted(granted) => break granted,
                Turn::After(Some(wait)) => {
                    waited = true;
                    let until = Instant::now() + wait;
                    tokio::select! {
                        () = sleep_until(until) => {}
                        () = queue.look.notified() => {}
                    }
                }
                Turn::After(None) => {
                    waited = true;
                    queue.look.notified().await;
                }
            }
        };
        place.taken = true;
        drop(place);
        drop(turn);
        let (granted_bytes, waits, waited_micros) = inner.counters.of(class);
        granted_bytes.add(granted);
        if waited {
            waits.inc();
            waited_micros.add(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        // No more than was asked for.
        usize::try_from(granted).unwrap_or(bytes)
    }

    /// Holds to other limits from now on, those who wait included.
    pub fn set_limits(&self, limits: &Limits) {
        let now = Instant::now().into_std();
        self.0.schedule.lock().change(limits, now);
        for queue in &self.0.lines {
            queue.look.notify_one();
        }
    }

    /// What it granted.
    #[must_use]
    pub fn counters(&self) -> &ShapeCounters {
        &self.0.counters
    }
}

impl fmt::Debug for Shaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shaper")
            .field("counters", &self.0.counters)
            .finish_non_exhaustive()
    }
}

enum Turn {
    Granted(u64),
    /// To look again after so long, or when told.
    After(Option<Duration>),
}

impl Inner {
    fn queue(&self, class: Class) -> &Queue {
        let [serve, fill, replicate] = &self.lines;
        match class {
            Class::Serve => serve,
            Class::Fill => fill,
            Class::Replicate => replicate,
        }
    }

    /// Lets pass who may, whoever it is: so a class is not held up by another whose worker is busy. Then collects what the
    /// own class was granted.
    fn run(&self, class: Class, now: Instant) -> Turn {
        let (Ran { granted, next }, own) = {
            let mut schedule = self.schedule.lock();
            let ran = schedule.run(now.into_std());
            (ran, schedule.collect(class))
        };
        for (other, granted) in Class::ALL.into_iter().zip(granted) {
            if granted && other != class {
                self.queue(other).look.notify_one();
            }
        }
        own.map_or(Turn::After(next), Turn::Granted)
    }
}

/// The first place of a class.
struct Place<'a> {
    inner: &'a Inner,
    class: Class,
    taken: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let others = {
            let mut schedule = self.inner.schedule.lock();
            schedule.withdraw(self.class);
            Class::ALL.map(|class| schedule.is_waiting(class))
        };
        // What was given back, or no longer goes first, may be for them.
        for (class, waits) in Class::ALL.into_iter().zip(others) {
            if waits {
                self.inner.queue(class).look.notify_one();
            }
        }
    }
}
