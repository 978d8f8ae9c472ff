//! What the listeners count. Handles are fetched once, so that a request costs a few atomic additions and no lookup.

use http::Version;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::service::{End, ListenerKind, RequestHead, Sent};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Door {
    Quic,
    Tls,
    Plain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Protocol {
    H3,
    H2,
    H1,
}

/// Why a connection came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Refusal {
    /// The bound on connections was reached.
    Full,
    /// The bound on connections of one IPv4 address or IPv6 /64 was reached. (Over QUIC `stoq_quic_refused_prefix`.)
    Prefix,
    /// The handshake failed or was given up by the client.
    Handshake,
    /// The handshake took too long.
    HandshakeTimeout,
    /// The system refused to accept (out of file descriptors or memory).
    Accept,
}

/// Why a request stream came to nothing before its head was shown to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum BadHead {
    /// Reset by the client, or its connection went.
    Gone,
    /// Took too long.
    Timeout,
    /// Malformed.
    Malformed,
    /// Larger than the bound.
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum EndLabel {
    Complete,
    ClientLeft,
    BodyFailed,
    TimedOut,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabel {
    listener: Door,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    listener: Door,
    reason: Refusal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BadHeadLabel {
    reason: BadHead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabelSet {
    end: EndLabel,
}

/// The listeners' counters. Cheap to clone; all clones count into one.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Connections accepted; pairs with `closed`.
    opened: Family<DoorLabel, Counter>,
    /// Connections now open.
    open: Family<DoorLabel, Gauge>,
    /// Connections that came to nothing.
    refused: Family<RefusalLabel, Counter>,
    /// TLS handshakes completed, QUIC's among them.
    handshakes: Family<DoorLabel, Counter>,
    bad_heads: Family<BadHeadLabel, Counter>,
    ends: Family<EndLabelSet, Counter>,
    requests: Family<ProtocolLabel, Counter>,
    hot: Hot,
    /// Bytes of response bodies that the transports took.
    body_bytes: Counter,
    /// Requests answered on their connection's task.
    pub(crate) inline: Counter,
    /// Requests that needed a task of their own; `inline` and this make up those that ended.
    pub(crate) tasked: Counter,
    /// Probes of our own HTTP/3 listener that were answered.
    pub(crate) probes_answered: Counter,
    /// Probes that were not: `Alt-Svc` says `clear` after two of them.
    pub(crate) probes_failed: Counter,
}

/// Counters touched by each request, out of their families.
#[derive(Debug, Clone, Default)]
struct Hot {
    h3: Counter,
    h2: Counter,
    h1: Counter,
    complete: Counter,
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        let mut metrics = Self::default();
        let request = |protocol| {
            metrics
                .requests
                .get_or_create(&ProtocolLabel { protocol })
                .clone()
        };
        metrics.hot = Hot {
            h3: request(Protocol::H3),
            h2: request(Protocol::H2),
            h1: request(Protocol::H1),
            complete: metrics
                .ends
                .get_or_create(&EndLabelSet {
                    end: EndLabel::Complete,
                })
                .clone(),
        };
        metrics
    }

    /// Shows them under `stoq_listen_…`.
    pub fn register(&self, registry: &mut Registry) {
        let edge = registry.sub_registry_with_prefix("stoq_listen");
        edge.register(
            "connections",
            "Connections accepted, by listener",
            self.opened.clone(),
        );
        edge.register(
            "connections_open",
            "Connections open now, by listener",
            self.open.clone(),
        );
        edge.register(
            "connections_refused",
            "Connections that came to nothing",
            self.refused.clone(),
        );
        edge.register(
            "handshakes",
            "TLS handshakes completed, by listener",
            self.handshakes.clone(),
        );
        edge.register(
            "requests",
            "Requests whose head was complete, by protocol",
            self.requests.clone(),
        );
        edge.register(
            "request_heads_bad",
            "Streams without a usable head",
            self.bad_heads.clone(),
        );
        edge.register("requests_ended", "How requests ended", self.ends.clone());
        edge.register(
            "requests_inline",
            "Requests answered on their connection's task",
            self.inline.clone(),
        );
        edge.register(
            "requests_tasked",
            "Requests that needed a task of their own",
            self.tasked.clone(),
        );
        edge.register(
            "response_body_bytes",
            "Response body bytes the transports took",
            self.body_bytes.clone(),
        );
        edge.register(
            "h3_probes_answered",
            "Own HTTP/3 probes answered",
            self.probes_answered.clone(),
        );
        edge.register(
            "h3_probes_failed",
            "Own HTTP/3 probes not answered",
            self.probes_failed.clone(),
        );
    }

    pub(crate) fn opened(&self, listener: ListenerKind) {
        let label = DoorLabel {
            listener: door(listener),
        };
        self.opened.get_or_create(&label).inc();
        self.open.get_or_create(&label).inc();
    }

    pub(crate) fn closed(&self, listener: ListenerKind) {
        self.open
            .get_or_create(&DoorLabel {
                listener: door(listener),
            })
            .dec();
    }

    pub(crate) fn handshake(&self, listener: ListenerKind) {
        self.handshakes
            .get_or_create(&DoorLabel {
                listener: door(listener),
            })
            .inc();
    }

    pub(crate) fn refused(&self, listener: ListenerKind, reason: Refusal) {
        self.refused
            .get_or_create(&RefusalLabel {
                listener: door(listener),
                reason,
            })
            .inc();
    }

    pub(crate) fn bad_head(&self, reason: BadHead) {
        self.bad_heads.get_or_create(&BadHeadLabel { reason }).inc();
    }

    pub(crate) fn request(&self, head: &RequestHead) {
        match head.version {
            Version::HTTP_3 => self.hot.h3.inc(),
            Version::HTTP_2 => self.hot.h2.inc(),
            _ => self.hot.h1.inc(),
        };
    }

    pub(crate) fn ended(&self, sent: &Sent) {
        let end = match sent.end {
            End::Complete => None,
            End::ClientLeft => Some(EndLabel::ClientLeft),
            End::BodyFailed => Some(EndLabel::BodyFailed),
            End::TimedOut => Some(EndLabel::TimedOut),
            End::Failed => Some(EndLabel::Failed),
        };
        match end {
            None => self.hot.complete.inc(),
            Some(end) => self.ends.get_or_create(&EndLabelSet { end }).inc(),
        };
        if sent.inline {
            self.inline.inc()
        } else {
            self.tasked.inc()
        };
        self.body_bytes.inc_by(sent.body_bytes);
    }
}

fn door(listener: ListenerKind) -> Door {
    match listener {
        ListenerKind::Quic => Door::Quic,
        ListenerKind::Tls => Door::Tls,
        ListenerKind::Plain => Door::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_show_up_with_their_labels() {
        let metrics = Metrics::new();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.opened(ListenerKind::Quic);
        metrics.refused(ListenerKind::Tls, Refusal::Full);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("stoq_listen_connections_total{listener=\"Quic\"} 1"),
            "{text}"
        );
        assert!(
            text.contains(
                "stoq_listen_connections_refused_total{listener=\"Tls\",reason=\"Full\"} 1"
            ),
            "{text}"
        );
    }
}
