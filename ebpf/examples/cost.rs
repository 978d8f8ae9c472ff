//! What a verdict costs: the program in the kernel, attached to nothing, one frame again and again.
//!
//! `cargo run -p stoq-ebpf --example cost [RUNS]`, as root. Each line is the least of five means over RUNS (a million) runs, on
//! one CPU; what a driver spends on a packet comes on top. Where it says "spoofed" each run has another random source, the drawing of which
//! is in the figure: the two first lines say how much that is. A line is only printed where all runs had its reason, or
//! where it says how many had.

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
        Budget, CLASS_INITIAL, CLASS_RETRANSMISSION, CLASS_SYN, Control, FLAG_RULES_V4,
        FLAG_RULES_V6, RULE_DENY, Reason, Rule, Settings,
    },
    bench::{Bench, Mode},
};

/// Rules beside the one that is found.
const RULES: u32 = 10_000;

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
        profile.source = [budget; 5];
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
    settings.profile[0].source = [Budget::per_second(0, 0); 5];
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
}

fn main() {
    let runs: u32 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |runs| runs.parse().unwrap());
    let mut real = Bench::load(Mode::Real).unwrap();
    let mut spoof = Bench::load(Mode::Spoof).unwrap();
    furnish(&mut real);
    furnish(&mut spoof);
    println!("| verdict | frame, bytes | ns a packet | reason |\n|---|---|---|---|");
    for case in cases() {
        let bench = match case.mode {
            Mode::Spoof => &mut spoof,
            Mode::Real | Mode::Replay => &mut real,
        };
        let mut settings = Kind::Usual.settings();
        // The clock is the kernel's, and nobody beats.
        settings.heartbeat_max_ns = u64::MAX;
        (case.settings)(&mut settings);
        bench.set_settings(0, &settings).unwrap();
        bench
            .set_control(Control {
                shed: case.shed,
                ..Control::default()
            })
            .unwrap();
        let frame = case.packet.bytes();
        let before = bench.counted(case.expected).unwrap().packets;
        let means = (0..5).map(|_| bench.repeat(&frame, runs).unwrap().1);
        let least = means.min().unwrap();
        let counted = bench.counted(case.expected).unwrap().packets - before;
        let all = 5 * u64::from(runs);
        let reason = if counted == all {
            case.expected.to_string()
        } else {
            format!("{}: {counted} of {all}", case.expected)
        };
        println!(
            "| {} | {} | {} | {reason} |",
            case.name,
            frame.len(),
            least.as_nanos()
        );
    }
}
