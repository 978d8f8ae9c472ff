//! Messages of one connection: handed to the handler, each on a task of its own, and answered by nothing.

use tokio::sync::OwnedSemaphorePermit;

use super::exchange::{RecvHalf, Shared};
use super::frames::FrameReader;
use super::handler::IncomingMessage;
use super::serve::{Begun, Running, Served, past};
use super::witness::Report;
use crate::transport::RecvStream;
use crate::wire::{Frame, Opening, StreamCode};

impl Served {
    pub(super) async fn message(
        &self,
        recv: Box<dyn RecvStream>,
        place: Option<OwnedSemaphorePermit>,
    ) {
        let mut reader = FrameReader::new(recv, self.info.version);
        let tell = |frame| match frame {
            Frame::Tell(opening) => Some(opening),
            _ => None,
        };
        let Begun {
            opening,
            early,
            deadline,
        } = match self.begin(&mut reader, tell).await {
            Ok(begun) => begun,
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
        let counters = &*self.counters;
        let running = Running::begin(&counters.messages_started, &counters.messages_cancelled);
        running.end(tokio::select! {
            () = self.handler.told(&self.info, message) => &counters.messages_returned,
            () = past(deadline, &shared) => &counters.messages_past_deadline,
        });
    }
}
