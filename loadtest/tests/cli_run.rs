//! `stoq-bench run` as a process: exit codes, and what it prints and writes.

#![expect(
    clippy::unwrap_used,
    reason = "a test's server that cannot start has failed the test"
)]

#[expect(dead_code, reason = "the other user of the server scripts more of it")]
mod plain_server;

use std::process::{Command, Output, Stdio};

use plain_server::{Reply, Server, serve};
use rustix::process::{Pid, Signal, kill_process};
use stoq_loadtest::bundle::Bundle;

fn command(server: &Server, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoq-bench"));
    command
        .arg("run")
        .arg(format!("http://{}/object", server.address))
        .args(["--warmup", "0s"])
        .args(flags)
        .stdin(Stdio::null());
    command
}

/// Of one second, unless `flags` say otherwise.
fn run(server: &Server, flags: &[&str]) -> Output {
    let mut command = command(server, flags);
    if !flags.contains(&"--duration") {
        command.args(["--duration", "1s"]);
    }
    command.output().unwrap()
}

fn bundle(output: &Output) -> Bundle {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// On a machine with other work a run may be INVALID at any time; then its exit code must say that.
fn code(bundle: &Bundle) -> i32 {
    let outcome = &bundle.outcome;
    if !bundle.verdict.valid {
        3
    } else {
        i32::from(outcome.failures() * 100 > outcome.due)
    }
}

#[test]
fn the_result_goes_to_standard_output_or_a_file_and_is_the_same() {
    let server = serve(|_, _| Reply::Right(1000));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("result.json");
    let flags = [
        "--json",
        "--name",
        "one",
        "--output",
        file.to_str().unwrap(),
    ];
    let output = run(&server, &flags);
    let printed = bundle(&output);
    assert_eq!(output.status.code(), Some(code(&printed)));
    let written: Bundle = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written.outcome.due, printed.outcome.due);
    assert_eq!(written.name, "one");
    assert!(output.stderr.is_empty(), "no progress where nobody looks");
}

#[test]
fn more_than_one_failure_in_a_hundred_is_a_failed_run() {
    let server = serve(|number, _| match number % 20 {
        19 => Reply::Status(503),
        _ => Reply::Right(1000),
    });
    let output = run(&server, &["--json"]);
    let bundle = bundle(&output);
    assert!(bundle.outcome.errors["status 503"] > 0);
    let code = code(&bundle);
    assert_eq!(output.status.code(), Some(code));
    assert_ne!(code, 0);
}

#[test]
fn a_run_without_a_right_answer_is_invalid_and_says_so() {
    let server = serve(|number, _| match number {
        0 => Reply::Right(1000),
        _ => Reply::Status(500),
    });
    let output = run(&server, &[]);
    assert_eq!(output.status.code(), Some(3));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("INVALID"), "{table}");
    assert!(table.contains("status 500"), "{table}");
}

#[test]
fn a_command_line_that_makes_no_sense_sends_nothing() {
    let server = serve(|_, _| Reply::Right(1));
    for flags in [
        &["--connections", "0"][..],
        &["--rate", "0"],
        &["--http", "9"],
        &["--duration", "soon"],
        &["--requests", "0"],
    ] {
        let output = run(&server, flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
    assert_eq!(
        server
            .connections
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
}

#[test]
fn ctrl_c_ends_a_run_early_and_its_result_is_printed() {
    let (tell, under_way) = std::sync::mpsc::sync_channel(1);
    let server = serve(move |number, _| {
        if number == 300 {
            tell.try_send(()).unwrap();
        }
        Reply::Right(1000)
    });
    let child = command(&server, &["--duration", "100s", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.unwrap();
    under_way
        .recv_timeout(std::time::Duration::from_secs(30))
        .unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let bundle = bundle(&output);
    assert_eq!(output.status.code(), Some(code(&bundle)));
    assert!(bundle.outcome.answered > 200);
    let remarks = &bundle.verdict.remarks;
    assert!(
        remarks
            .iter()
            .any(|remark| remark.starts_with("interrupted")),
        "{remarks:?}"
    );
}
