//! `stoq-shield` as an operator meets it: what it says of a file that it cannot run, and of its certificates.

#![expect(clippy::unwrap_used, reason = "what a test takes for granted fails it")]

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use stoq::identity::{ClusterRoot, Role, Validity};

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

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_shield_shows_and_rotates_its_leaf_and_one_that_does_not_run_says_so() {
    /// Nothing here takes this long; only a failure waits for it.
    const PATIENCE: Duration = Duration::from_secs(30);
    let dir = tempfile::tempdir().unwrap();
    let validity = || Validity::starting(rustls_pki_types::UnixTime::now(), ClusterRoot::LIFETIME);
    let root = ClusterRoot::generate("demo", validity()).unwrap();
    fs::write(dir.path().join("root.pem"), root.to_pem_cert()).unwrap();
    let file = root.issue("shield-1", &[Role::Shield], validity()).unwrap();
    file.save(&dir.path().join("identity.pem")).unwrap();
    let tables = "admin = \"unix:admin.sock\"\n[cluster]\nname = \"demo\"\nidentity = \"identity.pem\"\nroot = \"root.pem\"\n";
    fs::write(dir.path().join("shield.toml"), config(tables)).unwrap();
    let command = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.current_dir(dir.path()).args(args);
        command
    };
    let cert = |verb: &str| {
        let args = ["--json", "cert", verb, "--config", "shield.toml"];
        let output = command(&args).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), found)
    };
    let (code, stopped) = cert("list");
    assert_eq!((code, &stopped["running"]), (Some(0), &Value::Bool(false)));
    assert_eq!(stopped["roles"][0], "shield");
    let (code, refused) = cert("rotate");
    let why = refused["error"].as_str().unwrap();
    assert!(code == Some(1) && why.contains("nobody listens"), "{why}");

    let run = command(&["run", "--config", "shield.toml"])
        .stderr(Stdio::null())
        .spawn();
    let _running = Running(run.unwrap());
    let begun = Instant::now();
    let until = |what: &str, holds: &dyn Fn(&Value) -> bool, verb: &str| loop {
        let (_, found) = cert(verb);
        if holds(&found) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {found}");
    };
    let first = until("it runs", &|found| found["running"] == true, "list");
    assert_eq!(first["node_id"], stopped["node_id"]);
    // Leaves begin at whole seconds.
    let other = |found: &Value| found["leaf"] != first["leaf"];
    let rotated = until("another second", &other, "rotate");
    assert_eq!(cert("list").1["leaf"], rotated["leaf"]);
}
