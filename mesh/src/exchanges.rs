//! Which handler answers which kind of exchange on a node's listener, and who may ask it.
//!
//! Parts of a node that talk to other nodes (objects, gossip, the provider index) each bring a [`Handler`] and the kinds it answers.
//! What nobody brought is refused before a handler sees it. Kinds of exchanges, messages and datagrams share one space of numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::repeat;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use stoq::datagram::Datagram;
use stoq::identity::Role;
use stoq::peer::{Datagrams, Handler, IncomingMessage, IncomingRequest, KindRules, PeerInfo};

/// The handlers of a node by what they answer. Closed to every kind until [`answering`](Self::answering) opens it.
#[derive(Clone)]
pub struct Exchanges {
    by_kind: BTreeMap<u16, Arc<dyn Handler>>,
    rules: KindRules,
}

impl Default for Exchanges {
    fn default() -> Self {
        Self {
            by_kind: BTreeMap::new(),
            rules: KindRules::closed(),
        }
    }
}

impl fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchanges")
            .field("kinds", &self.by_kind.keys())
            .finish_non_exhaustive()
    }
}

impl Exchanges {
    /// `handler` answers these kinds, for peers whose certificates carry one of these roles. A kind that was given before changes hands.
    #[must_use]
    pub fn answering(
        mut self,
        kinds: impl IntoIterator<Item = u16>,
        roles: &[Role],
        handler: Arc<dyn Handler>,
    ) -> Self {
        for (kind, handler) in kinds.into_iter().zip(repeat(handler)) {
            self.rules = self.rules.permit(kind, roles);
            self.by_kind.insert(kind, handler);
        }
        self
    }

    /// Who may ask what, for [`ServeConfig::kinds`](stoq::peer::ServeConfig::kinds).
    #[must_use]
    pub fn rules(&self) -> Arc<KindRules> {
        Arc::new(self.rules.clone())
    }
}

impl Handler for Exchanges {
    fn handle<'a>(&'a self, peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        match self.by_kind.get(&request.kind) {
            Some(handler) => handler.handle(peer, request),
            // The rules let none of these through; dropped, it is reset.
            None => Box::pin(std::future::ready(())),
        }
    }

    fn told<'a>(&'a self, peer: &'a PeerInfo, message: IncomingMessage) -> BoxFuture<'a, ()> {
        match self.by_kind.get(&message.kind) {
            Some(handler) => handler.told(peer, message),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn datagram(&self, peer: &PeerInfo, datagram: Datagram, back: &Datagrams) {
        if let Some(handler) = self.by_kind.get(&datagram.kind) {
            handler.datagram(peer, datagram, back);
        }
    }

    fn replay_safe(&self, kind: u16) -> bool {
        self.by_kind
            .get(&kind)
            .is_some_and(|handler| handler.replay_safe(kind))
    }
}
