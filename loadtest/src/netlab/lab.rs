//! A lab that stands: namespaces, relays and processes, and its removal, which comes with the end of the value however that
//! comes about. After a kill that leaves no time for it, [`clean`] at the next start does the rest.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::names::{self, Alive, Names};
use super::process::Running;
use super::relay::{Place, Relay, RelayReport};
use super::scenario::Scenario;
use super::steps::{self, INTERFACE, Impairer, Step};

/// Why a lab could not be built or its scenario not be run. Mostly the machine's fault, or of a command in the scenario.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command of iproute2 failed.
    #[error("`{command}` failed ({status}): {said}")]
    Command {
        /// As it would be typed.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to standard error.
        said: String,
    },
    /// A program is not there.
    #[error("`{program}` cannot be run: {error} (the lab needs iproute2: ip and tc)")]
    Program {
        /// Its name.
        program: String,
        /// What the system says.
        error: io::Error,
    },
    /// The lab's directory, a log, or the leftovers of others.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        error: io::Error,
    },
    /// The scenario wants `netem`, and that cannot be had.
    #[error("impairment = \"netem\", but {0}: write \"relay\" or \"auto\"")]
    Netem(String),
    /// A relay did not start.
    #[error("the relay of {host} did not start: {error}")]
    Relay {
        /// Of which host.
        host: String,
        /// What the system says.
        error: io::Error,
    },
    /// A process ended or did not become ready.
    #[error("`{run}` on {host} {why}; it wrote:\n{wrote}")]
    Process {
        /// Its command.
        run: String,
        /// Its host.
        host: String,
        /// What happened.
        why: String,
        /// The end of its output.
        wrote: String,
    },
    /// The load's bundle is missing or is none.
    #[error("the load left no bundle: {0}")]
    Bundle(String),
}

impl LabError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

/// Whether the kernel has IPv6.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Asks the kernel for `netem` once, in a namespace made for it; `false` too where that cannot be found out.
pub(super) fn has_netem(names: &Names) -> bool {
    let probe = names.namespace("probe");
    let words = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    if run(&words(format!("ip netns add {probe}"))).is_err() {
        return false;
    }
    let found = run(&words(format!(
        "tc -n {probe} qdisc add dev lo root netem delay 1ms"
    )));
    // A namespace left behind is removed by the next start.
    let _ = run(&words(format!("ip netns delete {probe}")));
    found.is_ok()
}

/// Removes what labs of dead processes left, and kills what still runs in it. Gives the names of the namespaces removed.
///
/// # Errors
/// The first removal that failed.
pub fn clean() -> Result<Vec<String>, LabError> {
    let left = names::leftovers().map_err(LabError::io("looking for leftovers"))?;
    for namespace in &left.namespaces {
        remove_namespace(namespace)?;
    }
    for directory in &left.directories {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LabError::io(directory.display().to_string())(error));
            }
            _ => {}
        }
    }
    Ok(left.namespaces)
}

/// A lab.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) names: Names,
    pub(super) logs: PathBuf,
    relays: Vec<(usize, Relay)>,
    pub(super) processes: Vec<Running>,
    namespaces: Vec<String>,
    /// Last, so that the lock is let go of last.
    _alive: Alive,
}

impl Lab {
    /// Builds the hosts and links of `scenario`. On an error nothing of it stays.
    pub(super) fn build(
        scenario: &Scenario,
        names: Names,
        alive: Alive,
        impairer: Impairer,
        logs: Option<&Path>,
    ) -> Result<Self, LabError> {
        let logs = logs.map_or_else(|| names.directory(), Path::to_owned);
        fs::create_dir_all(&logs).map_err(LabError::io(logs.display().to_string()))?;
        let mut lab = Self {
            namespaces: Vec::new(),
            logs,
            relays: Vec::new(),
            processes: Vec::new(),
            names,
            _alive: alive,
        };
        let steps = steps::build(scenario, &lab.names, impairer, has_ipv6());
        lab.namespaces = steps::namespaces(scenario, &lab.names);
        for step in steps {
            match step {
                Step::Command(words) => {
                    run(&words)?;
                }
                Step::Relay { host: number, .. } => {
                    let Some(host) = scenario.hosts.get(number) else {
                        continue;
                    };
                    let place = Place {
                        host: host.name.clone(),
                        namespace: lab.names.namespace(&host.name),
                        bridge: lab.names.bridge(),
                        mtu: host.link.mtu,
                        set: host.link.impairment.clone(),
                        // Spread, so that neighbouring seeds and hosts share no stream.
                        seed: scenario
                            .seed
                            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                            .wrapping_add(number as u64),
                    };
                    let relay = Relay::start(place).map_err(|error| LabError::Relay {
                        host: host.name.clone(),
                        error,
                    })?;
                    lab.relays.push((number, relay));
                }
            }
        }
        Ok(lab)
    }

    /// Counts from now on: relays, and the kernel's drops before them.
    pub(super) fn count_anew(&self, scenario: &Scenario) -> Vec<Counted> {
        for (_, relay) in &self.relays {
            relay.count_anew();
        }
        self.counted(scenario)
    }

    /// The kernel's counters of each host's link.
    fn counted(&self, scenario: &Scenario) -> Vec<Counted> {
        let counted = |host: &super::scenario::Host| {
            let ends = [
                (self.names.namespace(&host.name), INTERFACE),
                (self.names.bridge(), host.name.as_str()),
            ];
            let [up, down] = ends.map(|(namespace, device)| End {
                dropped: device_drops(&namespace, device),
                shaped: queue_drops(&namespace, device),
            });
            Counted { up, down }
        };
        scenario.hosts.iter().map(counted).collect()
    }

    /// What each host's link did since `before`: the relay's report where there is one, and the frames that the rate's queue
    /// dropped, upwards and downwards.
    pub(super) fn report(&self, scenario: &Scenario, before: &[Counted]) -> Vec<LinkCounts> {
        let since = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        let after = self.counted(scenario);
        let each = |(number, (now, then)): (usize, (&Counted, &Counted))| {
            let drops = since(now.up.dropped, then.up.dropped)
                .zip(since(now.down.dropped, then.down.dropped))
                .map(|(up, down)| up + down);
            let relay = self.relays.iter().find(|(host, _)| *host == number);
            LinkCounts {
                relay: relay.map(|(_, relay)| relay.report(drops)),
                queue_drops_up: since(now.up.shaped, then.up.shaped),
                queue_drops_down: since(now.down.shaped, then.down.shaped),
            }
        };
        after.iter().zip(before).enumerate().map(each).collect()
    }
}

/// Of one link: see [`Lab::report`].
#[derive(Debug)]
pub(super) struct LinkCounts {
    pub(super) relay: Option<RelayReport>,
    pub(super) queue_drops_up: Option<u64>,
    pub(super) queue_drops_down: Option<u64>,
}

/// The kernel's counters of a link's two ends.
#[derive(Debug)]
pub(super) struct Counted {
    up: End,
    down: End,
}

/// Drops where frames enter a link; `None`: could not be read.
#[derive(Debug)]
struct End {
    dropped: Option<u64>,
    shaped: Option<u64>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        Running::end_all(&mut self.processes);
        self.relays.clear();
        for namespace in &self.namespaces {
            if Path::new(names::NAMESPACES).join(namespace).exists()
                && let Err(error) = remove_namespace(namespace)
            {
                eprintln!("stoq-bench: {error}");
            }
        }
    }
}

/// Kills what runs in a namespace, and deletes it. One that is gone already is fine.
fn remove_namespace(namespace: &str) -> Result<(), LabError> {
    let path = Path::new(names::NAMESPACES).join(namespace);
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    // Fails for a name whose namespace was never mounted: then nothing runs in it.
    if let Ok(pids) = run(&words(&["ip", "netns", "pids", namespace])) {
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // It may have ended meanwhile.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    match run(&words(&["ip", "netns", "delete", namespace])) {
        Err(error) if path.exists() => Err(error),
        _ => Ok(()),
    }
}

/// Runs a command to its end; what it wrote to standard output.
pub(super) fn run(words: &[String]) -> Result<String, LabError> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(String::new());
    };
    let output = group(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| LabError::Program {
            program: program.clone(),
            error,
        })?;
    if !output.status.success() {
        return Err(LabError::Command {
            command: words.join(" "),
            status: output.status.to_string(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program in a process group of its own: Ctrl-C at the terminal reaches the tool alone, which then ends the rest in
/// order.
pub(super) fn group(program: &str) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command.process_group(0);
    command
}

/// What the device could not hand out.
fn device_drops(namespace: &str, device: &str) -> Option<u64> {
    let shown = json(&[
        "ip", "-n", namespace, "-j", "-s", "link", "show", "dev", device,
    ])?;
    shown.pointer("/0/stats64/tx/dropped")?.as_u64()
}

/// What the queues of a device dropped.
fn queue_drops(namespace: &str, device: &str) -> Option<u64> {
    let shown = json(&[
        "tc", "-n", namespace, "-j", "-s", "qdisc", "show", "dev", device,
    ])?;
    shown
        .as_array()?
        .iter()
        .map(|queue| queue.get("drops")?.as_u64())
        .sum()
}

fn json(words: &[&str]) -> Option<Value> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    serde_json::from_str(&run(&words).ok()?).ok()
}

/// A log file, made anew.
pub(super) fn log(path: &Path) -> Result<File, LabError> {
    File::create(path).map_err(LabError::io(path.display().to_string()))
}

/// How long processes have between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(2);
