//! The table in `docs/store.md` is what the traces give, for a part of it that a test can afford.
//!
//! All of it is written by `STOQ_WRITE=1 cargo bench -p stoq-cache --bench traces`.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts become percentages, and ranks are small"
)]
#![expect(dead_code, reason = "the benchmark uses the rest")]

#[path = "../benches/traces/reference.rs"]
mod reference;
#[path = "../benches/traces/replay.rs"]
mod replay;
#[path = "../benches/traces/trace.rs"]
mod trace;

use std::{fs, path::Path};

/// `QuickTier` places chunks by hashes that differ from run to run.
const TOLERANCE: f64 = 1.0;
/// Of the others: the last digit of the table.
const ROUNDING: f64 = 0.051;

#[test]
fn the_table_in_the_docs_is_what_the_traces_give() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/store.md");
    let page = fs::read_to_string(page).unwrap();
    let trace = trace::TRACES[2];
    let capacity = replay::CAPACITIES_MIB[0];
    let name = replay::row_name(&trace, capacity);
    let row = page.lines().find_map(|line| line.strip_prefix(&name));
    let written: Vec<(f64, f64)> = row
        .unwrap_or_else(|| panic!("no row {name}"))
        .split('|')
        .filter_map(|cell| cell.split_once('/'))
        .map(|(requests, bytes)| {
            (
                requests.trim().parse().unwrap(),
                bytes.trim().parse().unwrap(),
            )
        })
        .collect();
    let requests = trace.requests(trace::SEED);
    // `moka` takes longer than all the others and is not what is used.
    let checked = replay::POLICIES.iter().zip(&written);
    let checked: Vec<_> = checked
        .filter(|((name, _), _)| *name != "`MokaTier`")
        .collect();
    assert_eq!((written.len(), checked.len()), (5, 4));
    std::thread::scope(|scope| {
        for ((policy, new), (requests_missed, bytes_missed)) in checked {
            let requests = &requests;
            scope.spawn(move || {
                let found = replay::replay(requests, &mut *new(capacity << 20));
                let tolerance = if *policy == "`QuickTier`" {
                    TOLERANCE
                } else {
                    ROUNDING
                };
                assert!(
                    (requests_missed - found.requests).abs() < tolerance
                        && (bytes_missed - found.bytes).abs() < tolerance,
                    "{policy} on {}: {found:.1?}, the docs say {requests_missed} / {bytes_missed}",
                    trace.name
                );
            });
        }
    });
}
