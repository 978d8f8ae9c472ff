//! Answers other nodes from this node's index.
//!
//! Whose word it is the connection says: what is announced for another node than the one that is connected is refused, whatever its signature. What no
//! honest node says (for another, not a member, revoked, forged, malformed) is told to the audit, once a node and reason in a minute; the rest
//! (out of date, no room) happens to anybody and is counted alone.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stoq::identity::{Identity, NodeId};
use stoq::peer::{Handler, IncomingRequest, PeerInfo};
use stoq_routing::index::{Index, Refusal, Rpc};
use tokio::time::Instant;

use super::INDEX;
use crate::gossip::node_id;

/// The same refusal of the same node is audited once in this time.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// Refusals of which it is known when they were audited: the next ones are counted, and audited when there is room again.
const AUDITED_MAX: usize = 256;

/// The [`Handler`] of [`INDEX`].
pub struct IndexServer<R> {
    index: Arc<Index<R>>,
    identity: Identity,
    audited: Audited,
}

impl<R> fmt::Debug for IndexServer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexServer").finish_non_exhaustive()
    }
}

impl<R: Rpc> IndexServer<R> {
    /// Answers from `index`; refusals go to the audit of `identity`.
    #[must_use]
    pub fn new(index: Arc<Index<R>>, identity: &Identity) -> Self {
        Self {
            index,
            identity: identity.clone(),
            audited: Audited::default(),
        }
    }

    /// The reply to these bytes of a node that is connected from there.
    pub(super) fn reply(
        &self,
        from: NodeId,
        addr: SocketAddr,
        name: &str,
        request: &[u8],
    ) -> Vec<u8> {
        let (reply, refusal) = self.index.serve_bytes(&node_id(from), request);
        let told = refusal.filter(|refusal| is_dishonest(*refusal));
        if let Some(refusal) = told
            && self.audited.is_due(from, refusal, Instant::now())
        {
            let detail = format!("to the provider index, from \"{name}\": {refusal}");
            tracing::warn!(node = %from, "a record is not believed: {detail}");
            self.identity
                .audit_statement(Some(from), Some(addr), &detail);
        }
        reply
    }
}

/// Whether no honest node says what is refused for this.
fn is_dishonest(refusal: Refusal) -> bool {
    match refusal {
        Refusal::Malformed
        | Refusal::ForAnother
        | Refusal::NotForMe
        | Refusal::Unknown
        | Refusal::Revoked
        | Refusal::Forged => true,
        Refusal::Stale { .. } | Refusal::Full | Refusal::Busy => false,
    }
}

/// What was audited in the last minute.
#[derive(Debug, Default)]
struct Audited(Mutex<BTreeMap<(NodeId, usize), Instant>>);

impl Audited {
    fn is_due(&self, from: NodeId, refusal: Refusal, now: Instant) -> bool {
        let mut audited = self.0.lock();
        audited.retain(|_, at| now.saturating_duration_since(*at) < AUDIT_EVERY);
        let what = (from, refusal.at());
        if audited.contains_key(&what) || audited.len() >= AUDITED_MAX {
            return false;
        }
        audited.insert(what, now);
        true
    }
}

impl<R: Rpc> Handler for IndexServer<R> {
    fn handle<'a>(&'a self, peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let who = &peer.identity;
            let answer = self.reply(who.node_id, peer.addr, &who.name, &request.control);
            // An asker that has gone needs no answer.
            drop(request.reply.answer(answer.into()).await);
        })
    }

    fn replay_safe(&self, kind: u16) -> bool {
        kind == INDEX
    }
}
