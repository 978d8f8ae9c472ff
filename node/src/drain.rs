//! Drain: how a process stops without breaking what it has begun.
//!
//! Three states, one way: *serving* → *draining* → *ended*. Draining refuses newcomers and lets open connections finish; it ends
//! when the last tracked connection is gone, when the deadline passes, or when someone asks twice. A listener waits for
//! [`Drain::begun`] and stops accepting; a connection holds a [`Tracked`] and closes at [`Drain::ended`] whatever it is doing.
//!
//! Invariant: once ended, always ended; the deadline is set once, by whoever began.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// A handle on the process's drain; clones are the same drain.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    length: Duration,
    deadline: OnceLock<Instant>,
    begun: CancellationToken,
    ended: CancellationToken,
    tracked: AtomicUsize,
    /// Told when `tracked` falls to zero.
    idle: Notify,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Every tracked connection finished.
    Finished,
    /// The deadline passed with this many open.
    DeadlinePassed {
        /// Connections cut.
        left: usize,
    },
    /// A second signal, or [`Drain::end`], with this many open.
    Forced {
        /// Connections cut.
        left: usize,
    },
}

impl Drain {
    /// A process that serves, and whose drain will take at most `length`.
    pub fn new(length: Duration) -> Self {
        Self(Arc::new(Inner {
            length,
            deadline: OnceLock::new(),
            begun: CancellationToken::new(),
            ended: CancellationToken::new(),
            tracked: AtomicUsize::new(0),
            idle: Notify::new(),
        }))
    }

    /// Begins draining; the deadline counts from the first call, later ones change nothing.
    pub fn begin(&self) {
        self.0
            .deadline
            .get_or_init(|| Instant::now() + self.0.length);
        self.0.begun.cancel();
    }

    /// Ends at once, whatever is open.
    pub fn end(&self) {
        self.begin();
        self.0.ended.cancel();
    }

    /// Whether newcomers are refused.
    pub fn is_draining(&self) -> bool {
        self.0.begun.is_cancelled()
    }

    /// Whether what is open must close now.
    pub fn has_ended(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    /// Waits until draining begins. Cancel safe.
    pub async fn begun(&self) {
        self.0.begun.cancelled().await;
    }

    /// Waits until what is open must close. Cancel safe.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    /// Cancelled when draining begins, for code that takes a token.
    pub fn begun_token(&self) -> CancellationToken {
        self.0.begun.clone()
    }

    /// Cancelled when what is open must close, for code that takes a token.
    pub fn ended_token(&self) -> CancellationToken {
        self.0.ended.clone()
    }

    /// When what is open will be cut; None while serving.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get().copied()
    }

    /// Counts something that drain waits for, until the guard is dropped.
    pub fn track(&self) -> Tracked {
        self.0.tracked.fetch_add(1, Ordering::AcqRel);
        Tracked(self.0.clone())
    }

    /// How much is tracked now.
    pub fn tracked(&self) -> usize {
        self.0.tracked.load(Ordering::Acquire)
    }

    /// Waits for the drain to begin, then for its end, and brings that end about: when nothing is tracked, or at the deadline.
    /// Some one task of the process must run this; several may.
    pub async fn run(&self) -> DrainOutcome {
        self.begun().await;
        let deadline = self.deadline().unwrap_or_else(Instant::now);
        // Forced first: a second signal that comes together with the deadline was still a second signal.
        let outcome = select! {
            biased;
            () = self.ended() => DrainOutcome::Forced { left: self.tracked() },
            () = self.until_idle() => DrainOutcome::Finished,
            () = sleep_until(deadline) => DrainOutcome::DeadlinePassed { left: self.tracked() },
        };
        self.0.ended.cancel();
        outcome
    }

    async fn until_idle(&self) {
        loop {
            // Registered before the count is read, so a guard dropped in between is not missed.
            let notified = self.0.idle.notified();
            if self.tracked() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Follows the process's signals: the first SIGTERM or SIGINT begins the drain, the second ends it. Returns after the second, so
    /// run it beside [`Drain::run`] and drop it.
    pub async fn follow_signals(&self, signals: Signals) {
        let Signals { mut term, mut int } = signals;
        let mut next = async || {
            select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, tracked = self.tracked(), length = ?self.0.length, "draining");
        self.begin();
        let name = next().await;
        tracing::warn!(signal = name, tracked = self.tracked(), "closing at once");
        self.end();
    }
}

/// SIGTERM and SIGINT, which from the making of this on no longer end the process at once.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Listens to them. Inside a runtime, and before anything serves: one that comes earlier ends the process without a drain.
    ///
    /// # Errors
    /// The signals cannot be listened to.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }
}

/// Something that drain waits for; dropped when it is over.
#[derive(Debug)]
pub struct Tracked(Arc<Inner>);

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.0.tracked.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain() -> Drain {
        Drain::new(Duration::from_secs(30))
    }

    #[tokio::test(start_paused = true)]
    async fn drain_ends_as_soon_as_the_last_connection_is_gone() {
        let drain = drain();
        let (first, second) = (drain.track(), drain.track());
        let run = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run().await }
        });
        drain.begin();
        drop(first);
        tokio::task::yield_now().await;
        assert!(drain.is_draining() && !drain.has_ended());
        let before = Instant::now();
        drop(second);
        assert_eq!(run.await.unwrap(), DrainOutcome::Finished);
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(drain.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_cuts_what_is_left() {
        let drain = drain();
        let _open = drain.track();
        let before = Instant::now();
        drain.begin();
        assert_eq!(drain.run().await, DrainOutcome::DeadlinePassed { left: 1 });
        assert_eq!(before.elapsed().as_secs(), 30);
        assert!(drain.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn asking_twice_does_not_move_the_deadline() {
        let drain = drain();
        drain.begin();
        let deadline = drain.deadline();
        tokio::time::advance(Duration::from_secs(5)).await;
        drain.begin();
        assert_eq!(drain.deadline(), deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_by_force_does_not_wait() {
        let drain = drain();
        let _open = drain.track();
        drain.end();
        assert_eq!(drain.run().await, DrainOutcome::Forced { left: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_open_ends_at_once() {
        let drain = drain();
        drain.begin();
        assert_eq!(drain.run().await, DrainOutcome::Finished);
    }
}
