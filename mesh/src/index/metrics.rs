//! What the index of a node comes to: the figures that it keeps itself, read when they are asked for, and what stands around it.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use stoq_routing::index::{Index, IndexTally, Refusal, Rpc};

/// Who named the holders that a fill was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The index.
    Index,
    /// The neighbours, where the index could not say.
    Neighbours,
    /// The object's home in the metro, where the index knew of nobody.
    Home,
    /// Nobody knew any.
    Nobody,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLabel {
    by: &'static str,
}

impl By {
    const ALL: [Self; 4] = [Self::Index, Self::Neighbours, Self::Home, Self::Nobody];

    fn label(self) -> ByLabel {
        ByLabel {
            by: match self {
                Self::Index => "index",
                Self::Neighbours => "neighbours",
                Self::Home => "home",
                Self::Nobody => "nobody",
            },
        }
    }
}

/// What is counted around the index; [`IndexTally`] is what it counts itself.
#[derive(Debug, Default)]
pub struct IndexMetrics {
    /// Searches of fills, by who named holders: all that ended. Fills count those they waited for, `stoq_fill_found_total` and `stoq_fill_not_found_total`.
    holders: Family<ByLabel, Counter>,
    /// Searches that asked the object's home as well. Those that found it there are among `holders`.
    pub(super) homes_asked: Counter,
    /// Objects taken back because they were evicted, invalidated or replaced.
    pub(super) withdrawn: Counter,
    /// Objects that were not announced, at a bound.
    pub(super) unannounced: Counter,
}

impl IndexMetrics {
    pub(super) fn named(&self, by: By) {
        self.holders.get_or_create(&by.label()).inc();
    }

    /// Puts them and the figures of `index` below `registry`, as `index_…`.
    pub fn register<R: Rpc>(&self, index: &Arc<Index<R>>, registry: &mut Registry) {
        for by in By::ALL {
            // So that each is there at zero.
            drop(self.holders.get_or_create(&by.label()));
        }
        let registry = registry.sub_registry_with_prefix("index");
        registry.register(
            "holders",
            "Searches for holders by fills, by who named some",
            self.holders.clone(),
        );
        registry.register(
            "homes_asked",
            "Searches for holders by fills that asked the object's home in the metro beside the index",
            self.homes_asked.clone(),
        );
        registry.register(
            "withdrawn_objects",
            "Objects no longer announced because they were evicted, invalidated or replaced",
            self.withdrawn.clone(),
        );
        registry.register(
            "unannounced_objects",
            "Times an object was not announced at a bound",
            self.unannounced.clone(),
        );
        registry.register_collector(Box::new(Figures(Arc::clone(index))));
    }
}

struct Figures<R>(Arc<Index<R>>);

impl<R> fmt::Debug for Figures<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl<R: Rpc> Collector for Figures<R> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let tally = self.0.tally();
        let searches = [
            ("found", tally.found),
            ("nobody", tally.nobody),
            ("unknown", tally.unknown),
        ];
        labelled(
            &mut encoder,
            "searches",
            "Searches of this node, by what they found",
            "result",
            &searches,
        )?;
        let refused: Vec<_> = Refusal::LABELS.into_iter().zip(tally.refused).collect();
        labelled(
            &mut encoder,
            "refused",
            "Requests of other nodes refused, by reason",
            "reason",
            &refused,
        )?;
        for (name, help, value) in counters(&tally) {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let searched = encoder.encode_descriptor(
            "searched",
            "How long all searches took together",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        ConstCounter::new(tally.searched.as_secs_f64()).encode(searched)?;
        for (name, help, value) in gauges(&tally) {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, u64)],
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (word, value) in values {
        // As in all metrics of the house.
        let word = word.replace('-', "_");
        ConstCounter::new(*value).encode(family.encode_family(&[(label, word.as_str())])?)?;
    }
    Ok(())
}

fn counters(tally: &IndexTally) -> [(&'static str, &'static str, u64); 13] {
    let (holder, table) = (&tally.holder, &tally.table);
    [
        (
            "answered",
            "Answers to searches of other nodes",
            tally.answered,
        ),
        (
            "accepted",
            "Announcements taken, from this node too",
            tally.accepted,
        ),
        (
            "renewed",
            "Renewals taken, from this node too",
            tally.renewed,
        ),
        (
            "unwritten_batches",
            "Batches that could not be written to disk",
            tally.unwritten,
        ),
        (
            "announcements",
            "Announcements made, to this node too",
            holder.announcements,
        ),
        (
            "announced_changes",
            "Changes in announcements made",
            holder.changes,
        ),
        ("renewals", "Renewals made", holder.renewals),
        (
            "renewals_differed",
            "Renewals made that found the owner to have something else",
            holder.differed,
        ),
        (
            "announcements_failed",
            "Announcements and renewals made that were refused or not answered",
            holder.failures,
        ),
        (
            "owners_followed",
            "Changes of the members after which objects were announced anew where needed",
            holder.settled,
        ),
        (
            "lapsed_leases",
            "Leases of other nodes that lapsed",
            table.lapsed,
        ),
        (
            "evicted_records",
            "Records of other nodes that made room for those of nodes with less",
            table.evicted,
        ),
        (
            "declined_records",
            "Records of other nodes for which there was no room",
            table.refused,
        ),
    ]
}

fn gauges(tally: &IndexTally) -> [(&'static str, &'static str, f64); 8] {
    let lag = &tally.lag;
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of things in memory, far below 2^53"
    )]
    let number = |count: usize| count as f64;
    [
        (
            "records",
            "Records kept for this and other nodes",
            number(tally.table.records),
        ),
        (
            "leases",
            "Nodes whose records are kept",
            number(tally.table.leases),
        ),
        (
            "objects",
            "Objects that this node announces",
            number(lag.held),
        ),
        (
            "owners",
            "Nodes to which it announces some",
            number(lag.owners),
        ),
        (
            "waiting_changes",
            "Changes that owners have not heard of",
            number(lag.waiting),
        ),
        (
            "oldest_change_seconds",
            "How long the oldest of them has waited",
            lag.oldest.as_secs_f64(),
        ),
        (
            "lapsing_leases",
            "Leases of this node not renewed for two thirds of their time",
            number(lag.lapsing),
        ),
        (
            "behind",
            "Whether announcements fall behind: 1 before any record lapses",
            f64::from(u8::from(lag.is_behind)),
        ),
    ]
}
