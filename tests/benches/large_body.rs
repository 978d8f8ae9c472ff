//! One body far larger than the RAM tiers, through edge and shield as processes of their own: is it right, and does memory stay flat?
//!
//!     cargo build --release -p stoq-edge -p stoq-origin-shield
//!     cargo bench -p integration --bench large_body                       # 5 GiB through 256 MiB
//!     STOQ_LARGE_BODY_MIB=512 STOQ_RAM=64MiB cargo bench -p integration --bench large_body
//!
//! Prints whether the hash is right and each process's resident memory over the transfer, read from `/proc`. Exits with 1 if the hash is wrong or memory is not
//! flat: its mean over the last third of the transfer more than a tenth above that of the middle third.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use integration::{Answer, Client, Origin, Version, body, tools};
use stoq_loadtest::{Target, Trust};

/// Samples of a process's resident memory, bytes.
struct Watched {
    name: &'static str,
    child: Child,
    samples: Vec<u64>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Watched {
    fn start(name: &'static str, program: &Path, config: &Path) -> Self {
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{}: {error}: build it first, see the head of this file",
                    program.display()
                )
            });
        let mut watched = Self {
            name,
            child,
            samples: Vec::new(),
        };
        // Its log goes on being read, so that it never waits for us.
        if let Some(log) = watched.child.stderr.take() {
            std::thread::spawn(move || {
                BufReader::new(log)
                    .lines()
                    .map_while(Result::ok)
                    .for_each(|line| eprintln!("{name}: {line}"))
            });
        }
        watched
    }

    fn sample(&mut self) {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()))
            .expect("the process lives");
        let pages: u64 = statm
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .expect("statm has a second field");
        self.samples.push(pages * 4096);
    }

    /// Prints the figures; whether memory stayed flat.
    fn flat(&self) -> bool {
        let mean = |part: &[u64]| part.iter().sum::<u64>() / (part.len() as u64).max(1) / (1 << 20);
        let third = self.samples.len() / 3;
        let (middle, last) = (
            mean(&self.samples[third..2 * third]),
            mean(&self.samples[2 * third..]),
        );
        let peak = self.samples.iter().max().copied().unwrap_or_default() >> 20;
        let flat = last <= middle + middle / 10;
        println!(
            "{}: resident {middle} MiB in the middle third, {last} MiB in the last, peak {peak} MiB: {}",
            self.name,
            if flat { "flat" } else { "NOT FLAT" }
        );
        flat
    }
}

fn binary(name: &str) -> PathBuf {
    let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    std::env::var_os("STOQ_BIN_DIR")
        .map_or(target, PathBuf::from)
        .join(name)
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("large_body: nothing measured; run it with `cargo bench`");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let passed = runtime.block_on(measure());
    std::process::exit(i32::from(!passed));
}

async fn measure() -> bool {
    let mib: u64 = std::env::var("STOQ_LARGE_BODY_MIB")
        .map_or(5 * 1024, |text| text.parse().expect("a number of MiB"));
    let ram = std::env::var("STOQ_RAM").unwrap_or_else(|_| "256MiB".to_owned());
    let (seed, total) = (body::seed(), mib << 20);
    let origin = Origin::start(move |_| async move {
        let pieces = stream::iter(body::pieces(seed, total).map(Ok::<Bytes, std::io::Error>));
        Answer::status(200)
            .stream(Some(total), pieces)
            .header("etag", "\"large\"")
            .fresh(600)
    })
    .await;

    let dir = tempfile::tempdir().expect("a temporary directory");
    let founded = Command::new(binary("stoq-edge"))
        .args([
            "cluster",
            "init",
            "--name",
            "demo",
            "--node",
            "edge-1:edge",
            "--node",
            "shield-1:shield",
            "--dir",
        ])
        .arg(dir.path())
        .stdout(Stdio::null())
        .status();
    assert!(founded.expect("stoq-edge starts").success(), "cluster init");
    let (https, stoq) = (tools::free_port(), tools::free_port());
    let node = |name: &str| {
        format!("[node]\nname = \"{name}\"\nstate_dir = \"{name}/run\"\n[cache]\nram = \"{ram}\"\n")
    };
    let cluster = |name: &str| {
        format!(
            "[cluster]\nname = \"demo\"\nidentity = \"{name}/identity.pem\"\nroot = \"root.pem\"\n"
        )
    };
    let site = format!(
        "[[site]]\nname = \"site\"\nhosts = [\"*\"]\norigins = [\"{}\"]\n",
        origin.url()
    );
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a configuration is written");
        path
    };
    let shield = write(
        "shield.toml",
        format!(
            "{}[listen]\nstoq = [\"127.0.0.1:{stoq}\"]\n{}{site}",
            node("shield-1"),
            cluster("shield-1")
        ),
    );
    let edge = write(
        "edge.toml",
        format!(
            "{}[listen]\nhttps = [\"127.0.0.1:{https}\"]\n{}[shield]\nnodes = [\"127.0.0.1:{stoq}\"]\n{site}",
            node("edge-1"),
            cluster("edge-1")
        ),
    );
    let mut watched = [
        Watched::start("shield", &binary("stoq-shield"), &shield),
        Watched::start("edge", &binary("stoq-edge"), &edge),
    ];
    let target = Target::new("https://localhost")
        .expect("a URL")
        .at(SocketAddr::from(([127, 0, 0, 1], https)));
    let target = target.trusting(Trust::Insecure);
    let begun = Instant::now();
    let client = loop {
        match Client::connect(&target, Version::Http3).await {
            Ok(client) => break client,
            Err(error) if begun.elapsed() > Duration::from_secs(30) => {
                panic!("the edge does not answer: {error}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };

    let begun = Instant::now();
    let mut answer = client.get("/large").await.expect("an answer");
    println!(
        "{} {}",
        answer.status,
        answer.header("cache-status").unwrap_or_default()
    );
    let (mut got, mut next) = (blake3::Hasher::new(), Duration::ZERO);
    while let Some(bytes) = answer.body.chunk().await.expect("a whole body") {
        got.update(&bytes);
        if begun.elapsed() >= next {
            watched.iter_mut().for_each(Watched::sample);
            next += Duration::from_millis(100);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut want = blake3::Hasher::new();
    body::pieces(seed, total).for_each(|piece| {
        want.update(&piece);
    });
    let right = got.count() == total && got.finalize() == want.finalize();
    println!(
        "{mib} MiB through shield and edge with {ram} of RAM tier each in {seconds:.1} s: hash {}",
        if right { "right" } else { "WRONG" }
    );
    println!("origin asked {} times", origin.requests("/large"));
    let flat: Vec<_> = watched.iter().map(Watched::flat).collect();
    right && flat.iter().all(|flat| *flat)
}
