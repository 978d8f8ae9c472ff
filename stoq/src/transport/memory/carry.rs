//! Moves frames from one end of a link to the other, in the time that the network says.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::network::{Fate, Shared};
use super::wait;
use crate::quic::ConnectionError;
use crate::transport::links::{Links, Place};
use crate::transport::mux::{Frame, Mux};

/// Streams whose last arrival is remembered before those that are past are forgotten.
const ORDERED_MAX: usize = 256;

/// From one node to another.
#[derive(Debug, Clone)]
pub(super) struct Way {
    network: Arc<Shared>,
    from: IpAddr,
    to: IpAddr,
}

impl Way {
    pub(super) fn new(network: Arc<Shared>, from: IpAddr, to: IpAddr) -> Self {
        Self { network, from, to }
    }

    fn fate(&self) -> Fate {
        self.network.fate(self.from, self.to)
    }

    fn cut_since(&self) -> Option<Instant> {
        self.network.cut_since(self.from, self.to)
    }

    /// Waits as long as something takes to arrive, the end of a partition included.
    pub(super) async fn flight(&self) {
        loop {
            let mut changes = self.network.changes();
            while self.cut_since().is_some() {
                // The sender is in the network, which this holds.
                if changes.changed().await.is_err() {
                    return;
                }
            }
            wait(self.fate().delay).await;
            if self.cut_since().is_none() {
                return;
            }
        }
    }
}

/// Starts the two tasks that drive both ends. They end with the link.
pub(super) fn start(way: &Way, ends: [&Arc<Mux>; 2], links: [&Arc<Links>; 2], idle: Duration) {
    for (from, to) in [(0, 1), (1, 0)] {
        let carrier = Courier {
            way: way.clone(),
            from: ends[from].clone(),
            to: ends[to].clone(),
            idle,
            under_way: BTreeMap::new(),
            sent: 0,
            arrivals: BTreeMap::new(),
            _place: links[from].enter(ends[from]),
        };
        tokio::spawn(carrier.run());
    }
}

/// One direction of a link.
struct Courier {
    way: Way,
    from: Arc<Mux>,
    to: Arc<Mux>,
    idle: Duration,
    /// By time of arrival, then in the order sent. Bounded by the windows.
    under_way: BTreeMap<(Instant, u64), Frame>,
    sent: u64,
    /// When the last frame about a stream arrives: the next must not be earlier.
    arrivals: BTreeMap<Option<u64>, Instant>,
    _place: Place,
}

impl Courier {
    async fn run(mut self) {
        let mut changes = self.way.network.changes();
        let mut ping = Instant::now();
        let mut over = false;
        while !over || !self.under_way.is_empty() {
            let cut = self.way.cut_since();
            let due = self.under_way.keys().next().map(|(at, _)| *at);
            let from = self.from.clone();
            let transmit = poll_fn(|cx| from.core.lock().poll_transmit(cx));
            // Each may be cancelled: a frame is taken from the core only when it is given here.
            tokio::select! {
                biased;
                () = at(due), if due.is_some() && cut.is_none() => self.deliver(Instant::now()),
                frame = transmit, if !over => match frame {
                    Some(frame) => self.send(frame),
                    None => over = true,
                },
                () = sleep_until(ping), if !over => {
                    self.from.core.lock().ping(Instant::now());
                    ping = Instant::now() + self.idle / 3;
                }
                () = at(cut.map(|since| since + self.idle)), if cut.is_some() => {
                    self.to.core.lock().fail(ConnectionError::TimedOut);
                    return;
                }
                // The sender is in the network, which this holds.
                _ = changes.changed() => self.again(),
            }
        }
    }

    fn send(&mut self, frame: Frame) {
        let now = Instant::now();
        let Fate { losses, delay } = self.way.fate();
        if losses > 0 {
            self.from.core.lock().lost(losses);
        }
        if let Frame::Datagram(_) = &frame {
            // Lost, or on its way without regard to others. How long it would have taken again is not its time.
            if losses == 0 && self.way.cut_since().is_none() {
                self.put(now + delay, frame);
            }
            return;
        }
        let stream = frame.stream();
        if self.arrivals.len() >= ORDERED_MAX {
            self.arrivals.retain(|_, at| *at > now);
        }
        let last = self.arrivals.entry(stream).or_insert(now);
        *last = (*last).max(now + delay);
        let at = *last;
        self.put(at, frame);
    }

    fn put(&mut self, at: Instant, frame: Frame) {
        self.under_way.insert((at, self.sent), frame);
        self.sent += 1;
    }

    fn deliver(&mut self, now: Instant) {
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let frame = entry.remove();
            let mut to = self.to.core.lock();
            if let Err(violation) = to.handle(frame, now) {
                to.accuse(&violation);
            }
        }
    }

    /// A partition came or went: what was to arrive in it is lost, and sent again when it is over.
    fn again(&mut self) {
        if self.way.cut_since().is_some() {
            self.under_way
                .retain(|_, frame| !matches!(frame, Frame::Datagram(_)));
            return;
        }
        let Fate { delay, .. } = self.way.fate();
        let earliest = Instant::now() + delay;
        // None earlier than that, and otherwise in the order in which they would have come.
        let waiting = std::mem::take(&mut self.under_way);
        self.under_way.extend(
            waiting
                .into_iter()
                .map(|((at, number), frame)| ((at.max(earliest), number), frame)),
        );
        for at in self.arrivals.values_mut() {
            *at = (*at).max(earliest);
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
