//! What the first bytes of a datagram say.

use stoq_ebpf::abi::Reason;

use super::{Script, Step, ours};
use crate::kit::{
    frame::{
        HANDSHAKE, INITIAL, Packet, RETRY, VERSION_1, VERSION_2, ZERO_RTT, initial, keyed_id, long,
        short,
    },
    scene::{KEYS, Kind, OTHER, PEERS, PUBLIC},
};

pub(super) fn stateless_long(s: &mut Script) {
    s.later();
    let from = "203.0.113.1";
    let (id, source_id) = ([1; 8], [7; 8]);
    s.udp(
        Reason::LongTruncated,
        "a long header of six bytes",
        from,
        &initial(&id, 6),
    );
    s.udp(
        Reason::LongTruncated,
        "a long header cut in its ID",
        from,
        &initial(&id, 13),
    );
    s.udp(
        Reason::LongTruncated,
        "a long header cut before the source ID",
        from,
        &initial(&id, 14),
    );
    s.udp(
        Reason::LongTruncated,
        "a long header cut in the source ID",
        from,
        &initial(&id, 22),
    );
    s.udp(
        Reason::InitialSmall,
        "a long header cut before the token",
        from,
        &initial(&id, 23),
    );
    s.udp(
        Reason::VersionZero,
        "version negotiation",
        from,
        &long(0, 0, &id, &source_id, None, 1200),
    );
    s.udp(
        Reason::CidLong,
        "an ID of 21 bytes",
        from,
        &initial(&[1; 21], 1200),
    );
    s.udp(
        Reason::CidLong,
        "an ID of 255 bytes",
        from,
        &initial(&[1; 255], 1200),
    );
    s.udp(
        Reason::CidLong,
        "a source ID of 21 bytes",
        from,
        &long(VERSION_1, INITIAL, &id, &[7; 21], Some(b""), 1200),
    );
    s.udp(
        Reason::VersionSmall,
        "an unknown version in 1199 bytes",
        from,
        &long(0x1a2a_3a4a, 0, &id, &source_id, None, 1199),
    );
    s.udp(
        Reason::CidShort,
        "an ID of seven bytes",
        from,
        &initial(&[1; 7], 1200),
    );
    s.udp(
        Reason::CidShort,
        "an Initial without ID",
        from,
        &initial(&[], 1200),
    );
    s.udp(
        Reason::InitialSmall,
        "an Initial in 1199 bytes",
        from,
        &initial(&id, 1199),
    );
    s.udp(
        Reason::Retry,
        "a Retry",
        from,
        &long(VERSION_1, RETRY, &id, &source_id, None, 1200),
    );
    s.udp(
        Reason::Retry,
        "a Retry of version 2",
        from,
        &long(VERSION_2, RETRY, &id, &source_id, None, 1200),
    );
    s.udp(
        Reason::CidTag,
        "a Handshake to an ID that is not ours",
        from,
        &long(VERSION_1, HANDSHAKE, &[1; 12], &source_id, None, 300),
    );
    s.udp(
        Reason::CidTag,
        "a Handshake to an ID of another length",
        from,
        &long(VERSION_1, HANDSHAKE, &id, &source_id, None, 300),
    );
    s.udp(
        Reason::CidTag,
        "a Handshake of version 2 to an ID that is not ours",
        from,
        &long(VERSION_2, HANDSHAKE, &[1; 12], &source_id, None, 300),
    );
    let mut datagram = initial(&id, 1200);
    datagram[23..25].copy_from_slice(&[0x7f, 0xff]);
    s.udp(
        Reason::LongTruncated,
        "a token longer than its datagram",
        from,
        &datagram,
    );
    datagram[23..31].copy_from_slice(&[0xff; 8]);
    s.udp(
        Reason::LongTruncated,
        "a token of the greatest length",
        from,
        &datagram,
    );
    s.later();
    s.udp(Reason::Initial, "an Initial", from, &initial(&id, 1200));
    s.udp(
        Reason::Initial,
        "an Initial to an ID of 20 bytes",
        from,
        &initial(&[1; 20], 1200),
    );
    s.udp(
        Reason::Initial,
        "an Initial of version 2",
        from,
        &long(VERSION_2, INITIAL, &id, &source_id, Some(b""), 1200),
    );
    s.udp(
        Reason::Initial,
        "an unknown version in 1200 bytes",
        from,
        &long(0x1a2a_3a4a, 2, &id, &source_id, None, 1200),
    );
    datagram[23..31].copy_from_slice(&[0xc0, 0, 0, 0, 0, 0, 0, 0]);
    s.udp(
        Reason::Initial,
        "no token, said in eight bytes",
        from,
        &datagram,
    );
    s.later();
    let other = |payload: &[u8]| Packet::udp(from, OTHER, payload);
    let with_token = long(VERSION_1, INITIAL, &id, &source_id, Some(&[9; 60]), 1200);
    s.frame(
        Reason::Token,
        "an Initial with a token",
        &other(&with_token),
    );
    s.udp(
        Reason::Initial,
        "an Initial with a token that is not of a Retry",
        from,
        &with_token,
    );
    s.udp(
        Reason::Long,
        "an Initial with a token and the ID of a Retry",
        from,
        &long(
            VERSION_1,
            INITIAL,
            &ours(4),
            &source_id,
            Some(&[9; 60]),
            1200,
        ),
    );
    s.frame(
        Reason::Token,
        "an Initial with a long token",
        &other(&long(
            VERSION_1,
            INITIAL,
            &id,
            &source_id,
            Some(&[9; 200]),
            1252,
        )),
    );
    datagram[23..31].copy_from_slice(&[0xc0, 0, 0, 0, 0, 0, 0, 1]);
    s.frame(
        Reason::Token,
        "a token with its length in eight bytes",
        &other(&datagram),
    );
    datagram[23..27].copy_from_slice(&[0x80, 0, 0, 1]);
    s.frame(
        Reason::Token,
        "a token with its length in four bytes",
        &other(&datagram),
    );
    s.later();
    let zero_rtt = long(VERSION_1, ZERO_RTT, &id, &source_id, None, 300);
    s.frame(Reason::Long, "0-RTT", &other(&zero_rtt));
    s.frame(
        Reason::Long,
        "0-RTT of a peer",
        &Packet::udp(from, PEERS, &zero_rtt),
    );
    s.frame(
        Reason::Token,
        "a peer with a token",
        &Packet::udp(from, PEERS, &with_token),
    );
    s.udp(
        Reason::CidTag,
        "0-RTT where none is offered",
        from,
        &zero_rtt,
    );
    s.udp(
        Reason::CidTag,
        "0-RTT of seven bytes where none is offered",
        from,
        &[0xd0, 0, 0, 0, 1, 0, 0],
    );
    s.udp(
        Reason::Long,
        "a Handshake",
        from,
        &long(VERSION_1, HANDSHAKE, &ours(1), &source_id, None, 300),
    );
    s.udp(
        Reason::Long,
        "a Handshake of version 2",
        from,
        &long(VERSION_2, HANDSHAKE, &ours(1), &source_id, None, 300),
    );
    s.udp(
        Reason::Long,
        "the rest of a handshake",
        from,
        &initial(&ours(2), 1200),
    );
    s.udp(
        Reason::Initial,
        "an Initial to an ID with a changed bit",
        from,
        &initial(
            &{
                let mut id = ours(2);
                id[4] ^= 1;
                id
            },
            1200,
        ),
    );

    s.later();
    let peers = |payload: &[u8]| Packet::udp(from, PEERS, payload);
    s.frame(
        Reason::Long,
        "version negotiation by a peer",
        &peers(&long(0, 0, &id, &source_id, None, 40)),
    );
    s.frame(
        Reason::Long,
        "a Retry by a peer",
        &peers(&long(VERSION_1, RETRY, &ours(3), &source_id, None, 80)),
    );
    s.frame(
        Reason::Long,
        "a peer's acknowledgement in a small Initial",
        &peers(&long(
            VERSION_1,
            INITIAL,
            &ours(3),
            &source_id,
            Some(b""),
            80,
        )),
    );
    s.frame(
        Reason::Initial,
        "a small Initial to a peer",
        &peers(&initial(&[5; 4], 80)),
    );
    s.frame(
        Reason::Initial,
        "a small Initial to a peer, cut behind its token",
        &peers(&initial(&[5; 4], 20)),
    );
    s.frame(
        Reason::LongTruncated,
        "a small Initial to a peer, cut before its token",
        &peers(&initial(&[5; 4], 19)),
    );
    s.frame(
        Reason::Long,
        "a Handshake at a port without keys",
        &Packet::udp(
            from,
            OTHER,
            &long(VERSION_1, HANDSHAKE, &[1; 12], &source_id, None, 300),
        ),
    );
}

pub(super) fn stateless_short(s: &mut Script) {
    s.later();
    let from = "203.0.113.2";
    s.udp(Reason::Short, "a short header", from, &short(&ours(1), 33));
    s.udp(
        Reason::Short,
        "a short header of another generation",
        from,
        &short(&keyed_id(KEYS[2], 2, 63, [9; 7]), 1200),
    );
    s.udp(
        Reason::Short,
        "a short header without the fixed bit",
        from,
        &{
            let mut it = short(&ours(1), 80);
            it[0] = 0;
            it
        },
    );
    s.udp(
        Reason::ShortSmall,
        "a short header of one byte",
        from,
        &[0x40],
    );
    s.udp(
        Reason::ShortSmall,
        "a short header of 32 bytes",
        from,
        &short(&ours(1), 32),
    );
    s.udp(
        Reason::CidTag,
        "a short header to an invented ID",
        from,
        &short(&[1; 12], 80),
    );
    s.udp(
        Reason::CidTag,
        "a short header of a generation without key",
        from,
        &short(&keyed_id([0; 16], 3, 1, [1; 7]), 80),
    );
    for byte in [0, 1, 7, 8, 11] {
        let mut id = ours(1);
        id[byte] ^= 0x20;
        s.udp(
            Reason::CidTag,
            &format!("an ID changed in byte {byte}"),
            from,
            &short(&id, 80),
        );
    }
    s.udp(Reason::CidTag, "garbage of 33 bytes", from, &[0x55; 33]);
    s.frame(
        Reason::Short,
        "a short header at a port without keys",
        &Packet::udp(from, OTHER, &short(&[], 21)),
    );
    s.frame(
        Reason::ShortSmall,
        "a short header of 20 bytes at a port without keys",
        &Packet::udp(from, OTHER, &short(&[], 20)),
    );
}

pub(super) fn strict(s: &mut Script) {
    s.steps.push(Step::Settings {
        slot: 1,
        kind: Kind::Strict,
    });
    s.slot = 1;
    s.later();
    let from = "203.0.113.3";
    s.udp(
        Reason::FixedBit,
        "a short header without the fixed bit, strict",
        from,
        &{
            let mut it = short(&ours(1), 80);
            it[0] = 0;
            it
        },
    );
    s.udp(
        Reason::FixedBit,
        "a long header without the fixed bit, strict",
        from,
        &{
            let mut it = initial(&[1; 8], 1200);
            it[0] = 0x80;
            it
        },
    );
    s.frame(
        Reason::Short,
        "a peer may grease the fixed bit",
        &Packet::udp(from, PEERS, &{
            let mut it = short(&ours(1), 80);
            it[0] = 0;
            it
        }),
    );
    s.frame(
        Reason::ChainDropped,
        "9 extension headers, strict",
        &Packet::udp("2001:db8::1", PUBLIC, b"").extensions(9),
    );
    s.frame(
        Reason::Empty,
        "8 extension headers, strict",
        &Packet::udp("2001:db8::1", PUBLIC, b"").extensions(8),
    );
    s.steps.push(Step::Settings {
        slot: 0,
        kind: Kind::DryRun,
    });
    s.slot = 0;
    s.later();
    s.udp(Reason::CidTag, "a dry run", from, &short(&[1; 12], 80));
    s.udp(
        Reason::Denied,
        "a dry run of a denied source",
        "10.6.0.1",
        &short(&[1; 12], 80),
    );
    s.steps.push(Step::Settings {
        slot: 1,
        kind: Kind::Usual,
    });
    s.slot = 1;
    s.later();
    s.udp(
        Reason::CidTag,
        "after a dry run",
        from,
        &short(&[1; 12], 80),
    );
}
