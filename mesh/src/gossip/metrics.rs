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

/// Why something that came by multicast DNS is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PassedOver {
    /// No DNS message, too long, or an announcement that lacks something.
    Malformed,
    /// It announces a node of another cluster.
    OtherCluster,
    /// It names this cluster, and no member made it.
    Forged,
    /// As many nodes are known as are remembered.
    NoRoom,
    /// A second in which no more was read. What came in it besides is not counted.
    Flood,
}

impl PassedOver {
    const ALL: [Self; 5] = [
        Self::Malformed,
        Self::OtherCluster,
        Self::Forged,
        Self::NoRoom,
        Self::Flood,
    ];

    /// The word for it in metrics.
    const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OtherCluster => "other_cluster",
            Self::Forged => "forged",
            Self::NoRoom => "no_room",
            Self::Flood => "flood",
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
    /// Processes that live and whose nodes have said something later: see [`Roster`](stoq_routing::membership::Roster).
    pub(super) outdated: Gauge,
    /// Changes of the view that an operator acts on.
    pub(super) changes: Counter,
    /// Messages of multicast DNS that went out, by link.
    pub(super) mdns_sent: Counter,
    /// Messages of it that came in, whatever they are about: own ones are among them, and those of all other devices there.
    pub(super) mdns_received: Counter,
    /// Those of `mdns_received` that were of no use, and seconds in which no more were read.
    mdns_passed_over: Family<ReasonLabel, Counter>,
}

impl GossipMetrics {
    pub(super) fn refused(&self, reason: Reason) {
        self.refused_times(reason, 1);
    }

    pub(super) fn refused_times(&self, reason: Reason, times: usize) {
        let reason = reason.word();
        let counter = self.refused.get_or_create(&ReasonLabel { reason });
        counter.inc_by(times as u64);
    }

    pub(super) fn passed_over(&self, why: PassedOver) {
        self.mdns_passed_over
            .get_or_create(&ReasonLabel { reason: why.word() })
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
        for why in PassedOver::ALL {
            drop(
                self.mdns_passed_over
                    .get_or_create(&ReasonLabel { reason: why.word() }),
            );
        }
        let registry = registry.sub_registry_with_prefix("gossip");
        let counters: [(&str, &str, &Counter); 11] = [
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
            (
                "mdns_messages_sent",
                "Messages of multicast DNS that went out, by link",
                &self.mdns_sent,
            ),
            (
                "mdns_messages_received",
                "Messages of multicast DNS that came in, of whatever device",
                &self.mdns_received,
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
            "mdns_passed_over",
            "Messages of multicast DNS that were of no use, by reason; flood counts seconds in which no more were read",
            self.mdns_passed_over.clone(),
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
        registry.register(
            "outdated",
            "Processes that live and are passed over, since their nodes had later ones: for seconds after a restart, for minutes where a clock was set back",
            self.outdated.clone(),
        );
    }
}
