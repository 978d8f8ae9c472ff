//! The program in the kernel and the model in Rust, packet by packet, with a clock that tests hold.
//!
//! `STOQ_EBPF_PACKETS` says how many (a million), `STOQ_SEED` which.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod kit;

use kit::{Judge, load, random::Traffic, setting};
use stoq_ebpf::{
    abi::{REASONS, Reason},
    bench::Mode,
    model::Model,
};

const PACKETS: u64 = 1_000_000;

/// The program against the model, `damaged` of a hundred frames being damaged. How often there was each reason.
fn compare(test: &str, seed: u64, damaged: u32) -> Option<[u64; REASONS as usize]> {
    let mut bench = load(test, Mode::Replay)?;
    let (seed, packets) = (
        setting("STOQ_SEED", seed),
        setting("STOQ_EBPF_PACKETS", PACKETS),
    );
    let mut model = Model::new();
    let mut traffic = Traffic::new(seed, damaged);
    traffic.furnish(&mut [&mut bench, &mut model]);
    let mut seen = [0; REASONS as usize];
    for packet in 0..packets {
        traffic.pass(&mut [&mut bench, &mut model]);
        let (frame, now_ns) = traffic.next();
        let program = Judge::frame(&mut bench, frame, now_ns);
        let model = Judge::frame(&mut model, frame, now_ns);
        assert_eq!(
            program, model,
            "packet {packet} of seed {seed} at {now_ns}: {frame:02x?}"
        );
        if let Some((reason, _)) = program {
            seen[reason.number() as usize] += 1;
        }
    }
    for (reason, count) in Reason::ALL.iter().zip(seen) {
        eprintln!("{count:>8} {reason}");
    }
    Some(seen)
}

#[test]
fn program_and_model_agree_on_a_million_packets() {
    let Some(seen) = compare(
        "program_and_model_agree_on_a_million_packets",
        20_261_121,
        3,
    ) else {
        return;
    };
    if seen.iter().sum::<u64>() >= PACKETS {
        let rare = Reason::ALL
            .into_iter()
            .filter(|reason| seen[reason.number() as usize] < 20);
        assert_eq!(
            rare.collect::<Vec<_>>(),
            [],
            "reasons hardly seen, of which little is shown"
        );
    }
}

/// The judge of the kernel's side panics at `XDP_ABORTED`.
#[test]
fn damaged_packets_never_abort_the_program() {
    let Some(seen) = compare("damaged_packets_never_abort_the_program", 7, 100) else {
        return;
    };
    assert!(seen[Reason::Truncated.number() as usize] > 0, "{seen:?}");
}

/// Where no program may be loaded this is what runs.
#[test]
fn the_model_judges_whatever_comes() {
    let seed = setting("STOQ_SEED", 3);
    let mut model = Model::new();
    let mut traffic = Traffic::new(seed, 60);
    traffic.furnish(&mut [&mut model]);
    let mut dropped = 0;
    for _ in 0..50_000 {
        traffic.pass(&mut [&mut model]);
        let (frame, now_ns) = traffic.next();
        dropped += u32::from(model.frame(frame, now_ns).drops());
    }
    assert!((10_000..40_000).contains(&dropped), "{dropped} dropped");
}
