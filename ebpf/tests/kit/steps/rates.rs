//! Budgets, shedding, and who is spared.

use stoq_ebpf::abi::Reason;

use super::{Script, Step, ours};
use crate::kit::{
    frame::{HANDSHAKE, INITIAL, Packet, VERSION_1, ZERO_RTT, initial, long, short},
    scene::{OTHER, PUBLIC},
};

/// Which of twelve newcomers are shed where half are: no more than what this key makes of them, so found by running.
const HALF: [bool; 12] = [
    false, true, false, false, true, true, false, true, true, false, false, true,
];

pub(super) fn budgets(s: &mut Script) {
    let datagrams = [
        (Reason::Initial, PUBLIC, Some(initial(&[1; 8], 1200))),
        (
            Reason::Token,
            OTHER,
            Some(long(
                VERSION_1,
                INITIAL,
                &[1; 8],
                &[7; 8],
                Some(&[9; 20]),
                1200,
            )),
        ),
        (
            Reason::Long,
            OTHER,
            Some(long(VERSION_1, ZERO_RTT, &[1; 8], &[7; 8], None, 300)),
        ),
        (Reason::Short, PUBLIC, Some(short(&ours(1), 80))),
        (Reason::Syn, PUBLIC, None),
    ];
    for (class, (passed, port, payload)) in (0..).zip(datagrams) {
        let packet = |source: &str| match &payload {
            Some(payload) => Packet::udp(source, port, payload),
            None => Packet::tcp(source, PUBLIC, 2),
        };
        let of = |first: Reason| Reason::from_number(first.number() + class).unwrap();
        let word = passed.word();
        s.later();
        for _ in 0..5 {
            s.frame(
                passed,
                &format!("{word} within the budget of its source"),
                &packet("192.0.2.1"),
            );
        }
        s.frame(
            of(Reason::SourceInitial),
            &format!("{word} over the budget of its source"),
            &packet("192.0.2.1"),
        );
        for host in 2..5 {
            s.frame(
                passed,
                &format!("{word} of a neighbour"),
                &packet(&format!("192.0.2.{host}")),
            );
        }
        s.frame(
            of(Reason::PrefixInitial),
            &format!("{word} over the budget of its prefix"),
            &packet("192.0.2.9"),
        );
        s.frame(
            of(Reason::PrefixInitial),
            &format!("{word} over the budget of its prefix, which is no retransmission"),
            &packet("192.0.2.9"),
        );
        for net in 1..=12 {
            s.frame(
                passed,
                &format!("{word} of another network"),
                &packet(&format!("2001:db8:10{net:02}::1")),
            );
        }
        s.frame(
            of(Reason::GlobalInitial),
            &format!("{word} over the budget of all"),
            &packet("2001:db8:2000::1"),
        );
        // A budget comes back at its rate: 10 a second for a source.
        s.after(100);
        s.frame(
            passed,
            &format!("{word} a tenth of a second later"),
            &packet("192.0.2.1"),
        );
        s.frame(
            of(Reason::SourceInitial),
            &format!("{word} at once again"),
            &packet("192.0.2.1"),
        );
    }
    // Whatever comes without an ID of ours, the handshakes that we answered go on, each source within its own budget.
    s.later();
    for net in 1..=20 {
        s.frame(
            Reason::Long,
            "the budget of all of long headers",
            &Packet::udp(
                &format!("198.18.{net}.1"),
                OTHER,
                &long(VERSION_1, ZERO_RTT, &[1; 8], &[7; 8], None, 300),
            ),
        );
    }
    s.frame(
        Reason::GlobalLong,
        "and beyond it",
        &Packet::udp(
            "192.0.2.60",
            OTHER,
            &long(VERSION_1, HANDSHAKE, &[1; 8], &[7; 8], None, 300),
        ),
    );
    let answered = [
        long(VERSION_1, HANDSHAKE, &ours(1), &[7; 8], None, 300),
        initial(&ours(2), 1200),
        long(VERSION_1, INITIAL, &ours(3), &[7; 8], Some(&[9; 60]), 1200),
    ];
    for nth in 0..5 {
        s.udp(
            Reason::Long,
            "a handshake that we answered goes on",
            "192.0.2.60",
            &answered[nth % answered.len()],
        );
    }
    s.udp(
        Reason::SourceLong,
        "a handshake that we answered has the budget of its source",
        "192.0.2.60",
        &answered[0],
    );
    s.later();
    for host in 1..=5 {
        s.udp(
            Reason::Initial,
            "addresses of a /64 are one source",
            &format!("2001:db8:1:1::{host}"),
            &initial(&[1; 8], 1200),
        );
    }
    s.udp(
        Reason::SourceInitial,
        "and use up its budget",
        "2001:db8:1:1::6",
        &initial(&[1; 8], 1200),
    );
    s.udp(
        Reason::Initial,
        "another /64 has its own",
        "2001:db8:1:2::1",
        &initial(&[1; 8], 1200),
    );
    s.frame(
        Reason::Initial,
        "the same at another port is one budget",
        &Packet::udp("2001:db8:1:2::1", OTHER, &initial(&[1; 8], 1200)),
    );
}

pub(super) fn mercy(s: &mut Script) {
    let newcomer = |id: u8| initial(&[id; 8], 1200);
    s.shed = 65_536;
    s.later();
    s.udp(Reason::Shed, "shed", "192.0.2.10", &newcomer(1));
    let with_token = |id: &[u8]| long(VERSION_1, INITIAL, id, &[7; 8], Some(&[9; 20]), 1200);
    s.udp(
        Reason::Shed,
        "a token that we did not send spares nobody",
        "192.0.2.12",
        &with_token(&[1; 8]),
    );
    s.udp(
        Reason::Long,
        "with an ID of a Retry none is shed",
        "192.0.2.12",
        &with_token(&ours(4)),
    );
    s.frame(
        Reason::Token,
        "with a token none is shed at a port without keys",
        &Packet::udp("192.0.2.12", OTHER, &with_token(&[1; 8])),
    );
    s.udp(
        Reason::Short,
        "established none is shed",
        "192.0.2.10",
        &short(&ours(1), 80),
    );
    s.udp(
        Reason::Shed,
        "an unknown version is a newcomer",
        "192.0.2.10",
        &long(0x1a2a_3a4a, 2, &[2; 8], &[7; 8], None, 1200),
    );
    s.after(160);
    s.udp(
        Reason::Shed,
        "repeated too early",
        "192.0.2.10",
        &newcomer(1),
    );
    s.udp(
        Reason::Shed,
        "repeated by another source",
        "192.0.2.11",
        &newcomer(1),
    );
    s.after(80);
    s.udp(
        Reason::Retransmission,
        "repeated",
        "192.0.2.10",
        &newcomer(1),
    );
    s.udp(
        Reason::Shed,
        "repeated to another ID",
        "192.0.2.10",
        &newcomer(3),
    );
    s.after(3_700);
    s.udp(
        Reason::Retransmission,
        "repeated for nearly four seconds",
        "192.0.2.10",
        &newcomer(1),
    );
    s.after(120);
    s.udp(
        Reason::Shed,
        "repeated after four seconds",
        "192.0.2.10",
        &newcomer(1),
    );
    s.after(400);
    s.udp(
        Reason::Retransmission,
        "and counted anew",
        "192.0.2.10",
        &newcomer(1),
    );

    s.later();
    s.steps.push(Step::Validate {
        source: "192.0.2.20",
        until_ms: s.now_ms + 10_000,
    });
    s.steps.push(Step::Validate {
        source: "2001:db8:20::1",
        until_ms: s.now_ms + 10_000,
    });
    for _ in 0..5 {
        s.udp(
            Reason::Validated,
            "a validated source",
            "192.0.2.20",
            &newcomer(1),
        );
    }
    s.udp(
        Reason::SourceInitial,
        "a validated source has a budget",
        "192.0.2.20",
        &newcomer(1),
    );
    s.udp(
        Reason::Validated,
        "another address of a validated /64",
        "2001:db8:20::2",
        &newcomer(1),
    );
    s.after(10_000);
    s.udp(
        Reason::Shed,
        "a validation that ended",
        "192.0.2.20",
        &newcomer(7),
    );

    // Retransmissions have a budget together: three at once.
    s.later();
    for host in 1..=4 {
        s.udp(
            Reason::Shed,
            "many newcomers",
            &format!("198.18.{host}.1"),
            &newcomer(1),
        );
    }
    s.after(1_000);
    for host in 1..=3 {
        s.udp(
            Reason::Retransmission,
            "many repeat",
            &format!("198.18.{host}.1"),
            &newcomer(1),
        );
    }
    s.udp(
        Reason::Shed,
        "one too many repeats",
        "198.18.4.1",
        &newcomer(1),
    );

    // And each source has one: what it repeats without end is not at the others' cost.
    s.later();
    for id in 1..=4 {
        s.udp(
            Reason::Shed,
            "a newcomer with many IDs",
            "198.18.1.1",
            &newcomer(id),
        );
    }
    s.udp(Reason::Shed, "another newcomer", "198.18.2.1", &newcomer(1));
    s.after(1_000);
    for id in 1..=2 {
        s.udp(
            Reason::Retransmission,
            "many IDs are repeated",
            "198.18.1.1",
            &newcomer(id),
        );
    }
    for id in [3, 4, 1, 1] {
        s.udp(
            Reason::Shed,
            "more than one source may repeat",
            "198.18.1.1",
            &newcomer(id),
        );
    }
    s.udp(
        Reason::Retransmission,
        "another newcomer repeats",
        "198.18.2.1",
        &newcomer(1),
    );

    // One in two is shed, the same ones each time.
    s.shed = 32_768;
    s.later();
    for (id, is_shed) in (1..).zip(HALF) {
        let expected = if is_shed {
            Reason::Shed
        } else {
            Reason::Initial
        };
        let name = format!("half are shed: newcomer {id}");
        s.udp(
            expected,
            &name,
            &format!("198.18.{}.1", 100 + id),
            &newcomer(id),
        );
    }

    s.shed = 0;
    s.later();
    for net in 1..=20 {
        s.udp(
            Reason::Initial,
            "the budget of all",
            &format!("198.19.{net}.1"),
            &newcomer(1),
        );
    }
    s.steps.push(Step::Validate {
        source: "192.0.2.30",
        until_ms: s.now_ms + 10_000,
    });
    s.udp(
        Reason::Validated,
        "a validated source beyond the budget of all",
        "192.0.2.30",
        &newcomer(1),
    );
    s.udp(
        Reason::GlobalInitial,
        "a newcomer beyond the budget of all",
        "192.0.2.31",
        &newcomer(1),
    );
    s.after(250);
    for net in 1..=20 {
        s.udp(
            Reason::Initial,
            "the budget of all again",
            &format!("198.19.{}.1", 100 + net),
            &newcomer(1),
        );
    }
    s.udp(
        Reason::Retransmission,
        "a newcomer repeats beyond the budget of all",
        "192.0.2.31",
        &newcomer(1),
    );

    s.later();
    for host in 1..=8 {
        s.udp(
            Reason::Initial,
            "the budget of a prefix",
            &format!("198.51.100.{host}"),
            &newcomer(1),
        );
    }
    s.udp(
        Reason::PrefixInitial,
        "a newcomer beyond the budget of its prefix",
        "198.51.100.9",
        &newcomer(1),
    );
    s.after(250);
    for host in 11..=15 {
        s.udp(
            Reason::Initial,
            "the budget of a prefix again",
            &format!("198.51.100.{host}"),
            &newcomer(1),
        );
    }
    s.udp(
        Reason::Retransmission,
        "a newcomer repeats beyond the budget of its prefix",
        "198.51.100.9",
        &newcomer(1),
    );

    // Somebody sends in the name of a source that is known: random IDs, none of which he repeats.
    s.later();
    s.steps.push(Step::Validate {
        source: "192.0.2.40",
        until_ms: s.now_ms + 10_000,
    });
    let mut spoofed = 100;
    let mut fill = |s: &mut Script, passes: u32| {
        for nth in 0..=passes {
            spoofed += 1;
            let (expected, name) = if nth < passes {
                (Reason::Initial, "the budget of a source")
            } else {
                (Reason::SourceInitial, "the budget of a source is used up")
            };
            s.udp(expected, name, "192.0.2.40", &newcomer(spoofed));
        }
    };
    fill(s, 5);
    s.udp(
        Reason::SourceInitial,
        "whose budget others have used up",
        "192.0.2.40",
        &newcomer(1),
    );
    s.after(250);
    fill(s, 2);
    s.udp(
        Reason::Retransmission,
        "repeats, and comes in",
        "192.0.2.40",
        &newcomer(1),
    );
}
