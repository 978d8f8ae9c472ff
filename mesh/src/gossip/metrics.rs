//! What gossip costs, what was refused of it, and who is seen.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why something that is said to be a node's word is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Not as any node of ours writes.
    Malformed,
    /// Its certificate is not of this cluster, or has expired.
    Certificate,
    /// No certificate of it is known.
    Unknown,
    /// It is revoked.
    Revoked,
    /// The signature is not its own.
    Forged,
    /// It is the word of another node, or process, than it is said to be.
    ForAnother,
    /// It is its word, under another version.
    Version,
    /// Said of this process, by another.
    Own,
    /// This process's heartbeat is ahead of it.
    Heartbeat,
    /// There are too many processes.
    NoRoom,
}

impl Reason {
    const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Certificate,
        Self::Unknown,
        Self::Revoked,
        Self::Forged,
        Self::ForAnother,
        Self::Version,
        Self::Own,
        Self::Heartbeat,
        Self::NoRoom,
    ];

    /// The word for it in metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Certificate => "certificate",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Forged => "forged",
            Self::ForAnother => "for_another",
            Self::Version => "version",
            Self::Own => "own",
            Self::Heartbeat => "heartbeat",
            Self::NoRoom => "no_room",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// What gossip counts: see the head of this file.
#[derive(Debug, Default)]
pub struct GossipMetrics {
    /// Messages given to the transport; those that fail are in `dropped` as well.
    pub(super) sent: Counter,
    /// Their bytes, compressed, without what STOQ and QUIC add.
    pub(super) sent_bytes: Counter,
    /// Messages that came in whole.
    pub(super) received: Counter,
    /// Their bytes, likewise.
    pub(super) received_bytes: Counter,
    /// Messages that were not sent: too many under way, or the node cannot be reached.
    pub(super) unsent: Counter,
    /// Messages that came in and were passed over, because the engine had too many already.
    pub(super) unread: Counter,
    refused: Family<ReasonLabel, Counter>,
    /// Statements of this node that went out.
    pub(super) published: Counter,
    /// Times the engine was started again.
    pub(super) restarts: Counter,
    /// Nodes in view, this one among them.
    pub(super) nodes: Gauge,
    /// Whether the view is complete.
    pub(super) complete: Gauge,
    /// Changes of the view that an operator acts on.
    pub(super) changes: Counter,
}

impl GossipMetrics {
    pub(super) fn refused(&self, reason: Reason) {
        self.refused
            .get_or_create(&ReasonLabel {
                reason: reason.word(),
            })
            .inc();
    }

    /// How often something was refused for this.
    #[must_use]
    pub fn refusals(&self, reason: Reason) -> u64 {
        self.refused
            .get_or_create(&ReasonLabel {
                reason: reason.word(),
            })
            .get()
    }

    /// Bytes of messages sent so far, compressed, without what STOQ and QUIC add.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// Puts them below `registry`.
    pub fn register(&self, registry: &mut Registry) {
        for reason in Reason::ALL {
            // So that each is there at zero.
            drop(self.refused.get_or_create(&ReasonLabel {
                reason: reason.word(),
            }));
        }
        let registry = registry.sub_registry_with_prefix("gossip");
        let counters: [(&str, &str, &Counter); 9] = [
            (
                "messages_sent",
                "Messages given to the transport",
                &self.sent,
            ),
            (
                "sent_bytes",
                "Bytes of messages sent, compressed",
                &self.sent_bytes,
            ),
            (
                "messages_received",
                "Messages that came in whole",
                &self.received,
            ),
            (
                "received_bytes",
                "Bytes of messages that came in, compressed",
                &self.received_bytes,
            ),
            (
                "messages_unsent",
                "Messages that did not get through",
                &self.unsent,
            ),
            (
                "messages_unread",
                "Messages passed over at the queue's bound",
                &self.unread,
            ),
            (
                "statements_published",
                "Statements of this node that went out",
                &self.published,
            ),
            ("restarts", "Times gossip was begun again", &self.restarts),
            (
                "changes",
                "Changes of who is in view, where and how",
                &self.changes,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "refused",
            "What was said of nodes and not believed, by reason",
            self.refused.clone(),
        );
        registry.register(
            "nodes",
            "Nodes in view, this one among them",
            self.nodes.clone(),
        );
        registry.register(
            "view_complete",
            "Whether the view is complete",
            self.complete.clone(),
        );
    }
}
