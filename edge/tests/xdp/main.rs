//! `[xdp]` in the program itself: attached and taken back in two network namespaces with a veth pair between them, and
//! judged at the socket where it may not be attached.
//!
//! What needs root says SKIPPED without it, and fails with `STOQ_REQUIRE_PRIVILEGED=1`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, also in its own functions"
)]

#[expect(dead_code, reason = "these tests need a part of it")]
#[path = "../../../ebpf/tests/netns/lab.rs"]
mod lab;
mod node;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::lab::{CLIENT_V4, INTERFACE, Lab, SERVER_V4, wait_for};
use self::node::{Node, at, free_port, output, program, serves};

const HTTPS: u16 = 8443;
const HTTP: u16 = 8080;
const ADMIN: &str = "127.0.0.1:9100";
/// What is dropped is dropped each time: waiting for longer tells no more.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(5);
/// After a kill -9 the program is gone within this.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// After a SIGSTOP everything passes within this: the heartbeat is stale after a second.
const PASSES_WITHIN: Duration = Duration::from_millis(1500);

/// False, and said, where this process may not make namespaces.
fn is_privileged(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let required = std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
    assert!(
        !required,
        "{test} needs root, and STOQ_REQUIRE_PRIVILEGED=1 makes a skip a failure"
    );
    println!("SKIPPED: {test}: needs root");
    false
}

fn xdp(lines: &str) -> String {
    format!("[xdp]\nmode = \"native\"\ninterface = \"{INTERFACE}\"\n{lines}\n")
}

fn write(node: &Node, lines: &str) {
    let (https, http) = (
        at(SERVER_V4, HTTPS).to_string(),
        at(SERVER_V4, HTTP).to_string(),
    );
    node.write(&https, &http, ADMIN, &xdp(lines));
}

/// A node in the server's namespace that serves.
fn node(lab: &Lab, lines: &str) -> Node {
    let (https, http) = (
        at(SERVER_V4, HTTPS).to_string(),
        at(SERVER_V4, HTTP).to_string(),
    );
    let mut node = Node::new(&https, &http, ADMIN, &xdp(lines));
    start(lab, &mut node);
    node
}

fn start(lab: &Lab, node: &mut Node) {
    node.start(lab.server.command(program()), || {
        lab.server.inside(|| serves(at(SERVER_V4, HTTP), SHORT))
    });
}

/// A verb of `xdp`, asked in the server's namespace: its exit code and what it said.
fn verb(lab: &Lab, node: &Node, arguments: &[&str]) -> (i32, String) {
    let arguments: Vec<&str> = ["xdp"]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let output = output(lab.server.command(program()), &arguments, &node.config);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn enable_and_confirm(lab: &Lab, node: &Node) {
    let (code, said) = verb(lab, node, &["enable", "--confirm", "60s"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = verb(lab, node, &["confirm"]);
    assert_eq!(code, 0, "{said}");
}

fn client_is_served(lab: &Lab, within: Duration) -> bool {
    lab.client.inside(|| serves(at(SERVER_V4, HTTP), within))
}

fn packets(top: &Value, reason: &str) -> u64 {
    top["counters"]["reasons"][reason]["packets"]
        .as_u64()
        .unwrap_or(0)
}

#[test]
fn what_nobody_confirms_is_taken_back_and_what_is_confirmed_is_there_after_a_kill_and_a_start() {
    if !is_privileged("what_nobody_confirms_is_taken_back") {
        return;
    }
    let lab = Lab::new();
    let mut node = node(&lab, "");
    assert_eq!(
        lab.attached(),
        None,
        "nothing was confirmed on this machine"
    );
    let top = node.top(lab.server.command(program()));
    assert_eq!(top["mode"], "user-space", "{top}");
    let why = top["why"].as_str().unwrap();
    assert!(why.contains("no enable has been confirmed"), "{why}");

    // The time runs while the kernel verifies the program, so on a slow machine it is over by now.
    let (code, said) = verb(&lab, &node, &["enable", "--confirm", "1s"]);
    assert!(said.contains("enabled on s0: native"), "{code}: {said}");
    let since = Instant::now();
    let took = lab.wait_until_bare(since);
    println!("taken back {took:?} after an enable that nobody confirmed");
    let (code, said) = verb(&lab, &node, &["confirm"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("nobody confirmed it"), "{said}");
    let record = node.dir.path().join("state/xdp-confirmed.json");
    assert!(!record.exists());

    enable_and_confirm(&lab, &node);
    assert!(lab.attached().is_some() && record.exists());
    let (code, said) = verb(&lab, &node, &["enable"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("enabled already"), "{said}");
    // Both ways in are served through it, and who shook hands is known.
    assert!(client_is_served(&lab, LONG));
    let shaken = lab
        .client
        .inside(|| node.shakes_hands_over_quic(at(SERVER_V4, HTTPS), LONG));
    assert!(shaken, "QUIC through the program");
    let top = node.top(lab.server.command(program()));
    assert_eq!(top["mode"], "native", "{top}");
    assert!(
        packets(&top, "pass_initial") > 0 && packets(&top, "pass_syn") > 0,
        "{top}"
    );
    assert_eq!(packets(&top, "drop_cid_tag"), 0, "{top}");

    let since = Instant::now();
    node.kill();
    let took = lab.wait_until_bare(since);
    println!("gone {took:?} after kill -9");
    assert!(took < GONE_WITHIN, "{took:?}");
    start(&lab, &mut node);
    wait_for("the program, which was confirmed", || {
        lab.attached().is_some()
    });
    let (code, said) = verb(&lab, &node, &["disable"]);
    assert_eq!(code, 0, "{said}");
    assert!(lab.attached().is_none() && !record.exists());
    assert!(client_is_served(&lab, LONG));
}

#[test]
fn lists_change_without_a_restart_and_a_process_that_hangs_lets_everything_pass() {
    if !is_privileged("lists_change_without_a_restart") {
        return;
    }
    let lab = Lab::new();
    let node = node(&lab, "");
    enable_and_confirm(&lab, &node);
    assert!(client_is_served(&lab, LONG));

    write(&node, &format!("deny = [\"{CLIENT_V4}\"]"));
    let (code, said) = verb(&lab, &node, &["reload"]);
    assert_eq!(code, 0, "{said}");
    assert!(!client_is_served(&lab, SHORT), "it is denied");
    let top = node.top(lab.server.command(program()));
    assert!(packets(&top, "drop_denied") > 0, "{top}");

    // Whoever hangs says nothing any more, and after a second nothing is dropped for him: the kernel takes the connection.
    node.signal("-STOP");
    let since = Instant::now();
    wait_for("packets to pass", || {
        lab.client.inside(|| {
            std::net::TcpStream::connect_timeout(&at(SERVER_V4, HTTP), Duration::from_millis(100))
                .is_ok()
        })
    });
    let took = since.elapsed();
    println!("packets pass {took:?} after SIGSTOP");
    assert!(took < PASSES_WITHIN, "{took:?}");
    node.signal("-CONT");
    wait_for("the list to hold again", || !client_is_served(&lab, SHORT));

    write(&node, "");
    let (code, said) = verb(&lab, &node, &["reload"]);
    assert_eq!(code, 0, "{said}");
    assert!(client_is_served(&lab, LONG), "it is denied no longer");

    // What a restart takes is said, and does not change.
    node.write(
        &at(SERVER_V4, HTTPS).to_string(),
        &at(SERVER_V4, HTTP).to_string(),
        ADMIN,
        "[xdp]\nmode = \"generic\"\ninterface = \"lo\"\n",
    );
    let (code, said) = verb(&lab, &node, &["reload"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("mode, interface take a restart"), "{said}");
    assert!(lab.attached().is_some());
}

#[test]
fn the_process_has_no_capability_and_who_asks_for_foreign_protocols_has_less_for_a_while() {
    if !is_privileged("the_process_has_no_capability") {
        return;
    }
    let lab = Lab::new();
    let node = node(&lab, "");
    enable_and_confirm(&lab, &node);
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    let sets: Vec<&str> = status
        .lines()
        .filter(|line| line.starts_with("Cap"))
        .collect();
    assert!(sets.len() >= 4, "{status}");
    for set in sets {
        assert!(set.ends_with("\t0000000000000000"), "{set}");
    }

    lab.client.inside(|| {
        for _ in 0..25 {
            node.asks_for_a_foreign_protocol(at(SERVER_V4, HTTPS));
        }
    });
    let mut top = Value::Null;
    wait_for("the client to have smaller budgets", || {
        top = node.top(lab.server.command(program()));
        top["lowered"][0]["source"] == format!("{CLIENT_V4}/32")
    });
    assert_eq!(top["lowered"][0]["cause"], "foreign-protocols", "{top}");
    // It is served all the same.
    assert!(client_is_served(&lab, LONG));
}

/// The program without any capability, also where these tests have them.
fn powerless() -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program());
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(program());
    command
}

#[test]
fn without_privileges_the_same_rules_hold_at_the_socket_and_it_says_why() {
    let (https, http, admin) = (free_port(), free_port(), free_port());
    let [https, http, admin] = [https, http, admin].map(|port| at("127.0.0.1", port));
    let tables = |lines: &str| format!("[xdp]\nmode = \"native\"\ninterface = \"lo\"\n{lines}\n");
    let mut node = Node::new(
        &https.to_string(),
        &http.to_string(),
        &admin.to_string(),
        &tables(""),
    );
    let checked = output(powerless(), &["check"], &node.config);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(3), "{said}");
    assert!(
        said.contains("xdp: packets would be judged at the sockets") && said.contains("CAP_BPF"),
        "{said}"
    );
    node.start(powerless(), || serves(http, SHORT));
    let top = node.top(powerless());
    assert_eq!(top["mode"], "user-space", "{top}");
    assert!(top["why"].as_str().unwrap().contains("CAP_BPF"), "{top}");
    let (enabled, said) = {
        let output = output(powerless(), &["xdp", "enable"], &node.config);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(enabled, Some(1), "{said}");
    assert!(node.shakes_hands_over_quic(https, LONG));
    assert!(packets(&node.top(powerless()), "pass_initial") > 0);

    node.write(
        &https.to_string(),
        &http.to_string(),
        &admin.to_string(),
        &tables("deny = [\"127.0.0.0/8\"]"),
    );
    let reloaded = output(powerless(), &["xdp", "reload"], &node.config);
    assert!(reloaded.status.success());
    assert!(!node.shakes_hands_over_quic(https, SHORT), "it is denied");
    assert!(packets(&node.top(powerless()), "drop_denied") > 0);
    assert!(serves(http, LONG), "TCP is not judged here");
}

#[test]
fn a_slip_in_the_table_is_placed_and_an_interface_that_is_not_there_is_named() {
    let node = Node::new("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "");
    let check = |tables: &str| {
        node.write("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", tables);
        let output = output(Command::new(program()), &["check"], &node.config);
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (code, said) = check("[xdp]\nmode = \"nativ\"");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("edge.toml:13:8: xdp.mode: `nativ` is no mode"),
        "{said}"
    );
    let (code, said) = check("[xdp]\nmode = \"native\"\ninterface = \"eth77\"");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("no interface `eth77`"), "{said}");
    let (code, said) = check("[xdp]\nmode = \"off\"");
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("xdp"), "{said}");
}
