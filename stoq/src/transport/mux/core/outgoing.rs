//! What a core has to send, and in which order.

use std::task::{Context, Poll};

use super::{Core, pop};
use crate::transport::mux::frame::Frame;
use crate::transport::mux::send::Sending;

impl Core {
    /// The next frame to send. `Ready(None)` once the link has ended and its last word is out.
    pub(in crate::transport) fn poll_transmit(&mut self, cx: &Context<'_>) -> Poll<Option<Frame>> {
        let frame = self.next_frame();
        if let Some(frame) = &frame {
            self.path.sent_bytes += frame.wire_len() as u64;
            self.path.sent_packets += 1;
            return Poll::Ready(Some(frame.clone()));
        }
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        self.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    fn next_frame(&mut self) -> Option<Frame> {
        if let Some(limits) = self.settings.take() {
            return Some(Frame::Settings(limits));
        }
        if self.ended.is_some() {
            return self.close.take();
        }
        if let Some(value) = self.pong.take() {
            return Some(Frame::Pong(value));
        }
        if let Some(value) = self.ping.take() {
            return Some(Frame::Ping(value));
        }
        if self.wants_grant() {
            self.granted = self.read + u64::from(self.ours.window);
            return Some(Frame::Window { max: self.granted });
        }
        for kind in [0, 1] {
            let limit = [self.ours.bidi_streams, self.ours.uni_streams][kind];
            let max = self.done[kind] + u64::from(limit);
            if max - self.seen_max[kind] > u64::from(limit) / 2 {
                self.seen_max[kind] = max;
                let uni = kind == 1;
                return Some(Frame::Streams { uni, max });
            }
        }
        while let Some(id) = self.urgent.front().copied() {
            if let Some(frame) = self.next_control(id) {
                return Some(frame);
            }
            self.urgent.pop_front();
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.urgent = false;
            }
            self.tidy(id);
        }
        if let Some(data) = pop(&mut self.datagrams_out, &mut self.datagrams_out_bytes) {
            return Some(Frame::Datagram(data));
        }
        self.next_data()
    }

    fn next_control(&mut self, id: u64) -> Option<Frame> {
        let stream = self.streams.get_mut(&id)?;
        if let Some((code, size)) = stream.send.as_mut().and_then(Sending::take_reset) {
            return Some(Frame::Reset {
                stream: id,
                code,
                size,
            });
        }
        let recv = stream.recv.as_mut()?;
        if let Some(code) = recv.take_stop() {
            return Some(Frame::Stop { stream: id, code });
        }
        let max = recv.take_grant()?;
        Some(Frame::StreamWindow { stream: id, max })
    }

    fn next_data(&mut self) -> Option<Frame> {
        loop {
            let mut turn = self.ready.first_entry()?;
            let Some(id) = turn.get_mut().pop_front() else {
                turn.remove();
                continue;
            };
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.ready = false;
            let Some(send) = &mut stream.send else {
                continue;
            };
            if !send.is_ready() {
                continue;
            }
            let Some((bytes, fin)) = send.take(self.sent_max - self.sent) else {
                // The link's window is shut: the turn is kept.
                stream.ready = true;
                turn.get_mut().push_front(id);
                return None;
            };
            self.sent += bytes.len() as u64;
            self.queued -= bytes.len();
            self.make_room();
            self.ready_if_so(id);
            if fin {
                self.tidy(id);
            }
            let stream = id;
            return Some(Frame::Data { stream, bytes, fin });
        }
    }
}
