//! What STOQ costs beside what it stands on and what it replaces: plain quinn, and TCP with TLS 1.3 (rustls).
//!
//! ```text
//! cargo bench -p stoq --bench transport [-- PART…]
//! ```
//!
//! A part is a piece of a row's name: `bulk`, `mtu 8952`, `rpc`, `handshake`. Under `cargo test` each row is
//! walked once with little work, and no figure is printed.
//!
//! All contenders of a row run in turns in one process over the loopback, the server on one thread and core and the client
//! on another, each with a current-thread runtime. The figures are CPU time of these two threads as the kernel accounts
//! it, the lower quartile of the rounds, for what else runs on the machine only ever adds. `of quinn` is the
//! server's figure over that of plain quinn in the same row: below 1.00 ours is cheaper.
//!
//! | contender | what it is |
//! |---|---|
//! | stoq streams | `stoq::quic`: one stream an answer |
//! | stoq exchanges | `stoq::peer` above it: mutual TLS between nodes, hello, frames, deadlines; one exchange an answer |
//! | quinn | quinn as it comes, one stream an answer; the same socket buffers, cipher suites and tickets as ours |
//! | quinn, no GSO | the same without segmentation offload, where quinn with it loses whole batches |
//! | TCP + TLS | tokio-rustls on one connection; answers come in the order of the questions, up to so many outstanding |
//!
//! Rows of a given MTU hold QUIC to UDP payloads of that size, found by discovery, and TCP to segments that
//! fill packets of the same size. A handshake is a new connection with two exchanges of 64 bytes; the first is early data
//! where there is any, the second comes after the handshake, so that the ticket for the next has come. Nodes that resume always send
//! their hello as early data; with early data the first exchange travels with it. Only nodes have shown certificates in the
//! session that is resumed.

#![expect(clippy::unwrap_used, reason = "a failure ends the measurement")]

mod contender;
mod cpu;
mod exchanges;
mod papers;
mod plain;
mod streams;
mod table;
mod tcp;
mod work;

use std::time::Duration;

use contender::{Outcome, measure};
use papers::Papers;
use table::Row;
use work::{Tickets, Work};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Streams,
    Exchanges,
    Plain,
    PlainWithoutGso,
    Tcp,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Streams => "stoq streams",
            Self::Exchanges => "stoq exchanges",
            Self::Plain => "quinn",
            Self::PlainWithoutGso => "quinn, no GSO",
            Self::Tcp => "TCP + TLS",
        }
    }

    fn measure(self, work: Work, papers: &Papers, limit: Duration) -> Outcome {
        match self {
            Self::Streams => measure::<streams::Streams>(work, papers, limit),
            Self::Exchanges => measure::<exchanges::Exchanges>(work, papers, limit),
            Self::Plain => measure::<plain::Plain<true>>(work, papers, limit),
            Self::PlainWithoutGso => measure::<plain::Plain<false>>(work, papers, limit),
            Self::Tcp => measure::<tcp::Tcp>(work, papers, limit),
        }
    }

    /// Ten segments of this size are more than a UDP datagram can be. quinn sends up to ten, and such batches are lost: it
    /// crawls, or stands still.
    fn may_stall(self, work: Work) -> bool {
        self == Self::Plain && usize::from(work.mtu()) * 10 > 65_507
    }

    /// Who takes part in this work.
    fn of(work: Work) -> Vec<Self> {
        match work {
            Work::Bulk { .. } if Self::Plain.may_stall(work) => vec![
                Self::Streams,
                Self::Exchanges,
                Self::Plain,
                Self::PlainWithoutGso,
                Self::Tcp,
            ],
            // Nodes always show certificates.
            Work::Handshakes {
                tickets: Tickets::None,
                mutual: false,
                ..
            } => vec![Self::Streams, Self::Plain, Self::Tcp],
            Work::Bulk { .. } | Work::Rpc { .. } | Work::Handshakes { .. } => {
                vec![Self::Streams, Self::Exchanges, Self::Plain, Self::Tcp]
            }
        }
    }
}

/// Alternating rounds of each contender.
const ROUNDS: usize = 5;
/// After this long without an end a contender counts as stalled, and is not tried again.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// The same where it may be, many times what others need.
const CRAWLED_FOR: Duration = Duration::from_secs(5);
/// The same where only the walk matters, on a machine that may be busy and without optimisation.
const WALK_LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // cargo adds `--bench` to what it measures, and not under `cargo test`.
    let measured = arguments.iter().any(|argument| argument == "--bench");
    let parts: Vec<_> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let (rounds, limit) = if measured {
        (ROUNDS, STALLED_AFTER)
    } else {
        (1, WALK_LIMIT)
    };
    let papers = Papers::new();
    if measured {
        table::head(&cpu::quiet());
    }
    let mut rows = Vec::new();
    for work in Work::all(measured) {
        let name = work.name();
        if !parts.is_empty() && !parts.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let mut row = Row::new(work, &Who::of(work));
        for _ in 0..rounds {
            for (who, outcomes) in row.contenders() {
                // Whoever stalled once would take the time again.
                if !outcomes.iter().any(Outcome::is_stalled) {
                    let limit = if who.may_stall(work) {
                        CRAWLED_FOR
                    } else {
                        limit
                    };
                    outcomes.push(who.measure(work, &papers, limit));
                }
            }
        }
        if measured {
            row.print();
        } else {
            row.assert_walked();
        }
        rows.push(row);
    }
    if measured {
        table::bars(&rows);
    }
}
