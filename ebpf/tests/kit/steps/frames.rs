//! Below QUIC: what is ours at all, what the layers say, and the rules.

use stoq_ebpf::abi::Reason;

use super::{Script, Step};
use crate::kit::{
    frame::{
        AUTHENTICATION, DESTINATION, HOP_BY_HOP, Packet, ROUTING, TCP, UDP, initial, tcp, udp_with,
    },
    scene::{Kind, OTHER, PUBLIC, SSH},
};

pub(super) fn off_and_stale(s: &mut Script) {
    let client = Packet::udp("198.51.100.1", PUBLIC, &initial(&[1; 8], 1200));
    let denied = Packet::udp("10.6.0.1", PUBLIC, &[]);
    s.frame(Reason::Off, "no settings", &client);
    s.steps.push(Step::Settings {
        slot: 0,
        kind: Kind::Foreign,
    });
    s.frame(Reason::Off, "settings of another version", &client);
    s.steps.push(Step::Settings {
        slot: 0,
        kind: Kind::Usual,
    });
    s.frame(Reason::Stale, "no heartbeat yet", &client);
    s.control();
    s.frame(Reason::Initial, "a client", &client);
    s.now_ms += 1500;
    s.frame(Reason::Denied, "a heartbeat of the greatest age", &denied);
    s.now_ms += 1;
    s.frame(Reason::Stale, "a heartbeat too old", &denied);
    s.frame(
        Reason::Stale,
        "a heartbeat too old for a chain",
        &Packet::udp("2001:db8::1", PUBLIC, b"x").extensions(9),
    );
    s.now_ms -= 10_000;
    s.frame(Reason::Stale, "a heartbeat far ahead of the clock", &denied);
    s.now_ms += 10_000;
}

pub(super) fn not_ours(s: &mut Script) {
    s.later();
    let good = initial(&[1; 8], 1200);
    s.bytes(
        Reason::NotOurs,
        "ARP",
        [&[0xff; 12][..], &[0x08, 0x06], &[0; 46]].concat(),
    );
    s.bytes(
        Reason::NotOurs,
        "802.3 with a length",
        [&[1; 12][..], &[0x00, 0x2e], &[0; 46]].concat(),
    );
    s.bytes(
        Reason::NotOurs,
        "an Ethernet header alone",
        [&[1; 12][..], &[0x08, 0x00]].concat(),
    );
    s.bytes(
        Reason::NotOurs,
        "a tag and nothing behind it",
        [&[1; 12][..], &[0x81, 0x00, 0, 7]].concat(),
    );
    s.frame(
        Reason::NotOurs,
        "SSH",
        &Packet::tcp("198.51.100.1", SSH, 0x02),
    );
    s.frame(
        Reason::NotOurs,
        "SSH from a denied source",
        &Packet::tcp("10.6.0.1", SSH, 0x02),
    );
    s.frame(
        Reason::NotOurs,
        "TCP to a port of UDP only",
        &Packet::tcp("198.51.100.1", OTHER, 0x02),
    );
    s.frame(
        Reason::NotOurs,
        "an answer of a name server",
        &Packet::udp("198.51.100.1", 40_000, b"x"),
    );
    s.frame(
        Reason::NotOurs,
        "ICMP",
        &Packet::new("198.51.100.1".parse().unwrap(), 1, vec![8; 64]),
    );
    s.frame(
        Reason::NotOurs,
        "ICMPv6",
        &Packet::new("2001:db8::1".parse().unwrap(), 58, vec![8; 64]),
    );
    s.frame(
        Reason::NotOurs,
        "ESP",
        &Packet::new("2001:db8::1".parse().unwrap(), 50, vec![8; 64]),
    );
    s.frame(
        Reason::NotOurs,
        "nothing behind the extension headers",
        &Packet::new("2001:db8::1".parse().unwrap(), 59, vec![]).extensions(2),
    );
    let whole = Packet::udp("198.51.100.1", PUBLIC, &good).bytes();
    s.bytes(
        Reason::NotOurs,
        "cut in the IPv4 header",
        whole[..33].to_vec(),
    );
    s.bytes(Reason::NotOurs, "cut in the ports", whole[..37].to_vec());
    let mut wrong = whole.clone();
    wrong[14] = 0x44;
    s.bytes(Reason::NotOurs, "an IPv4 header of 16 bytes", wrong);
    let mut wrong = whole;
    wrong[14] = 0x65;
    s.bytes(Reason::NotOurs, "version 6 where version 4 belongs", wrong);
    s.frame(
        Reason::NotOurs,
        "IPv4 shorter than its header",
        &Packet::udp("198.51.100.1", PUBLIC, &good).ip_length(19),
    );
    let whole = Packet::udp("2001:db8::1", PUBLIC, &good).bytes();
    s.bytes(
        Reason::NotOurs,
        "cut in the IPv6 header",
        whole[..53].to_vec(),
    );
    let mut wrong = whole;
    wrong[14] = 0x45;
    s.bytes(Reason::NotOurs, "version 4 where version 6 belongs", wrong);
    let whole = Packet::udp("2001:db8::1", PUBLIC, &good)
        .extensions(2)
        .bytes();
    s.bytes(
        Reason::NotOurs,
        "cut in an extension header",
        whole[..69].to_vec(),
    );
    s.frame(
        Reason::NotOurs,
        "three tags",
        &Packet::udp("198.51.100.1", PUBLIC, b"")
            .vlan(0x88a8)
            .vlan(0x8100)
            .vlan(0x8100),
    );
    s.frame(
        Reason::NotOurs,
        "a later fragment",
        &Packet::udp("198.51.100.1", PUBLIC, &good).fragment(185, false),
    );
    s.frame(
        Reason::NotOurs,
        "a later fragment of IPv6",
        &Packet::udp("2001:db8::1", PUBLIC, &good).fragment(185, true),
    );
}

pub(super) fn layers(s: &mut Script) {
    s.later();
    let empty = |source: &str| Packet::udp(source, PUBLIC, b"");
    let (v4, v6) = ("198.51.100.1", "2001:db8::1");
    for (family, source) in [("IPv4", v4), ("IPv6", v6)] {
        let name = |rest: &str| format!("{family} {rest}");
        s.frame(Reason::Empty, &name("UDP without payload"), &empty(source));
        s.frame(
            Reason::Empty,
            &name("padded by Ethernet"),
            &empty(source).padding(18),
        );
        s.frame(
            Reason::Empty,
            &name("behind a tag"),
            &empty(source).vlan(0x8100),
        );
        s.frame(
            Reason::Empty,
            &name("behind a provider's tag"),
            &empty(source).vlan(0x88a8),
        );
        s.frame(
            Reason::Empty,
            &name("behind two tags"),
            &empty(source).vlan(0x88a8).vlan(0x8100),
        );
        s.frame(
            Reason::Empty,
            &name("behind two customer's tags"),
            &empty(source).vlan(0x8100).vlan(0x8100),
        );
        let udp = |length| {
            Packet::new(
                source.parse().unwrap(),
                UDP,
                udp_with(PUBLIC, &[0x40; 64], Some(length)),
            )
        };
        s.frame(Reason::Truncated, &name("UDP of seven bytes"), &udp(7));
        s.frame(Reason::Truncated, &name("UDP of no length"), &udp(0));
        s.frame(
            Reason::Empty,
            &name("UDP of eight bytes and more behind"),
            &udp(8),
        );
        s.frame(
            Reason::ShortSmall,
            &name("UDP that ends before its packet"),
            &udp(40),
        );
        s.frame(
            Reason::Truncated,
            &name("UDP longer than its packet"),
            &udp(73),
        );
        s.frame(
            Reason::Truncated,
            &name("UDP of the greatest length"),
            &udp(65_535),
        );
        s.frame(
            Reason::Truncated,
            &name("UDP into the padding"),
            &udp(73).padding(64),
        );
        let cut = empty(source).bytes();
        s.bytes(
            Reason::Truncated,
            &name("ports and no more"),
            cut[..cut.len() - 4].to_vec(),
        );
        let mut tcp_cut = Packet::tcp(source, PUBLIC, 0x02).bytes();
        tcp_cut.pop();
        s.bytes(Reason::Truncated, &name("TCP in part"), tcp_cut);
        s.frame(
            Reason::Truncated,
            &name("TCP header longer than its packet"),
            &Packet::new(source.parse().unwrap(), TCP, tcp(PUBLIC, 2))
                .ip_length(if family == "IPv4" { 39 } else { 19 }),
        );
        for (what, flags) in [
            ("SYN and ACK", 0x12),
            ("ACK", 0x10),
            ("RST", 0x04),
            ("no flag", 0),
            ("FIN, PSH and URG", 0x29),
        ] {
            s.frame(
                Reason::Tcp,
                &name(what),
                &Packet::tcp(source, PUBLIC, flags),
            );
        }
        s.frame(
            Reason::Syn,
            &name("SYN"),
            &Packet::tcp(source, PUBLIC, 0x02),
        );
        s.frame(
            Reason::Syn,
            &name("SYN with ECN"),
            &Packet::tcp(source, PUBLIC, 0xc2),
        );
        s.frame(
            Reason::Fragment,
            &name("first fragment"),
            &Packet::udp(source, PUBLIC, &[0x40; 64]).fragment(0, true),
        );
        s.frame(
            Reason::Fragment,
            &name("first fragment of TCP"),
            &Packet::tcp(source, PUBLIC, 0x10).fragment(0, true),
        );
        s.frame(
            Reason::NotOurs,
            &name("first fragment to another port"),
            &Packet::tcp(source, SSH, 0x10).fragment(0, true),
        );
    }
    for words in 1..=10 {
        s.frame(
            Reason::Empty,
            &format!("{words} words of options"),
            &empty(v4).options(words),
        );
    }
    s.frame(
        Reason::Truncated,
        "IPv4 that ends before UDP does",
        &empty(v4).ip_length(27),
    );
    s.frame(
        Reason::Truncated,
        "IPv6 that ends before UDP does",
        &empty(v6).ip_length(7),
    );
    s.frame(
        Reason::Empty,
        "IPv6 of no length is as long as the frame",
        &empty(v6).ip_length(0),
    );
    s.frame(
        Reason::Empty,
        "an atomic fragment is a whole packet",
        &empty(v6).fragment(0, false),
    );
    for count in 1..=8 {
        s.frame(
            Reason::Empty,
            &format!("{count} extension headers"),
            &empty(v6).extensions(count),
        );
    }
    s.frame(
        Reason::Chain,
        "9 extension headers",
        &empty(v6).extensions(9),
    );
    s.frame(
        Reason::Chain,
        "100 extension headers",
        &empty(v6).extensions(100),
    );
    s.frame(
        Reason::Empty,
        "one of each extension header",
        &empty(v6)
            .extension(HOP_BY_HOP, &[0; 14])
            .extension(DESTINATION, &[0; 6])
            .extension(ROUTING, &[0; 22])
            .fragment(0, false)
            .extension(AUTHENTICATION, &[0; 22]),
    );
    s.frame(
        Reason::Fragment,
        "a fragment among extension headers",
        &empty(v6)
            .extension(HOP_BY_HOP, &[0; 6])
            .fragment(0, true)
            .extension(DESTINATION, &[0; 6]),
    );
    s.frame(
        Reason::Empty,
        "an extension header of 1032 bytes",
        &empty(v6).extension(DESTINATION, &[0; 1030]),
    );
    s.frame(
        Reason::Truncated,
        "extension headers longer than their packet",
        &empty(v6).extension(DESTINATION, &[0; 62]).ip_length(32),
    );
    s.frame(
        Reason::NotOurs,
        "an extension header longer than the frame",
        &Packet {
            extensions: vec![(DESTINATION, vec![255; 6])],
            ..Packet::new(v6.parse().unwrap(), 255, vec![])
        },
    );
}

pub(super) fn rules(s: &mut Script) {
    s.later();
    for (expected, source) in [
        (Reason::Denied, "10.6.0.1"),
        (Reason::Allowed, "10.6.6.1"),
        (Reason::Denied, "10.6.6.6"),
        (Reason::Denied, "2001:db8:6::1"),
        (Reason::Allowed, "2001:db8:6:6::1"),
        (Reason::Empty, "10.7.0.1"),
    ] {
        s.udp(expected, &format!("a rule for {source}"), source, b"");
        s.frame(
            if expected == Reason::Empty {
                Reason::Fragment
            } else {
                expected
            },
            &format!("a rule for fragments of {source}"),
            &Packet::udp(source, PUBLIC, b"x").fragment(0, true),
        );
        s.frame(
            if expected == Reason::Empty {
                Reason::Syn
            } else {
                expected
            },
            &format!("a rule for TCP of {source}"),
            &Packet::tcp(source, PUBLIC, 2),
        );
    }
    let newcomer = |id| initial(&[id; 8], 1200);
    s.udp(
        Reason::Initial,
        "a lowered budget",
        "10.7.1.1",
        &newcomer(1),
    );
    s.udp(
        Reason::PrefixInitial,
        "a lowered budget used up by a neighbour",
        "10.7.1.2",
        &newcomer(2),
    );
    s.udp(
        Reason::Initial,
        "a lowered budget of IPv6",
        "2001:db8:7:1::1",
        &newcomer(1),
    );
    s.udp(
        Reason::PrefixInitial,
        "a lowered budget of IPv6 used up by a neighbour",
        "2001:db8:7:2::1",
        &newcomer(2),
    );
    for _ in 0..10 {
        s.udp(
            Reason::Initial,
            "a profile without budgets",
            "10.8.1.1",
            &newcomer(3),
        );
    }
    s.udp(
        Reason::Initial,
        "a profile that is none is the first",
        "10.9.1.1",
        &newcomer(4),
    );
    s.udp(
        Reason::Initial,
        "an action that is none is a profile",
        "10.10.1.1",
        &newcomer(5),
    );
    s.udp(
        Reason::PrefixInitial,
        "and that profile is used",
        "10.10.1.2",
        &newcomer(6),
    );
}
