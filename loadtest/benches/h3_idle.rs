//! What an idle HTTP/3 connection costs the client: resident memory, and CPU to open it.
//!
//! The server is the example `plain_h3`, in a process of its own on core 0; the client is this process. In the end each
//! connection is asked one request, which must be answered with the same bytes.
//!
//!     cargo build --release -p stoq-loadtest --example plain_h3
//!     cargo bench -p stoq-loadtest --bench h3_idle

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use stoq_loadtest::lane::h3::H3Dialer;
use stoq_loadtest::lane::{Conn as _, Dialer as _, Lane as _, Sink};
use stoq_loadtest::plan::{Idle, Plan, Protocol, Session, Shape, Stop};
use stoq_loadtest::workload::{Ask, Known, Object, Verb, Workload};
use stoq_loadtest::{Target, Trust};

/// Measures idle HTTP/3 connections to `plain_h3`.
#[derive(Debug, Parser)]
struct Options {
    /// Idle connections to measure the memory of.
    #[arg(long, default_value_t = 2000)]
    idle: u32,
    /// Given by `cargo bench`, and not by `cargo test --all-targets`, which is no place to measure.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Server(Child, SocketAddr);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if !options.bench {
        println!("h3_idle: nothing measured; run it with `cargo bench`");
        return Ok(());
    }
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["--all-tasks", "--pid", "--cpu-list", "1", &pid])
        .output()
        .context("taskset (util-linux) is needed")?;
    ensure!(pinned.status.success(), "this machine has no core 1");
    let server = start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(idle(&options, server.1))
}

fn start() -> Result<Server> {
    let this = std::env::current_exe()?;
    let profile = this.parent().and_then(Path::parent);
    let example = profile
        .context("the benchmark lies in target/PROFILE/deps")?
        .join("examples/plain_h3");
    let mut child = Command::new("taskset")
        .args(["--cpu-list", "0"])
        .arg(&example)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{}", example.display()))?;
    let stdout = child.stdout.take().context("a pipe was asked for")?;
    let mut server = Server(child, SocketAddr::from(([127, 0, 0, 1], 0)));
    for line in BufReader::new(stdout).lines() {
        if let Some((_, address)) = line?.split_once("listening on ") {
            server.1 = address.trim().parse()?;
            return Ok(server);
        }
    }
    bail!(
        "{} did not say `listening on ADDR`: is it built?",
        example.display()
    )
}

fn plan(address: SocketAddr, idle: Idle) -> Result<Plan> {
    Ok(Plan {
        target: Target::new("https://localhost")?
            .at(address)
            .trusting(Trust::Insecure),
        protocol: Protocol::Http3,
        shape: Shape::Closed,
        connections: 1,
        streams: 1,
        threads: 1,
        sources: Vec::new(),
        stop: Stop {
            duration: Duration::from_secs(60),
            requests: None,
        },
        warmup: Duration::ZERO,
        timeout: Duration::from_secs(10),
        workload: Arc::new(Workload::one("/")),
        fields: Vec::new(),
        session: Session::Kept,
        read_rate: None,
        zeros: false,
        idle: Some(idle),
        seed: 1,
    })
}

/// Asks once, and makes the request whose answers have to be the same.
async fn learn(dialer: &H3Dialer, path: &str) -> Result<Ask> {
    let ask = |known| Ask {
        verb: Verb::Get,
        object: Arc::new(Object {
            path: path.into(),
            authority: None,
            known,
        }),
    };
    let (first, budget) = (ask(Known::Nothing), AtomicU64::new(1 << 30));
    let mut sink = Sink::learning(&first, &budget);
    let conn = dialer.dial(0).await?;
    conn.lane().exchange(&first, &mut sink).await?;
    conn.close().await;
    let learned = sink.learned().context("it was to be learned")?;
    Ok(ask(Known::Body(
        learned.body.context("the budget has room for it")?,
    )))
}

/// CPU time of this thread, which is the client.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.context("VmRSS")?.parse::<u64>()? * 1024)
}

/// Holds connections, and asks each one request in the end.
async fn idle(options: &Options, address: SocketAddr) -> Result<()> {
    let shape = Idle {
        connections: options.idle,
        rate: 1000,
        hold: Duration::ZERO,
        keep_alive: Some(Duration::from_secs(10)),
    };
    let dialer = H3Dialer::new(&plan(address, shape)?, 0)?;
    let ask = learn(&dialer, "/100").await?;
    let mut conns = Vec::new();
    // The first ones give tables and pools their size.
    let warm = (options.idle / 4).max(1);
    let mut before = 0;
    let (began, mut cpu) = (Instant::now(), thread_cpu());
    for number in 0..warm + options.idle {
        if number == warm {
            before = resident()?;
            cpu = thread_cpu();
        }
        conns.push(dialer.dial(number).await?);
    }
    // What is still under way: tickets, settings, path MTU discovery.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = resident()?.saturating_sub(before) / u64::from(options.idle.max(1));
    let spent = (thread_cpu() - cpu) / options.idle.max(1);
    println!(
        "idle: {} connections in {:.1} s, {each} bytes of this process each, {} µs of client CPU each",
        conns.len(),
        began.elapsed().as_secs_f64(),
        spent.as_micros()
    );
    for (number, conn) in conns.iter().enumerate() {
        let answered = conn.lane().exchange(&ask, &mut Sink::new(&ask)).await;
        answered.with_context(|| format!("idle connection {number}"))?;
    }
    println!("idle: each of them answered when asked");
    Ok(())
}
