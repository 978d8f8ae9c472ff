//! What a node does with requests.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::exchange::{RecvHalf, SendHalf};
use super::greet::PeerInfo;

/// Answers requests of other nodes. One handler serves all connections.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. What `peer` may ask is for the handler to decide, by the roles of its identity.
    ///
    /// The future is dropped when the peer gives up the answer, when the deadline passes, or when the connection
    /// ends, so it must hold nothing that needs an orderly end. A panic is contained and counted; the peer sees a reset.
    fn handle<'a>(&'a self, peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()>;
}

/// A request, its body still on the way.
#[derive(Debug)]
#[non_exhaustive]
pub struct IncomingRequest {
    /// The application's number for what is asked.
    pub kind: u16,
    /// What is asked; at most [`REQUEST_CONTROL_BYTES_MAX`](crate::wire::REQUEST_CONTROL_BYTES_MAX).
    pub control: Bytes,
    /// When the peer will give up, if it said so, by this node's clock; the time on the network is not in it. Give
    /// what remains to whatever is asked on its behalf.
    pub deadline: Option<Instant>,
    /// The rest of the request.
    pub body: RecvHalf,
    /// The answer.
    pub reply: SendHalf,
}
