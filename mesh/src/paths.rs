//! What paths to other nodes are like, for a scrape: quantiles of the distributions that endpoints keep, all workers' together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use stoq::path::{Histogram, PathHistograms};

/// Exports the distributions of endpoints as `stoq_path_…`: a gauge for each quantile (label `quantile`: 0.5, 0.95, 0.99, 0.999, and 1 for
/// the largest) and a counter of the values. Each quantile is over the life of the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct PathMetrics(Arc<Mutex<Vec<Arc<PathHistograms>>>>);

impl PathMetrics {
    /// Counts an endpoint in. For the life of the process: one a worker.
    pub(crate) fn add(&self, histograms: &Arc<PathHistograms>) {
        self.0.lock().push(Arc::clone(histograms));
    }
}

impl Collector for PathMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut merged: BTreeMap<&str, (&str, Histogram)> = BTreeMap::new();
        for histograms in self.0.lock().iter() {
            histograms.visit(&mut |name, help, histogram| {
                let all = merged
                    .entry(name)
                    .or_insert_with(|| (help, Histogram::default()));
                all.1.merge(histogram);
            });
        }
        for (name, (help, histogram)) in merged {
            let found = histogram.quantiles();
            let (name, help) = (format!("stoq_{name}"), format!("{help}."));
            let mut metric = encoder.encode_descriptor(&name, &help, None, MetricType::Gauge)?;
            for (quantile, value) in [
                ("0.5", found.p50),
                ("0.95", found.p95),
                ("0.99", found.p99),
                ("0.999", found.p999),
                ("1", found.max),
            ] {
                let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                value.encode(metric.encode_family(&[("quantile", quantile)])?)?;
            }
            let (name, help) = (format!("{name}_samples"), format!("Values of {name}."));
            let metric = encoder.encode_descriptor(&name, &help, None, MetricType::Counter)?;
            ConstCounter::new(found.count).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use stoq_node::Registry;

    use super::*;

    #[test]
    fn workers_are_exported_together_with_quantiles_and_their_count() {
        let (registry, metrics) = (Registry::new(), PathMetrics::default());
        registry.with(|registry| registry.register_collector(Box::new(metrics.clone())));
        for worker in [10, 20] {
            let histograms = Arc::<PathHistograms>::default();
            histograms.rtt_us.record(worker);
            metrics.add(&histograms);
        }
        let text = registry.render().unwrap();
        for line in [
            "# TYPE stoq_path_rtt_us gauge",
            "stoq_path_rtt_us{quantile=\"0.5\"} 10",
            "stoq_path_rtt_us{quantile=\"1\"} 20",
            "stoq_path_rtt_us_samples_total 2",
            "stoq_path_mtu_bytes_samples_total 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
