//! What the object exchange counts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// How an exchange ended, as its answering side saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// Answered to the end.
    Complete,
    /// Refused or broken off by us, with a code.
    Refused,
    /// The asker went away first.
    AskerLeft,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Kind {
    Object,
    Chunks,
    Holdings,
    Manifests,
    Vouched,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: Kind,
    outcome: Outcome,
}

/// Counters of the answering side.
#[derive(Debug, Default)]
pub struct ObjectMetrics {
    exchanges: Family<Labels, Counter>,
    /// Body bytes handed to the transport; pairs with the asker's bytes by source.
    pub body_bytes: Counter,
    /// Body bytes that did not travel since the asker named them as held.
    pub held_bytes: Counter,
}

impl ObjectMetrics {
    /// Names the counters in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "object_exchanges",
            "Object exchanges answered, by kind and end",
            self.exchanges.clone(),
        );
        registry.register(
            "object_body_bytes",
            "Body bytes sent in answers to object exchanges",
            self.body_bytes.clone(),
        );
        registry.register(
            "object_held_bytes",
            "Body bytes not sent since the asker held them",
            self.held_bytes.clone(),
        );
    }

    pub(crate) fn answered(&self, kind: u16, outcome: Outcome) {
        let kind = match kind {
            crate::wire::OBJECT => Kind::Object,
            crate::wire::CHUNKS => Kind::Chunks,
            crate::wire::HOLDINGS => Kind::Holdings,
            crate::wire::MANIFESTS => Kind::Manifests,
            crate::wire::VOUCHED => Kind::Vouched,
            _ => Kind::Unknown,
        };
        self.exchanges
            .get_or_create(&Labels { kind, outcome })
            .inc();
    }
}
