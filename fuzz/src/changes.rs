//! Targets on their corpora, and on seeded changes of them, with the stable compiler.
//!
//! Not a fuzzer: it has no eyes for coverage. It keeps the corpora and the targets working in every run of the tests. `STOQ_FUZZ_SEED`
//! sets the seed, `STOQ_FUZZ_CHANGES` how many changed inputs are tried for each one in a corpus (200).

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Target;

/// The inputs of a corpus with their names, in order.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut found: Vec<_> = std::fs::read_dir(folder.join(name))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no corpus of {name}");
    found
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// One to four changes such as a fuzzer makes: a bit, a byte, a piece out, a piece twice, a piece of another input in.
fn change(input: &mut Vec<u8>, other: &[u8], dice: &mut StdRng) {
    for _ in 0..dice.random_range(1..=4) {
        let at = dice.random_range(0..=input.len());
        let end = dice.random_range(at..=input.len().min(at + 16));
        match dice.random_range(0..5) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << dice.random_range(0..8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = [0, 1, 2, 7, 0x7f, 0x80, 0xff][dice.random_range(0..7)];
                }
            }
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let from = dice.random_range(0..=other.len());
                let to = dice.random_range(from..=other.len().min(from + 32));
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
}

/// Holds these targets to their claims.
pub fn hold(targets: &[(&str, Target)]) {
    let seed = setting("STOQ_FUZZ_SEED").unwrap_or_else(rand::random);
    let changes = setting("STOQ_FUZZ_CHANGES").unwrap_or(200);
    println!("STOQ_FUZZ_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    for (name, target) in targets {
        let corpus = corpus(name);
        for (of, input) in &corpus {
            let run = |what: &str, input: &[u8]| {
                let result = std::panic::catch_unwind(|| target(input));
                assert!(result.is_ok(), "{name}: {of}, {what}: {input:02x?}");
            };
            run("as it is", input);
            for _ in 0..changes {
                let mut changed = input.clone();
                let other = &corpus[dice.random_range(0..corpus.len())].1;
                change(&mut changed, other, &mut dice);
                run("changed", &changed);
            }
        }
    }
}
