//! The result of a run as a file: JSON, with the histograms whole, so that runs can be merged, compared and drawn later.
//!
//! Times are microseconds where the name says `us`, seconds where it says `s`. Unknown fields are ignored, so that an
//! older reader takes a newer file of the same `format`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `format` says.
pub const FORMAT: &str = "stoq-bench/1";

/// A run and what it found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: String,
    /// Version of the tool.
    pub version: String,
    /// What the run is called, in tables and plots.
    pub name: String,
    /// When it began, RFC 3339, UTC.
    pub began: String,
    /// What was to be done.
    pub setup: Setup,
    /// Where it was done.
    pub environment: Environment,
    /// Whether it can be believed.
    pub verdict: Verdict,
    /// What was found.
    pub outcome: Outcome,
    /// The client's own share.
    pub client: ClientShare,
    /// The server's, where its process was named.
    pub server: Option<ServerShare>,
    /// The kernel's count of the interface's traffic.
    pub interface: Option<Interface>,
}

/// What was to be done, as text for people and for deciding whether two runs are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// `https://host:port`.
    pub target: String,
    /// `h3`, `h2`, `h1`, `stoq`.
    pub protocol: String,
    /// `closed`, `constant 1000/s`, `poisson 1000/s`, `ramp 0-1000/s`.
    pub shape: String,
    /// Connections.
    pub connections: u32,
    /// Requests under way on each, at most.
    pub streams: u32,
    /// Threads of the client.
    pub threads: u32,
    /// `kept`, `churn 1s`, `full`, `resumed`, `0-rtt`.
    pub session: String,
    /// The workload in one line.
    pub workload: String,
    /// Seed of all that is random.
    pub seed: u64,
    /// Seconds, planned.
    pub duration_s: f64,
    /// The first seconds, not counted.
    pub warmup_s: f64,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Model of the processor.
    pub cpu: String,
    /// Cores online.
    pub cores: u32,
    /// Cores this process may use, as a list: `0-1`.
    pub affinity: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Name of the operating system.
    pub os: String,
    /// 1-minute load average at the start.
    pub load: f64,
    /// MTU of the interface to the server, bytes.
    pub mtu: Option<u32>,
}

/// Whether a run can be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// No reason against it.
    pub valid: bool,
    /// Why not, each a sentence with its figures.
    pub reasons: Vec<String>,
    /// What should be known beside the figures and does not make them wrong.
    pub remarks: Vec<String>,
}

/// What was found.
///
/// Rates are made of what came within the counted time: `requests / elapsed_s`, `body_bytes / elapsed_s`. What became of
/// each request is told of those that were `due` in it: `answered` + all `errors` + `unanswered` = `due`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Seconds counted: the planned duration; less where a run ended before it.
    pub elapsed_s: f64,
    /// Right answers that came within the counted time. In a run with a number of requests to make, those of them that
    /// began within it.
    pub requests: u64,
    /// Bytes of bodies that came within the counted time, those of answers not complete at its end too.
    pub body_bytes: u64,
    /// Requests whose intended start (closed loop: actual start) was within the counted time.
    pub due: u64,
    /// Right answers to those, also when they came after the counted time had ended.
    pub answered: u64,
    /// Failures of those by kind: `status 503`, `timed out`, `wrong body`, ….
    pub errors: BTreeMap<String, u64>,
    /// Examples, the first of each kind.
    pub error_examples: BTreeMap<String, String>,
    /// Those of them that were not begun when the counted time ended, or not answered when the run did.
    pub unanswered: u64,
    /// Connections opened, before and within the counted time.
    pub connections_opened: u64,
    /// Of these, resumed.
    pub connections_resumed: u64,
    /// Of these, taken by the server with early data.
    pub connections_early: u64,
    /// Attempts to open one that failed, before and within the counted time.
    pub connections_failed: u64,
    /// Statuses of those due.
    pub statuses: BTreeMap<u16, u64>,
    /// From the intended start (open loop) or the actual start (closed) to the last byte, of those due that were
    /// answered. Those timed out or unanswered are in it with the time they had waited; other failures are not.
    pub latency: Distribution,
    /// From the actual start to the last byte, of those answered.
    pub service: Distribution,
    /// From the actual start to the head, of those answered.
    pub first_byte: Distribution,
    /// Opening a connection until requests can be sent: of those opened.
    pub connect: Distribution,
    /// Second by second.
    pub series: Vec<Tick>,
    /// What became of the idle connections, where there were any.
    pub idle: Option<IdleOutcome>,
}

impl Outcome {
    /// All failures.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// What became of idle connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleOutcome {
    /// Asked for.
    pub wanted: u64,
    /// Opened.
    pub opened: u64,
    /// From the first to the last of them, seconds.
    pub ramp_s: f64,
    /// From the last opened until the first was asked, seconds.
    pub held_s: f64,
    /// Asked one request at the end, and answered rightly.
    pub answered: u64,
    /// Those not opened and those not answered, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Examples, the first of each kind.
    pub error_examples: BTreeMap<String, String>,
    /// Memory of this process that each took: the resident set after the ramp less that before, divided. `None` where
    /// it cannot be read, or did not grow.
    pub client_bytes_each: Option<u64>,
    /// The same of the server's processes, where one was named.
    #[serde(default)]
    pub server_bytes_each: Option<u64>,
    /// Opening one.
    pub connect: Distribution,
    /// From asking to the last byte, each the first request on its connection.
    pub answer: Distribution,
}

/// A histogram and what one reads off it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Values in it.
    pub count: u64,
    /// Smallest, µs.
    pub min_us: f64,
    /// Mean, µs.
    pub mean_us: f64,
    /// Median, µs.
    pub p50_us: f64,
    /// 90th percentile, µs.
    pub p90_us: f64,
    /// 99th percentile, µs.
    pub p99_us: f64,
    /// 99.9th percentile, µs.
    pub p999_us: f64,
    /// Largest, µs.
    pub max_us: f64,
    /// The histogram, nanoseconds, in the compressed V2 form of HdrHistogram, base64. Empty for an empty one.
    pub hdr: String,
}

/// One second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// Its end, seconds since the counted time began.
    pub at_s: f64,
    /// Right answers within it.
    pub requests: u64,
    /// Bytes of bodies that came within it.
    pub body_bytes: u64,
    /// Failures within it.
    pub errors: u64,
    /// Median latency of what was answered or timed out within it, µs; 0 without any.
    pub p50_us: f64,
    /// 99th percentile, µs.
    pub p99_us: f64,
}

/// The client's own share: what shows that it was not the bottleneck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientShare {
    /// CPU seconds of the whole process, user and system, in the counted time.
    pub cpu_s: f64,
    /// Of each load thread: its CPU as a share of the time, 0–1.
    pub thread_cpu: Vec<f64>,
    /// Of each load thread: time it was ready to run and had no core, as a share; `None` where the kernel does not say.
    pub thread_starved: Vec<Option<f64>>,
    /// Time of all cores that a hypervisor gave to other machines, as a share; `None` where the kernel does not say.
    pub stolen: Option<f64>,
    /// How late the event loops woke for a timer.
    pub lag: Distribution,
    /// Datagrams dropped at full socket buffers; `None` where the kernel does not say.
    pub socket_drops: Option<u64>,
    /// Largest resident set, bytes.
    pub rss_bytes: u64,
}

/// The server's share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerShare {
    /// Its process.
    pub pid: u32,
    /// Its command line's first word.
    pub command: String,
    /// CPU seconds, user and system, all threads, in the counted time.
    pub cpu_s: f64,
    /// As a share of one core.
    pub cpu_share: f64,
    /// Cores that it may use.
    pub cores: u32,
    /// CPU of its busiest thread as a share of one core; `None` where the kernel does not say.
    pub busiest_thread: Option<f64>,
    /// Processes at the end: itself and its descendants. All of them are counted in all figures here.
    pub processes: u32,
    /// CPU seconds for a million right answers; `None` without any.
    pub cpu_s_per_million: Option<f64>,
    /// CPU seconds for 10⁹ bytes of body; `None` without any.
    pub cpu_s_per_gb: Option<f64>,
    /// Resident set before the run, bytes.
    pub rss_before_bytes: u64,
    /// Largest resident set seen, bytes.
    pub rss_max_bytes: u64,
}

/// The kernel's count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes received in the counted time.
    pub rx_bytes: u64,
    /// Bytes received before it, since the run began: what was on its way, or in buffers, when counting began, is in it.
    pub rx_bytes_before: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets the kernel dropped on receiving.
    pub rx_dropped: u64,
}

/// A bundle of `count` answers spread evenly up to twice `median`, for the tests of what reads bundles.
#[cfg(test)]
pub(crate) fn sample(name: &str, count: u32, median: std::time::Duration) -> Bundle {
    use crate::record::Times;

    let mut times = Times::default();
    for nth in 1..=count {
        times.record(median * 2 * nth / count);
    }
    let times = times.distribution();
    Bundle {
        format: FORMAT.to_owned(),
        version: "0".to_owned(),
        name: name.to_owned(),
        began: "2026-01-02T03:04:05Z".to_owned(),
        setup: Setup {
            target: "https://localhost:8443".to_owned(),
            protocol: "h3".to_owned(),
            shape: "closed".to_owned(),
            connections: 10,
            streams: 32,
            threads: 1,
            session: "kept".to_owned(),
            workload: "/1024".to_owned(),
            seed: 1,
            duration_s: 4.0,
            warmup_s: 1.0,
        },
        environment: Environment {
            cpu: "a processor".to_owned(),
            cores: 2,
            affinity: "1".to_owned(),
            memory_bytes: 1 << 30,
            kernel: "6.0".to_owned(),
            os: "an OS".to_owned(),
            load: 0.5,
            mtu: Some(1500),
        },
        verdict: Verdict {
            valid: true,
            reasons: Vec::new(),
            remarks: Vec::new(),
        },
        outcome: Outcome {
            elapsed_s: 4.0,
            requests: count.into(),
            body_bytes: u64::from(count) * 1024,
            due: count.into(),
            answered: count.into(),
            errors: BTreeMap::new(),
            error_examples: BTreeMap::new(),
            unanswered: 0,
            connections_opened: 10,
            connections_resumed: 0,
            connections_early: 0,
            connections_failed: 0,
            statuses: BTreeMap::from([(200, count.into())]),
            latency: times.clone(),
            service: times.clone(),
            first_byte: times.clone(),
            connect: Distribution::default(),
            series: (1_u32..=4)
                .map(|second| Tick {
                    at_s: second.into(),
                    requests: u64::from(count / 4),
                    body_bytes: u64::from(count / 4) * 1024,
                    errors: 0,
                    p50_us: times.p50_us,
                    p99_us: times.p99_us,
                })
                .collect(),
            idle: None,
        },
        client: ClientShare {
            cpu_s: 2.0,
            thread_cpu: vec![0.5],
            thread_starved: vec![Some(0.0)],
            stolen: None,
            lag: Distribution::default(),
            socket_drops: Some(0),
            rss_bytes: 10 << 20,
        },
        server: Some(ServerShare {
            pid: 7,
            command: "server".to_owned(),
            cpu_s: 4.0,
            cpu_share: 1.0,
            cores: 1,
            busiest_thread: Some(1.0),
            processes: 1,
            cpu_s_per_million: Some(4e6 / f64::from(count)),
            cpu_s_per_gb: Some(4e9 / (f64::from(count) * 1024.0)),
            rss_before_bytes: 10 << 20,
            rss_max_bytes: 20 << 20,
        }),
        interface: None,
    }
}
