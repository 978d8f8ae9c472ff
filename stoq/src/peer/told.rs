//! Messages of one connection: handed to the handler, each on a task of its own, and answered by nothing.

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::counters::PeerCounters;
use super::exchange::{RecvHalf, Shared};
use super::frames::FrameReader;
use super::handler::IncomingMessage;
use super::serve::{Served, past};
use super::witness::Report;
use crate::transport::RecvStream;
use crate::wire::{Frame, Opening, StreamCode};

impl Served {
    pub(super) async fn message(
        &self,
        recv: Box<dyn RecvStream>,
        place: Option<OwnedSemaphorePermit>,
    ) {
        let came_early = recv.is_0rtt();
        let mut reader = FrameReader::new(recv, self.info.version);
        let tell = |frame| match frame {
            Frame::Tell(opening) => Some(opening),
            _ => None,
        };
        let opening = match self.opening(&mut reader, tell).await {
            Ok(opening) => opening,
            Err(Some(code)) => return reader.stream().stop(code.code()),
            Err(None) => return,
        };
        let deadline = opening.time_left.map(|left| Instant::now() + left);
        let early = match self.admit(came_early, &opening).await {
            Ok(early) => early,
            Err(Some(code)) => return reader.stream().stop(code.code()),
            Err(None) => return,
        };
        let Opening {
            kind,
            marks,
            control,
            ..
        } = opening;
        let shared = Shared::new(deadline, StreamCode::Cancelled, Report::default(), place);
        let message = IncomingMessage {
            kind,
            control,
            marks,
            early,
            deadline,
            body: RecvHalf::from_reader(reader, shared.clone()),
        };
        self.counters.messages_started.inc();
        let mut running = Running {
            counters: &self.counters,
            ended: false,
        };
        let end = tokio::select! {
            () = self.handler.told(&self.info, message) => &self.counters.messages_returned,
            () = past(deadline, &shared) => &self.counters.messages_past_deadline,
        };
        running.ended = true;
        end.inc();
    }
}

/// Counts a message whose task is dropped with its connection. A panic is counted by who joins the task.
struct Running<'a> {
    counters: &'a PeerCounters,
    ended: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended && !std::thread::panicking() {
            self.counters.messages_cancelled.inc();
        }
    }
}
