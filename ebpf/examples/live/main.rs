//! What a dropped packet costs where it arrives: two network namespaces, a veth pair, and the kernel as generator.
//!
//! `cargo run --release -p stoq-ebpf --example live [PACKETS]`, as root, with `ip`, `ethtool` and `nft`; by default 3,000,000 a line, as
//! fast as the kernel makes them. The receiving interface's NAPI is a kernel thread of its own, so what it spends can be read:
//! that, and what the process that holds the socket spends, divided by the packets that arrived, dropped at a full socket or not. The
//! generator is on another CPU and in no figure; what it sends beyond the interface's ring is lost there and arrives nowhere.
//!
//! Not in the figures: what a hardware driver spends, which veth does not have.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the measurement")]

#[path = "../../tests/kit/mod.rs"]
mod kit;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::UdpSocket,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aya::programs::xdp::XdpMode;
use kit::{
    frame::{Packet, initial, short},
    generator::{Generator, Vary},
    scene::{self, Kind, PUBLIC},
};
use stoq_ebpf::{
    abi::{
        Budget, CLASS_INITIAL, CLASS_RETRANSMISSION, Control, FLAG_RULES_V4, FLAG_RULES_V6, Reason,
    },
    bench::{Bench, Mode},
};

/// The CPU of the generator; the receiving side has the other.
const GENERATOR_CPU: &str = "0";
const RECEIVER_CPU: &str = "1";
const MAC_SENDER: &str = "02:00:00:00:00:02";
/// As the frames of the tests have it.
const MAC_RECEIVER: &str = "02:00:00:00:00:01";

/// What is sent, and who drops it.
struct Case {
    name: &'static str,
    /// Of `generate`.
    traffic: &'static str,
    receiver: Receiver,
}

enum Receiver {
    /// Our program, and the reason that all must have.
    Xdp(Reason),
    /// This ruleset of nftables, with `IF` for the interface.
    Nft(&'static str),
    /// A socket that reads and forgets.
    Socket,
}

const INGRESS: &str = "table netdev t { chain c { type filter hook ingress device IF priority 0; udp dport 443 counter drop; }; }";
const INPUT: &str =
    "table ip t { chain c { type filter hook input priority 0; udp dport 443 counter drop; }; }";

const CASES: &[Case] = &[
    Case {
        name: "XDP: short header, wrong tag",
        traffic: "tag",
        receiver: Receiver::Xdp(Reason::CidTag),
    },
    Case {
        name: "XDP: denied",
        traffic: "denied",
        receiver: Receiver::Xdp(Reason::Denied),
    },
    Case {
        name: "XDP: spoofed Initials, over the budget of all",
        traffic: "spoofed",
        receiver: Receiver::Xdp(Reason::GlobalInitial),
    },
    Case {
        name: "XDP: spoofed Initials, shed",
        traffic: "spoofed",
        receiver: Receiver::Xdp(Reason::Shed),
    },
    Case {
        name: "nftables, ingress",
        traffic: "spoofed",
        receiver: Receiver::Nft(INGRESS),
    },
    Case {
        name: "nftables, input",
        traffic: "spoofed",
        receiver: Receiver::Nft(INPUT),
    },
    Case {
        name: "UDP socket that reads and forgets: one source",
        traffic: "tag",
        receiver: Receiver::Socket,
    },
    Case {
        name: "UDP socket that reads and forgets: spoofed Initials",
        traffic: "spoofed",
        receiver: Receiver::Socket,
    },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["generate", interface, traffic, packets] => {
            generate(interface, traffic, packets.parse().unwrap());
        }
        ["xdp", interface, reason] => xdp(
            interface,
            Reason::from_number(reason.parse().unwrap()).unwrap(),
        ),
        ["socket"] => socket(),
        [] => measure("3000000"),
        [packets] => measure(packets),
        _ => panic!("live [PACKETS]"),
    }
}

// ---- in the sending namespace

fn frame(traffic: &str) -> (Vec<u8>, Vary) {
    let port = Vary {
        port: true,
        ..Vary::default()
    };
    let (packet, vary) = match traffic {
        "tag" => (
            Packet::udp("198.18.0.1", PUBLIC, &short(&[1; 12], 1200)),
            port,
        ),
        "denied" => (
            Packet::udp("10.6.0.1", PUBLIC, &short(&[1; 12], 1200)),
            port,
        ),
        "spoofed" => (
            Packet::udp("198.18.0.1", PUBLIC, &initial(&[1; 8], 1200)),
            Vary {
                address: true,
                anywhere: true,
                port: true,
                id: true,
            },
        ),
        other => panic!("no traffic {other}"),
    };
    let mut bytes = packet.bytes();
    // Those of the tests are wrong, which the stack minds.
    bytes[24..26].fill(0);
    let sum: u32 = bytes[14..34]
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16));
    bytes[24..26].copy_from_slice(&sum.to_be_bytes()[2..]);
    bytes[40..42].fill(0);
    (bytes, vary)
}

/// Sends them all in one run: each run has pools of pages to make and to clear.
fn generate(interface: &str, traffic: &str, packets: u32) {
    let (frame, vary) = frame(traffic);
    let generator = Generator::load(vary);
    let index = fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).unwrap();
    let index = index.trim().parse().unwrap();
    println!("ready");
    let begun = Instant::now();
    generator.send(index, &frame, packets);
    println!("{}", begun.elapsed().as_millis());
}

// ---- in the receiving namespace

/// What this process's threads and those of the interface's NAPI have spent, ns.
fn cpu_ns(pid: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Until the parent closes our input.
fn wait() {
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn xdp(interface: &str, reason: Reason) {
    let mut bench = Bench::load(Mode::Real).unwrap();
    let mut settings = Kind::Usual.settings();
    settings.heartbeat_max_ns = u64::MAX;
    if reason != Reason::Denied {
        settings.flags &= !(FLAG_RULES_V4 | FLAG_RULES_V6);
    }
    settings.global[CLASS_RETRANSMISSION as usize] = Budget::per_second(0, 0);
    settings.global[CLASS_INITIAL as usize] = Budget::per_second(1, 1);
    bench.set_settings(0, &settings).unwrap();
    let shed = if reason == Reason::Shed { 65_536 } else { 0 };
    bench
        .set_control(Control {
            shed,
            ..Control::default()
        })
        .unwrap();
    scene::furnish(&mut bench);
    bench
        .program()
        .unwrap()
        .attach(interface, XdpMode::Driver)
        .unwrap();
    wait();
    let all: u64 = Reason::ALL
        .iter()
        .map(|reason| bench.counted(*reason).unwrap().packets)
        .sum();
    println!("{} {all}", bench.counted(reason).unwrap().packets);
}

fn socket() {
    let socket = UdpSocket::bind(("192.0.2.1", PUBLIC)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let reader = thread::spawn(move || {
        let (mut count, mut buffer) = (0u64, [0; 2048]);
        // Until nothing came for a while, after something did.
        loop {
            match socket.recv_from(&mut buffer) {
                Ok(_) => count += 1,
                Err(_) if count > 0 => return count,
                Err(_) => {}
            }
        }
    });
    wait();
    let count = reader.join().unwrap();
    println!("{count} {count}");
}

// ---- the parent

struct Namespaces {
    sender: String,
    receiver: String,
    interface: String,
    peer: String,
}

fn run(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Namespaces {
    fn make() -> Self {
        let id = std::process::id();
        let made = Self {
            sender: format!("stoq-live-s{id}"),
            receiver: format!("stoq-live-r{id}"),
            interface: format!("lr{id}"),
            peer: format!("ls{id}"),
        };
        let Self {
            sender,
            receiver,
            interface,
            peer,
        } = &made;
        run(&format!("ip netns add {sender}"));
        run(&format!("ip netns add {receiver}"));
        run(&format!(
            "ip -n {sender} link add {peer} address {MAC_SENDER} type veth peer name {interface} address {MAC_RECEIVER} netns {receiver}"
        ));
        run(&format!("ip -n {sender} link set {peer} up"));
        run(&format!("ip -n {receiver} link set {interface} up"));
        run(&format!(
            "ip -n {receiver} address add 192.0.2.1/32 dev {interface}"
        ));
        run(&format!(
            "ip -n {receiver} route add default dev {interface}"
        ));
        for name in ["all", interface] {
            run(&format!(
                "ip netns exec {receiver} sysctl -qw net.ipv4.conf.{name}.rp_filter=0"
            ));
        }
        made
    }

    fn child(&self, namespace: &str, cpu: &str, arguments: &[&str]) -> Child {
        Command::new("ip")
            .args(["netns", "exec", namespace, "taskset", "-c", cpu])
            .arg(std::env::current_exe().unwrap())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What the stack got from the interface.
    fn arrived(&self) -> u64 {
        let Self {
            receiver,
            interface,
            ..
        } = self;
        let file = format!("/sys/class/net/{interface}/statistics/rx_packets");
        run(&format!("ip netns exec {receiver} cat {file}"))
            .trim()
            .parse()
            .unwrap()
    }

    /// Makes the receiving NAPI a thread on its CPU, and finds it.
    fn napi(&self) -> String {
        let Self {
            receiver,
            interface,
            ..
        } = self;
        let threaded = format!("/sys/class/net/{interface}/threaded");
        let script = format!("echo 0 > {threaded}; echo 1 > {threaded}");
        let status = Command::new("ip")
            .args(["netns", "exec", receiver, "sh", "-c", &script])
            .status();
        assert!(status.unwrap().success());
        let wanted = format!("napi/{interface}");
        let of_napi = |pid: &String| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with(&wanted))
        };
        let entries = fs::read_dir("/proc").unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let pid = names
            .find(of_napi)
            .expect("the receiving interface has a NAPI thread");
        run(&format!("taskset -pc {RECEIVER_CPU} {pid}"));
        pid
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.sender, &self.receiver] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .status();
        }
    }
}

fn measure(packets: &str) {
    println!("{packets} frames of 1242 bytes\n");
    println!("| where they end | CPU ns a packet | arrived | of these a second | ended there |");
    println!("|---|---|---|---|---|");
    for case in CASES {
        let spaces = Namespaces::make();
        let receiver = &spaces.receiver;
        let number;
        let mut child = match &case.receiver {
            Receiver::Xdp(reason) => {
                number = reason.number().to_string();
                Some(spaces.child(receiver, RECEIVER_CPU, &["xdp", &spaces.interface, &number]))
            }
            Receiver::Socket => Some(spaces.child(receiver, RECEIVER_CPU, &["socket"])),
            Receiver::Nft(_) => None,
        };
        if !matches!(case.receiver, Receiver::Xdp(_)) {
            // Without XDP veth has NAPI only where it coalesces.
            run(&format!(
                "ip netns exec {receiver} ethtool -K {} gro on",
                spaces.interface
            ));
        }
        if let Receiver::Nft(rules) = case.receiver {
            let rules = rules.replace("IF", &spaces.interface);
            let status = Command::new("ip")
                .args(["netns", "exec", receiver, "nft", &rules])
                .status();
            assert!(status.unwrap().success());
        }
        let mut lines = child.as_mut().map(|child| {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "ready");
            lines
        });
        let napi = spaces.napi();
        let spent = |reader: u64| cpu_ns(&napi) + reader;
        let reader_ns = |child: &Option<Child>| match (&case.receiver, child) {
            (Receiver::Socket, Some(child)) => process_cpu_ns(child.id()),
            _ => 0,
        };
        let mut generator = spaces.child(
            &spaces.sender,
            GENERATOR_CPU,
            &["generate", &spaces.peer, case.traffic, packets],
        );
        let mut said = BufReader::new(generator.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        let before = spent(reader_ns(&child));
        let took_ms: u64 = said.next().unwrap().unwrap().parse().unwrap();
        let after = spent(reader_ns(&child));
        assert!(generator.wait().unwrap().success());
        let (ended, arrived): (u64, u64) = match (&mut child, &mut lines) {
            (Some(child), Some(lines)) => {
                drop(child.stdin.take());
                let line = lines.next().unwrap().unwrap();
                child.wait().unwrap();
                let (ended, all) = line.split_once(' ').unwrap();
                let arrived = match case.receiver {
                    Receiver::Xdp(_) => all.parse().unwrap(),
                    Receiver::Nft(_) | Receiver::Socket => spaces.arrived(),
                };
                (ended.parse().unwrap(), arrived)
            }
            _ => {
                let rules = run(&format!("ip netns exec {receiver} nft list ruleset"));
                let (_, rest) = rules.split_once("packets ").unwrap();
                (
                    rest.split(' ').next().unwrap().parse().unwrap(),
                    spaces.arrived(),
                )
            }
        };
        let or_none =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
        let each = or_none((after - before).checked_div(arrived));
        let rate = or_none((arrived * 1000).checked_div(took_ms));
        println!("| {} | {each} | {arrived} | {rate} | {ended} |", case.name);
    }
}

/// Of all threads of a process.
fn process_cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let task = task.unwrap().file_name().into_string().unwrap();
            cpu_ns(&format!("{pid}/task/{task}"))
        })
        .sum()
}
