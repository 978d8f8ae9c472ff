//! What a request costs the client: CPU of one thread that asks over HTTP/3 in a closed loop, against a server on the
//! other core.
//!
//!     cargo bench -p stoq-loadtest --bench h3_lane                       # the plain_h3 example
//!     cargo bench -p stoq-loadtest --bench h3_lane -- --url https://localhost:8443/1024
//!
//! The client's rate when the server does not hold it up is 1 / cost.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rustix::time::ClockId;
use stoq_loadtest::lane::h3::H3Dialer;
use stoq_loadtest::lane::{Conn, Dialer, Lane, Sink};
use stoq_loadtest::plan::{Plan, Protocol, Session, Shape, Stop};
use stoq_loadtest::workload::{Ask, Known, Object, Verb, Workload};
use stoq_loadtest::{Client, Target, Trust, Version};
use tokio::task::JoinSet;

/// Measures the client's CPU per request.
#[derive(Debug, Parser)]
struct Options {
    /// What is asked for [default: 1 KiB and 1 MiB of the plain_h3 example].
    #[arg(long)]
    url: Option<String>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Given by `cargo bench`, and not by `cargo test --all-targets`, which is no place to measure.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if !options.bench {
        println!("h3_lane: nothing measured; run it with `cargo bench`");
        return Ok(());
    }
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["--all-tasks", "--pid", "--cpu-list", "1", &pid])
        .output()
        .context("taskset (util-linux) is needed")?;
    ensure!(pinned.status.success(), "this machine has no core 1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let seconds = Duration::from_secs(options.seconds);
    if let Some(url) = &options.url {
        return runtime.block_on(measure(url, 10, 32, seconds));
    }
    let mut child = Command::new("taskset")
        .args(["--cpu-list", "0"])
        .arg(plain_h3()?)
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("a pipe was asked for")?;
    let _server = Server(child);
    let mut lines = BufReader::new(stdout).lines();
    let port = loop {
        let line = lines.next().context("plain_h3 ended")??;
        if let Some((_, address)) = line.split_once("listening on ") {
            break address.trim().parse::<SocketAddr>()?.port();
        }
    };
    for (size, streams) in [(1 << 10, 32), (1 << 20, 4)] {
        let url = format!("https://localhost:{port}/{size}");
        runtime.block_on(measure(&url, 10, streams, seconds))?;
    }
    Ok(())
}

async fn measure(url: &str, connections: u32, streams: u32, time: Duration) -> Result<()> {
    let mut target = Target::new(url)?.trusting(Trust::Insecure);
    if target.host() == "localhost" {
        target = target
            .clone()
            .at(SocketAddr::from(([127, 0, 0, 1], target.port())));
    }
    let uri: http::Uri = url.parse()?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let client = Client::connect(&target, Version::Http3).await?;
    let body = client.get(path).await?.bytes(64 << 20).await?;
    client.close().await;
    let plan = Plan {
        target,
        protocol: Protocol::Http3,
        shape: Shape::Closed,
        connections,
        streams,
        threads: 1,
        sources: Vec::new(),
        stop: Stop {
            duration: time,
            requests: None,
        },
        warmup: Duration::ZERO,
        timeout: Duration::from_secs(10),
        workload: Arc::new(Workload::one(path)),
        fields: Vec::new(),
        session: Session::Kept,
        read_rate: None,
        zeros: false,
        idle: None,
        seed: 1,
    };
    let ask = Ask {
        verb: Verb::Get,
        object: Arc::new(Object {
            path: path.into(),
            authority: None,
            known: Known::Body(body.clone()),
        }),
    };
    let dialer = H3Dialer::new(&plan, 0)?;
    let mut conns = Vec::new();
    for number in 0..connections {
        conns.push(dialer.dial(number).await?);
    }
    let (started, before) = (Instant::now(), cpu());
    let until = started + time;
    let mut lanes = JoinSet::new();
    for conn in &conns {
        for _ in 0..streams {
            let (mut lane, ask) = (conn.lane(), ask.clone());
            lanes.spawn(async move {
                let mut answers = 0_u64;
                while Instant::now() < until {
                    let mut sink = Sink::new(&ask);
                    lane.exchange(&ask, &mut sink).await?;
                    answers += 1;
                }
                anyhow::Ok(answers)
            });
        }
    }
    let mut answers = 0;
    while let Some(done) = lanes.join_next().await {
        answers += done??;
    }
    let (took, spent) = (started.elapsed(), cpu() - before);
    if answers == 0 {
        bail!("no answer in {time:?}");
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (answers, bytes) = (answers as f64, body.len() as f64);
    println!(
        "{bytes} bytes, {connections} x {streams}: {:.0} answers/s, client {:.2} us of CPU each ({:.2} s/GB), {:.0} % of its core",
        answers / took.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / answers,
        spent.as_secs_f64() * 1e9 / (answers * bytes),
        100.0 * spent.as_secs_f64() / took.as_secs_f64(),
    );
    Ok(())
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The example built beside this benchmark: `target/PROFILE/deps/h3_lane-…` → `target/PROFILE/examples/plain_h3`.
fn plain_h3() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let profile = this.parent().and_then(Path::parent);
    let path = profile
        .context("the benchmark lies in target/PROFILE/deps")?
        .join("examples/plain_h3");
    ensure!(
        path.exists(),
        "{} is missing: cargo build --release -p stoq-loadtest --example plain_h3",
        path.display()
    );
    Ok(path)
}
