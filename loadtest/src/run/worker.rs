//! What one lane of a run does: wait for its turn, ask, have the answer checked, count, and again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::deadline::Deadline;
use super::gate::{Gate, Ticket};
use super::slot::{Backoff, Live, Post, Slot};
use crate::lane::{Conn, Dialer, Failure, Lane, Sink};
use crate::record::{Answer, Tally};
use crate::workload::{Ask, Asks};

/// So often in a row a lane finds its connection closed before it could send; then the request has failed.
const UNSENT_MAX: u32 = 3;

/// What the lanes of one thread share.
pub(super) struct Work<D: Dialer> {
    pub(super) post: Rc<Post<D>>,
    pub(super) tally: RefCell<Tally>,
    pub(super) asks: RefCell<Asks>,
    /// There is nothing more to ask.
    pub(super) exhausted: Cell<bool>,
    /// Open loop.
    pub(super) gate: Option<Gate>,
    /// Requests of the counted time that may still begin, over all threads.
    pub(super) left: Option<Arc<AtomicU64>>,
    /// Body bytes of this thread.
    pub(super) meter: AtomicU64,
    pub(super) timeout: Duration,
    pub(super) read_rate: Option<u64>,
}

/// Where a lane has its connections from.
pub(super) enum Source<D: Dialer> {
    /// With others, a connection that is kept.
    Kept(Rc<Slot<D>>),
    /// For each request one of its own; their number, and the wait after failures.
    PerRequest(u32, Backoff),
}

/// What is to be known of a lane from outside.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The intended start of the request under way.
    pub(super) under_way: Cell<Option<Instant>>,
    ticket: Rc<Ticket>,
}

struct Held<D: Dialer> {
    lane: <D::Conn as Conn>::Lane,
    live: Rc<Live<D>>,
}

impl<D: Dialer> Work<D> {
    /// Takes one of the requests that may still begin, if this one counts.
    fn claim(&self, intended: Instant) -> bool {
        let counted = self.tally.borrow().counted();
        let Some(left) = &self.left else {
            return true;
        };
        intended < counted.from
            || left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
    }

    /// The next request's intended start, once it has come; `None` when no more is to begin.
    async fn turn(&self, ticket: &Rc<Ticket>, now: Instant) -> Option<Instant> {
        if self.exhausted.get() {
            return None;
        }
        let until = self.tally.borrow().counted().until;
        let Some(gate) = &self.gate else {
            return (now < until && self.claim(now)).then_some(now);
        };
        if now >= until {
            // What is due by now and not begun is counted as that when the lanes are done.
            return None;
        }
        let at = self.take_due(until)?;
        gate.pass(at, ticket).await.then_some(at)
    }

    /// The next arrival that is to begin before `until`.
    pub(super) fn take_due(&self, until: Instant) -> Option<Instant> {
        let at = self.gate.as_ref()?.take()?;
        (at < until && self.claim(at)).then_some(at)
    }

    fn next_ask(&self) -> Option<Ask> {
        let ask = self.asks.borrow_mut().next_ask();
        self.exhausted.set(ask.is_none());
        ask
    }

    pub(super) fn metered(&self) -> u64 {
        self.meter.load(Ordering::Relaxed)
    }
}

/// Runs one lane until no more is to begin. Dropped when the run ends: what was under way is in `state`.
pub(super) async fn run<D: Dialer>(work: Rc<Work<D>>, source: Source<D>, state: Rc<State>) {
    let mut deadline = Deadline::new();
    let mut held = None;
    let mut now = Instant::now();
    loop {
        // An answer may be there at once, again and again; others must have their turn.
        tokio::task::coop::consume_budget().await;
        let Some(intended) = work.turn(&state.ticket, now).await else {
            return;
        };
        let Some(ask) = work.next_ask() else {
            return;
        };
        let started = if work.gate.is_some() {
            Instant::now()
        } else {
            intended
        };
        state.under_way.set(Some(intended));
        work.tally.borrow_mut().begin(intended);
        let mut sink = Sink::new(&ask).metered(&work.meter).paced(work.read_rate);
        let attempt = attempt(&work, &source, &mut held, &ask, &mut sink, started);
        let result = deadline.bound(started + work.timeout, attempt).await;
        let ended = Instant::now();
        state.under_way.set(None);
        now = ended;
        let result = result.unwrap_or(Err(Failure::TimedOut));
        match &result {
            Ok(()) => {
                let answer = Answer {
                    intended,
                    started,
                    head_at: sink.head_at(),
                    ended,
                    status: sink.status().unwrap_or_default(),
                };
                work.tally.borrow_mut().answer(&answer, work.metered());
                source.backoff().succeeded();
            }
            Err(failure) => {
                let (status, meter) = (sink.status(), work.metered());
                work.tally
                    .borrow_mut()
                    .failure(intended, failure, status, ended, meter);
                source.failed(failure, &mut held, ended);
                if let Some(until) = source.backoff().until() {
                    let end = work.tally.borrow().counted().until;
                    tokio::time::sleep_until(until.min(end).into()).await;
                    now = Instant::now();
                }
            }
        }
        if matches!(source, Source::PerRequest(..)) {
            held = None;
        }
    }
}

/// One request, on the connection that is held or on another.
async fn attempt<D: Dialer>(
    work: &Work<D>,
    source: &Source<D>,
    held: &mut Option<Held<D>>,
    ask: &Ask,
    sink: &mut Sink<'_>,
    now: Instant,
) -> Result<(), Failure> {
    let mut unsent = 0;
    loop {
        if let (Some(holding), Source::Kept(slot)) = (&*held, source)
            && !slot.is_current(&holding.live, now)
        {
            *held = None;
        }
        let holding = match held.take() {
            Some(holding) => holding,
            None => {
                let live = match source {
                    Source::Kept(slot) => slot.live(&work.post).await?,
                    Source::PerRequest(number, _) => work.post.open(*number).await?,
                };
                Held {
                    lane: live.lane(),
                    live,
                }
            }
        };
        let holding = held.insert(holding);
        match holding.lane.exchange(ask, sink).await {
            Err(Failure::Unsent(why)) => {
                if let Source::Kept(slot) = source {
                    slot.lost(&holding.live, Instant::now());
                }
                *held = None;
                unsent += 1;
                if unsent >= UNSENT_MAX {
                    return Err(Failure::Closed(why));
                }
            }
            other => return other,
        }
    }
}

impl<D: Dialer> Source<D> {
    fn backoff(&self) -> &Backoff {
        match self {
            Self::Kept(slot) => &slot.backoff,
            Self::PerRequest(_, backoff) => backoff,
        }
    }

    /// Draws the consequences of a failure for the connection.
    fn failed(&self, failure: &Failure, held: &mut Option<Held<D>>, now: Instant) {
        match (self, failure) {
            (Self::Kept(slot), Failure::Closed(_)) => {
                if let Some(held) = held.take() {
                    slot.lost(&held.live, now);
                }
            }
            (
                Self::PerRequest(_, backoff),
                Failure::Connect(_) | Failure::Handshake(_) | Failure::Closed(_),
            ) => backoff.failed(now),
            _ => {}
        }
    }
}
