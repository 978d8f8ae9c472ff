//! Edges as processes on loopback: they find each other by one seed, a dead one is out of every view soon, and an operator sees it all.

#![expect(clippy::unwrap_used, reason = "what a test takes for granted fails it")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stoq-edge");
/// Nothing here takes this long; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of three edges in one directory.
struct Mesh(TempDir);

/// A process that does not outlive its test.
struct Edge {
    name: &'static str,
    child: Child,
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mesh {
    fn found() -> Self {
        let mesh = Self(tempfile::tempdir().unwrap());
        let nodes = ["edge-1:edge", "edge-2:edge", "edge-3:edge"];
        let mut args = vec!["cluster", "init", "--name", "demo", "--dir", "state"];
        args.extend(nodes.iter().flat_map(|node| ["--node", *node]));
        let made = mesh.run(&args);
        assert!(made.status.success(), "{made:?}");
        mesh
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(args)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Starts an edge that knows these of the others.
    fn start(&self, name: &'static str, zone: &str, seeds: &[String]) -> Edge {
        let config = format!(
            "[node]\nname = \"{name}\"\nstate_dir = \"state/{name}\"\nworkers = 2\nzone = \"{zone}\"\npublic = [\"{name}.example.net\"]\n\
             [listen]\nhttp = [\"127.0.0.1:0\"]\nstoq = [\"127.0.0.1:0\"]\nadmin = \"unix:{name}.sock\"\n\
             [cluster]\nname = \"demo\"\nidentity = \"state/{name}/identity.pem\"\nroot = \"state/root.pem\"\nseeds = {seeds:?}\n\
             [[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:9\"]\n"
        );
        fs::write(self.path(&format!("{name}.toml")), config).unwrap();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        let child = Command::new(PROGRAM)
            .args(["run", "--config", &format!("{name}.toml")])
            .current_dir(self.0.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Edge { name, child }
    }

    fn text(&self, verb: &str, name: &str, more: &[&str]) -> String {
        let config = format!("{name}.toml");
        let mut args = vec!["cluster", verb, "--config", &config];
        args.extend(more);
        let shown = self.run(&args);
        assert!(shown.status.success(), "{shown:?}");
        String::from_utf8(shown.stdout).unwrap()
    }

    /// What an edge sees; `None` while it does not answer.
    fn seen(&self, name: &str) -> Option<Value> {
        let config = format!("{name}.toml");
        let shown = self.run(&["--json", "cluster", "peers", "--config", &config]);
        shown
            .status
            .success()
            .then(|| serde_json::from_slice(&shown.stdout).unwrap())
    }

    fn names(&self, name: &str) -> Vec<String> {
        let nodes = self.seen(name).map(|seen| seen["nodes"].clone());
        let nodes = nodes.and_then(|nodes| nodes.as_array().cloned());
        nodes
            .unwrap_or_default()
            .iter()
            .map(|node| node["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Whether an edge sees that another drains, or sees it no more.
    fn is_left_alone(&self, name: &str, other: &str) -> bool {
        let Some(seen) = self.seen(name) else {
            return false;
        };
        let mut nodes = seen["nodes"].as_array().unwrap().iter();
        nodes
            .find(|node| node["name"] == other)
            .is_none_or(|node| node["draining"] == true)
    }

    /// Waits until each of these edges sees exactly these, and says how long that took.
    fn until(&self, edges: &[&Edge], wanted: &[&str]) -> Duration {
        let began = Instant::now();
        for edge in edges {
            loop {
                let names = self.names(edge.name);
                if names == wanted {
                    break;
                }
                assert!(
                    began.elapsed() < PATIENCE,
                    "{} sees {names:?}, not {wanted:?}:\n{}",
                    edge.name,
                    fs::read_to_string(self.path(&format!("{}.log", edge.name))).unwrap()
                );
            }
        }
        began.elapsed()
    }

    /// Where an edge listens for others, once it does.
    fn place(&self, edge: &Edge) -> String {
        self.until(&[edge], &[edge.name]);
        let seen = self.seen(edge.name).unwrap();
        seen["nodes"][0]["addresses"][0]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn signal(edge: &Edge, name: &str) {
    let sent = Command::new("kill")
        .args([name, &edge.child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

fn exists(path: &Path) -> bool {
    path.exists()
}

#[test]
fn three_edges_find_each_other_and_a_killed_one_is_gone_within_five_seconds() {
    let mesh = Mesh::found();
    let one = mesh.start("edge-1", "eu-fra", &[]);
    let seeds = [mesh.place(&one)];
    let two = mesh.start("edge-2", "eu-ber", &seeds);
    let mut three = mesh.start("edge-3", "us-nyc", &seeds);
    let all = ["edge-1", "edge-2", "edge-3"];
    let together = mesh.until(&[&one, &two, &three], &all);
    println!("three processes see each other {together:?} after the last was started");

    let seen = mesh.seen("edge-3").unwrap();
    assert_eq!(seen["complete"], true, "{seen}");
    let first = &seen["nodes"][0];
    assert_eq!(
        (&first["region"], &first["metro"]),
        (&"eu".into(), &"fra".into())
    );
    assert_eq!(first["public"][0], "edge-1.example.net");
    let table = mesh.text("peers", "edge-2", &[]);
    assert!(
        table.contains("edge-2*") && table.contains("us-nyc"),
        "{table}"
    );
    let tree = mesh.text("topology", "edge-2", &[]);
    assert!(tree.starts_with("eu\n  ber\n    edge-2"), "{tree}");
    let dot = mesh.text("topology", "edge-1", &["--format", "dot"]);
    assert!(
        dot.starts_with("graph mesh {") && dot.contains("cluster_us_nyc"),
        "{dot}"
    );
    fs::write(mesh.path("before.json"), seen.to_string()).unwrap();

    signal(&three, "-KILL");
    three.child.wait().unwrap();
    let gone = mesh.until(&[&one, &two], &["edge-1", "edge-2"]);
    println!("kill -9: out of every view in {gone:?}");
    assert!(gone <= Duration::from_secs(5), "{gone:?}");
    let diff = mesh.text("peers", "edge-1", &["--diff", "before.json"]);
    assert_eq!(diff, "- edge-3 in us-nyc\n");
    let changes = mesh.text("peers", "edge-1", &["--changes"]);
    assert!(
        changes.contains("edge-3  joined") && changes.contains("edge-3  left"),
        "{changes}"
    );

    // It comes back at another port, by another seed.
    let back = mesh.start(
        "edge-3",
        "us-nyc",
        &[mesh.seen("edge-2").unwrap()["nodes"][1]["addresses"][0]
            .as_str()
            .unwrap()
            .to_owned()],
    );
    mesh.until(&[&one, &two, &back], &all);
    signal(&one, "-TERM");
    let began = Instant::now();
    for edge in [&two, &back] {
        while !mesh.is_left_alone(edge.name, "edge-1") {
            assert!(began.elapsed() < PATIENCE, "{} is not told", edge.name);
        }
    }
    println!("SIGTERM: the others know after {:?}", began.elapsed());
    let log = fs::read_to_string(mesh.path("edge-1.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    assert!(exists(&mesh.path("state/edge-1/generation")));
}

#[test]
fn a_node_that_does_not_run_says_so() {
    let mesh = Mesh::found();
    let edge = mesh.start("edge-1", "eu-fra", &[]);
    mesh.place(&edge);
    drop(edge);
    let shown = mesh.run(&["cluster", "peers", "--config", "edge-1.toml"]);
    assert!(!shown.status.success());
    let said = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(said.contains("edge-1.sock"), "{said}");
}
