//! What a verdict costs: the program in the kernel, attached to nothing, one frame again and again.
//!
//! `cargo run -p stoq-ebpf --example cost [RUNS]`, as root. Each line is the least of five means over RUNS (a million) runs, on
//! one CPU; what a driver spends on a packet comes on top. Where it says "spoofed" each run has another random source, the drawing of which
//! is in the figure: the two first lines say how much that is. A line is only printed where all runs had its reason, or
//! where it says how many had.
//!
//! `… --example cost RUNS OTHER.o` measures another build of the program beside this one, turn by turn, and prints how this one's
//! figure is to the other's: what a change of the program is judged by, since machines differ from minute to minute.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the measurement")]

#[path = "../tests/kit/mod.rs"]
mod kit;

use std::net::{IpAddr, Ipv4Addr};

use kit::{
    Judge,
    frame::{Packet, initial, keyed_id, short},
    scene::{self, KEYS, Kind, PUBLIC, SSH},
};
use stoq_ebpf::{
    abi::{
        self, Budget, CLASS_INITIAL, CLASS_RETRANSMISSION, CLASS_SYN, Control, FLAG_RULES_V4,
        FLAG_RULES_V6, RULE_DENY, Reason, Rule, Settings,
    },
    bench::{Bench, Mode},
    object,
};

/// Rules beside the one that is found.
const RULES: u32 = 10_000;

/// Sources that completed a handshake. No frame comes from one, and of spoofed ones one in 65,536.
const VALIDATED: u32 = 60_000;

/// Turns of which the least counts.
const TURNS: u32 = 5;

struct Case {
    name: &'static str,
    expected: Reason,
    mode: Mode,
    shed: u32,
    settings: fn(&mut Settings),
    packet: Packet,
}

/// Budgets that are never used up: what is measured is the charging.
fn plenty(settings: &mut Settings) {
    let budget = Budget {
        interval_ns: 1,
        burst_ns: 1_000_000_000,
    };
    for profile in &mut settings.profile {
        profile.source = [budget; 6];
        profile.prefix = [budget; 5];
    }
    settings.global = [budget; 6];
    // The same Initial again and again would pass for a client's.
    settings.global[CLASS_RETRANSMISSION as usize] = Budget::per_second(0, 0);
}

fn no_rules(settings: &mut Settings) {
    plenty(settings);
    settings.flags &= !(FLAG_RULES_V4 | FLAG_RULES_V6);
}

fn nothing_for_the_source(settings: &mut Settings) {
    no_rules(settings);
    settings.profile[0].source = [Budget::per_second(0, 0); 6];
}

fn nothing_for_all(settings: &mut Settings) {
    no_rules(settings);
    settings.global[CLASS_INITIAL as usize] = Budget::per_second(0, 0);
    settings.global[CLASS_SYN as usize] = Budget::per_second(0, 0);
}

fn cases() -> Vec<Case> {
    let v4 = "198.51.100.1";
    let v6 = "2001:db8::1";
    let newcomer = initial(&[1; 8], 1200);
    let ours = short(&keyed_id(KEYS[1], 1, 5, [1; 7]), 1200);
    let case = |name, expected, mode, shed, settings, packet| Case {
        name,
        expected,
        mode,
        shed,
        settings,
        packet,
    };
    let udp = Packet::udp;
    use Mode::{Real, Spoof};
    vec![
        case(
            "not our port",
            Reason::NotOurs,
            Real,
            0,
            plenty,
            udp(v4, SSH, &newcomer),
        ),
        case(
            "not our port, spoofed",
            Reason::NotOurs,
            Spoof,
            0,
            plenty,
            udp(v4, SSH, &newcomer),
        ),
        case(
            "not our port, IPv6",
            Reason::NotOurs,
            Real,
            0,
            plenty,
            udp(v6, SSH, &newcomer),
        ),
        case(
            "denied, of 10,000 rules",
            Reason::Denied,
            Real,
            0,
            plenty,
            udp("10.6.0.1", PUBLIC, &newcomer),
        ),
        case(
            "denied, of 10,000 rules, IPv6",
            Reason::Denied,
            Real,
            0,
            plenty,
            udp("2001:db8:6::1", PUBLIC, &newcomer),
        ),
        case(
            "fragment",
            Reason::Fragment,
            Real,
            0,
            no_rules,
            udp(v4, PUBLIC, &newcomer).fragment(0, true),
        ),
        case(
            "behind 8 extension headers, empty",
            Reason::Empty,
            Real,
            0,
            no_rules,
            udp(v6, PUBLIC, b"").extensions(8),
        ),
        case(
            "small Initial",
            Reason::InitialSmall,
            Real,
            0,
            no_rules,
            udp(v4, PUBLIC, &initial(&[1; 8], 1199)),
        ),
        case(
            "short header, wrong tag",
            Reason::CidTag,
            Real,
            0,
            no_rules,
            udp(v4, PUBLIC, &short(&[1; 12], 1200)),
        ),
        case(
            "shed",
            Reason::Shed,
            Real,
            65_536,
            no_rules,
            udp(v4, PUBLIC, &newcomer),
        ),
        case(
            "shed, spoofed",
            Reason::Shed,
            Spoof,
            65_536,
            no_rules,
            udp(v4, PUBLIC, &newcomer),
        ),
        case(
            "Initial over its source's budget",
            Reason::SourceInitial,
            Real,
            0,
            nothing_for_the_source,
            udp(v4, PUBLIC, &newcomer),
        ),
        case(
            "Initial over the budget of all, spoofed",
            Reason::GlobalInitial,
            Spoof,
            0,
            nothing_for_all,
            udp(v4, PUBLIC, &newcomer),
        ),
        case(
            "SYN over the budget of all, spoofed",
            Reason::GlobalSyn,
            Spoof,
            0,
            nothing_for_all,
            Packet::tcp(v4, PUBLIC, 2),
        ),
        case(
            "TCP that opens nothing",
            Reason::Tcp,
            Real,
            0,
            no_rules,
            Packet::tcp(v4, PUBLIC, 0x10),
        ),
        case(
            "short header with our ID, three budgets",
            Reason::Short,
            Real,
            0,
            no_rules,
            udp(v4, PUBLIC, &ours),
        ),
        case(
            "Initial, three budgets",
            Reason::Initial,
            Real,
            0,
            no_rules,
            udp(v4, PUBLIC, &newcomer),
        ),
        case(
            "Initial, three budgets, spoofed",
            Reason::Initial,
            Spoof,
            0,
            no_rules,
            udp(v4, PUBLIC, &newcomer),
        ),
    ]
}

fn furnish(bench: &mut Bench) {
    scene::furnish(bench);
    let deny = Rule {
        action: RULE_DENY,
        profile: 0,
    };
    for i in 0..RULES {
        // Spread over 172.16.0.0/12 and 2001:db8:8000::/33.
        let v4 = Ipv4Addr::from(0xac10_0000 | i.wrapping_mul(0x9e37_79b1) >> 12);
        Judge::set_rule(bench, IpAddr::V4(v4), 32, deny);
        let v6 = 0x2001_0db8_8000 << 80 | u128::from(i.wrapping_mul(0x9e37_79b1)) << 60;
        Judge::set_rule(bench, IpAddr::V6(v6.into()), 64, deny);
    }
    for i in 0..VALIDATED {
        let source = abi::source(Ipv4Addr::from(i.wrapping_mul(0x85eb_ca6b)).into());
        Judge::validate(bench, source, u64::MAX);
    }
}

/// A build of the program, in both modes.
struct Build {
    real: Bench,
    spoof: Bench,
}

impl Build {
    fn load(object: &[u8]) -> Self {
        let load = |mode| {
            let mut bench = Bench::load_object(object, mode).unwrap();
            furnish(&mut bench);
            bench
        };
        Self {
            real: load(Mode::Real),
            spoof: load(Mode::Spoof),
        }
    }

    fn bench(&mut self, mode: Mode) -> &mut Bench {
        match mode {
            Mode::Spoof => &mut self.spoof,
            Mode::Real | Mode::Replay => &mut self.real,
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let runs: u32 = arguments
        .next()
        .map_or(1_000_000, |runs| runs.parse().unwrap());
    let other = arguments.next().map(|file| std::fs::read(file).unwrap());
    let mut builds = vec![Build::load(object::XDP)];
    builds.extend(other.map(|object| Build::load(&object)));
    let (other_head, other_line) = match builds.len() {
        1 => ("", ""),
        _ => (" other build | this to it |", "---|---|"),
    };
    println!("| verdict | frame, bytes | ns a packet |{other_head} reason |");
    println!("|---|---|---|{other_line}---|");
    for case in cases() {
        let mut settings = Kind::Usual.settings();
        // The clock is the kernel's, and nobody beats.
        settings.heartbeat_max_ns = u64::MAX;
        (case.settings)(&mut settings);
        let control = Control {
            shed: case.shed,
            ..Control::default()
        };
        let frame = case.packet.bytes();
        let mut before = Vec::new();
        for build in &mut builds {
            let bench = build.bench(case.mode);
            bench.set_settings(0, &settings).unwrap();
            bench.set_control(control).unwrap();
            before.push(bench.counted(case.expected).unwrap().packets);
        }
        let mut least = vec![u128::MAX; builds.len()];
        for _ in 0..TURNS {
            for (build, least) in builds.iter_mut().zip(&mut least) {
                let (_, mean) = build.bench(case.mode).repeat(&frame, runs).unwrap();
                *least = mean.as_nanos().min(*least);
            }
        }
        let all = u64::from(TURNS) * u64::from(runs);
        let mut reason = case.expected.to_string();
        for (build, before) in builds.iter_mut().zip(before) {
            let counted = build
                .bench(case.mode)
                .counted(case.expected)
                .unwrap()
                .packets
                - before;
            if counted != all {
                reason.push_str(&format!(": {counted} of {all}"));
            }
        }
        let beside = match least[..] {
            [this, other] => format!(" {other} | {:.2} |", this as f64 / other as f64),
            _ => String::new(),
        };
        println!(
            "| {} | {} | {} |{beside} {reason} |",
            case.name,
            frame.len(),
            least[0]
        );
    }
}
