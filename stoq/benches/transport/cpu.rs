//! CPU time of threads, and the cores they run on.

use std::time::Duration;

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

/// A thread of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thread(Pid);

impl Thread {
    pub(crate) fn this() -> Self {
        Self(gettid())
    }

    /// The CPU time it has had. Up to a tick of the scheduler (1 to 4 ms) old while the thread runs.
    pub(crate) fn cpu(self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.0.as_raw_pid());
        let stat = std::fs::read_to_string(path).unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    }
}

/// The cores this process may use, in order.
fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

/// Keeps this thread on a core of its own: `which` is 0 for the server, 1 for the client. Where there is one core only they
/// share it, and [`quiet`] says so.
pub(crate) fn pin(which: usize) {
    let cores = CORES.get_or_init(cores);
    let mut set = CpuSet::new();
    set.set(cores[which % cores.len()]);
    sched_setaffinity(None, &set).unwrap();
}

/// Read before any thread is pinned.
static CORES: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();

/// What there is to say of the machine.
pub(crate) fn quiet() -> String {
    let cores = CORES.get_or_init(cores);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load = load.split(' ').next().unwrap();
    let pinned = match cores[..] {
        [server, client, ..] => format!("server on core {server}, client on core {client}"),
        _ => "ONE CORE: server and client share it".to_owned(),
    };
    format!("{pinned}; load average of the last minute {load}")
}
