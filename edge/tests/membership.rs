//! `cluster init|token|join` and `cert list|rotate|log verify`, as an operator runs them.

#![expect(clippy::unwrap_used, reason = "what a test takes for granted fails it")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stoq-edge");
/// Nothing here takes this long; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory in which a cluster was founded.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let made = place.run(&[
            "cluster",
            "init",
            "--name",
            "demo",
            "--node",
            "edge-1:edge",
            "--dir",
            "state",
        ]);
        assert!(made.status.success(), "{made:?}");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn verify(&self, log: &str, more: &[&str]) -> (bool, Value, String) {
        let mut args = vec![
            "--json",
            "cert",
            "log",
            "verify",
            log,
            "--root",
            "state/root.pem",
        ];
        args.extend(more);
        let output = self.run(&args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.success(), value, errors)
    }

    /// A desk that waits, and the token it printed.
    fn token(&self, valid: &str) -> (Running, String) {
        let mut desk = self
            .command(&[
                "cluster",
                "token",
                "--node",
                "edge-7:edge",
                "--listen",
                "127.0.0.1:0",
                "--valid",
                valid,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(desk.stdout.take().unwrap());
        reader.read_line(&mut line).unwrap();
        // What follows is little, and is not to meet a closed pipe.
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        (Running(desk), line.trim().to_owned())
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Running {
    fn end(&mut self) -> bool {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn machine_joins_with_a_token_once_and_the_log_knows_it() {
    let place = Place::new();
    let (mut desk, token) = place.token("60s");
    assert!(token.starts_with("stoq-join-1."), "{token}");
    let joined = place.run(&["cluster", "join", &token, "--dir", "seven"]);
    assert!(joined.status.success(), "{joined:?}");
    assert!(desk.end(), "the desk is done when its token was used");
    assert_eq!(mode(&place.path("seven/identity.pem")), 0o600);
    assert_eq!(
        fs::read(place.path("seven/root.pem")).unwrap(),
        fs::read(place.path("state/root.pem")).unwrap()
    );
    let (good, log, _) = place.verify("state/issued.log", &[]);
    assert!(good, "{log}");
    let names: Vec<_> = log["issued"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["name"])
        .collect();
    assert_eq!(names, ["edge-1", "edge-7"]);
    assert!(
        log["issued"][1]["via"]
            .as_str()
            .unwrap()
            .starts_with("join ")
    );

    // The same token, and the same directory, are of no use any more.
    let again = place.run(&["cluster", "join", &token, "--dir", "eight"]);
    assert!(!again.status.success() && !place.path("eight/identity.pem").exists());
    let again = place.run(&["cluster", "join", &token, "--dir", "seven"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("belongs to a cluster"));
}

#[test]
fn desk_waits_no_longer_than_its_token_is_good() {
    let place = Place::new();
    let (mut desk, _) = place.token("1s");
    assert!(!desk.end());
    let (good, log, _) = place.verify("state/issued.log", &[]);
    assert!(
        good && log["issued"].as_array().unwrap().len() == 1,
        "{log}"
    );
}

#[test]
fn altered_and_shortened_copies_of_the_log_are_found() {
    let place = Place::new();
    for name in ["edge-2", "edge-3"] {
        let (mut desk, token) = place.token("60s");
        let joined = place.run(&["cluster", "join", &token, "--dir", name]);
        assert!(joined.status.success() && desk.end(), "{joined:?}");
    }
    let whole = fs::read_to_string(place.path("state/issued.log")).unwrap();
    assert_eq!(whole.lines().count(), 3);
    fs::write(place.path("altered"), whole.replacen("edge-7", "edge-8", 1)).unwrap();
    let (good, _, errors) = place.verify("altered", &[]);
    assert!(
        !good && errors.contains("line 2 is not as the root signed it"),
        "{errors}"
    );

    let first: String = whole
        .lines()
        .take(2)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(place.path("short"), first).unwrap();
    let (good, ..) = place.verify("short", &[]);
    assert!(good, "by itself it is flawless");
    let (good, found, _) = place.verify("short", &["--against", "state/issued.log"]);
    assert!(!good && found["against"] == 3, "{found}");
    let (good, found, _) = place.verify("state/issued.log", &["--against", "short"]);
    assert!(good && found["against"] == 2, "{found}");
}

#[test]
fn running_node_shows_and_rotates_its_leaf_and_follows_its_revocation_list() {
    let place = Place::new();
    fs::create_dir(place.path("site")).unwrap();
    fs::write(place.path("revoked"), "# nobody\n").unwrap();
    let config = "[node]\nname = \"edge-1\"\nstate_dir = \"state/edge-1\"\nworkers = 2\n[listen]\nhttp = [\"127.0.0.1:0\"]\n\
                  admin = \"unix:admin.sock\"\n[cluster]\nname = \"demo\"\nidentity = \"state/edge-1/identity.pem\"\n\
                  root = \"state/root.pem\"\nrevoked = \"revoked\"\naudit = \"audit.log\"\nleaf_rotation = \"1h\"\n\
                  [log]\naccess = false\n[[site]]\nhosts = [\"*\"]\norigins = [\"./site\"]\n";
    fs::write(place.path("edge.toml"), config).unwrap();
    let cert = |verb: &str| {
        let output = place.run(&["--json", "cert", verb, "--config", "edge.toml"]);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), value)
    };
    let (code, stopped) = cert("list");
    assert_eq!(
        (code, &stopped["running"], &stopped["leaf"]),
        (0, &Value::Bool(false), &Value::Null)
    );
    let (code, refused) = cert("rotate");
    assert!(
        code == 1
            && refused["error"]
                .as_str()
                .unwrap()
                .contains("nobody listens"),
        "{refused}"
    );
    let checked = place.run(&["check", "--config", "edge.toml"]);
    assert!(checked.status.success(), "{checked:?}");
    assert!(!place.path("audit.log").exists(), "looking writes nothing");

    let node = place
        .command(&["run", "--config", "edge.toml"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut node = Running(node);
    let until = |what: &str, holds: &dyn Fn(&Value) -> bool| {
        let start = Instant::now();
        loop {
            let (_, found) = cert("list");
            if holds(&found) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {found}");
        }
    };
    let first = until("start", &|found| found["running"] == true);
    assert_eq!(first["node_id"], stopped["node_id"]);
    assert_eq!(
        (first["revoked"].as_u64(), &first["is_revoked"]),
        (Some(0), &Value::Bool(false))
    );
    assert_eq!(mode(&place.path("audit.log")), 0o600);
    // Leaves begin at whole seconds.
    until("another second", &|_| {
        cert("rotate").1["leaf"] != first["leaf"]
    });

    let id = first["node_id"].as_str().unwrap();
    let mut next = fs::File::create(place.path("next")).unwrap();
    writeln!(next, "{id}  # this one").unwrap();
    fs::rename(place.path("next"), place.path("revoked")).unwrap();
    let revoked = until("revocation", &|found| found["revoked"] == 1);
    assert_eq!(revoked["is_revoked"], true);
    assert_eq!(cert("list").0, 3);
    node.0.kill().unwrap();
}
