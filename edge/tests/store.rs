//! `stoq-edge store`: the same figures from a node that runs and from the volumes of one that does not.

#![expect(clippy::unwrap_used, reason = "what a test takes for granted fails it")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stoq-edge");
const BODY_BYTES: usize = 2_000_000;

/// A node's files: two of its site's have the same bytes.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(listen: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("site")).unwrap();
        let mut state = 88_172_645_463_325_252_u64;
        let body: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .take(BODY_BYTES)
        .collect();
        for name in ["a", "b"] {
            fs::write(dir.path().join("site").join(name), &body).unwrap();
        }
        let config = format!(
            "[node]\nname = \"edge-1\"\nstate_dir = \"state\"\nworkers = 1\n[listen]\nhttp = [\"127.0.0.1:0\"]\n{listen}\n\
             [cache]\nram = \"64MiB\"\ndisk = [{{ path = \"volume\", size = \"64MiB\" }}]\n\
             [log]\naccess = false\n[[site]]\nhosts = [\"*\"]\norigins = [\"./site\"]\ndefault_ttl = \"1h\"\n"
        );
        fs::write(dir.path().join("edge.toml"), config).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("store").args(args);
        command.arg("--config").arg(self.path("edge.toml"));
        command.output().unwrap()
    }

    /// The page of metrics of a node with a socket file.
    fn metrics(&self) -> String {
        let mut stream = UnixStream::connect(self.path("admin.sock")).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// What it says as JSON, with its exit code.
    fn asked(&self, verb: &str) -> (Value, i32) {
        let output = self.store(&[verb, "--json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let value = serde_json::from_str(&text);
        (
            value.unwrap_or_else(|error| panic!("{error}: {text}\n{errors}")),
            output.status.code().unwrap(),
        )
    }
}

/// A node that runs. Killed when dropped.
struct Node {
    child: Child,
    addr: String,
}

impl Node {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines
            .by_ref()
            .map_while(Result::ok)
            .inspect(|line| println!("{line}"))
            .find(|line| line.contains("serving http: "))
            .expect("the edge says where it serves");
        // What it says later is read too, so that it never waits for its reader.
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| println!("{line}"))
        });
        let (_, rest) = said.split_once("127.0.0.1:").unwrap();
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Self {
            child,
            addr: format!("127.0.0.1:{port}"),
        }
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(&id).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn stats_verify_and_gc_say_the_same_of_a_node_that_runs_and_of_its_volumes() {
    let place = Place::new("admin = \"unix:admin.sock\"");
    let early = place.store(&["stats"]);
    assert_eq!(early.status.code(), Some(1));
    let why = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(why.contains("at its first start"), "{why}");
    assert!(!place.path("volume").exists(), "a look makes nothing");

    let node = Node::start(&place.path("edge.toml"));
    for path in ["/a", "/b"] {
        assert!(node.get(path).len() > BODY_BYTES);
    }
    // What is stored is committed right after the last byte is sent; the census waits for the disk and not for that.
    let begun = Instant::now();
    let mut stats = place.asked("stats");
    while stats.0["census"]["objects"] != 2 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:#}", stats.0);
        stats = place.asked("stats");
    }
    let (stats, code) = stats;
    assert_eq!(code, 0, "{stats:#}");
    assert_eq!(stats["node"], "running");
    let census = &stats["census"];
    assert_eq!(census["logical_bytes"], 2 * BODY_BYTES);
    assert_eq!(census["physical_bytes"], BODY_BYTES);
    assert_eq!(census["effective_capacity"], 2.0);
    assert_eq!(census["absent_chunks"], 0);
    let volume = &stats["volumes"][0];
    assert_eq!(volume["path"], place.path("volume").to_str().unwrap());
    assert!(volume["live_bytes"].as_u64().unwrap() >= BODY_BYTES as u64);
    assert!(volume["dedupe_ratio"].as_f64().unwrap() > 1.9, "{volume:#}");
    assert!(volume["write_amplification"].as_f64().unwrap() >= 1.0);
    let (verified, code) = place.asked("verify");
    assert_eq!((code, &verified["damaged"]), (0, &Value::from(0)));
    assert_eq!(&verified["census"], census);
    let (freed, code) = place.asked("gc");
    assert_eq!((code, &freed["records"]), (0, &Value::from(0)), "{freed:#}");
    let text = place.store(&["stats"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.starts_with("the node runs\n"), "{text}");
    assert!(text.contains("effective capacity 2.00"), "{text}");
    let metrics = place.metrics();
    for what in ["writes", "reads", "space"] {
        let gauge = metrics.lines().find(|line| {
            line.starts_with("stoq_disk_ailing{volume=")
                && line.contains(&format!("what=\"{what}\""))
        });
        assert!(
            gauge.is_some_and(|gauge| gauge.ends_with(" 0")),
            "{metrics}"
        );
    }
    let census = census.clone();
    node.stop();

    let (stats, code) = place.asked("stats");
    assert_eq!((code, &stats["node"]), (0, &Value::from("stopped")));
    assert_eq!(stats["census"], census);
    assert_eq!(stats["volumes"][0]["dedupe_ratio"], Value::Null);
    let (freed, code) = place.asked("gc");
    assert_eq!((code, &freed["records"]), (0, &Value::from(0)));

    damage(&place.path("volume/log"));
    let (verified, code) = place.asked("verify");
    assert_eq!(code, 3, "{verified:#}");
    assert_eq!(verified["ok"], false);
    assert!(verified["damaged"].as_u64().unwrap() > 0, "{verified:#}");
    let (again, code) = place.asked("verify");
    assert_eq!((code, &again["damaged"]), (0, &Value::from(0)));
    assert!(again["census"]["absent_chunks"].as_u64().unwrap() > 0);
}

#[test]
fn volumes_of_a_node_that_cannot_be_asked_are_left_alone() {
    let place = Place::new("");
    let node = Node::start(&place.path("edge.toml"));
    let output = place.store(&["stats"]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{why}");
    for part in ["volume", "admin listener", "listen.admin is not set"] {
        assert!(why.contains(part), "{part} in {why}");
    }
    node.stop();
    // Under another secret the volume would begin empty: a look must not make it.
    let before = fs::read(place.path("volume/log")).unwrap().len();
    fs::write(place.path("state/secret"), [9; 32]).unwrap();
    let output = place.store(&["verify"]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.contains("another secret"), "{why}");
    assert_eq!(fs::read(place.path("volume/log")).unwrap().len(), before);
}

/// Flips a bit in a body: half a megabyte into the log, which is past what it begins with and well within what was stored.
fn damage(log: &Path) {
    let mut bytes = fs::read(log).unwrap();
    let at = bytes.len().min(1 << 20) + (512 << 10);
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 1;
    fs::write(log, bytes).unwrap();
}
