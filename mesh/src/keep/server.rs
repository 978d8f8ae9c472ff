//! Answers other edges that ask this one to keep objects.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use stoq::identity::NodeId;
use stoq::peer::{Handler, IncomingRequest, PeerInfo};

use super::wire::{Answer, Request};
use crate::object::Code;

/// Keeps what it is asked to, as far as it wants.
pub trait Keeper: Send + Sync + fmt::Debug {
    /// Keeps these objects, which `from` holds, in the time it says; how many are kept by then. Cancel safe: of what is not waited for nothing more is begun.
    fn keep(&self, from: NodeId, request: Request) -> BoxFuture<'_, Answer>;
}

/// The [`Handler`] of [`KEEP`](super::KEEP).
#[derive(Debug)]
pub struct KeepServer(Arc<dyn Keeper>);

impl KeepServer {
    /// Hands requests to `keeper`.
    #[must_use]
    pub const fn new(keeper: Arc<dyn Keeper>) -> Self {
        Self(keeper)
    }
}

impl Handler for KeepServer {
    fn handle<'a>(&'a self, peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let reply = request.reply;
            // An asker that has gone needs no answer.
            match Request::decode(&request.control) {
                Ok(wanted) => {
                    let answer = self.0.keep(peer.identity.node_id, wanted).await;
                    drop(reply.answer(answer.encode()).await);
                }
                Err(error) => {
                    let code = Code::Malformed.number();
                    drop(reply.abort(code, &error.to_string()).await);
                }
            }
        })
    }
}
