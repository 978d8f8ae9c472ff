//! What the kernel says of this process: memory, CPU, file descriptors, start. Read from `/proc` at each scrape.
//!
//! The names are those every Prometheus client uses, so that ready-made dashboards work.

use std::{fmt, fs, num::ParseIntError};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Times in `/proc` are in hundredths of a second on every architecture this runs on: `USER_HZ` is part of the kernel's interface.
const TICKS_A_SECOND: f64 = 100.0;

/// The figures of one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessStats {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Seconds of CPU used since the start, in user and kernel mode.
    pub cpu_seconds: f64,
    /// Open file descriptors, the one used for counting left out.
    pub open_fds: u64,
    /// The limit of file descriptors, as it is now.
    pub max_fds: u64,
    /// When the process started, in seconds since 1970.
    pub start_seconds: f64,
}

impl ProcessStats {
    /// Reads them now. None where `/proc` is missing or reads otherwise than expected.
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        let system = fs::read_to_string("/proc/stat").ok()?;
        let open_fds = u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count())
            .ok()?
            .saturating_sub(1);
        Self::parse(&stat, &status, &limits, &system, open_fds)
    }

    fn parse(stat: &str, status: &str, limits: &str, system: &str, open_fds: u64) -> Option<Self> {
        // The second field is the name in parentheses and may hold spaces and parentheses itself.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = |count: u64| seconds(count) / TICKS_A_SECOND;
        let boot = number_after(system, "btime")?.ok()?;
        Some(Self {
            resident_bytes: number_after(status, "VmRSS:")?.ok()?.checked_mul(1024)?,
            cpu_seconds: ticks(field(14)?.checked_add(field(15)?)?),
            open_fds,
            max_fds: number_after(limits, "Max open files")
                .and_then(Result::ok)
                .unwrap_or(u64::MAX),
            start_seconds: seconds(boot) + ticks(field(22)?),
        })
    }
}

/// Resident memory of this process in bytes: a read of one file of `/proc`. None where that is missing.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    number_after(&status, "VmRSS:")?.ok()?.checked_mul(1024)
}

/// Counts of ticks and seconds stay far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "a clock's ticks since boot are far below 2^53"
)]
fn seconds(count: u64) -> f64 {
    count as f64
}

fn number_after(text: &str, label: &str) -> Option<Result<u64, ParseIntError>> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    Some(line.split_ascii_whitespace().next()?.parse())
}

/// Writes the figures at each scrape.
#[derive(Debug)]
pub(crate) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(stats) = ProcessStats::read() else {
            return Ok(());
        };
        let mut write = |name: &str, help: &str, metric: &dyn ErasedMetric| {
            metric.write(name, help, &mut encoder)
        };
        write(
            "process_resident_memory_bytes",
            "Resident memory in bytes",
            &ConstGauge::new(stats.resident_bytes),
        )?;
        write(
            "process_cpu_seconds",
            "CPU used, user and kernel, in seconds",
            &ConstCounter::new(stats.cpu_seconds),
        )?;
        write(
            "process_open_fds",
            "Open file descriptors",
            &ConstGauge::new(stats.open_fds),
        )?;
        write(
            "process_max_fds",
            "Limit of open file descriptors",
            &ConstGauge::new(stats.max_fds),
        )?;
        write(
            "process_start_time_seconds",
            "Start of the process in seconds since 1970",
            &ConstGauge::new(stats.start_seconds),
        )
    }
}

/// Any metric, so that one closure writes gauges and counters.
trait ErasedMetric {
    fn write(
        &self,
        name: &str,
        help: &str,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), fmt::Error>;
}

impl<M: EncodeMetric> ErasedMetric for M {
    fn write(
        &self,
        name: &str,
        help: &str,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read_whatever_the_process_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 12345 1000 10 18446744073709551615";
        let limits = "Limit  Soft Limit Hard Limit Units\nMax open files            1024                 4096                 files\n";
        let stats = ProcessStats::parse(
            stat,
            "Name:\tx\nVmRSS:\t  2048 kB\n",
            limits,
            "cpu 1\nbtime 1700000000\n",
            9,
        )
        .unwrap();
        assert_eq!(
            (stats.resident_bytes, stats.open_fds, stats.max_fds),
            (2 << 20, 9, 1024)
        );
        assert!((stats.cpu_seconds - 2.0).abs() < 1e-9);
        assert!((stats.start_seconds - 1_700_000_123.45).abs() < 1e-3);
        assert_eq!(ProcessStats::parse("7 (a", "", "", "", 0), None);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let stats = ProcessStats::read().unwrap();
        assert!(
            stats.resident_bytes > 1 << 20
                && stats.open_fds >= 3
                && stats.max_fds >= stats.open_fds
        );
    }
}
