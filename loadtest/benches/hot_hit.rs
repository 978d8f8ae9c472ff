//! CPU per request of two HTTP/3 servers, side by side.
//!
//! Each is started by its command, pinned to core 0; the client runs on core 1. The servers take turns, A B A B …,
//! and the server's own CPU time (`/proc/PID/stat`, user and system) over a round's requests is what counts, so a
//! noisy machine disturbs both alike. A wrong answer in any round ends the run without a ratio.
//!
//!     cargo bench -p stoq-loadtest --bench hot_hit                      # plain_h3 against itself: the noise
//!     cargo bench -p stoq-loadtest --bench hot_hit -- \
//!         --b 'target/release/stoq-edge run --config edge.toml' --b-url https://localhost:8443/1024
//!
//! A server says where it listens with a line that ends in `listening on ADDR`, or its URL is given.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use stoq_loadtest::drive::{Expected, Load, drive};
use stoq_loadtest::{Client, Target, Trust, Version};

/// Compares the CPU two HTTP/3 servers spend on a request.
#[derive(Debug, Parser)]
struct Options {
    /// Server A [default: the plain_h3 example beside this benchmark].
    #[arg(long, value_name = "COMMAND")]
    a: Option<String>,
    /// What A is asked for [default: /SIZE at the address it prints].
    #[arg(long, value_name = "URL")]
    a_url: Option<String>,
    /// Server B [default: plain_h3 again].
    #[arg(long, value_name = "COMMAND")]
    b: Option<String>,
    /// What B is asked for [default: /SIZE at the address it prints].
    #[arg(long, value_name = "URL")]
    b_url: Option<String>,
    /// Bytes of the default URLs' bodies.
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// Connections.
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Requests under way on each.
    #[arg(long, default_value_t = 32)]
    streams: usize,
    /// Requests of a round.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Rounds of each server.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Given by `cargo bench`, and not by `cargo test --all-targets`, which is no place to measure.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A server process; killed when dropped.
struct Server {
    name: &'static str,
    child: Child,
    load: Load,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if !options.bench && options.a.is_none() && options.b.is_none() {
        println!(
            "hot_hit: nothing measured; run it with `cargo bench`, or name a server with --a or --b"
        );
        return Ok(());
    }
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    pin_self()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(compare(&options))
}

async fn compare(options: &Options) -> Result<()> {
    let mut a = start("A", options.a.as_deref(), options.a_url.as_deref(), options).await?;
    let mut b = start("B", options.b.as_deref(), options.b_url.as_deref(), options).await?;
    ensure!(
        a.load.expected.length == b.load.expected.length,
        "A answers with {} bytes and B with {}: that is no comparison",
        a.load.expected.length,
        b.load.expected.length
    );
    println!(
        "{} bytes, {} connections x {} streams, {} requests a round; server CPU in microseconds per request",
        a.load.expected.length, options.connections, options.streams, options.requests
    );
    // The first round warms caches, allocators and branch predictors, and counts for nothing.
    round(&mut a).await?;
    round(&mut b).await?;
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for number in 1..=options.rounds {
        let (cost_a, rate_a) = round(&mut a).await?;
        let (cost_b, rate_b) = round(&mut b).await?;
        println!("round {number}: A {cost_a:.2} ({rate_a:.0}/s)  B {cost_b:.2} ({rate_b:.0}/s)");
        of_a.push(cost_a);
        of_b.push(cost_b);
    }
    let (cost_a, cost_b) = (median(&mut of_a), median(&mut of_b));
    println!(
        "median:  A {cost_a:.2}  B {cost_b:.2}  B/A {:.3}  (below 1: B is cheaper)",
        cost_b / cost_a
    );
    Ok(())
}

/// Microseconds of server CPU per request, and requests per second.
async fn round(server: &mut Server) -> Result<(f64, f64)> {
    let name = server.name;
    let pid = server.child.id();
    let mut before = None;
    let driven = drive(&server.load, || before = cpu_time(pid).ok())
        .await
        .with_context(|| format!("server {name}: no ratio from wrong or missing answers"))?;
    let after = cpu_time(pid).with_context(|| format!("server {name}"))?;
    let spent = after - before.with_context(|| format!("server {name} has no CPU time"))?;
    ensure!(
        spent > Duration::ZERO,
        "server {name} spent no CPU time that can be measured: more --requests"
    );
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of requests are far below 2^52"
    )]
    let requests = driven.requests as f64;
    Ok((
        spent.as_secs_f64() * 1e6 / requests,
        requests / driven.elapsed.as_secs_f64(),
    ))
}

async fn start(
    name: &'static str,
    command: Option<&str>,
    url: Option<&str>,
    options: &Options,
) -> Result<Server> {
    let command = match command {
        Some(command) => command.to_owned(),
        None => plain_h3()?.display().to_string(),
    };
    let mut child = Command::new("taskset")
        .args(["--cpu-list", "0"])
        .args(command.split_whitespace())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("server {name}: taskset {command}"))?;
    let stdout = child.stdout.take().context("a pipe was asked for")?;
    let load = Load {
        target: Target::new("https://localhost")?,
        version: Version::Http3,
        path: format!("/{}", options.size),
        connections: options.connections,
        streams: options.streams,
        requests: options.requests,
        expected: Expected {
            length: 0,
            hash: blake3::hash(b""),
        },
    };
    // From here on a failure ends the process that was started.
    let mut server = Server { name, child, load };
    let url = match url {
        Some(url) => url.to_owned(),
        None => format!(
            "https://localhost:{}/{}",
            listening(stdout)?.port(),
            options.size
        ),
    };
    let uri: http::Uri = url
        .parse()
        .with_context(|| format!("server {name}: {url}"))?;
    server.load.target = Target::new(&url)?.trusting(Trust::Insecure);
    if server.load.target.host() == "localhost" {
        // Not what the resolver likes best: both servers over the same family.
        let address = SocketAddr::from(([127, 0, 0, 1], server.load.target.port()));
        server.load.target = server.load.target.clone().at(address);
    }
    server.load.path = uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    server.load.expected = first(&server.load)
        .await
        .with_context(|| format!("server {name}: {url}"))?;
    Ok(server)
}

/// What the first answer is, once there is one, every other has to be.
async fn first(load: &Load) -> Result<Expected> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match ask(load).await {
            Ok(expected) => return Ok(expected),
            Err(error) if Instant::now() > deadline => return Err(error),
            // Not up yet. A command whose URL is given tells us nothing, so it is asked until it answers.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn ask(load: &Load) -> Result<Expected> {
    let client = tokio::time::timeout(
        Duration::from_secs(5),
        Client::connect(&load.target, load.version),
    )
    .await??;
    let mut expected = None;
    // Twice: a cache's first answer is a miss.
    for _ in 0..2 {
        let whole = client.get(&load.path).await?.whole().await?;
        ensure!(
            whole.status == http::StatusCode::OK,
            "status {}",
            whole.status
        );
        let this = Expected {
            length: whole.length,
            hash: whole.hash,
        };
        ensure!(
            expected.is_none_or(|earlier| earlier == this),
            "two answers that differ"
        );
        expected = Some(this);
    }
    client.close().await;
    expected.context("two answers were read")
}

/// Waits for the line that says where the server listens. The rest of its output is left in the pipe, which holds
/// 64 KiB: a server that logs each request must be told not to.
fn listening(stdout: std::process::ChildStdout) -> Result<SocketAddr> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next().transpose()? {
        if let Some((_, address)) = line.split_once("listening on ") {
            let address = address.trim().parse()?;
            // Dropping the pipe would kill a server that prints once more.
            std::mem::forget(lines);
            return Ok(address);
        }
    }
    bail!("the server ended without saying `listening on ADDR`")
}

/// The example built beside this benchmark: `target/PROFILE/deps/hot_hit-…` → `target/PROFILE/examples/plain_h3`.
fn plain_h3() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let profile = this
        .parent()
        .and_then(Path::parent)
        .context("the benchmark lies in target/PROFILE/deps")?;
    let path = profile.join("examples/plain_h3");
    ensure!(
        path.exists(),
        "{} is missing: cargo build --release -p stoq-loadtest --example plain_h3",
        path.display()
    );
    Ok(path)
}

/// User and system time of a process, from the 14th and 15th fields of its `stat`, in ticks of 10 ms.
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, which may hold spaces.
    let (_, rest) = stat.rsplit_once(')').context("a name in parentheses")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("a time")?.parse()?) };
    let sum = ticks()? + ticks()?;
    Ok(Duration::from_millis(sum * 10))
}

/// Moves this process to core 1. With only one core there is no measuring here.
fn pin_self() -> Result<()> {
    let pid = std::process::id().to_string();
    let done = Command::new("taskset")
        .args(["--all-tasks", "--pid", "--cpu-list", "1", &pid])
        .output();
    let done = done.context("taskset (util-linux) is needed")?;
    ensure!(
        done.status.success(),
        "core 1: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
