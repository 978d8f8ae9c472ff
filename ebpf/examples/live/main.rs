//! What a dropped packet costs where it arrives: two network namespaces, a veth pair, and the kernel as generator.
//!
//! `cargo run --release -p stoq-ebpf --example live [PACKETS_A_SECOND [SECONDS]]`, as root, with `ip`, `ethtool` and `nft`; by
//! default 200,000 for 3 s. The receiving interface's NAPI is a kernel thread of its own, so what it spends can be read: that, and what the
//! process that holds the socket spends, divided by the packets that came to the end the line names. The generator is on
//! another CPU and in no figure.
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
    generator::{BATCH, Generator, Vary},
    scene::{self, Kind, PUBLIC},
};
use stoq_ebpf::{
    abi::{Budget, CLASS_INITIAL, Control, FLAG_RULES_V4, FLAG_RULES_V6, Reason},
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
        ["generate", interface, traffic, rate, seconds] => {
            generate(
                interface,
                traffic,
                rate.parse().unwrap(),
                seconds.parse().unwrap(),
            );
        }
        ["xdp", interface, reason] => xdp(
            interface,
            Reason::from_number(reason.parse().unwrap()).unwrap(),
        ),
        ["socket"] => socket(),
        [] => measure("200000", "3"),
        [rate] => measure(rate, "3"),
        [rate, seconds] => measure(rate, seconds),
        _ => panic!("live [PACKETS_A_SECOND [SECONDS]]"),
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

/// Sends at a rate, a batch whenever one is due.
fn generate(interface: &str, traffic: &str, rate: u32, seconds: u32) {
    let (frame, vary) = frame(traffic);
    let generator = Generator::load(vary);
    let index = fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).unwrap();
    let index = index.trim().parse().unwrap();
    let begun = Instant::now();
    let batches = rate * seconds / BATCH;
    for batch in 0..batches {
        let due = Duration::from_secs(1) * BATCH * batch / rate;
        while begun.elapsed() < due {
            std::hint::spin_loop();
        }
        generator.send(index, &frame, BATCH);
    }
    println!(
        "{} {}",
        u64::from(batches) * u64::from(BATCH),
        begun.elapsed().as_millis()
    );
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

fn measure(rate: &str, seconds: &str) {
    println!("{rate} packets a second of 1242 bytes for {seconds} s\n");
    println!("| where it ends | CPU ns a packet | packets | sent |\n|---|---|---|---|");
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
        let before = spent(reader_ns(&child));
        let mut generator = spaces.child(
            &spaces.sender,
            GENERATOR_CPU,
            &["generate", &spaces.peer, case.traffic, rate, seconds],
        );
        let mut said = String::new();
        generator
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(generator.wait().unwrap().success());
        let sent = said.split_whitespace().next().unwrap();
        let after = spent(reader_ns(&child));
        let ended: u64 = match (&mut child, &mut lines) {
            (Some(child), Some(lines)) => {
                drop(child.stdin.take());
                let line = lines.next().unwrap().unwrap();
                child.wait().unwrap();
                line.split(' ').next().unwrap().parse().unwrap()
            }
            _ => {
                let rules = run(&format!("ip netns exec {receiver} nft list ruleset"));
                let (_, rest) = rules.split_once("packets ").unwrap();
                rest.split(' ').next().unwrap().parse().unwrap()
            }
        };
        let each = (after - before).checked_div(ended);
        let each = each.map_or_else(|| "none came".to_owned(), |ns| ns.to_string());
        println!("| {} | {each} | {ended} | {sent} |", case.name);
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
