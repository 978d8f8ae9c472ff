//! What the limiter at the socket costs, and how much its one lock does to workers that ask it at once.
//!
//! `cargo run --release -p stoq-ebpf --example at_socket [DATAGRAMS]`: each thread judges so many (1,000,000 by default), first one thread, then
//! two at once, turn by turn. The wall time of a datagram on a thread is the least of five; where each thread has a CPU to itself,
//! what it grows by is what the lock costs. A socket that reads a datagram and forgets it spends about 1,100 ns on it
//! (`--example live` measures it here), which is the most that any worker can be asked.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the measurement")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use stoq_ebpf::{AtSocket, Limiter as _, Limits, Policy, Port, Profile, Rate, SHED_ALL};

/// Turns of which the least counts.
const TURNS: u32 = 5;
const PORT: u16 = 443;

fn policy() -> Policy {
    let rate = |per_second| {
        Some(Rate {
            per_second,
            burst: per_second,
        })
    };
    let limits = |per_second| Limits {
        initial: rate(per_second),
        token: rate(per_second),
        long: rate(per_second),
        short: rate(per_second),
        syn: rate(per_second),
    };
    Policy {
        check_ids: true,
        ports: vec![Port {
            port: PORT,
            udp: true,
            tcp: false,
            peers: false,
            keyed: true,
        }],
        profiles: [Profile {
            source: limits(100_000_000),
            prefix: limits(100_000_000),
            retransmissions: None,
        }; 4],
        global: limits(100_000_000),
        cid_keys: [(0, [7; 16])].into(),
        hash_key: [1, 2],
        ..Policy::default()
    }
}

fn initial() -> Vec<u8> {
    let mut packet = vec![0; 1200];
    packet[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
    packet[14] = 8;
    packet[24..26].copy_from_slice(&(0x4000_u16 + 1200 - 26).to_be_bytes());
    packet
}

/// The longest that a thread took for all of its datagrams.
fn judge(limiter: &AtSocket, packet: &[u8], threads: u32, datagrams: u32) -> Duration {
    let start = Barrier::new(threads as usize);
    thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|number| {
                let start = &start;
                scope.spawn(move || {
                    let mut packet = packet.to_vec();
                    start.wait();
                    let begun = Instant::now();
                    for i in 0..datagrams {
                        let random = (i + number * datagrams).wrapping_mul(0x9e37_79b1);
                        packet[6..10].copy_from_slice(&random.to_ne_bytes());
                        let from = IpAddr::V4(Ipv4Addr::from(random));
                        std::hint::black_box(limiter.judge(from, PORT, &packet));
                    }
                    begun.elapsed()
                })
            })
            .collect();
        let took = started.into_iter().map(|thread| thread.join().unwrap());
        took.max().unwrap()
    })
}

fn main() {
    let datagrams: u32 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |text| text.parse().unwrap());
    let limiter = AtSocket::new(&policy()).unwrap();
    println!("| datagram | one thread, ns | two at once, ns | ratio |\n|---|---|---|---|");
    let tag = [&[0x40_u8][..], &[1; 63]].concat();
    for (name, packet, shed) in [
        ("short header, wrong tag", &tag, 0),
        ("spoofed Initial, shed", &initial(), SHED_ALL),
        ("spoofed Initial, three budgets", &initial(), 0),
    ] {
        limiter.beat(shed).unwrap();
        let mut least = [Duration::MAX; 2];
        for _ in 0..TURNS {
            for (least, threads) in least.iter_mut().zip([1, 2]) {
                *least = judge(&limiter, packet, threads, datagrams).min(*least);
            }
        }
        let [one, two] = least.map(|took| took.as_nanos() / u128::from(datagrams));
        println!(
            "| {name} | {one} | {two} | {:.2} |",
            two as f64 / one as f64
        );
    }
}
