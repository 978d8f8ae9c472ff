//! A data plane as small as it gets: it starts its helper, gives up every capability, and from then on does what it is
//! told on its standard input, a line of JSON each, while a thread beats ten times a second.
//!
//! It is a process of its own because that is what is tested: capabilities, kills and stops are of processes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use stoq_ebpf::{
    Attachment, Counters, Fallback, Limiter as _, Mode, Policy, RuleEdit, give_up_all, has_none,
    helper::{Held, Helper, Mandate, Protocol, Status},
};

use crate::lab::{INTERFACE, Namespace};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Enable {
        wish: Mode,
        policy: Policy,
        rules: Vec<RuleEdit>,
        trial_ms: Option<u64>,
    },
    Confirm,
    Disable,
    Apply(Policy),
    EditRules(Vec<RuleEdit>),
    Shed(u32),
    Validate(Vec<std::net::IpAddr>, u64),
    Counters,
    Status,
    Events,
    HandOver(u64),
    HasNone,
    HelperId,
    AttachItself,
    /// Whether a datagram that its socket received is served.
    Judge(std::net::IpAddr, u16, Vec<u8>),
    Mode,
    Why,
    Bind(SocketAddr),
}

/// The role: what the process does when it is started as one.
pub(crate) fn run(ports: &str, pins: Option<String>) {
    let mandate = Mandate {
        interfaces: [INTERFACE.to_owned()].into(),
        ports: ports.split(',').map(|port| port.parse().unwrap()).collect(),
        pins: pins.map(Into::into),
    };
    let helper = Helper::spawn_self("helper", &mandate).unwrap();
    give_up_all().unwrap();
    let helper_id = helper.id();
    let limiter = Arc::new(Fallback::new(Ok(helper), &Policy::default()).unwrap());
    let shed = Arc::new(AtomicU32::new(0));
    {
        let (limiter, shed) = (Arc::clone(&limiter), Arc::clone(&shed));
        thread::spawn(move || {
            loop {
                // Fails once when the program goes.
                let _ = limiter.beat(shed.load(Ordering::Relaxed));
                thread::park_timeout(Duration::from_millis(100));
            }
        });
    }
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = match order {
            Order::Shed(level) => {
                shed.store(level, Ordering::Relaxed);
                done(limiter.beat(level))
            }
            Order::HelperId => Ok(Value::from(helper_id)),
            order => obey(&limiter, order),
        };
        println!("{}", serde_json::to_string(&answer).unwrap());
    }
}

type Answer = Result<Value, String>;

fn done<T: Serialize, E: std::fmt::Display>(outcome: Result<T, E>) -> Answer {
    outcome
        .map(|value| serde_json::to_value(value).unwrap())
        .map_err(|error| error.to_string())
}

fn obey(limiter: &Fallback, order: Order) -> Answer {
    match order {
        Order::Enable {
            wish,
            policy,
            rules,
            trial_ms,
        } => {
            limiter.apply(&policy).map_err(|error| error.to_string())?;
            limiter
                .edit_rules(&rules)
                .map_err(|error| error.to_string())?;
            let trial = trial_ms.map(Duration::from_millis);
            done(limiter.enable(INTERFACE, wish, trial))
        }
        Order::Confirm => done(limiter.with_helper(Helper::confirm)),
        Order::Disable => done(limiter.disable()),
        Order::Apply(policy) => done(limiter.apply(&policy)),
        Order::EditRules(edits) => done(limiter.edit_rules(&edits)),
        Order::Validate(sources, for_ms) => {
            done(limiter.validate(&sources, Duration::from_millis(for_ms)))
        }
        Order::Counters => done(limiter.counters()),
        Order::Status => done(limiter.with_helper(Helper::status)),
        Order::Events => done(limiter.with_helper(Helper::events)),
        Order::HandOver(for_ms) => {
            done(limiter.with_helper(|helper| helper.hand_over(Duration::from_millis(for_ms))))
        }
        Order::Judge(from, port, payload) => {
            Ok(Value::from(limiter.judge(from, port, &payload).passes()))
        }
        Order::Mode => done(Ok::<_, String>(limiter.mode())),
        Order::Why => done(Ok::<_, String>(limiter.why_at_socket())),
        Order::HasNone => done(has_none()),
        Order::AttachItself => done(
            Attachment::attach(INTERFACE, Mode::Native, &Policy::default(), &[], None)
                .map(|attachment| attachment.to_string()),
        ),
        Order::Bind(address) => bind(limiter, address),
        Order::Shed(_) | Order::HelperId => Err("done above".to_owned()),
    }
}

/// Binds to a port first by itself, which must fail, and then by the helper. What comes is used.
fn bind(limiter: &Fallback, address: SocketAddr) -> Answer {
    if let Ok(socket) = UdpSocket::bind(address) {
        return Err(format!("{socket:?} could be bound without privileges"));
    }
    let udp = limiter
        .with_helper(|helper| helper.bind(Protocol::Udp, address, true, false))
        .map_err(|error| error.to_string())?;
    let tcp = limiter
        .with_helper(|helper| helper.bind(Protocol::Tcp, address, true, false))
        .map_err(|error| error.to_string())?;
    rustix::net::listen(&tcp, 16).map_err(|error| error.to_string())?;
    let addresses = [
        UdpSocket::from(udp).local_addr(),
        TcpListener::from(tcp).local_addr(),
    ];
    done(
        addresses
            .into_iter()
            .map(|address| address.map(|address| address.to_string()))
            .collect::<Result<Vec<_>, _>>(),
    )
}

/// An owner's process, and the way to tell it what to do.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Owner {
    /// Starts one in a namespace, whose mandate are these ports.
    pub(crate) fn start(inside: &Namespace, ports: &str) -> Self {
        let mut command = inside.command(&std::env::current_exe().unwrap());
        command.args(["owner", ports]);
        Self::of(command)
    }

    /// As above, with a directory to hand the program over in.
    pub(crate) fn start_with_pins(inside: &Namespace, ports: &str, pins: &Path) -> Self {
        let mut command = inside.command(&std::env::current_exe().unwrap());
        command.args(["owner", ports]).arg(pins);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            orders: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub(crate) fn ask<T: DeserializeOwned>(&mut self, order: &Order) -> Result<T, String> {
        let line = serde_json::to_string(order).unwrap();
        writeln!(self.orders, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let answer: Answer = serde_json::from_str(&answer).unwrap();
        answer.map(|value| serde_json::from_value(value).unwrap())
    }

    pub(crate) fn enable(&mut self, policy: &Policy, rules: &[RuleEdit]) -> Held {
        self.ask(&Order::Enable {
            wish: Mode::Native,
            policy: policy.clone(),
            rules: rules.to_vec(),
            trial_ms: None,
        })
        .unwrap()
    }

    pub(crate) fn status(&mut self) -> Status {
        self.ask(&Order::Status).unwrap()
    }

    pub(crate) fn counters(&mut self) -> Counters {
        self.ask(&Order::Counters).unwrap()
    }

    pub(crate) fn do_it(&mut self, order: &Order) {
        self.ask::<Value>(order).unwrap();
    }

    pub(crate) fn process(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.process(), signal).unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Also one that is stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of a process's status, as the kernel writes them: `CapEff`, `CapPrm`.
pub(crate) fn capabilities(process: u32) -> Vec<u64> {
    let status =
        std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))
            .unwrap();
    ["CapPrm:", "CapEff:", "CapInh:", "CapBnd:", "CapAmb:"]
        .into_iter()
        .map(|name| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line[name.len()..].trim(), 16).unwrap()
        })
        .collect()
}
