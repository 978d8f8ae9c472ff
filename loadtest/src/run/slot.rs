//! A place for one connection, which is opened again when it is lost or too old, and the way out for those given up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;

use crate::lane::{Conn, Dialer, Failure};
use crate::record::Connects;

/// Wait before the second attempt in a row; doubled for each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Connections that are being closed at the same time on one thread; further ones queue.
const CLOSING_MAX: usize = 256;

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Post<D: Dialer> {
    pub(super) dialer: D,
    pub(super) connects: RefCell<Connects>,
    /// Given up, to be closed. As many as lanes give up while [`close_given_up`](Self::close_given_up) has no turn.
    given_up: RefCell<VecDeque<D::Conn>>,
    more: Notify,
}

impl<D: Dialer> Post<D> {
    pub(super) fn new(dialer: D) -> Self {
        Self {
            dialer,
            connects: RefCell::default(),
            given_up: RefCell::default(),
            more: Notify::new(),
        }
    }

    /// Opens connection `number`, and counts.
    pub(super) async fn open(self: &Rc<Self>, number: u32) -> Result<Rc<Live<D>>, Failure> {
        // Counts an attempt that is cancelled (its request timed out) as one that failed.
        let attempt = Attempt(Some(self));
        let conn = self.dialer.dial(number).await?;
        attempt.succeeded();
        self.connects.borrow_mut().opened(&conn.opened());
        Ok(Rc::new(Live {
            conn: Some(conn),
            post: Rc::clone(self),
        }))
    }

    /// Closes what was given up. Without end: dropped with the run.
    pub(super) async fn close_given_up(&self) {
        let mut closing = FuturesUnordered::new();
        loop {
            while closing.len() < CLOSING_MAX
                && let Some(conn) = self.given_up.borrow_mut().pop_front()
            {
                closing.push(conn.close());
            }
            // Both branches may be cancelled: the one keeps its permit, the other its futures.
            tokio::select! {
                Some(()) = closing.next() => {}
                () = self.more.notified(), if closing.len() < CLOSING_MAX => {}
            }
        }
    }

    /// Whether all that were given up have been handed on to be closed.
    pub(super) fn take_given_up(&self) -> VecDeque<D::Conn> {
        std::mem::take(&mut self.given_up.borrow_mut())
    }
}

struct Attempt<'a, D: Dialer>(Option<&'a Rc<Post<D>>>);

impl<D: Dialer> Attempt<'_, D> {
    fn succeeded(mut self) {
        self.0 = None;
    }
}

impl<D: Dialer> Drop for Attempt<'_, D> {
    fn drop(&mut self) {
        if let Some(post) = self.0 {
            post.connects.borrow_mut().failed(Instant::now());
        }
    }
}

/// An open connection; closed when the last who uses it lets go.
#[derive(Debug)]
pub(super) struct Live<D: Dialer> {
    /// Taken on the way out alone.
    conn: Option<D::Conn>,
    post: Rc<Post<D>>,
}

impl<D: Dialer> Live<D> {
    pub(super) fn lane(&self) -> <D::Conn as Conn>::Lane {
        self.conn().lane()
    }

    pub(super) fn conn(&self) -> &D::Conn {
        self.conn
            .as_ref()
            .expect("the connection is there until the last user lets go")
    }
}

impl<D: Dialer> Drop for Live<D> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.post.connects.borrow_mut().over(&conn.opened());
            self.post.given_up.borrow_mut().push_back(conn);
            self.post.more.notify_one();
        }
    }
}

/// How long to wait before the next attempt, after so many failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: Cell<u32>,
    until: Cell<Option<Instant>>,
}

impl Backoff {
    pub(super) fn succeeded(&self) {
        self.failures.set(0);
        self.until.set(None);
    }

    /// The first failure costs no wait: a server may close a connection for good reasons.
    pub(super) fn failed(&self, now: Instant) {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        if let Some(doublings) = failures.checked_sub(1) {
            let wait = BACKOFF_MIN * (1 << doublings.min(10));
            self.until.set(Some(now + wait.min(BACKOFF_MAX)));
        }
    }

    /// No attempt before then.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until.get()
    }
}

/// One of a run's connections. Its lanes share it, and so they share its loss: the first that needs it opens it again, the
/// others wait for that.
pub(super) struct Slot<D: Dialer> {
    number: u32,
    live: RefCell<Option<Rc<Live<D>>>>,
    /// When it is too old.
    expires: Cell<Option<Instant>>,
    age_max: Option<Duration>,
    dialing: Cell<bool>,
    /// Attempts so far, and why the last of them failed.
    attempts: Cell<u64>,
    failed: RefCell<Option<Failure>>,
    dialed: Notify,
    pub(super) backoff: Backoff,
}

impl<D: Dialer> Slot<D> {
    /// With an open connection. `first_age` is the share of `age_max` that this first one lives, so that not all
    /// connections of a run are opened again at the same moment.
    pub(super) fn new(
        number: u32,
        live: Rc<Live<D>>,
        age_max: Option<Duration>,
        first_age: f64,
    ) -> Self {
        let expires = age_max.map(|age| Instant::now() + age.mul_f64(first_age.clamp(0.0, 1.0)));
        Self {
            number,
            live: RefCell::new(Some(live)),
            expires: Cell::new(expires),
            age_max,
            dialing: Cell::new(false),
            attempts: Cell::new(0),
            failed: RefCell::default(),
            dialed: Notify::new(),
            backoff: Backoff::default(),
        }
    }

    /// Whether `live` is still the connection to use. A lane asks before each request.
    pub(super) fn is_current(&self, live: &Rc<Live<D>>, now: Instant) -> bool {
        if self.expires.get().is_some_and(|expires| now >= expires) {
            self.expires.set(None);
            self.live.replace(None);
        }
        self.live
            .borrow()
            .as_ref()
            .is_some_and(|current| Rc::ptr_eq(current, live))
    }

    /// The connection, opened if there is none. Whoever waits for another's attempt shares its failure.
    pub(super) async fn live(&self, post: &Rc<Post<D>>) -> Result<Rc<Live<D>>, Failure> {
        loop {
            if let Some(live) = self.live.borrow().as_ref() {
                return Ok(Rc::clone(live));
            }
            if !self.dialing.get() {
                return self.dial(post).await;
            }
            let attempt = self.attempts.get();
            self.dialed.notified().await;
            if self.attempts.get() > attempt
                && let Some(failure) = self.failed.borrow().as_ref()
            {
                return Err(failure.clone());
            }
        }
    }

    async fn dial(&self, post: &Rc<Post<D>>) -> Result<Rc<Live<D>>, Failure> {
        // Cancelled: the next in line dials.
        let dialing = Dialing(self);
        self.dialing.set(true);
        let opened = post.open(self.number).await;
        match &opened {
            Ok(live) => {
                self.live.replace(Some(Rc::clone(live)));
                self.expires
                    .set(self.age_max.map(|age| Instant::now() + age));
                self.failed.replace(None);
            }
            Err(failure) => {
                self.failed.replace(Some(failure.clone()));
                self.backoff.failed(Instant::now());
            }
        }
        self.attempts.set(self.attempts.get() + 1);
        drop(dialing);
        opened
    }

    /// `live` is of no use any more. Its other lanes may each say so: the first counts.
    pub(super) fn lost(&self, live: &Rc<Live<D>>, now: Instant) {
        if self.is_current(live, now) {
            self.live.replace(None);
            self.backoff.failed(now);
        }
    }
}

struct Dialing<'a, D: Dialer>(&'a Slot<D>);

impl<D: Dialer> Drop for Dialing<'_, D> {
    fn drop(&mut self) {
        self.0.dialing.set(false);
        self.0.dialed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_in_a_row_become_rare_and_a_success_forgets_them() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..40 {
            backoff.failed(now);
            waits.push(backoff.until().map(|until| until - now));
        }
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits[..4], [None, ms(10), ms(20), ms(40)]);
        assert_eq!(waits[39], Some(BACKOFF_MAX));
        backoff.succeeded();
        assert_eq!(backoff.until(), None);
    }
}
