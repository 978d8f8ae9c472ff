//! What is exported: verdicts by reason, and how the limiter stands.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use stoq_ebpf::{Counters, Mode};

use super::evidence::Cause;

/// The figures of one moment, at most half a second old.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub(super) counters: Counters,
    pub(super) mode: Mode,
    pub(super) shed: f64,
    pub(super) retry: bool,
    pub(super) pressure: f64,
    /// Sources entered as validated, with each time they were.
    pub(super) validated: u64,
    /// Sources that were not, for want of room: in the table, or between two collections.
    pub(super) validated_refused: u64,
    /// Times that the helper did not do what it was asked for.
    pub(super) helper_failures: u64,
    /// Sources that have smaller budgets now.
    pub(super) lowered: u64,
    /// Times that one got them, by why.
    pub(super) lowerings: HashMap<Cause, u64>,
    /// Sources that were not taken note of, for want of room.
    pub(super) overlooked: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            mode: Mode::UserSpace,
            shed: 0.0,
            retry: false,
            pressure: 0.0,
            validated: 0,
            validated_refused: 0,
            helper_failures: 0,
            lowered: 0,
            lowerings: HashMap::new(),
            overlooked: 0,
        }
    }
}

/// Where the keeper puts them and a scrape finds them.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown(pub(super) Arc<Mutex<Figures>>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.0.lock().clone();
        type Of = fn(stoq_ebpf::abi::Counter) -> u64;
        let families: [(&str, &str, Of); 4] = [
            (
                "stoq_xdp_packets",
                "Packets to ports of ours, by what became of them.",
                |counter| counter.packets,
            ),
            (
                "stoq_xdp_bytes",
                "Bytes of those packets: of frames in the kernel, of payloads at the socket.",
                |counter| counter.bytes,
            ),
            (
                "stoq_xdp_spared_packets",
                "Packets that were to be dropped and passed, in a dry run.",
                |counter| counter.spared_packets,
            ),
            (
                "stoq_xdp_spared_bytes",
                "Bytes of those packets.",
                |counter| counter.spared_bytes,
            ),
        ];
        for (name, help, value) in families {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (reason, counter) in figures.counters.iter() {
                let value = ConstCounter::new(value(counter));
                value.encode(metric.encode_family(&[("reason", reason.word())])?)?;
            }
        }
        for (name, help, value) in [
            (
                "stoq_xdp_samples_lost",
                "Packets picked out for the operator's eye that nobody asked for in time.",
                figures.counters.events_lost,
            ),
            (
                "stoq_xdp_validated",
                "Sources of completed handshakes that were entered as such.",
                figures.validated,
            ),
            (
                "stoq_xdp_validated_refused",
                "Sources of completed handshakes for which there was no room.",
                figures.validated_refused,
            ),
            (
                "stoq_xdp_helper_failures",
                "Times that the helper did not do what it was asked for.",
                figures.helper_failures,
            ),
            (
                "stoq_xdp_overlooked",
                "Sources that nothing was counted of, since as many as there is room for were being counted.",
                figures.overlooked,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let name = "stoq_xdp_lowerings";
        let help = "Times that a source got smaller budgets for a while, by why.";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for cause in Cause::ALL {
            let times = figures.lowerings.get(&cause).copied().unwrap_or(0);
            let value = ConstCounter::new(times);
            value.encode(metric.encode_family(&[("cause", cause.word())])?)?;
        }
        let name = "stoq_xdp_lowered";
        let help = "Sources that have smaller budgets now.";
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(figures.lowered).encode(metric)?;
        let is = |is: bool| if is { 1.0 } else { 0.0 };
        for (name, help, value) in [
            (
                "stoq_xdp_shed_level",
                "Part of newcomers' first packets over QUIC that is dropped, 0 to 1.",
                figures.shed,
            ),
            (
                "stoq_xdp_pressure",
                "Load that the shed level follows: 0 none, 1 something is full.",
                figures.pressure,
            ),
            (
                "stoq_xdp_retry",
                "1 while newcomers over QUIC prove their address first.",
                is(figures.retry),
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        let name = "stoq_xdp_mode";
        let help = "Where packets are judged: 1 at one of native, generic, user-space.";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for mode in [Mode::Native, Mode::Generic, Mode::UserSpace] {
            let value = ConstGauge::new(is(figures.mode == mode));
            let word = mode.to_string();
            value.encode(metric.encode_family(&[("mode", word.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use stoq_node::Registry;

    use super::*;

    #[test]
    fn every_reason_for_a_drop_is_explained_to_the_operator() {
        let page = include_str!("../../../docs/xdp.md");
        for reason in stoq_ebpf::abi::Reason::ALL {
            let word = format!("`{}`", reason.word());
            assert!(!reason.drops() || page.contains(&word), "{word}");
        }
    }

    #[test]
    fn every_reason_is_shown_and_one_mode_is_on() {
        let shown = Shown::default();
        let registry = Registry::new();
        registry.with(|registry| registry.register_collector(Box::new(shown.clone())));
        {
            let mut figures = shown.0.lock();
            figures.shed = 0.25;
            figures.mode = Mode::Native;
            figures.validated = 7;
        }
        let text = registry.render().unwrap();
        for line in [
            "stoq_xdp_packets_total{reason=\"drop_cid_tag\"} 0",
            "stoq_xdp_spared_bytes_total{reason=\"drop_shed\"} 0",
            "stoq_xdp_shed_level 0.25",
            "stoq_xdp_validated_total 7",
            "stoq_xdp_lowerings_total{cause=\"cache-busting\"} 0",
            "stoq_xdp_lowered 0",
            "stoq_xdp_mode{mode=\"native\"} 1.0",
            "stoq_xdp_mode{mode=\"user-space\"} 0.0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
