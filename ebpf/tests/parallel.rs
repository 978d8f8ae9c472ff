//! The program on several CPUs at once: cells are shared, and no packet is judged twice or for free.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod kit;

use std::thread;

use kit::{
    frame::{Packet, initial},
    load,
    scene::{self, Kind, PUBLIC},
};
use stoq_ebpf::{
    abi::{Budget, CLASS_INITIAL, CLASS_RETRANSMISSION, Control, Profile, Reason, Settings},
    bench::{Bench, Mode},
};

const THREADS: u64 = 4;
const PACKETS: u32 = 250_000;
/// Half of them, at once; then one an hour.
const BUDGET: Budget = Budget {
    interval_ns: 3_600_000_000_000,
    burst_ns: 500_000 * 3_600_000_000_000,
};
const MAY_PASS: u64 = 500_000;

/// Runs one client's Initial on all threads; how many passed.
fn flood(test: &str, settings: fn(&mut Settings, Budget)) -> Option<u64> {
    let mut bench = load(test, Mode::Real)?;
    scene::furnish(&mut bench);
    let mut all = Kind::Usual.settings();
    all.heartbeat_max_ns = u64::MAX;
    all.profile = [Profile::default(); 4];
    all.global = [Budget::NONE; 6];
    all.global[CLASS_RETRANSMISSION as usize] = Budget::per_second(0, 0);
    settings(&mut all, BUDGET);
    bench.set_settings(0, &all).unwrap();
    bench.set_control(Control::default()).unwrap();
    let frame = Packet::udp("198.51.100.1", PUBLIC, &initial(&[1; 8], 1200)).bytes();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| Bench::repeat(&bench, &frame, PACKETS).unwrap());
        }
    });
    let passed = bench.counted(Reason::Initial).unwrap().packets;
    let counted = Reason::ALL.map(|reason| bench.counted(reason).unwrap().packets);
    assert_eq!(
        counted.iter().sum::<u64>(),
        THREADS * u64::from(PACKETS),
        "{counted:?}"
    );
    eprintln!("{passed} passed of a budget of {MAY_PASS}");
    Some(passed)
}

/// A packet passes uncharged only where another CPU changed the cell in each of four tries.
fn assert_within(passed: u64) {
    assert!(passed >= MAY_PASS, "{passed} passed");
    assert!(passed <= MAY_PASS + MAY_PASS / 1000, "{passed} passed");
}

#[test]
fn all_cpus_together_have_one_budget_of_a_source() {
    let flooded = flood(
        "all_cpus_together_have_one_budget_of_a_source",
        |settings, budget| {
            settings.profile[0].source[CLASS_INITIAL as usize] = budget;
        },
    );
    if let Some(passed) = flooded {
        assert_within(passed);
    }
}

#[test]
fn all_cpus_together_have_one_budget_of_all() {
    let flooded = flood(
        "all_cpus_together_have_one_budget_of_all",
        |settings, budget| {
            settings.global[CLASS_INITIAL as usize] = budget;
        },
    );
    if let Some(passed) = flooded {
        assert_within(passed);
    }
}
