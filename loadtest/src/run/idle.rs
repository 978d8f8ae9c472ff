//! Connections that are opened, held, and asked one request each at the end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};

use super::slot::Post;
use crate::bundle::IdleOutcome;
use crate::lane::{Conn, Dialer, Failure, Lane, Sink};
use crate::plan::Plan;
use crate::record::{Failures, Times};
use crate::truth::Resident;
use crate::workload::{Ask, Verb, Workload};

/// Attempts to open one, or requests at the end, under way at once on each thread.
const UNDER_WAY_MAX: usize = 256;

/// The longest that asking so many may take: as many at once as a thread asks, each within its time-out.
pub(super) fn ask_time_max(connections: u32, timeout: Duration) -> Duration {
    let turns = connections.div_ceil(u32::try_from(UNDER_WAY_MAX).unwrap_or(1));
    timeout.saturating_mul(turns)
}

/// The idle connections of one thread.
pub(super) struct Idlers<C> {
    conns: Vec<C>,
    found: Found,
}

/// What became of them, of one thread or of all.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    wanted: u64,
    opened: u64,
    /// When the first was begun and the last was ready.
    ramp: Option<(Instant, Instant)>,
    /// When the first was asked.
    asked_at: Option<Instant>,
    answered: u64,
    failures: Failures,
    connect: Times,
    answer: Times,
}

impl<C: Conn> Idlers<C> {
    /// Opens this thread's share, at its share of the rate. Each attempt takes no longer than the plan's timeout.
    pub(super) async fn ramp<D: Dialer<Conn = C>>(
        post: &Rc<Post<D>>,
        plan: &Plan,
        thread: u32,
    ) -> Self {
        let mut idlers = Self {
            conns: Vec::new(),
            found: Found::default(),
        };
        let Some(idle) = plan.idle else {
            return idlers;
        };
        let numbers = (thread..idle.connections).step_by(plan.threads.max(1) as usize);
        let gap = Duration::from_secs(1)
            .mul_f64(f64::from(plan.threads.max(1)) / f64::from(idle.rate.max(1)));
        let started = Instant::now();
        let mut opening = FuturesUnordered::new();
        for (turn, number) in numbers.enumerate() {
            idlers.found.wanted += 1;
            let begin = started + gap.mul_f64(u32::try_from(turn).map_or(f64::MAX, f64::from));
            let due = tokio::time::sleep_until(begin.into());
            tokio::pin!(due);
            loop {
                // Both branches may be cancelled: the timer is kept, and so are the attempts.
                tokio::select! {
                    biased;
                    () = &mut due, if opening.len() < UNDER_WAY_MAX => break,
                    Some(opened) = opening.next() => idlers.take(opened),
                }
            }
            opening.push(async move {
                let number = plan.connections.saturating_add(number);
                tokio::time::timeout(plan.timeout, post.dialer.dial(number))
                    .await
                    .unwrap_or(Err(Failure::TimedOut))
            });
        }
        while let Some(opened) = opening.next().await {
            idlers.take(opened);
        }
        drop(opening);
        if idlers.found.wanted > 0 {
            idlers.found.ramp = Some((started, Instant::now()));
        }
        idlers
    }

    fn take(&mut self, opened: Result<C, Failure>) {
        match opened {
            Ok(conn) => {
                let times = conn.opened();
                self.found.opened += 1;
                self.found
                    .connect
                    .record(times.ready.saturating_duration_since(times.started));
                self.conns.push(conn);
            }
            Err(failure) => self.found.failures.record(&failure),
        }
    }

    /// Asks each for one of the objects, and closes none: that is the caller's.
    pub(super) async fn ask(mut self, workload: &Workload, timeout: Duration) -> (Found, Vec<C>) {
        let objects = workload.objects();
        if self.conns.is_empty() || objects.is_empty() {
            return (self.found, self.conns);
        }
        self.found.asked_at = Some(Instant::now());
        let asked: Vec<_> = stream::iter(self.conns.iter().zip(objects.iter().cycle()))
            .map(|(conn, object)| async move {
                let ask = Ask {
                    verb: Verb::Get,
                    object: Arc::clone(object),
                };
                let mut lane = conn.lane();
                let mut sink = Sink::new(&ask);
                let started = Instant::now();
                let done = tokio::time::timeout(timeout, lane.exchange(&ask, &mut sink)).await;
                done.unwrap_or(Err(Failure::TimedOut))
                    .map(|()| started.elapsed())
            })
            .buffer_unordered(UNDER_WAY_MAX)
            .collect()
            .await;
        for answer in asked {
            match answer {
                Ok(time) => {
                    self.found.answered += 1;
                    self.found.answer.record(time);
                }
                Err(failure) => self.found.failures.record(&failure),
            }
        }
        (self.found, self.conns)
    }
}

impl Found {
    /// Adds all of `other`, of another thread of the same run.
    pub(super) fn merge(&mut self, other: &Self) {
        self.wanted += other.wanted;
        self.opened += other.opened;
        self.answered += other.answered;
        self.failures.merge(&other.failures);
        self.connect.merge(&other.connect);
        self.answer.merge(&other.answer);
        self.asked_at = [self.asked_at, other.asked_at].into_iter().flatten().min();
        self.ramp = match (self.ramp, other.ramp) {
            (Some(one), Some(two)) => Some((one.0.min(two.0), one.1.max(two.1))),
            (one, two) => one.or(two),
        };
    }

    /// As a bundle has it. `before` and `after`: the ramp.
    pub(super) fn outcome(&self, before: Resident, after: Resident) -> IdleOutcome {
        let each = after.each_since(before, self.opened);
        let held = self
            .ramp
            .zip(self.asked_at)
            .map(|((_, last), asked)| asked.saturating_duration_since(last));
        IdleOutcome {
            wanted: self.wanted,
            opened: self.opened,
            ramp_s: self
                .ramp
                .map_or(0.0, |(first, last)| (last - first).as_secs_f64()),
            held_s: held.map_or(0.0, |held| held.as_secs_f64()),
            answered: self.answered,
            errors: self.failures.counts(),
            error_examples: self.failures.examples(),
            client_bytes_each: each.client,
            server_bytes_each: each.server,
            connect: self.connect.distribution(),
            answer: self.answer.distribution(),
        }
    }
}
