//! Both limiters, behind their trait, and the same datagrams.

use std::{net::IpAddr, time::Duration};

use stoq_ebpf::{
    AtSocket, Counters, Limiter, Limits, Policy, Port, Rate, RuleEdit, Treatment, abi::Reason,
};

use crate::{
    attached::ample,
    lab::{
        Asker, CLIENT_V4, CLIENT_V6, Lab, SERVER_V4, SERVER_V6, initial, short_header, wait_for,
    },
    owner::{Order, Owner},
};

const OURS: u16 = 443;

/// A step of the script: who sends what, and what becomes of it.
struct Step {
    is_v6: bool,
    payload: Vec<u8>,
    reason: Reason,
}

fn step(payload: Vec<u8>, reason: Reason) -> Step {
    Step {
        is_v6: false,
        payload,
        reason,
    }
}

fn policy() -> Policy {
    let mut profiles = [ample(); 4];
    // Two at once and one an hour, so that no time that passes meanwhile changes anything.
    profiles[1].source.initial = Some(Rate {
        per_second: 1,
        burst: 2,
    });
    Policy {
        ports: vec![Port {
            port: OURS,
            udp: true,
            tcp: false,
            peers: false,
            keyed: false,
        }],
        profiles,
        global: Limits::default(),
        hash_key: [5, 6],
        ..Policy::default()
    }
}

fn with_token() -> Vec<u8> {
    let mut packet = initial(9);
    // A token of 8 bytes in front of the length.
    packet[23] = 8;
    packet[32..34].copy_from_slice(&(0x4000_u16 + 1200 - 34).to_be_bytes());
    packet
}

fn script() -> Vec<Step> {
    let mut version_zero = initial(1);
    version_zero[1..5].copy_from_slice(&[0; 4]);
    let mut long_cid = initial(1);
    long_cid[5] = 21;
    let mut retry = initial(1);
    retry[0] = 0xf0;
    let mut handshake = initial(1);
    handshake[0] = 0xe0;
    let mut unknown_version = initial(1);
    unknown_version[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
    unknown_version.truncate(100);
    let mut small = initial(1);
    small.truncate(1199);
    let mut script = vec![
        step(initial(1), Reason::Initial),
        step(with_token(), Reason::Token),
        step(handshake, Reason::Long),
        step(short_header(), Reason::Short),
        step(Vec::new(), Reason::Empty),
        step(small, Reason::InitialSmall),
        step(version_zero, Reason::VersionZero),
        step(long_cid, Reason::CidLong),
        step(retry, Reason::Retry),
        step(unknown_version, Reason::VersionSmall),
        step(vec![0x40; 5], Reason::ShortSmall),
    ];
    script.push(Step {
        is_v6: true,
        payload: initial(1),
        reason: Reason::Initial,
    });
    script
}

fn rules(treatment: Option<Treatment>) -> Vec<RuleEdit> {
    [format!("{CLIENT_V4}/32"), format!("{CLIENT_V6}/128")]
        .iter()
        .map(|prefix| (prefix.parse().unwrap(), treatment))
        .collect()
}

/// A limiter that is driven: through the trait, or through the owner that has it behind the trait.
trait Driven {
    fn edit_rules(&mut self, edits: Vec<RuleEdit>);
    fn shed(&mut self, level: u32);
    fn validate(&mut self, source: IpAddr);
    fn datagram(&mut self, is_v6: bool, payload: &[u8]);
    fn counters(&mut self) -> Counters;
}

/// At the socket: whatever implements the trait is asked about each datagram.
struct Asked<'a>(&'a dyn Limiter);

impl Driven for Asked<'_> {
    fn edit_rules(&mut self, edits: Vec<RuleEdit>) {
        self.0.edit_rules(&edits).unwrap();
    }
    fn shed(&mut self, level: u32) {
        self.0.beat(level).unwrap();
    }
    fn validate(&mut self, source: IpAddr) {
        assert_eq!(
            self.0.validate(&[source], Duration::from_secs(60)).unwrap(),
            0
        );
    }
    fn datagram(&mut self, is_v6: bool, payload: &[u8]) {
        let from = if is_v6 { CLIENT_V6 } else { CLIENT_V4 };
        self.0.judge(from.parse().unwrap(), OURS, payload);
    }
    fn counters(&mut self) -> Counters {
        self.0.counters().unwrap()
    }
}

/// In the kernel: the owner calls the same trait, and datagrams are sent.
struct Sent {
    owner: Owner,
    v4: Asker,
    v6: Asker,
}

impl Driven for Sent {
    fn edit_rules(&mut self, edits: Vec<RuleEdit>) {
        self.owner.do_it(&Order::EditRules(edits));
    }
    fn shed(&mut self, level: u32) {
        self.owner.do_it(&Order::Shed(level));
    }
    fn validate(&mut self, source: IpAddr) {
        let refused: usize = self
            .owner
            .ask(&Order::Validate(vec![source], 60_000))
            .unwrap();
        assert_eq!(refused, 0);
    }
    fn datagram(&mut self, is_v6: bool, payload: &[u8]) {
        let asker = if is_v6 { &self.v6 } else { &self.v4 };
        asker.send(payload);
    }
    fn counters(&mut self) -> Counters {
        self.owner.counters()
    }
}

/// Plays the script. What becomes of each datagram is what the counters say of it.
fn play(limiter: &mut dyn Driven) -> Vec<(Reason, u64)> {
    let mut seen = Vec::new();
    let mut expect = |limiter: &mut dyn Driven, step: &Step| {
        let before = limiter.counters();
        limiter.datagram(step.is_v6, &step.payload);
        wait_for(&format!("a datagram to be {}", step.reason), || {
            let now = limiter.counters();
            now.of(step.reason).packets == before.of(step.reason).packets + 1
        });
        seen.push((step.reason, step.payload.len() as u64));
    };
    for step in script() {
        expect(limiter, &step);
    }
    limiter.edit_rules(rules(Some(Treatment::Deny)));
    for step in script() {
        expect(
            limiter,
            &Step {
                reason: Reason::Denied,
                ..step
            },
        );
    }
    limiter.edit_rules(rules(Some(Treatment::Allow)));
    for step in script() {
        expect(
            limiter,
            &Step {
                reason: Reason::Allowed,
                ..step
            },
        );
    }
    limiter.edit_rules(rules(None));
    limiter.shed(65_536);
    expect(limiter, &step(initial(20), Reason::Shed));
    expect(limiter, &step(with_token(), Reason::Token));
    limiter.validate(CLIENT_V4.parse().unwrap());
    expect(limiter, &step(initial(21), Reason::Validated));
    expect(
        limiter,
        &Step {
            is_v6: true,
            payload: initial(22),
            reason: Reason::Shed,
        },
    );
    limiter.shed(0);
    expect(limiter, &step(initial(23), Reason::Initial));
    seen
}

pub(crate) fn both_limiters_judge_the_same_datagrams_alike() {
    let lab = Lab::new();
    // Somebody has to listen, or the kernel's answers would be counted by nobody but mislead a reader.
    let _v4 = lab.server.udp(&format!("[::]:{OURS}"));
    let mut owner = Owner::start(&lab.server, "443");
    owner.enable(&policy(), &[]);
    let mut in_kernel = Sent {
        owner,
        v4: Asker::new(&lab, SERVER_V4.parse().unwrap(), OURS),
        v6: Asker::new(&lab, SERVER_V6.parse().unwrap(), OURS),
    };
    let at_socket = AtSocket::new(&policy()).unwrap();
    let first = play(&mut in_kernel);
    let second = play(&mut Asked(&at_socket));
    assert_eq!(first, second);
    // And nothing else was counted by either.
    let (kernel, socket) = (in_kernel.counters(), at_socket.counters().unwrap());
    for reason in Reason::ALL {
        if reason != Reason::NotOurs {
            assert_eq!(
                kernel.of(reason).packets,
                socket.of(reason).packets,
                "{reason}"
            );
        }
    }
}
