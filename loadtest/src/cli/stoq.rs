//! `stoq-bench stoq`: STOQ between two processes of this machine, as `run` and `stoq-server` would measure it by hand.
//!
//! Makes a cluster of two nodes in a directory of its own, starts a server process for each MTU, puts bulk
//! and RPC loads on it, and prints a line for each run: rates, latencies, and what CPU both ends took. What
//! makes a run INVALID is what makes it so for `run`.

use std::fmt;
use std::fs::DirBuilder;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::sched_setaffinity;
use rustls_pki_types::UnixTime;
use stoq::identity::{ClusterRoot, Role, Validity};

use super::ab::cores;
use super::flags::Flags;
use super::run::on_ctrl_c;
use super::{INVALID, Usage};
use crate::bundle::Bundle;
use crate::run::Options;

/// How long the server may take until it says where it listens, and until it ends.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest first line of it that is read, bytes.
const LINE_MAX: u64 = 4096;
/// The papers of both nodes need not live longer.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// What `stoq` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Largest UDP payloads of the bulk runs, bytes; the RPC runs use the first.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1452,4000,8952",
          value_parser = clap::value_parser!(u16).range(1200..=9000))]
    mtu: Vec<u16>,
    /// Exchanges under way at once in the RPC runs.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,16,256"
    )]
    outstanding: Vec<u32>,
    /// Bytes of a bulk exchange.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    bulk: u64,
    /// Counted time of each run, after a second of warm-up.
    #[arg(short, long, value_name = "TIME", default_value = "3s")]
    duration: String,
    /// Cores of the server: `0`, `0-1,3`.
    #[arg(long, value_name = "LIST")]
    cpu_server: Option<String>,
    /// Cores of this client.
    #[arg(long, value_name = "LIST", requires = "cpu_server")]
    cpu_client: Option<String>,
    /// Print all results as a JSON array instead of lines.
    #[arg(long)]
    json: bool,
}

/// Exit code 3: a run is INVALID.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(list) = &args.cpu_client {
        // Threads begun from here on inherit it; the server is moved to its own cores.
        let cores = cores(list).ok_or_else(|| Usage(format!("`{list}` is no list of cores")))?;
        sched_setaffinity(None, &cores).with_context(|| format!("running on cores {list}"))?;
    }
    let interrupt = on_ctrl_c()?;
    let papers = Papers::new()?;
    let mut bundles = Vec::new();
    if !args.json {
        println!("{}", Line::HEAD);
    }
    for (index, mtu) in args.mtu.iter().enumerate() {
        let server = Server::start(&papers, *mtu, args.cpu_server.as_deref())?;
        let mut loads = vec![(
            format!("bulk, mtu {mtu}"),
            format!("/bulk/{}", args.bulk),
            1,
        )];
        if index == 0 {
            let rpc = |at_once: &u32| {
                let name = format!("rpc, {at_once} outstanding");
                (name, "/rpc".to_owned(), *at_once)
            };
            loads.extend(args.outstanding.iter().map(rpc));
        }
        for (name, path, streams) in loads {
            let plan = papers.plan(&server, *mtu, &path, streams, &args.duration)?;
            let options = Options {
                name,
                server_pid: Some(server.pid()),
                progress: !args.json,
                interrupt: interrupt.clone(),
            };
            let bundle = crate::run::run(plan, &options)?;
            if !args.json {
                println!("{}", Line(&bundle));
            }
            bundles.push(bundle);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&bundles)?);
    }
    if bundles.iter().any(|bundle| !bundle.verdict.valid) {
        return Ok(ExitCode::from(INVALID));
    }
    let failed = bundles.iter().any(|bundle| bundle.outcome.failures() > 0);
    Ok(ExitCode::from(u8::from(failed)))
}

/// A cluster of two nodes in files. Removed when dropped.
struct Papers(PathBuf);

impl Papers {
    fn new() -> anyhow::Result<Self> {
        let name = format!(
            "stoq-bench-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let path = std::env::temp_dir().join(name);
        // For this user alone: the nodes' keys lie in it. Fails where somebody has made it before.
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        let papers = Self(path);
        let valid = Validity::starting(UnixTime::now(), VALID);
        let root = ClusterRoot::generate("bench", valid)?;
        root.save(&papers.file("root-key.pem"), &papers.file("root.pem"))?;
        for (name, role) in [("server", Role::Shield), ("client", Role::Edge)] {
            let node = root.issue(name, &[role], valid)?;
            node.save(&papers.file(&format!("{name}.pem")))?;
        }
        Ok(papers)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What `run` would make of these flags.
    fn plan(
        &self,
        server: &Server,
        mtu: u16,
        path: &str,
        streams: u32,
        duration: &str,
    ) -> anyhow::Result<crate::plan::Plan> {
        let url = format!("stoq://{}{path}", server.address);
        let (identity, root) = (self.file("client.pem"), self.file("root.pem"));
        let (mtu, streams) = (mtu.to_string(), streams.to_string());
        let words = [
            &*url,
            "--identity",
            text(&identity)?,
            "--root",
            text(&root)?,
            "--mtu",
            &mtu,
            "-c",
            "1",
            "-m",
            &streams,
            "-d",
            duration,
            "--warmup",
            "1s",
        ];
        Ok(Flags::of_words(words.into_iter())?.plan()?.0)
    }
}

impl Drop for Papers {
    fn drop(&mut self) {
        // What cannot be removed stays in the directory for temporary files, readable by this user alone.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// `stoq-bench stoq-server` as a process of its own. Ended when dropped.
struct Server {
    address: SocketAddr,
    process: Process,
}

impl Server {
    fn start(papers: &Papers, mtu: u16, cores: Option<&str>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = match cores {
            None => Command::new(&program),
            // It becomes the program, on its cores from its first instruction.
            Some(cores) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", cores]).arg(&program);
                taskset
            }
        };
        let mut child = command
            .args(["stoq-server", "--listen", "127.0.0.1:0"])
            .args(["--mtu", &mtu.to_string()])
            .arg("--identity")
            .arg(papers.file("server.pem"))
            .arg("--root")
            .arg(papers.file("root.pem"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for this program, which ends it.
            .process_group(0)
            .spawn()
            .context("starting the server")?;
        let output = child.stdout.take();
        let process = Process::of(child)?;
        let address = listens(output.context("the server has no output")?)?;
        Ok(Self { address, process })
    }

    fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().unsigned_abs()
    }
}

/// The address in the server's first line, `… listens on ADDR …`.
fn listens(output: ChildStdout) -> anyhow::Result<SocketAddr> {
    let (tell, told) = sync_channel(1);
    // A thread, for the line may never come; it ends with the server's output.
    std::thread::Builder::new()
        .name("server-output".to_owned())
        .spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(output.take(LINE_MAX)).read_line(&mut line);
            drop(tell.send(read.map(|_| line)));
        })?;
    let Ok(line) = told.recv_timeout(LIMIT) else {
        bail!(
            "the server did not say within {} s where it listens",
            LIMIT.as_secs()
        );
    };
    let line = line.context("reading the server's output")?;
    address(&line).with_context(|| format!("the server says {line:?} and no address"))
}

fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listens on ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A child that is asked to end when dropped, and killed if it does not.
struct Process {
    pid: Pid,
    ended: Receiver<()>,
}

impl Process {
    fn of(mut child: Child) -> anyhow::Result<Self> {
        let pid = Pid::from_child(&child);
        let (tell, ended) = sync_channel(1);
        let process = Self { pid, ended };
        std::thread::Builder::new()
            .name("server-wait".to_owned())
            .spawn(move || {
                drop(child.wait());
                drop(tell);
            })?;
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for signal in [Signal::TERM, Signal::KILL] {
            if matches!(
                self.ended.try_recv(),
                Err(std::sync::mpsc::TryRecvError::Disconnected)
            ) {
                return;
            }
            // It is not yet waited for, or has ended a moment ago, which is what is wanted.
            let _ = kill_process(self.pid, signal);
            let _ = self.ended.recv_timeout(LIMIT);
        }
    }
}

/// A run in one line.
struct Line<'a>(&'a Bundle);

impl Line<'_> {
    const HEAD: &'static str =
        "                            rate              p50       p99    server    client";
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bundle {
            name,
            outcome,
            client,
            server,
            verdict,
            ..
        } = self.0;
        let is_bulk = name.starts_with("bulk");
        let (amount, unit, scale) = if is_bulk {
            (outcome.body_bytes as f64 / 1e9, "s/GB", 1.0)
        } else {
            (outcome.requests as f64, "µs", 1e6)
        };
        let rate = if is_bulk {
            format!("{:.2} Gbit/s", amount * 8.0 / outcome.elapsed_s)
        } else {
            format!("{:.1} k/s", amount / outcome.elapsed_s / 1e3)
        };
        let ms = |micros: f64| format!("{:.2} ms", micros / 1e3);
        let each = |cpu_s: f64| {
            if amount > 0.0 {
                format!("{:.3}", cpu_s / amount * scale)
            } else {
                "–".to_owned()
            }
        };
        let server = server
            .as_ref()
            .map_or_else(|| "–".to_owned(), |server| each(server.cpu_s));
        write!(
            f,
            "{name:<22} {rate:>14} {:>12} {:>9} {server:>9} {:>9} {unit}",
            ms(outcome.latency.p50_us),
            ms(outcome.latency.p99_us),
            each(client.cpu_s)
        )?;
        if outcome.failures() > 0 {
            write!(f, "  {} FAILED", outcome.failures())?;
        }
        for reason in &verdict.reasons {
            write!(f, "\n  INVALID: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_line_has_its_address() {
        let line = "server of cluster bench listens on 127.0.0.1:4433 with 1 workers\n";
        assert_eq!(
            address(line),
            Some(SocketAddr::from(([127, 0, 0, 1], 4433)))
        );
        for odd in ["", "listens on", "listens on x", "error: no"] {
            assert_eq!(address(odd), None, "{odd}");
        }
    }

    #[test]
    fn papers_are_removed_with_their_directory() {
        let papers = Papers::new().unwrap();
        let path = papers.0.clone();
        assert!(path.join("client.pem").exists());
        drop(papers);
        assert!(!path.exists());
    }
}
