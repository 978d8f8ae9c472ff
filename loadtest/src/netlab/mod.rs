//! Hosts out of network namespaces, to run a load over a network of known properties on one machine.
//!
//! Each `[[host]]` of a scenario is a namespace with one interface on a bridge, which has a namespace of its own. A link has
//! an MTU, a rate (`tbf`) and, in each direction, delay, jitter, loss and reordering: by the kernel's `netem` where there is
//! one and it does what the scenario asks for, else by a relay of ours between two TAP devices, which carries whole frames,
//! so any protocol. Which it was is said. A run in which the relay was the bottleneck is INVALID.
//!
//! Not a model of the internet: queues are short and first in, first out, and all hosts share this machine's cores.
//!
//! | file | what |
//! |---|---|
//! | `scenario` | the file, checked; `quantity` and `placeholder` are its words |
//! | `names` | what things are called; which have lost their owner |
//! | `steps` | the commands that build it |
//! | `line` | what a link does to frames, without sockets or clocks |
//! | `relay` | a line between two devices, and its watch over itself |
//! | `process` | programs on hosts |
//! | `lab` | all of it standing, and its removal |

mod lab;
mod line;
mod names;
mod placeholder;
mod process;
mod quantity;
mod relay;
mod report;
mod scenario;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use self::lab::{LabError, clean};
pub use self::line::{Bursts, Counters, Impairment};
pub use self::process::guard;
pub use self::relay::{CPU_SHARE_MAX, LAG_P99_MAX_US, RelayReport};
pub use self::report::{LinkReport, LoadReport, Report};
pub use self::scenario::{
    HOSTS_MAX, Host, Link, Load, LoadKind, Means, Process, Ready, Refused, Scenario,
};
pub use self::steps::Impairer;

use self::lab::Lab;
use self::names::{Alive, Names};
use self::placeholder::Placeholder;
use self::process::{Running, Start};

/// How a scenario is run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where logs of the processes go, and stay. `None`: into a directory that goes with the lab.
    pub logs: Option<PathBuf>,
    /// The load's own output goes to a log instead of to standard output and error.
    pub quiet: bool,
}

/// The commands that would build and remove the lab of `scenario` for this process, one a line, and what runs in it.
#[must_use]
pub fn dry_run(scenario: &Scenario) -> Vec<String> {
    let names = Names::of(std::process::id());
    // Finding out about netem takes a namespace, which a dry run does not make.
    let impairer = if scenario.means == Means::Netem {
        Impairer::Netem
    } else {
        Impairer::Relay
    };
    let mut lines = Vec::new();
    if scenario.means == Means::Auto && impaired(scenario).next().is_some() {
        lines.push(
            "# impairment by our relay; by netem where the kernel has it and does the same"
                .to_owned(),
        );
    }
    let built = steps::build(scenario, &names, impairer, lab::has_ipv6());
    lines.extend(built.iter().map(ToString::to_string));
    let mut run = |host: &Host, command: &str| {
        lines.push(format!(
            "ip netns exec {} sh -c '{}'",
            names.namespace(&host.name),
            command.replace('\'', "'\\''")
        ));
    };
    let fill = |text: &str| {
        let filled = placeholder::fill(text, |what| {
            Ok::<_, std::convert::Infallible>(match what {
                Placeholder::Pid(name) => format!("{{pid:{name}}}"),
                other => known(scenario, other),
            })
        });
        match filled {
            Ok(filled) => filled,
        }
    };
    for host in &scenario.hosts {
        for process in &host.processes {
            run(host, &fill(&process.run));
        }
    }
    if let Some(load) = &scenario.load
        && let Some(host) = scenario.hosts.get(load.host)
    {
        let output = names.directory().join("bundle.json");
        run(host, &fill(&load_command(&load.what, &output)));
    }
    lines.extend(
        steps::remove(scenario, &names)
            .iter()
            .map(ToString::to_string),
    );
    lines
}

/// Builds the lab, starts its processes, runs the load, reports, and removes the lab; or, without a load, calls `up` with the
/// names of the namespaces and stands until the future is dropped.
///
/// Cancel safe: dropping the future removes everything, for which it blocks up to some seconds. Children are killed by
/// the kernel when the thread that polls this ends, so it is to be polled on one thread that lives on.
///
/// # Errors
/// Nothing stays behind on any.
pub async fn run(
    scenario: &Scenario,
    options: &Options,
    up: impl FnOnce(Impairer, &[String]),
) -> Result<Report, LabError> {
    clean()?;
    let names = Names::of(std::process::id());
    let alive = Alive::begin(&names).map_err(LabError::io("making the lab's directory"))?;
    let impairer = impairer(scenario, &names)?;
    let mut lab = Lab::build(scenario, names, alive, impairer, options.logs.as_deref())?;
    start_processes(scenario, &mut lab).await?;
    up(impairer, &steps::namespaces(scenario, &lab.names));
    let Some(load) = &scenario.load else {
        return std::future::pending().await;
    };
    let before = lab.count_anew(scenario);
    let began = Instant::now();
    let output = lab.names.directory().join("bundle.json");
    let (exit_code, exit) = run_load(scenario, &mut lab, load, &output, options.quiet).await?;
    let elapsed = began.elapsed();
    let links = lab.report(scenario, &before);
    let bundle = match load.what {
        LoadKind::Command(_) => None,
        LoadKind::Run(_) => Some(read_bundle(&output, &exit)?),
    };
    let load = LoadReport {
        exit_code,
        elapsed_s: elapsed.as_secs_f64(),
    };
    Ok(Report::new(scenario, impairer, links, load, bundle))
}

/// The hosts whose links are impaired.
fn impaired(scenario: &Scenario) -> impl Iterator<Item = &Host> {
    let hosts = scenario.hosts.iter();
    hosts.filter(|host| !host.link.impairment.is_nothing())
}

/// Decides between `netem` and the relay.
fn impairer(scenario: &Scenario, names: &Names) -> Result<Impairer, LabError> {
    if scenario.means == Means::Relay || impaired(scenario).next().is_none() {
        return Ok(Impairer::Relay);
    }
    let unlike = impaired(scenario).find(|host| !steps::netem_can(&host.link.impairment));
    let why = if let Some(host) = unlike {
        format!(
            "it reorders, or mixes kinds of loss, otherwise than the link of `{}` asks for",
            host.name
        )
    } else if lab::has_netem(names) {
        return Ok(Impairer::Netem);
    } else {
        "this kernel has none (`tc qdisc add … netem` fails)".to_owned()
    };
    match scenario.means {
        Means::Netem => Err(LabError::Netem(why)),
        Means::Auto | Means::Relay => Ok(Impairer::Relay),
    }
}

/// Starts all processes in order, each once the one before is ready.
async fn start_processes(scenario: &Scenario, lab: &mut Lab) -> Result<(), LabError> {
    for host in &scenario.hosts {
        for (number, process) in host.processes.iter().enumerate() {
            let mut running = Running::start(Start {
                host: &host.name,
                namespace: &lab.names.namespace(&host.name),
                run: &fill(scenario, &lab.processes, &process.run),
                env: &process.env,
                log: lab.logs.join(format!("{}-{number}.log", host.name)),
                to_terminal: false,
            })?;
            let ready = match &process.ready {
                Some(ready) => running.ready(ready, scenario.ready_timeout).await,
                None => Ok(()),
            };
            lab.processes.push(running);
            ready?;
        }
    }
    Ok(())
}

/// Runs the load to its end; its exit code, 128 + signal where one killed it, and the same in words.
async fn run_load(
    scenario: &Scenario,
    lab: &mut Lab,
    load: &Load,
    output: &Path,
    quiet: bool,
) -> Result<(i32, String), LabError> {
    use std::os::unix::process::ExitStatusExt as _;
    let name = scenario.hosts.get(load.host).map_or("", |host| &host.name);
    let running = Running::start(Start {
        host: name,
        namespace: &lab.names.namespace(name),
        run: &fill(scenario, &lab.processes, &load_command(&load.what, output)),
        env: &std::collections::BTreeMap::new(),
        log: lab.logs.join("load.log"),
        to_terminal: !quiet,
    })?;
    // Among the lab's own, so that it ends with the lab.
    lab.processes.push(running);
    let Some(running) = lab.processes.last_mut() else {
        return Err(LabError::Bundle("it was not started".to_owned()));
    };
    let status = running.ended(load.timeout).await?;
    let by_signal = || status.signal().map_or(1, |signal| 128 + signal);
    let code = status.code().unwrap_or_else(by_signal);
    let (_, others) = lab.processes.split_last_mut().unzip();
    for process in others.into_iter().flatten() {
        if let Some(status) = process.has_ended() {
            return Err(process.failed(format!("ended during the load ({status})")));
        }
    }
    Ok((code, status.to_string()))
}

/// As `sh` gets it, placeholders still in it.
fn load_command(what: &LoadKind, output: &Path) -> String {
    match what {
        LoadKind::Run(flags) => format!("exec {{bench}} run {flags} -o {}", output.display()),
        LoadKind::Command(command) => command.clone(),
    }
}

/// Fills in the placeholders, which were checked when the scenario was read.
fn fill(scenario: &Scenario, processes: &[Running], text: &str) -> String {
    let value = |what: Placeholder<'_>| {
        Ok::<_, std::convert::Infallible>(match what {
            Placeholder::Pid(name) => processes
                .iter()
                .find(|process| process.host == name)
                .map_or_else(String::new, |process| process.pid().to_string()),
            other => known(scenario, other),
        })
    };
    match placeholder::fill(text, value) {
        Ok(filled) => filled,
    }
}

/// The value of a placeholder that is known before anything runs.
fn known(scenario: &Scenario, placeholder: Placeholder<'_>) -> String {
    let path = |path: &Path| path.display().to_string();
    let found = match placeholder {
        Placeholder::Host(name) => scenario.host(name).map(|host| host.address.to_string()),
        Placeholder::Host6(name) => scenario.host(name).map(|host| host.address6.to_string()),
        Placeholder::Pid(_) => None,
        Placeholder::Bench => std::env::current_exe().ok().map(|exe| path(&exe)),
        Placeholder::Dir if scenario.directory.as_os_str().is_empty() => Some(".".to_owned()),
        Placeholder::Dir => Some(path(&scenario.directory)),
    };
    found.unwrap_or_default()
}

/// The bundle that the load wrote.
fn read_bundle(path: &Path, exit: &str) -> Result<crate::bundle::Bundle, LabError> {
    let text = fs::read(path)
        .map_err(|error| LabError::Bundle(format!("{}: {error} ({exit})", path.display())))?;
    serde_json::from_slice(&text)
        .map_err(|error| LabError::Bundle(format!("{}: {error} ({exit})", path.display())))
}
