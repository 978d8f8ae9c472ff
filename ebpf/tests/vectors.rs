//! The golden vectors of `vectors/frames.txt`, through the model and through the program in the kernel.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod kit;

use std::{collections::BTreeSet, fs, path::Path};

use kit::{
    Judge, load, scene,
    steps::{self, Step},
};
use stoq_ebpf::{
    abi::Reason,
    bench::{Bench, Mode},
    model::Model,
};

const HEADER: &str = "\
# What passes and what is dropped: a script, judged from its first line to its last.
#
# settings SLOT KIND                       as tests/kit/scene.rs has them, which also has ports and rules
# control HEARTBEAT_MS SLOT SHED
# validate ADDRESS UNTIL_MS
# frame AT_MS REASON NAME BYTES            hex; hh*n is n times the byte hh
#
# Written by: STOQ_WRITE_VECTORS=1 cargo test -p stoq-ebpf --test vectors
";

fn differences(judge: &mut dyn Judge) -> Vec<String> {
    scene::furnish(judge);
    let mut wrong = Vec::new();
    let mut asked = 0;
    for step in steps::all() {
        let said = step.play(judge);
        let Step::Frame { expected, name, .. } = &step else {
            continue;
        };
        let Some((reason, dropped)) = said else {
            continue;
        };
        asked += 1;
        let dry = name.starts_with("a_dry_run");
        if reason != *expected || dropped != (expected.drops() && !dry) {
            wrong.push(format!(
                "{name}: {reason}, dropped: {dropped}; expected {expected}"
            ));
        }
    }
    assert!(asked > 300, "{asked} frames");
    wrong
}

fn assert_none(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_model_gives_every_vector_its_reason() {
    assert_none(&differences(&mut Model::new()));
}

#[test]
fn the_program_gives_every_vector_its_reason() {
    let Some(mut bench) = load("the_program_gives_every_vector_its_reason", Mode::Replay) else {
        return;
    };
    assert_none(&differences(&mut bench));
    counters_are_of_the_vectors(&mut bench);
}

/// Every frame of the vectors was counted once, for its reason, and some made an event.
fn counters_are_of_the_vectors(bench: &mut Bench) {
    let steps = steps::all();
    for reason in Reason::ALL {
        let frames = steps.iter().filter_map(|step| match step {
            Step::Frame {
                expected,
                name,
                bytes,
                ..
            } if *expected == reason => Some((bytes.len() as u64, name.starts_with("a_dry_run"))),
            _ => None,
        });
        let frames: Vec<(u64, bool)> = frames.collect();
        let counted = bench.counted(reason).unwrap();
        let spared = frames.iter().filter(|(_, dry)| *dry);
        assert_eq!(counted.packets, frames.len() as u64, "{reason}");
        assert_eq!(
            counted.bytes,
            frames.iter().map(|(bytes, _)| bytes).sum::<u64>(),
            "{reason}"
        );
        assert_eq!(
            counted.spared_packets,
            spared.clone().count() as u64,
            "{reason}"
        );
        assert_eq!(
            counted.spared_bytes,
            spared.map(|(bytes, _)| bytes).sum::<u64>(),
            "{reason}"
        );
    }
    let mut seen = BTreeSet::new();
    while let Some(event) = bench.event() {
        let reason = Reason::from_number(event.reason).unwrap();
        assert!(reason.drops() && event.frame_bytes >= 14, "{event:?}");
        if reason == Reason::Denied {
            assert_eq!(event.source().to_string(), "10.6.0.1");
            assert_eq!(
                (event.source_port, event.port, event.protocol),
                (50_000, 443, 17)
            );
        }
        seen.insert(reason);
    }
    let dropping: BTreeSet<Reason> = Reason::ALL
        .into_iter()
        .filter(|reason| reason.drops())
        .collect();
    assert_eq!(
        seen, dropping,
        "the first packet of each dropping reason makes an event"
    );
}

#[test]
fn every_reason_has_a_vector() {
    let seen: BTreeSet<Reason> = steps::all()
        .into_iter()
        .filter_map(|step| match step {
            Step::Frame { expected, .. } => Some(expected),
            _ => None,
        })
        .collect();
    assert_eq!(seen, BTreeSet::from(Reason::ALL));
}

#[test]
fn the_file_of_vectors_holds_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/frames.txt");
    let lines = steps::all()
        .iter()
        .map(Step::line)
        .collect::<Vec<_>>()
        .join("\n");
    let text = format!("{HEADER}{lines}\n");
    if std::env::var_os("STOQ_WRITE_VECTORS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    let first = found
        .lines()
        .zip(text.lines())
        .find(|(found, ours)| found != ours);
    assert!(
        first.is_none() && found.len() == text.len(),
        "{}: differs at {first:?}",
        path.display()
    );
}
