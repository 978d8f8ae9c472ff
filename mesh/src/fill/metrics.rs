//! What fills from several holders count.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::holder::Tier;
use crate::object::VoucherError;

/// Counters of one label.
type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// What a holder did that it should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    Stalled,
    Slow,
    Broke,
    Lacked,
    Lied,
}

impl Fault {
    const ALL: [Self; 5] = [
        Self::Stalled,
        Self::Slow,
        Self::Broke,
        Self::Lacked,
        Self::Lied,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Stalled => "stalled",
            Self::Slow => "slow",
            Self::Broke => "broke",
            Self::Lacked => "lacked",
            Self::Lied => "lied",
        }
    }
}

/// The word for why what is said of an object is not believed.
const fn doubt(why: &VoucherError) -> &'static str {
    match why {
        VoucherError::Decode(_) => "malformed",
        VoucherError::Papers(_) => "certificate",
        VoucherError::Role(..) => "role",
        VoucherError::Signature(_) => "signature",
        VoucherError::Manifest => "manifest",
    }
}

/// All of those words.
const DOUBTS: [&str; 5] = ["malformed", "certificate", "role", "signature", "manifest"];

/// Counters of the asking side of a node.
#[derive(Debug, Default)]
pub struct FillMetrics {
    chunk_bytes: Labelled,
    /// Bytes of chunks that came and were of no use: of a chunk that was cut off, of one that did not verify, or that came of an exchange that had been broken off. What is still on
    /// its way then nobody reads, and it is not among them.
    pub wasted_bytes: Counter,
    faults: Labelled,
    disbelieved: Labelled,
    /// Fresh objects that came from other edges, by the word of who had fetched them, so that their origins were not asked.
    pub spared: Counter,
    /// Of those, bodies that other edges broke off and the origin went on with.
    pub mended: Counter,
    /// Fills under way.
    pub open: Gauge,
    /// Fills that ended with every chunk.
    pub whole: Counter,
    /// Fills that ended without: nobody was left to ask, or nobody read on.
    pub broken: Counter,
    /// Fills that asked no peers since too many were under way.
    pub refused: Counter,
    /// Objects put together from what other edges had kept, while nobody answered who could say how they are now.
    pub kept: Counter,
    /// Misses for which somebody was known to hold something.
    pub found: Counter,
    /// Misses for which nobody was.
    pub not_found: Counter,
    /// Misses that went on without an answer, since it took too long.
    pub not_waited_for: Counter,
}

impl FillMetrics {
    /// Names the counters in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("fill");
        // Each is there from the start, at nothing.
        for fault in Fault::ALL {
            drop(self.faults.get_or_create(&[("fault", fault.word())]));
        }
        for tier in [Tier::Peer, Tier::Shield] {
            self.arrived(tier, 0);
        }
        registry.register(
            "chunk_bytes",
            "Bytes of chunks that were asked for by name and verified, by who sent them",
            self.chunk_bytes.clone(),
        );
        registry.register(
            "faults",
            "What holders did that they should not have",
            self.faults.clone(),
        );
        for why in DOUBTS {
            drop(self.disbelieved.get_or_create(&[("why", why)]));
        }
        registry.register(
            "vouchers_refused",
            "What was said of objects and not believed",
            self.disbelieved.clone(),
        );
        registry.register(
            "open",
            "Fills from several holders under way",
            self.open.clone(),
        );
        for (name, help, counter) in [
            (
                "wasted_bytes",
                "Bytes of chunks that came and were of no use",
                &self.wasted_bytes,
            ),
            (
                "whole",
                "Fills from several holders that completed",
                &self.whole,
            ),
            (
                "broken",
                "Fills from several holders that did not",
                &self.broken,
            ),
            (
                "kept",
                "Objects put together from other edges while no shield answered",
                &self.kept,
            ),
            (
                "spared",
                "Fresh objects that came from other edges, so that their origins were not asked",
                &self.spared,
            ),
            (
                "mended",
                "Bodies that other edges broke off and the origin went on with",
                &self.mended,
            ),
            (
                "refused",
                "Fills that asked no peers since too many were under way",
                &self.refused,
            ),
            ("found", "Misses for which a holder was known", &self.found),
            (
                "not_found",
                "Misses for which no holder was known",
                &self.not_found,
            ),
            (
                "not_waited_for",
                "Misses that did not wait for who might hold what",
                &self.not_waited_for,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    pub(super) fn arrived(&self, tier: Tier, bytes: usize) {
        let source = match tier {
            Tier::Peer => "peer",
            Tier::Shield => "shield",
        };
        let counter = self.chunk_bytes.get_or_create(&[("source", source)]);
        counter.inc_by(bytes as u64);
    }

    pub(super) fn disbelieved(&self, why: &VoucherError) {
        let counter = self.disbelieved.get_or_create(&[("why", doubt(why))]);
        counter.inc();
    }

    pub(super) fn fault(&self, fault: Fault) {
        let counter = self.faults.get_or_create(&[("fault", fault.word())]);
        counter.inc();
    }
}
