//! Events in virtual time: what was put for an earlier moment comes first, and of one moment what was put first.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::Duration,
};

#[derive(Debug)]
struct Due<E> {
    at: Duration,
    /// Counts up, so that events of one moment come as they were put and a run is the same each time.
    number: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Events that are to happen, and what time it is. Bounded by what the scenario puts in it.
#[derive(Debug)]
pub struct Queue<E> {
    due: BinaryHeap<Reverse<Due<E>>>,
    now: Duration,
    number: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self::starting(Duration::ZERO)
    }
}

impl<E> Queue<E> {
    /// An empty queue at this moment.
    #[must_use]
    pub const fn starting(now: Duration) -> Self {
        Self {
            due: BinaryHeap::new(),
            now,
            number: 0,
        }
    }

    /// The moment of the event that came last.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// Puts an event for a moment; one that is over already is the next to come.
    pub fn at(&mut self, at: Duration, event: E) {
        self.number += 1;
        self.due.push(Reverse(Due {
            at: at.max(self.now),
            number: self.number,
            event,
        }));
    }

    /// Puts an event for a while from now.
    pub fn after(&mut self, wait: Duration, event: E) {
        self.at(self.now + wait, event);
    }

    /// The next event; it is then the moment of that event.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(due) = self.due.pop()?;
        self.now = due.at;
        Some(due.event)
    }

    /// Lets time pass to this moment, at most to the next event.
    pub fn pass_to(&mut self, until: Duration) {
        let until = self.next_at().map_or(until, |next| next.min(until));
        self.now = self.now.max(until);
    }

    /// When the next event is due.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse(due)| due.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_moment_and_then_as_they_were_put() {
        let mut queue = Queue::default();
        for (ms, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.at(Duration::from_millis(ms), event);
        }
        let mut seen = String::new();
        while let Some(event) = queue.pop() {
            seen.push(event);
        }
        assert_eq!(seen, "abcd");
        assert_eq!(queue.now(), Duration::from_millis(5));
    }

    #[test]
    fn time_never_goes_back() {
        let mut queue = Queue::starting(Duration::from_secs(9));
        queue.at(Duration::from_secs(1), ());
        assert!(queue.pop().is_some());
        assert_eq!(queue.now(), Duration::from_secs(9));
    }
}
