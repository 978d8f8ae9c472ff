//! The golden vectors through the limiter at the socket, as far as a socket sees them; and through a capture.
//!
//! The same file drives the program in the kernel and the model (`vectors.rs`), so what holds here holds of all three.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod kit;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use kit::{
    frame::{VERSION_1, VERSION_2},
    scene::{KEYS, Kind, OTHER, PEERS, PUBLIC, RULES},
    steps::{self, Step},
};
use stoq_ebpf::{
    AtSocket, Judged, Limiter, Limits, Policy, Port, Profile, Rate, Rules, Treatment,
    abi::{RULE_ALLOW, RULE_DENY, Reason},
    capture::{Capture, Captured},
    edits, is_for_want_of_privilege,
    replay::{Outcome, Replay, ReplayError},
};

/// The scene's settings, as an operator would ask for them.
fn policy(kind: Kind) -> Policy {
    let of = |per_second, burst| Some(Rate { per_second, burst });
    let limits = |rate| Limits {
        initial: rate,
        token: rate,
        long: rate,
        short: rate,
        syn: rate,
    };
    let usual = Profile {
        source: limits(of(10, 5)),
        prefix: limits(of(20, 8)),
        retransmissions: of(5, 2),
    };
    let mut lowered = usual;
    lowered.prefix.initial = of(1, 1);
    let port = |port, tcp, peers, keyed| Port {
        port,
        udp: true,
        tcp,
        peers,
        keyed,
    };
    Policy {
        dry_run: kind == Kind::DryRun,
        check_ids: true,
        fixed_bit: matches!(kind, Kind::Strict | Kind::DryRun),
        drop_chains: matches!(kind, Kind::Strict | Kind::DryRun),
        heartbeat_max_ms: 1500,
        versions: [VERSION_1, VERSION_2].into(),
        ports: vec![
            port(PUBLIC, true, false, true),
            port(PEERS, false, true, true),
            port(OTHER, false, false, false),
        ],
        profiles: [usual, lowered, Profile::default(), usual],
        global: limits(of(100, 20)),
        retransmissions: of(10, 3),
        cid_keys: (0..).zip(KEYS).collect(),
        hash_key: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
        ..Policy::default()
    }
}

fn rules() -> Rules {
    let rule = |(prefix, bits, action, profile): &(&str, u8, u32, u32)| {
        let treatment = match *action {
            RULE_ALLOW => Treatment::Allow,
            RULE_DENY => Treatment::Deny,
            _ => Treatment::Profile(u8::try_from(*profile).unwrap()),
        };
        (format!("{prefix}/{bits}").parse().unwrap(), treatment)
    };
    RULES.iter().map(rule).collect()
}

#[test]
fn a_policy_says_all_that_the_vectors_settings_say() {
    for kind in [Kind::Usual, Kind::Strict, Kind::DryRun] {
        assert_eq!(policy(kind).settings([true, true]), kind.settings());
    }
}

/// What the kernel would hand to a UDP socket of a frame; none where it would not, or it takes more than this to tell.
fn datagram(frame: &[u8]) -> Option<(IpAddr, u16, &[u8])> {
    let half = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let mut at = 12;
    while matches!(half(frame, at)?, 0x8100 | 0x88a8) {
        at += 4;
    }
    let kind = half(frame, at)?;
    let packet = frame.get(at + 2..)?;
    let (from, transport) = match kind {
        0x0800 => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            let whole = packet.get(..usize::from(half(packet, 2)?))?;
            let is_fragment = half(packet, 6)? & 0x3fff != 0;
            if *packet.get(9)? != 17 || is_fragment {
                return None;
            }
            let from: [u8; 4] = *packet.get(12..)?.first_chunk()?;
            (IpAddr::from(Ipv4Addr::from(from)), whole.get(header..)?)
        }
        0x86dd => {
            let whole = packet.get(..40 + usize::from(half(packet, 4)?))?;
            if *packet.get(6)? != 17 {
                return None;
            }
            let from: [u8; 16] = *packet.get(8..)?.first_chunk()?;
            (IpAddr::from(Ipv6Addr::from(from)), whole.get(40..)?)
        }
        _ => return None,
    };
    let payload = transport.get(8..usize::from(half(transport, 4)?))?;
    Some((from, half(transport, 2)?, payload))
}

#[test]
fn the_limiter_at_the_socket_gives_every_vector_that_it_sees_its_reason() {
    let limiter = AtSocket::new(&policy(Kind::Usual)).unwrap();
    limiter.edit_rules(&edits(&Rules::new(), &rules())).unwrap();
    let mut slots = [None; 2];
    let mut now_ms = 0;
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let mut asked = 0;
    for step in steps::all() {
        match step {
            Step::Settings { slot, kind } => slots[slot as usize] = Some(kind),
            Step::Control {
                heartbeat_ms,
                slot,
                shed,
            } => {
                now_ms = heartbeat_ms;
                if let Some(kind) = slots[slot as usize].filter(|kind| *kind != Kind::Foreign) {
                    limiter.apply(&policy(kind)).unwrap();
                }
                limiter.beat_at(shed, now_ms * 1_000_000);
            }
            Step::Validate { source, until_ms } => {
                let length = Duration::from_millis(until_ms - now_ms);
                let sources = [source.parse().unwrap()];
                assert_eq!(limiter.validate_at(&sources, length, now_ms * 1_000_000), 0);
            }
            Step::Frame {
                at_ms,
                expected,
                name,
                bytes,
            } => {
                // A limiter that is asked is alive, and no packet of another port comes to this one's socket.
                if matches!(expected, Reason::Off | Reason::Stale | Reason::NotOurs) {
                    continue;
                }
                let Some((from, port, payload)) = datagram(&bytes) else {
                    continue;
                };
                asked += 1;
                seen.insert(expected);
                let judged = limiter.judge_at(from, port, payload, at_ms * 1_000_000);
                let right = if expected.drops() && !name.starts_with("a_dry_run") {
                    Judged::Drops(expected)
                } else {
                    Judged::Passes(expected)
                };
                if judged != right {
                    wrong.push(format!("{name}: {judged:?}, expected {right:?}"));
                }
            }
        }
    }
    println!("{asked} vectors, {} reasons", seen.len());
    assert!(asked > 200 && seen.len() >= 30, "{asked}, {seen:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let counted: u64 = limiter
        .counters()
        .unwrap()
        .iter()
        .map(|(_, counter)| counter.packets)
        .sum();
    assert_eq!(counted, asked);
}

/// The frames of the vectors as a capture, with the times of the script.
fn capture() -> Vec<u8> {
    let mut file = Vec::new();
    for field in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(field.to_le_bytes());
    }
    for step in steps::all() {
        if let Step::Frame { at_ms, bytes, .. } = step {
            let length = u32::try_from(bytes.len()).unwrap();
            let seconds = u32::try_from(at_ms / 1000).unwrap();
            let nanoseconds = u32::try_from(at_ms % 1000).unwrap() * 1_000_000;
            for field in [seconds, nanoseconds, length, length] {
                file.extend(field.to_le_bytes());
            }
            file.extend(bytes);
        }
    }
    file
}

fn outcomes(mut replay: Replay) -> Vec<Outcome> {
    let file = capture();
    let mut capture = Capture::new(file.as_slice()).unwrap();
    let mut outcomes = Vec::new();
    while let Some(packet) = capture.next_packet().unwrap() {
        outcomes.push(replay.captured(&packet).unwrap());
    }
    outcomes
}

#[test]
fn a_capture_has_the_same_outcomes_through_the_program_and_the_model() {
    let test = "a_capture_has_the_same_outcomes_through_the_program_and_the_model";
    let policy = policy(Kind::Usual);
    let by_model = outcomes(Replay::through_model(&policy, &rules()).unwrap());
    let reasons: BTreeSet<Reason> = by_model
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Judged(reason) => Some(*reason),
            Outcome::Cut | Outcome::Size => None,
        })
        .collect();
    assert!(by_model.len() > 300 && reasons.len() > 25, "{reasons:?}");
    match Replay::through_program(&policy, &rules()) {
        Ok(replay) => {
            assert_eq!(replay.judge(), "program");
            let by_program = outcomes(replay);
            let differs = by_model
                .iter()
                .zip(&by_program)
                .position(|(model, program)| model != program);
            assert_eq!((differs, by_program.len()), (None, by_model.len()));
        }
        Err(ReplayError::Program(error)) if is_for_want_of_privilege(&error) => {
            assert!(
                !kit::is_required(),
                "{test}: {error}, and STOQ_REQUIRE_PRIVILEGED=1"
            );
            eprintln!("SKIPPED: {test}: the program's part: {error}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_a_capture_cut_off_and_what_no_nic_gives_is_not_guessed() {
    let mut replay = Replay::through_model(&policy(Kind::Usual), &Rules::new()).unwrap();
    let mut packet = Captured {
        at_ns: 1,
        frame: vec![0; 60],
        missing: 1,
    };
    assert_eq!(replay.captured(&packet).unwrap(), Outcome::Cut);
    packet.missing = 0;
    packet.frame = vec![0; 65_000];
    assert_eq!(replay.captured(&packet).unwrap(), Outcome::Size);
    packet.frame = vec![0; 13];
    assert_eq!(replay.captured(&packet).unwrap(), Outcome::Size);
}
