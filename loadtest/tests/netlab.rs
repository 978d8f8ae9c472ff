//! Labs on this machine's kernel: what a link is set to is what is measured over it, and nothing stays behind. All of it
//! needs root; without, each test says SKIPPED, and fails with `STOQ_REQUIRE_PRIVILEGED=1`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, also in its own functions"
)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// One lab at a time: they measure time on the same cores.
static ALONE: Mutex<()> = Mutex::new(());

/// `None`, said aloud, without root.
fn alone(test: &str) -> Option<MutexGuard<'static, ()>> {
    if rustix::process::geteuid().is_root() {
        return Some(ALONE.lock());
    }
    let required = std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
    assert!(!required, "{test}: not root, and STOQ_REQUIRE_PRIVILEGED=1");
    println!("SKIPPED: {test}: needs root to make network namespaces");
    None
}

/// A scenario file in a directory of its own.
fn scenario(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lab.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn bench() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoq-bench"));
    command.arg("netlab").stdin(Stdio::null());
    command
}

/// Runs a scenario with a load to its end.
fn run(text: &str, flags: &[&str]) -> Output {
    let (_directory, path) = scenario(text);
    bench().arg(path).args(flags).output().unwrap()
}

/// A lab without a load, up.
struct Lab {
    tool: Child,
    _directory: tempfile::TempDir,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Lab {
    fn up(text: &str) -> Self {
        let (directory, path) = scenario(text);
        let mut tool = bench().arg(path).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(tool.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("netlab: up") {
            let more = stderr.read_line(&mut said).unwrap();
            assert!(more > 0, "no lab: {said}");
        }
        Self {
            tool,
            _directory: directory,
            stderr,
        }
    }

    fn namespace(&self, host: &str) -> String {
        format!("sb{}-{host}", self.tool.id())
    }

    /// Runs `what` on a thread that is on `host`.
    fn on<T: Send + 'static>(
        &self,
        host: &str,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = File::open(Path::new("/run/netns").join(self.namespace(host))).unwrap();
        std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            what()
        })
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.tool), signal).unwrap();
    }

    /// Ends it as Ctrl-C does; what it still said.
    fn end(mut self) -> String {
        self.signal(Signal::INT);
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        assert!(self.tool.wait().unwrap().success(), "{said}");
        assert_eq!(left_of(self.tool.id()), Vec::<String>::new());
        said
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test that failed: the lab removes itself.
        if let Ok(None) = self.tool.try_wait() {
            self.signal(Signal::TERM);
            let _ = self.tool.wait();
        }
    }
}

/// Namespaces, interfaces and directories of the lab of process `pid` that are still there.
fn left_of(pid: u32) -> Vec<String> {
    let mut left = Vec::new();
    for words in [&["netns", "list"][..], &["link", "show"]] {
        let shown = Command::new("ip").args(words).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        left.extend(
            shown
                .lines()
                .filter(|line| line.contains(&format!("sb{pid}-")))
                .map(str::to_owned),
        );
    }
    let directory = format!("/run/stoq-bench/sb{pid}");
    if Path::new(&directory).exists() {
        left.push(directory);
    }
    left
}

const FAR: &str = r#"
impairment = "relay"
[[host]]
name = "server"
[[host]]
name = "client"
link = { delay = "20ms" }
"#;

/// A UDP echo on `server`; ends with an empty datagram.
fn echo(lab: &Lab, on: &'static str) -> JoinHandle<()> {
    let (bound, ready) = sync_channel(1);
    let thread = lab.on("server", move || {
        let socket = UdpSocket::bind((on, 7000)).unwrap();
        bound.send(()).unwrap();
        let mut datagram = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut datagram).unwrap();
            if length == 0 {
                return;
            }
            socket.send_to(&datagram[..length], from).unwrap();
        }
    });
    ready.recv().unwrap();
    thread
}

/// Round trips from `client`, shortest first.
fn round_trips(lab: &Lab, from: &'static str, to: &'static str, count: usize) -> Vec<Duration> {
    let asked = lab.on("client", move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket.connect((to, 7000)).unwrap();
        let mut times: Vec<Duration> = (0..count)
            .map(|_| {
                let began = Instant::now();
                socket.send(&[1; 1200]).unwrap();
                assert_eq!(socket.recv(&mut [0; 2000]).unwrap(), 1200);
                began.elapsed()
            })
            .collect();
        socket.send(&[]).unwrap();
        times.sort();
        times
    });
    asked.join().unwrap()
}

#[test]
fn a_delay_of_20_ms_is_a_round_trip_of_40() {
    let Some(_alone) = alone("a_delay_of_20_ms_is_a_round_trip_of_40") else {
        return;
    };
    let lab = Lab::up(FAR);
    for (from, to) in [("10.77.0.2", "10.77.0.1"), ("fd77::2", "fd77::1")] {
        let server = echo(&lab, to);
        let times = round_trips(&lab, from, to, 50);
        server.join().unwrap();
        println!("{to}: shortest {:?}, median {:?}", times[0], times[25]);
        assert!(times[0] >= Duration::from_millis(40));
        assert!(times[25] < Duration::from_millis(60), "{:?}", times[25]);
    }
    lab.end();
}

#[test]
fn tcp_passes_the_relay_whole() {
    let Some(_alone) = alone("tcp_passes_the_relay_whole") else {
        return;
    };
    let lab = Lab::up(FAR);
    let body: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let sent = body.clone();
    let (bound, ready) = sync_channel(1);
    let server = lab.on("server", move || {
        let listener = TcpListener::bind("10.77.0.1:7000").unwrap();
        bound.send(()).unwrap();
        listener.accept().unwrap().0.write_all(&sent).unwrap();
    });
    ready.recv().unwrap();
    let client = lab.on("client", || {
        let mut got = Vec::new();
        let mut stream = TcpStream::connect("10.77.0.1:7000").unwrap();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    assert!(client.join().unwrap() == body);
    server.join().unwrap();
    lab.end();
}

#[test]
fn a_loss_of_30_percent_loses_about_that() {
    let Some(_alone) = alone("a_loss_of_30_percent_loses_about_that") else {
        return;
    };
    let lab = Lab::up(
        r#"
seed = 3
impairment = "relay"
[[host]]
name = "server"
[[host]]
name = "client"
link = { loss = "30%" }
"#,
    );
    const SENT: usize = 5_000;
    let (bound, ready) = sync_channel(1);
    let server = lab.on("server", move || {
        let socket = UdpSocket::bind("10.77.0.1:7000").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        bound.send(()).unwrap();
        let mut got = 0;
        while socket.recv(&mut [0; 100]).is_ok() {
            got += 1;
        }
        got
    });
    ready.recv().unwrap();
    let client = lab.on("client", || {
        let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
        let began = Instant::now();
        for number in 0..SENT {
            // 10,000 a second: neither the relay's queue nor the socket's is what loses.
            let at = Duration::from_micros(100) * u32::try_from(number).unwrap();
            while began.elapsed() < at {
                std::thread::yield_now();
            }
            socket.send_to(&[0; 100], "10.77.0.1:7000").unwrap();
        }
    });
    client.join().unwrap();
    let got: usize = server.join().unwrap();
    println!("{got} of {SENT} arrived");
    assert!((3_350..=3_650).contains(&got), "{got} of {SENT}");
    lab.end();
}

/// Megabits a second of TCP payload that `client` receives from `server` within two seconds.
fn goodput(lab: &Lab) -> f64 {
    let (bound, ready) = sync_channel(1);
    let server = lab.on("server", move || {
        let listener = TcpListener::bind("10.77.0.1:7000").unwrap();
        bound.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        // Until the client hangs up.
        while stream.write_all(&[7; 65_536]).is_ok() {}
    });
    ready.recv().unwrap();
    let client = lab.on("client", || {
        let mut stream = TcpStream::connect("10.77.0.1:7000").unwrap();
        let mut buffer = [0; 65_536];
        let mut got = 0;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            got += stream.read(&mut buffer).unwrap();
        }
        got as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e6
    });
    let rate = client.join().unwrap();
    server.join().unwrap();
    rate
}

#[test]
fn a_rate_holds_with_and_without_a_relay() {
    let Some(_alone) = alone("a_rate_holds_with_and_without_a_relay") else {
        return;
    };
    for more in ["", ", delay = \"5ms\""] {
        let lab = Lab::up(&format!(
            "impairment = \"relay\"\n[[host]]\nname = \"server\"\n[[host]]\nname = \"client\"\nlink = {{ rate = \"20Mbit\"{more} }}\n"
        ));
        let rate = goodput(&lab);
        println!("20 Mbit/s{more}: {rate:.2} Mbit/s of payload");
        assert!((16.0..20.0).contains(&rate), "{rate}");
        lab.end();
    }
}

#[test]
fn a_load_ends_with_a_verdict_on_the_relay() {
    let Some(_alone) = alone("a_load_ends_with_a_verdict_on_the_relay") else {
        return;
    };
    let done = run(
        &format!("{FAR}\n[load]\nhost = \"client\"\ncommand = \"echo {{host:server}}; exit 7\"\n"),
        &["--json"],
    );
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["load"]["exit_code"], 7);
    assert_eq!(report["impairment"], "our relay");
    assert_eq!(report["links"][1]["relay"]["kernel_drops"], 0);
    assert!(report["links"][0]["relay"].is_null());
    let code = if report["verdict"]["valid"] == true {
        1
    } else {
        3
    };
    assert_eq!(done.status.code(), Some(code), "{report}");
}

#[test]
fn a_process_that_ends_early_is_shown_and_nothing_stays() {
    let Some(_alone) = alone("a_process_that_ends_early_is_shown_and_nothing_stays") else {
        return;
    };
    let (_directory, path) = scenario(
        "[[host]]\nname = \"a\"\nprocesses = [{ run = \"echo no such luck; exit 3\", ready = { udp = 1 } }]\n",
    );
    let tool = bench().arg(path).stderr(Stdio::piped()).spawn().unwrap();
    let pid = tool.id();
    let done = tool.wait_with_output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(said.contains("ended before it was ready"), "{said}");
    assert!(said.contains("no such luck"), "{said}");
    assert_eq!(left_of(pid), Vec::<String>::new());
}

#[test]
fn killing_the_tool_leaves_nothing_after_the_next_start() {
    let Some(_alone) = alone("killing_the_tool_leaves_nothing_after_the_next_start") else {
        return;
    };
    // A child that was not started by the tool itself: the kernel does not kill it with the tool.
    let mut lab = Lab::up(&format!(
        "{FAR}processes = [{{ run = \"(sleep 86399; true) & echo standing; exec sleep 86399\", ready = {{ line = \"standing\" }} }}]\n"
    ));
    let namespace = lab.namespace("client");
    let pids = || {
        let shown = Command::new("ip")
            .args(["netns", "pids", &namespace])
            .output()
            .unwrap();
        String::from_utf8(shown.stdout).unwrap()
    };
    let processes: Vec<String> = pids().split_whitespace().map(str::to_owned).collect();
    assert!(!processes.is_empty());
    lab.signal(Signal::KILL);
    lab.tool.wait().unwrap();
    assert!(!left_of(lab.tool.id()).is_empty(), "nobody removed it yet");

    // The next start of any lab.
    Lab::up("[[host]]\nname = \"a\"\n").end();

    assert_eq!(left_of(lab.tool.id()), Vec::<String>::new());
    // Killed, they still take a moment to end.
    let until = Instant::now() + Duration::from_secs(10);
    for pid in processes {
        let sleeps = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains("(sleep)") && !stat.contains(") Z ")
        };
        while sleeps() {
            assert!(Instant::now() < until, "process {pid} still runs");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_makes_nothing() {
    let (_directory, path) = scenario(FAR);
    let tool = bench()
        .arg(path)
        .arg("--dry-run")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = tool.id();
    let done = tool.wait_with_output().unwrap();
    assert!(done.status.success());
    let plan = String::from_utf8(done.stdout).unwrap();
    assert!(
        plan.contains(&format!("ip netns add sb{pid}-client\n")),
        "{plan}"
    );
    assert!(plan.contains("# relay between"), "{plan}");
    assert!(!Path::new(&format!("/run/netns/sb{pid}-client")).exists());
}

#[test]
fn a_mistake_is_refused_before_anything_is_made() {
    let done = run("[[host]]\nname = \"a\"\nlink = { dealy = \"1ms\" }\n", &[]);
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        said.contains("lab.toml:3:10: unknown field `dealy`"),
        "{said}"
    );
}
