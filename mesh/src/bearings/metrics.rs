//! How well it is known where nodes are, read when it is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use stoq_routing::Source;

use super::Bearings;

struct Figures(Arc<Bearings>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Bearings {
    /// Puts its figures below `registry`, as `bearings_…`.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("bearings");
        registry.register_collector(Box::new(Figures(Arc::clone(self))));
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let view = self.0.view();
        let (counts, coordinates) = {
            let known = self.0.known.lock();
            (known.vivaldi.counts(), known.vivaldi.coordinates())
        };
        let mut members: BTreeMap<&str, i64> = BTreeMap::new();
        for source in [
            Source::Path,
            Source::Coordinates,
            Source::Geography,
            Source::Zones,
        ] {
            members.insert(word(Some(source)), 0);
        }
        members.insert(word(None), 0);
        self.0.with(|latency, now| {
            for node in view.nodes().iter().filter(|node| node.id != view.me) {
                let source = latency.to(&view, &node.id, now).map(|(_, source)| source);
                *members.entry(word(source)).or_default() += 1;
            }
        });
        let help = "Other members, by how the round trip to them is known";
        let mut family = encoder.encode_descriptor("members", help, None, MetricType::Gauge)?;
        for (source, count) in members {
            ConstGauge::new(count).encode(family.encode_family(&[("source", source)])?)?;
        }
        let help = "Round trips that were held against coordinates, by what became of them";
        let mut family = encoder.encode_descriptor("samples", help, None, MetricType::Counter)?;
        for (result, count) in [
            ("taken", counts.taken),
            ("round_trip", counts.round_trip),
            ("coordinates", counts.coordinates),
            ("jump", counts.jump),
        ] {
            ConstCounter::new(count).encode(family.encode_family(&[("result", result)])?)?;
        }
        let help = "How wrong this node's coordinates are, relatively; they are trusted up to 0.3";
        let error =
            encoder.encode_descriptor("coordinates_error", help, None, MetricType::Gauge)?;
        ConstGauge::new(coordinates.error).encode(error)
    }
}

/// The label of a source.
fn word(source: Option<Source>) -> &'static str {
    match source {
        None => "unknown",
        Some(Source::Itself) => "itself",
        Some(Source::Path) => "path",
        Some(Source::Coordinates) => "coordinates",
        Some(Source::Geography) => "geography",
        Some(Source::Zones) => "zones",
    }
}
