//! What a node does with requests.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::datagrams::Datagrams;
use super::exchange::{RecvHalf, SendHalf};
use super::greet::PeerInfo;
use crate::datagram::Datagram;
use crate::wire::Marks;

/// Answers requests of other nodes. One handler serves all connections.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. What `peer` may ask is for the handler to decide, by the roles of its identity.
    ///
    /// The future is dropped when the peer gives up the answer, when the deadline passes, or when the connection
    /// ends, so it must hold nothing that needs an orderly end. A panic is contained and counted; the peer sees a reset.
    fn handle<'a>(&'a self, peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()>;

    /// Takes one message, to which there is no answer. What `peer` may tell is for the handler to decide. Default: it is
    /// dropped, and the peer told to stop sending.
    ///
    /// The future is dropped when the deadline passes, or when the connection ends.
    fn told<'a>(&'a self, peer: &'a PeerInfo, message: IncomingMessage) -> BoxFuture<'a, ()> {
        let _ = (peer, message);
        Box::pin(std::future::ready(()))
    }

    /// Takes one datagram, at once: all datagrams of a connection come here one after the other, and while this runs nothing
    /// else of it is taken. Those that come back go into `back`. Default: nothing.
    fn datagram(&self, peer: &PeerInfo, datagram: Datagram, back: &Datagrams) {
        let _ = (peer, datagram, back);
    }

    /// Whether requests and messages of this kind may be acted on twice without harm, so that one that is marked as such by its sender
    /// need not wait for the end of the handshake. Default: none.
    fn replay_safe(&self, kind: u16) -> bool {
        let _ = kind;
        false
    }
}

/// A request, its body still on the way.
#[derive(Debug)]
#[non_exhaustive]
pub struct IncomingRequest {
    /// The application's number for what is asked.
    pub kind: u16,
    /// What is asked; at most [`REQUEST_CONTROL_BYTES_MAX`](crate::wire::REQUEST_CONTROL_BYTES_MAX).
    pub control: Bytes,
    /// How it wants to be treated. The answer is already in its place among the others of the connection.
    pub marks: Marks,
    /// Whether the handshake had not ended when the request was handed over: it may be a recording, sent by anybody.
    /// Only where sender and [`Handler::replay_safe`] agree.
    pub early: bool,
    /// When the peer will give up, if it said so, by this node's clock; the time on the network is not in it. Give
    /// what remains to whatever is asked on its behalf.
    pub deadline: Option<Instant>,
    /// The rest of the request.
    pub body: RecvHalf,
    /// The answer.
    pub reply: SendHalf,
}

/// A message, its body still on the way.
#[derive(Debug)]
#[non_exhaustive]
pub struct IncomingMessage {
    /// The application's number for what is told.
    pub kind: u16,
    /// What is told; at most [`REQUEST_CONTROL_BYTES_MAX`](crate::wire::REQUEST_CONTROL_BYTES_MAX).
    pub control: Bytes,
    /// How it wants to be treated.
    pub marks: Marks,
    /// Whether the handshake had not ended; see [`IncomingRequest::early`].
    pub early: bool,
    /// When the peer will give up; see [`IncomingRequest::deadline`].
    pub deadline: Option<Instant>,
    /// The rest of the message.
    pub body: RecvHalf,
}
