//! `stoq-bench stoq` as a process: both ends, every kind of load, and what it prints.

use std::process::{Command, Stdio};

use stoq_loadtest::bundle::Bundle;

#[test]
fn both_ends_are_measured_in_processes_of_their_own() {
    let output = Command::new(env!("CARGO_BIN_EXE_stoq-bench"))
        .args([
            "stoq",
            "--json",
            "--mtu",
            "1452,8952",
            "--outstanding",
            "1,16",
        ])
        .args(["--bulk", "1000000", "--duration", "300ms"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let bundles: Vec<Bundle> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let names: Vec<_> = bundles.iter().map(|bundle| &*bundle.name).collect();
    assert_eq!(
        names,
        [
            "bulk, mtu 1452",
            "rpc, 1 outstanding",
            "rpc, 16 outstanding",
            "bulk, mtu 8952"
        ]
    );
    for bundle in &bundles {
        assert!(bundle.outcome.requests > 0, "{}", bundle.name);
        assert_eq!(bundle.outcome.failures(), 0, "{}", bundle.name);
        let server = bundle.server.as_ref().unwrap();
        assert_ne!(server.pid, std::process::id());
        assert_eq!(server.command, "stoq-bench");
    }
    // On a machine with other work a run may be INVALID at any time; then the exit code must say that.
    let valid = bundles.iter().all(|bundle| bundle.verdict.valid);
    assert_eq!(
        output.status.code(),
        Some(if valid { 0 } else { 3 }),
        "{said}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_started() {
    for wrong in [["--mtu", "100"], ["--outstanding", "x"], ["--bulk", "-1"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_stoq-bench"))
            .arg("stoq")
            .args(wrong)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
