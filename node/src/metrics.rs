//! The process's metrics: one registry, written as OpenMetrics text.
//!
//! Crates that know `prometheus-client` register their types through [`Registry::with`]. Crates that know no metrics
//! library offer a function that visits their counters; [`Registry::add_counters`] exports what it visits, added up over
//! all sources of one prefix, so that workers count apart and are scraped together.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter},
};

use crate::process::ProcessCollector;

/// What a scrape is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Calls its argument with name, help and value of every counter. Names are in snake case, without prefix and without `_total`.
pub type Visit = dyn Fn(&mut dyn FnMut(&'static str, &'static str, u64)) + Send + Sync;

/// The metrics of this process; clones are the same registry.
#[derive(Debug, Clone)]
pub struct Registry {
    registry: Arc<Mutex<prometheus_client::registry::Registry>>,
    counters: Arc<CounterSources>,
}

impl Registry {
    /// A registry that has the process's own figures.
    pub fn new() -> Self {
        let counters = Arc::new(CounterSources::default());
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        registry.register_collector(Box::new(counters.clone()));
        Self {
            registry: Arc::new(Mutex::new(registry)),
            counters,
        }
    }

    /// Hands the registry to a crate that registers its own metrics.
    pub fn with<T>(
        &self,
        register: impl FnOnce(&mut prometheus_client::registry::Registry) -> T,
    ) -> T {
        register(&mut self.registry.lock())
    }

    /// Exports counters as `{prefix}_{name}_total`. Called again with the same prefix, values of the same name add up.
    ///
    /// A source stays for the life of the process: one a worker and crate, never one a connection.
    pub fn add_counters(
        &self,
        prefix: &'static str,
        visit: impl Fn(&mut dyn FnMut(&'static str, &'static str, u64)) + Send + Sync + 'static,
    ) {
        self.counters.list.lock().push((prefix, Box::new(visit)));
    }

    /// All metrics now, as OpenMetrics text.
    ///
    /// # Errors
    /// A collector failed.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry.lock())?;
        Ok(out)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// The visiting functions, each under its prefix.
#[derive(Default)]
struct CounterSources {
    list: Mutex<Vec<(&'static str, Box<Visit>)>>,
}

impl fmt::Debug for CounterSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CounterSources")
            .field("sources", &self.list.lock().len())
            .finish()
    }
}

impl Collector for CounterSources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut sums: BTreeMap<(&str, &str), (&str, u64)> = BTreeMap::new();
        for (prefix, visit) in self.list.lock().iter() {
            visit(&mut |name, help, value| {
                let sum = sums.entry((prefix, name)).or_insert((help, 0));
                sum.1 = sum.1.saturating_add(value);
            });
        }
        for ((prefix, name), (help, value)) in sums {
            // Ended as the registry ends the help texts it is given.
            let help = format!("{}.", help.trim().trim_end_matches('.'));
            let full = format!("{prefix}_{name}");
            let metric = encoder.encode_descriptor(&full, &help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn counters_of_all_workers_are_exported_as_one() {
        let registry = Registry::new();
        for worker in [3, 4] {
            registry.add_counters("stoq", move |each| {
                each("connects_started", " Handshakes begun.", worker);
                each("idle", "Never.", 0);
            });
        }
        let text = registry.render().unwrap();
        assert_eq!(
            text.matches("# TYPE stoq_connects_started counter").count(),
            1
        );
        assert!(text.contains("\nstoq_connects_started_total 7\n"), "{text}");
        assert!(text.contains("\nstoq_idle_total 0\n"), "{text}");
        assert!(
            text.contains("# HELP stoq_connects_started Handshakes begun.\n"),
            "{text}"
        );
    }

    #[test]
    fn a_scrape_has_registered_metrics_the_process_and_an_end() {
        let registry = Registry::new();
        let hits = Counter::<u64>::default();
        registry.with(|inner| {
            inner.register(
                "cache_hits",
                "Requests answered from the store",
                hits.clone(),
            )
        });
        hits.inc_by(5);
        let text = registry.render().unwrap();
        for line in [
            "\ncache_hits_total 5\n",
            "\nprocess_resident_memory_bytes ",
            "\nprocess_cpu_seconds_total ",
            "\nprocess_open_fds ",
        ] {
            assert!(text.contains(line), "missing {line:?} in {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
