//! One side of a link: its streams, what they may send, what is to be sent next.

mod halves;
mod incoming;
mod outgoing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Violation;
use super::frame::{Frame, Limits, REASON_BYTES_MAX};
use super::recv::Receiving;
use super::send::Sending;
use crate::quic::{ConnectionError, DatagramError, PathStats};

/// Bytes of datagrams that wait, in each direction.
const DATAGRAM_BYTES_MAX: usize = 256 * 1024;

/// The largest code, as in QUIC.
const CODE_MAX: u64 = (1 << 62) - 1;

/// What those who wait for a link are woken by.
#[derive(Debug, Default)]
pub(in crate::transport) struct Signals {
    pub(in crate::transport::mux) opened: Notify,
    pub(in crate::transport::mux) bidi: Notify,
    pub(in crate::transport::mux) uni: Notify,
    pub(in crate::transport::mux) datagram: Notify,
    pub(in crate::transport::mux) ended: Notify,
}

/// A [`Core`] shared by its driver and those who use the link.
#[derive(Debug)]
pub(in crate::transport) struct Mux {
    pub(in crate::transport) core: Mutex<Core>,
    pub(in crate::transport::mux) signals: Arc<Signals>,
}

impl Mux {
    pub(in crate::transport) fn new(client: bool, ours: Limits, send_window: usize) -> Arc<Self> {
        let signals = Arc::new(Signals::default());
        Arc::new(Self {
            core: Mutex::new(Core::new(client, ours, send_window, signals.clone())),
            signals,
        })
    }

    /// Waits for the end of the link.
    pub(in crate::transport) async fn ended(&self) {
        let ended = self.signals.ended.notified();
        tokio::pin!(ended);
        // From here on the signal is not missed.
        ended.as_mut().enable();
        if !self.core.lock().is_ended() {
            ended.await;
        }
    }
}

#[derive(Debug)]
struct Stream {
    send: Option<Sending>,
    recv: Option<Receiving>,
    /// In the list of those with a control frame to send.
    urgent: bool,
    /// In the queue of those with data to send.
    ready: bool,
}

/// See the [module](super).
#[derive(Debug)]
pub(in crate::transport) struct Core {
    client: bool,
    ours: Limits,
    theirs: Limits,
    /// In order of their numbers, so that the same events give the same frames.
    streams: BTreeMap<u64, Stream>,
    /// Streams of this side: opened, and allowed. Bidirectional, unidirectional.
    opened: [u64; 2],
    open_max: [u64; 2],
    /// Streams of the peer: seen, allowed, and forgotten. Those seen and not forgotten are never more than this side's limit.
    seen: [u64; 2],
    seen_max: [u64; 2],
    done: [u64; 2],
    accept: [VecDeque<u64>; 2],
    /// What of all streams was sent, may be sent, waits to be sent, and may wait.
    sent: u64,
    sent_max: u64,
    queued: usize,
    queued_max: usize,
    /// Streams whose writers wait for room among all.
    crowded: BTreeSet<u64>,
    /// What of all streams was received, read, and granted.
    received: u64,
    read: u64,
    granted: u64,
    settings: Option<Limits>,
    urgent: VecDeque<u64>,
    ready: BTreeMap<Reverse<i32>, VecDeque<u64>>,
    datagrams_in: VecDeque<Bytes>,
    datagrams_in_bytes: usize,
    datagrams_out: VecDeque<Bytes>,
    datagrams_out_bytes: usize,
    ping: Option<u64>,
    pinged: Option<(u64, Instant)>,
    pong: Option<u64>,
    path: PathStats,
    close: Option<Frame>,
    ended: Option<ConnectionError>,
    driver: Option<Waker>,
    signals: Arc<Signals>,
}

fn kind_of(stream: u64) -> usize {
    usize::from(is_uni(stream))
}

//= https://www.rfc-editor.org/rfc/rfc9000#section-2.1
//# The least significant bit (0x01) of the stream ID identifies the initiator of the stream. [...] The second least
//# significant bit (0x02) of the stream ID distinguishes between bidirectional streams (with the bit set to 0) and
//# unidirectional streams (with the bit set to 1).
fn is_uni(stream: u64) -> bool {
    stream & 2 != 0
}

impl Core {
    fn new(client: bool, ours: Limits, send_window: usize, signals: Arc<Signals>) -> Self {
        let ours = ours.at_least(Limits::INITIAL);
        let theirs = Limits::INITIAL;
        let counts = |limits: Limits| [limits.bidi_streams.into(), limits.uni_streams.into()];
        Self {
            client,
            ours,
            theirs,
            streams: BTreeMap::new(),
            opened: [0; 2],
            open_max: counts(theirs),
            seen: [0; 2],
            seen_max: counts(ours),
            done: [0; 2],
            accept: Default::default(),
            sent: 0,
            sent_max: theirs.window.into(),
            queued: 0,
            queued_max: send_window.max(1),
            crowded: BTreeSet::new(),
            received: 0,
            read: 0,
            granted: ours.window.into(),
            settings: Some(ours),
            urgent: VecDeque::new(),
            ready: BTreeMap::new(),
            datagrams_in: VecDeque::new(),
            datagrams_in_bytes: 0,
            datagrams_out: VecDeque::new(),
            datagrams_out_bytes: 0,
            ping: None,
            pinged: None,
            pong: None,
            path: PathStats::default(),
            close: None,
            ended: None,
            driver: None,
            signals,
        }
    }

    fn is_ours(&self, stream: u64) -> bool {
        (stream & 1 == 0) == self.client
    }

    fn number(&self, index: u64, kind: usize, ours: bool) -> u64 {
        let by_server = u64::from(self.client != ours);
        index << 2 | (kind as u64) << 1 | by_server
    }

    // What those who use the link ask.

    /// A new stream of this side; `None` while the peer allows no more.
    pub(in crate::transport::mux) fn open(
        &mut self,
        uni: bool,
    ) -> Result<Option<u64>, ConnectionError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let kind = usize::from(uni);
        if self.opened[kind] >= self.open_max[kind] {
            return Ok(None);
        }
        let id = self.number(self.opened[kind], kind, true);
        self.opened[kind] += 1;
        let stream = self.stream(true, !uni);
        self.streams.insert(id, stream);
        Ok(Some(id))
    }

    fn stream(&self, sends: bool, receives: bool) -> Stream {
        Stream {
            send: sends.then(|| Sending::new(self.theirs.stream_window.into())),
            recv: receives.then(|| Receiving::new(self.ours.stream_window.into())),
            urgent: false,
            ready: false,
        }
    }

    /// The next stream of the peer; `None` while there is none.
    pub(in crate::transport::mux) fn accept(
        &mut self,
        uni: bool,
    ) -> Result<Option<u64>, ConnectionError> {
        match (self.accept[usize::from(uni)].pop_front(), &self.ended) {
            (Some(id), _) => Ok(Some(id)),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }

    pub(in crate::transport::mux) fn ended(&self) -> Option<&ConnectionError> {
        self.ended.as_ref()
    }

    pub(in crate::transport) fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    pub(in crate::transport::mux) fn path(&self) -> PathStats {
        self.path
    }

    pub(in crate::transport::mux) fn takes_datagrams(&self) -> bool {
        self.ours.datagrams
    }

    pub(in crate::transport::mux) fn datagram_max(&self) -> Option<usize> {
        // What QUIC carries on any path, so that who fits one carrier fits the other.
        const DATAGRAM_BYTES: usize = 1100;
        (self.ours.datagrams && self.theirs.datagrams).then_some(DATAGRAM_BYTES)
    }

    pub(in crate::transport::mux) fn send_datagram(
        &mut self,
        data: Bytes,
    ) -> Result<(), DatagramError> {
        if let Some(error) = &self.ended {
            return Err(DatagramError::Connection(error.clone()));
        }
        let max = self.datagram_max().ok_or(DatagramError::Unsupported)?;
        if data.len() > max {
            return Err(DatagramError::TooLarge);
        }
        push(&mut self.datagrams_out, &mut self.datagrams_out_bytes, data);
        self.wake_driver();
        Ok(())
    }

    pub(in crate::transport::mux) fn read_datagram(
        &mut self,
    ) -> Result<Option<Bytes>, ConnectionError> {
        match (
            pop(&mut self.datagrams_in, &mut self.datagrams_in_bytes),
            &self.ended,
        ) {
            (Some(data), _) => Ok(Some(data)),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }

    /// Closes with an application's code. Only the first call has an effect.
    pub(in crate::transport) fn close(&mut self, code: u64, reason: &[u8]) {
        let reason = reason.get(..REASON_BYTES_MAX).unwrap_or(reason);
        let frame = Frame::Close {
            transport: false,
            code: code.min(CODE_MAX),
            reason: Bytes::copy_from_slice(reason),
        };
        self.end_with(ConnectionError::LocallyClosed, Some(frame));
    }

    /// Closes because the peer broke the rules.
    pub(in crate::transport) fn accuse(&mut self, violation: &Violation) {
        let (code, words) = (violation.code(), violation.to_string());
        let frame = Frame::Close {
            transport: true,
            code,
            reason: Bytes::copy_from_slice(words.as_bytes()),
        };
        let error = ConnectionError::TransportClosed {
            code,
            reason: words,
            by_peer: false,
        };
        self.end_with(error, Some(frame));
    }

    /// The link ended without a word of ours.
    pub(in crate::transport) fn fail(&mut self, error: ConnectionError) {
        self.end_with(error, None);
    }

    fn end_with(&mut self, error: ConnectionError, last: Option<Frame>) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error);
        self.close = last;
        for stream in self.streams.values_mut() {
            if let Some(send) = &mut stream.send {
                send.wake();
            }
            if let Some(recv) = &mut stream.recv {
                recv.wake();
            }
        }
        let signals = &self.signals;
        for signal in [
            &signals.opened,
            &signals.bidi,
            &signals.uni,
            &signals.datagram,
            &signals.ended,
        ] {
            signal.notify_waiters();
        }
        self.wake_driver();
    }

    // Bookkeeping.

    fn ready_if_so(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(send) = &stream.send
            && send.is_ready()
            && !stream.ready
        {
            stream.ready = true;
            let turn = self.ready.entry(Reverse(send.priority)).or_default();
            turn.push_back(id);
            self.wake_driver();
        }
    }

    fn urge(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.urgent, true)
        {
            self.urgent.push_back(id);
            self.wake_driver();
        }
    }

    fn make_room(&mut self) {
        if self.queued < self.queued_max {
            for id in std::mem::take(&mut self.crowded) {
                if let Some(send) = self
                    .streams
                    .get_mut(&id)
                    .and_then(|stream| stream.send.as_mut())
                {
                    send.wake_writer();
                }
            }
        }
    }

    /// Forgets a stream that is over on the wire and that nobody holds, and only then lets the peer have another for it. One
    /// that was not accepted yet is held by the queue in which it waits for that.
    fn tidy(&mut self, id: u64) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let needed = stream
            .send
            .as_ref()
            .is_some_and(|send| send.held || !send.is_ended())
            || stream
                .recv
                .as_ref()
                .is_some_and(|recv| recv.held || !recv.is_ended());
        if needed {
            return;
        }
        self.streams.remove(&id);
        self.crowded.remove(&id);
        if !self.is_ours(id) {
            self.done[kind_of(id)] += 1;
            self.wake_driver();
        }
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

fn push(queue: &mut VecDeque<Bytes>, bytes: &mut usize, data: Bytes) {
    // An empty one takes room as well.
    *bytes += data.len().max(16);
    queue.push_back(data);
    while *bytes > DATAGRAM_BYTES_MAX && pop(queue, bytes).is_some() {}
}

fn pop(queue: &mut VecDeque<Bytes>, bytes: &mut usize) -> Option<Bytes> {
    let data = queue.pop_front()?;
    *bytes -= data.len().max(16);
    Some(data)
}
