//! `stoq-shield` as an operator meets it: what it says of a file that it cannot run.

#![expect(clippy::unwrap_used, reason = "what a test takes for granted fails it")]

use std::{
    fs,
    process::{Command, Output},
};

/// Tests of the whole house find the program beside them; that it is there is due to this package having a test of it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_stoq-shield");

fn shield(verb: &str, config: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("shield.toml"), config).unwrap();
    let mut command = Command::new(PROGRAM);
    command.current_dir(dir.path());
    command
        .args([verb, "--config", "shield.toml"])
        .output()
        .unwrap()
}

fn config(tables: &str) -> String {
    format!(
        "[node]\nname = \"shield-1\"\nstate_dir = \"state\"\n[listen]\nstoq = [\"127.0.0.1:0\"]\n{tables}\
         [[site]]\nhosts = [\"example.org\"]\norigins = [\"http://127.0.0.1:9\"]\n"
    )
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_slip_in_the_file_is_told_with_its_place_and_what_was_meant() {
    for verb in ["check", "run"] {
        let output = shield(verb, &config("[cahce]\nram = \"64MiB\"\n"));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            said(&output).trim_end(),
            "shield.toml:6:2: cahce: unknown table or key (did you mean `cache`?)"
        );
    }
}

#[test]
fn a_missing_identity_is_told_once_with_its_path() {
    for verb in ["check", "run"] {
        let output = shield(verb, &config("[cluster]\nname = \"demo\"\n"));
        assert_eq!(output.status.code(), Some(1));
        let said = said(&output);
        assert!(said.contains("state/root.pem"), "{said}");
        assert_eq!(said.matches("No such file").count(), 1, "{said}");
    }
}

#[test]
fn a_verb_that_is_not_there_is_a_usage_error() {
    let output = Command::new(PROGRAM).arg("frob").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}
