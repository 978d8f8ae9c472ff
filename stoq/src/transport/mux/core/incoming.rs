//! What a core does with the frames of its peer.

use bytes::Bytes;
use tokio::time::Instant;

use super::{Core, is_uni, kind_of, push};
use crate::quic::ConnectionError;
use crate::transport::mux::Violation;
use crate::transport::mux::frame::{Frame, Limits};
use crate::transport::mux::recv::Receiving;
use crate::transport::mux::send::Sending;

impl Core {
    /// Takes a frame of the peer.
    pub(in crate::transport) fn handle(
        &mut self,
        frame: Frame,
        now: Instant,
    ) -> Result<(), Violation> {
        self.path.received_bytes += frame.wire_len() as u64;
        if self.ended.is_some() {
            return Ok(());
        }
        match frame {
            Frame::Settings(limits) => self.learn(limits),
            Frame::Data { stream, bytes, fin } => self.data(stream, bytes, fin)?,
            Frame::Reset { stream, code, size } => {
                if let Some(recv) = self.receiving(stream)? {
                    let (missing, unread) = recv.reset(stream, code, size)?;
                    self.take(stream, missing)?;
                    self.forget(unread);
                    self.tidy(stream);
                }
            }
            Frame::Stop { stream, code } => {
                if let Some(send) = self.sending(stream)? {
                    self.queued -= send.stop(code);
                    self.make_room();
                    self.urge(stream);
                }
            }
            Frame::StreamWindow { stream, max } => {
                if let Some(send) = self.sending(stream)? {
                    send.allow(max);
                    self.ready_if_so(stream);
                }
            }
            Frame::Window { max } => {
                self.sent_max = self.sent_max.max(max);
                self.wake_driver();
            }
            Frame::Streams { uni, max } => {
                let allowed = &mut self.open_max[usize::from(uni)];
                *allowed = (*allowed).max(max);
                self.signals.opened.notify_waiters();
            }
            Frame::Datagram(data) => {
                // One who sends them unasked wastes its own time.
                if self.ours.datagrams {
                    push(&mut self.datagrams_in, &mut self.datagrams_in_bytes, data);
                    self.signals.datagram.notify_waiters();
                }
            }
            Frame::Ping(value) => {
                self.pong = Some(value);
                self.wake_driver();
            }
            Frame::Pong(value) => self.answered(value, now),
            Frame::Close {
                transport,
                code,
                reason,
            } => self.fail(if transport {
                ConnectionError::TransportClosed {
                    code,
                    reason: String::from_utf8_lossy(&reason).into_owned(),
                    by_peer: true,
                }
            } else {
                ConnectionError::Closed { code, reason }
            }),
        }
        Ok(())
    }

    fn learn(&mut self, limits: Limits) {
        self.theirs = self.theirs.at_least(limits);
        let Limits {
            bidi_streams,
            uni_streams,
            stream_window,
            window,
            ..
        } = self.theirs;
        let allowed = [bidi_streams.into(), uni_streams.into()];
        for kind in [0, 1] {
            self.open_max[kind] = self.open_max[kind].max(allowed[kind]);
        }
        self.sent_max = self.sent_max.max(window.into());
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            if let Some(send) = self
                .streams
                .get_mut(&id)
                .and_then(|stream| stream.send.as_mut())
            {
                send.allow(stream_window.into());
                self.ready_if_so(id);
            }
        }
        self.signals.opened.notify_waiters();
        self.wake_driver();
    }

    fn data(&mut self, stream: u64, bytes: Bytes, fin: bool) -> Result<(), Violation> {
        let len = bytes.len() as u64;
        if let Some(recv) = self.receiving(stream)? {
            let unread = recv.receive(stream, bytes, fin)?;
            let ended = recv.is_ended();
            self.take(stream, len)?;
            self.forget(unread);
            if ended {
                self.tidy(stream);
            }
        }
        Ok(())
    }

    /// Bytes of all streams that came, or never will.
    fn take(&mut self, stream: u64, len: u64) -> Result<(), Violation> {
        if self.granted - self.received < len {
            return Err(Violation::FlowControl(stream));
        }
        self.received += len;
        Ok(())
    }

    /// Bytes of all streams that were read, or never will be.
    pub(super) fn forget(&mut self, len: u64) {
        self.read += len;
        if self.wants_grant() {
            self.wake_driver();
        }
    }

    /// Whether the peer may be allowed so much more over all streams that it is worth a frame: an eighth of the window, or
    /// anything if it has nothing left. It may be that all but a few bytes of the window are those of streams that nobody
    /// reads, and the others must go on with these few.
    pub(super) fn wants_grant(&self) -> bool {
        let window = u64::from(self.ours.window);
        let more = (self.read + window).saturating_sub(self.granted);
        more >= window / 8 || (more > 0 && self.received == self.granted)
    }

    /// The receiving half a frame is about; `None` if it is over.
    fn receiving(&mut self, stream: u64) -> Result<Option<&mut Receiving>, Violation> {
        if self.is_ours(stream) && is_uni(stream) {
            return Err(Violation::StreamState(stream));
        }
        self.meet(stream)?;
        Ok(self
            .streams
            .get_mut(&stream)
            .and_then(|stream| stream.recv.as_mut()))
    }

    fn sending(&mut self, stream: u64) -> Result<Option<&mut Sending>, Violation> {
        if !self.is_ours(stream) && is_uni(stream) {
            return Err(Violation::StreamState(stream));
        }
        self.meet(stream)?;
        Ok(self
            .streams
            .get_mut(&stream)
            .and_then(|stream| stream.send.as_mut()))
    }

    //= https://www.rfc-editor.org/rfc/rfc9000#section-3.2
    //# Before a stream is created, all streams of the same type with lower-
    //# numbered stream IDs MUST be created.
    fn meet(&mut self, stream: u64) -> Result<(), Violation> {
        let (kind, index) = (kind_of(stream), stream >> 2);
        if self.is_ours(stream) {
            return if index < self.opened[kind] {
                Ok(())
            } else {
                Err(Violation::StreamState(stream))
            };
        }
        if index >= self.seen_max[kind] {
            return Err(Violation::StreamLimit(stream));
        }
        while self.seen[kind] <= index {
            let id = self.number(self.seen[kind], kind, false);
            self.seen[kind] += 1;
            let new = self.stream(kind == 0, true);
            self.streams.insert(id, new);
            self.accept[kind].push_back(id);
            let signal = [&self.signals.bidi, &self.signals.uni][kind];
            signal.notify_waiters();
        }
        Ok(())
    }

    /// The carrier lost a frame that many times before it got through.
    pub(in crate::transport) fn lost(&mut self, times: u32) {
        self.path.lost_packets += u64::from(times);
    }

    /// Asks the peer for a sign of life, which also measures the way.
    pub(in crate::transport) fn ping(&mut self, now: Instant) {
        let value = self.pinged.map_or(0, |(last, _)| last.wrapping_add(1));
        self.pinged = Some((value, now));
        self.ping = Some(value);
        self.wake_driver();
    }

    fn answered(&mut self, value: u64, now: Instant) {
        let Some((last, at)) = self.pinged else {
            return;
        };
        if value != last {
            return;
        }
        let sample = now.saturating_duration_since(at);
        //= https://www.rfc-editor.org/rfc/rfc9002#section-5.3
        //# smoothed_rtt = 7/8 * smoothed_rtt + 1/8 * adjusted_rtt
        let path = &mut self.path;
        (path.rtt, path.rtt_min) = if path.rtt.is_zero() {
            (sample, sample)
        } else {
            (path.rtt * 7 / 8 + sample / 8, path.rtt_min.min(sample))
        };
    }
}
