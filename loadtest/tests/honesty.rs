//! Runs that could mislead, and do not: a client that is starved of CPU, and a link that is slower than both ends.

#![expect(
    clippy::unwrap_used,
    reason = "a test's server that cannot start has failed the test"
)]

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::thread::{
    CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity,
};
use stoq_loadtest::bundle::Bundle;

/// On a machine with other work a run may be slow, and says that it is INVALID; so many are made.
const ATTEMPTS: usize = 3;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers every GET on every connection with `body`, on threads of the calling one's namespace, until the process ends.
fn serve(listener: TcpListener, body: Vec<u8>) {
    let body: &'static [u8] = body.leak();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || {
                // A client that leaves in the middle is no concern of the server.
                let _ = answer(&stream, body);
            });
        }
    });
}

fn answer(mut stream: &TcpStream, body: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut response = head.into_bytes();
    response.extend_from_slice(body);
    for line in BufReader::new(stream).lines() {
        // An empty line ends a request without a body.
        if line?.is_empty() {
            stream.write_all(&response)?;
        }
    }
    Ok(())
}

/// No two pieces alike, so that nothing can be served twice unnoticed.
fn object(bytes: usize) -> Vec<u8> {
    (0_u64..).flat_map(u64::to_le_bytes).take(bytes).collect()
}

fn bundle(output: &Output) -> Bundle {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_client_that_is_starved_of_cpu_says_that_its_run_is_invalid() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    serve(listener, object(1024));
    let may = sched_getaffinity(None).unwrap();
    let core = (0..CpuSet::MAX_CPU).find(|core| may.is_set(*core)).unwrap();
    // What a thread starts has its affinity.
    let output = thread::spawn(move || {
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only).unwrap();
        let _busy = [(); 2].map(|()| {
            let mut busy = Command::new("sh");
            busy.args(["-c", "while :; do :; done"]);
            Killed(busy.spawn().unwrap())
        });
        Command::new(env!("CARGO_BIN_EXE_stoq-bench"))
            .args(["run", &format!("http://{address}/object"), "--json"])
            .args(["--connections", "8", "--duration", "3s"])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    })
    .join()
    .unwrap();
    let bundle = bundle(&output);
    println!("{:#?}", bundle.verdict);
    println!(
        "cpu {:?}, starved {:?}",
        bundle.client.thread_cpu, bundle.client.thread_starved
    );
    assert_eq!(output.status.code(), Some(3));
    assert!(!bundle.verdict.valid);
    let starved = |reason: &String| reason.contains("was ready to run and had no core for");
    assert!(bundle.verdict.reasons.iter().any(starved));
}

/// Two namespaces with a link between them; both go when it is dropped.
struct Link {
    server: String,
    client: String,
}

impl Link {
    const SERVER: &str = "10.99.0.1";

    /// `Err`: why this process may not make them.
    fn new() -> Result<Self, String> {
        let name = |side| format!("stoq-honesty-{}-{side}", std::process::id());
        let link = Self {
            server: name("server"),
            client: name("client"),
        };
        let (server, client) = (link.server.as_str(), link.client.as_str());
        for namespace in [server, client] {
            ip(&["netns", "add", namespace])?;
        }
        let veth = "link add v0 type veth peer name v0 netns";
        let mut add: Vec<&str> = vec!["-n", server];
        add.extend(veth.split(' '));
        add.push(client);
        ip(&add)?;
        for (namespace, address) in [(server, "10.99.0.1/24"), (client, "10.99.0.2/24")] {
            ip(&["-n", namespace, "address", "add", address, "dev", "v0"])?;
            for interface in ["lo", "v0"] {
                ip(&["-n", namespace, "link", "set", interface, "up"])?;
            }
        }
        Ok(link)
    }

    /// What the server sends is held to this rate.
    fn shape(&self, rate: &str) -> Result<(), String> {
        let shape = format!("qdisc add dev v0 root tbf rate {rate} burst 32kbit latency 50ms");
        let mut tc = Command::new("tc");
        run(tc.args(["-n", &self.server]).args(shape.split(' ')))
    }

    /// A listener in the server's namespace, served there.
    fn serve(&self, body: Vec<u8>) -> SocketAddr {
        let namespace = File::open(format!("/run/netns/{}", self.server)).unwrap();
        thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let listener = TcpListener::bind((Self::SERVER, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            serve(listener, body);
            address
        })
        .join()
        .unwrap()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", said.trim()))
}

#[test]
#[expect(
    clippy::cast_precision_loss,
    reason = "the bytes of a few seconds have fewer than 53 bits"
)]
fn no_more_is_reported_than_a_link_carries_and_hardly_less() {
    let link = Link::new().and_then(|link| link.shape("100mbit").map(|()| link));
    let link = match link {
        Ok(link) => link,
        Err(why) => {
            println!("SKIPPED: network namespaces cannot be made here: {why}");
            assert!(
                std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_none_or(|value| value != "1"),
                "STOQ_REQUIRE_PRIVILEGED=1 makes a skip a failure"
            );
            return;
        }
    };
    let address = link.serve(object(1 << 20));
    for attempt in 1..=ATTEMPTS {
        let output = Command::new("ip")
            .args(["netns", "exec", &link.client])
            .arg(env!("CARGO_BIN_EXE_stoq-bench"))
            .args(["run", &format!("http://{address}/object"), "--json"])
            .args(["--connections", "4", "--duration", "5s"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let bundle = bundle(&output);
        let interface = bundle.interface.unwrap();
        let megabits = |bytes: u64| bytes as f64 * 8.0 / 1e6 / bundle.outcome.elapsed_s;
        let (body, wire) = (
            megabits(bundle.outcome.body_bytes),
            megabits(interface.rx_bytes),
        );
        println!(
            "bodies {body:.2} Mbit/s, {wire:.2} on {}; {:?}",
            interface.name, bundle.verdict
        );
        assert_eq!(interface.name, "v0");
        assert_eq!(bundle.environment.mtu, Some(1500));
        assert!(body <= 100.0 && body <= wire, "{body} {wire}");
        if body >= 93.0 {
            return;
        }
        assert!(!bundle.verdict.valid, "a slow run, believed: {body}");
        assert!(
            attempt < ATTEMPTS,
            "the client was too slow {ATTEMPTS} times"
        );
    }
}
