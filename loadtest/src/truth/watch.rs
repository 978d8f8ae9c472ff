//! Watching a run: what is read at the begin and the end of its counted time, and between.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use super::interface::{Counters, Link};
use super::process::{self, ProcessError};
use super::threads;
use super::tree::{self, Tree};
use crate::bundle::{ClientShare, Distribution, Interface, ServerShare};

/// Between readings of a server's memory. A shorter peak is missed, but for a server of one process.
const SAMPLE: Duration = Duration::from_millis(250);

/// Why a run cannot be watched, and so not be judged.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The server's process.
    #[error("server: {0}")]
    Server(#[from] ProcessError),
    /// The client's own threads.
    #[error("the client's own CPU time cannot be read: {0}")]
    Client(#[source] io::Error),
    /// No thread to read the server's memory.
    #[error("no thread for watching: {0}")]
    Thread(#[source] io::Error),
}

/// Watches a run.
#[derive(Debug)]
pub struct Watch {
    threads: Vec<Pid>,
    server: Option<Server>,
    /// `Err`: why there is none.
    link: Result<Link, String>,
    /// When watching began.
    first: Result<Counters, String>,
    from: Readings,
}

#[derive(Debug)]
struct Server {
    tree: Tree,
    command: String,
    resident_before: u64,
    peak_before: Option<u64>,
    sampler: Sampler,
}

/// What is read at the begin and at the end.
#[derive(Debug)]
struct Readings {
    at: Instant,
    cpu: Duration,
    threads: Vec<threads::Had>,
    stolen: Option<(u64, u64)>,
    counters: Result<Counters, String>,
    server: Option<Result<tree::Had, ProcessError>>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// The client. Its `lag` and `socket_drops` are the load threads' to tell, and empty here.
    pub client: ClientShare,
    /// The server, where its process was named and lived to the end. [`account`](Self::account) has figures to add.
    pub server: Option<ServerShare>,
    /// The interface to the server, where the kernel says.
    pub interface: Option<Interface>,
    /// What went wrong, each a sentence: reasons not to believe the run.
    pub faults: Vec<String>,
    /// What could not be seen, each a sentence.
    pub unseen: Vec<String>,
}

impl Watch {
    /// Begins, in the network namespace of the calling thread, before any load: what is received from now on is all that
    /// can be answered. `threads` are the load threads, which live until [`finish`](Self::finish).
    ///
    /// # Errors
    /// There is no such server, or the threads' CPU time cannot be read. An interface that cannot be found is told in
    /// [`Watched::unseen`].
    pub fn start(
        threads: &[Pid],
        server_pid: Option<u32>,
        peer: Option<SocketAddr>,
    ) -> Result<Self, WatchError> {
        let server = server_pid.map(Server::watch).transpose()?;
        let link = match peer {
            Some(peer) => Link::to(peer).map_err(|error| error.to_string()),
            None => Err("the server's address is not known".to_owned()),
        };
        let from = Readings::now(threads, &link, server.as_ref().map(|server| &server.tree))
            .map_err(WatchError::Client)?;
        Ok(Self {
            threads: threads.to_vec(),
            server,
            link,
            first: from.counters.clone(),
            from,
        })
    }

    /// The counted time begins. Without this call it began with [`start`](Self::start).
    ///
    /// # Errors
    /// The threads' CPU time cannot be read: one has ended.
    pub fn counted_from_now(&mut self) -> Result<(), WatchError> {
        self.from = self.read()?;
        Ok(())
    }

    /// The counted time is over. The load threads must not have ended.
    ///
    /// # Errors
    /// One has.
    pub fn finish(mut self) -> Result<Watched, WatchError> {
        let until = self.read()?;
        let passed = until.at.saturating_duration_since(self.from.at);
        let mut unseen = Vec::new();
        let mut faults = Vec::new();
        let interface = match interface(&self.first, &self.from.counters, &until.counters) {
            Ok(interface) => Some(interface),
            Err(why) => {
                unseen.push(format!(
                    "the kernel's count of what was received is not known ({why}), and was not compared"
                ));
                None
            }
        };
        let memory = process::memory("self")
            .and_then(|memory| memory.ok_or_else(|| io::ErrorKind::InvalidData.into()))
            .map_err(WatchError::Client)?;
        let client = ClientShare {
            cpu_s: until.cpu.saturating_sub(self.from.cpu).as_secs_f64(),
            thread_cpu: self
                .from
                .threads
                .iter()
                .zip(&until.threads)
                .map(|(from, until)| share(until.cpu.saturating_sub(from.cpu), passed))
                .collect(),
            thread_starved: self
                .from
                .threads
                .iter()
                .zip(&until.threads)
                .map(|(from, until)| {
                    Some(share(until.starved?.saturating_sub(from.starved?), passed))
                })
                .collect(),
            stolen: stolen(self.from.stolen, until.stolen),
            lag: Distribution::default(),
            socket_drops: None,
            rss_bytes: memory.peak,
        };
        let server = match (self.server, self.from.server, until.server) {
            (Some(server), Some(from), Some(until)) => match server.share(from, until, passed) {
                Ok(share) => Some(share),
                Err(fault) => {
                    faults.push(fault);
                    None
                }
            },
            _ => None,
        };
        Ok(Watched {
            client,
            server,
            interface,
            faults,
            unseen,
        })
    }

    fn read(&mut self) -> Result<Readings, WatchError> {
        if let Some(server) = &mut self.server {
            // That it has ended is found, and told, when it is read.
            let _ = server.tree.look_around();
        }
        let tree = self.server.as_ref().map(|server| &server.tree);
        Readings::now(&self.threads, &self.link, tree).map_err(WatchError::Client)
    }
}

impl Watched {
    /// Adds what the server's CPU comes to for each right answer and byte, of which there were so many in the counted time.
    pub fn account(&mut self, requests: u64, body_bytes: u64) {
        if let Some(server) = &mut self.server {
            let cpu_s = server.cpu_s;
            server.cpu_s_per_million = (requests > 0).then(|| cpu_s / float(requests) * 1e6);
            server.cpu_s_per_gb = (body_bytes > 0).then(|| cpu_s / float(body_bytes) * 1e9);
        }
    }
}

impl Readings {
    fn now(threads: &[Pid], link: &Result<Link, String>, tree: Option<&Tree>) -> io::Result<Self> {
        let server = tree.map(Tree::had);
        let counters = match link {
            Ok(link) => link.counters().map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Ok(Self {
            stolen: threads::stolen(),
            cpu: Duration::new(
                u64::try_from(cpu.tv_sec).unwrap_or(0),
                u32::try_from(cpu.tv_nsec).unwrap_or(0),
            ),
            counters,
            server,
            at: Instant::now(),
            threads: threads
                .iter()
                .map(|thread| threads::had(*thread))
                .collect::<io::Result<_>>()?,
        })
    }
}

impl Server {
    fn watch(pid: u32) -> Result<Self, WatchError> {
        let tree = Tree::of(pid)?;
        let command = process::command(pid).ok_or(ProcessError::Unseen(pid))?;
        let resident_before = tree.resident();
        Ok(Self {
            command,
            resident_before,
            peak_before: tree.peak(),
            sampler: Sampler::start(tree.clone(), resident_before).map_err(WatchError::Thread)?,
            tree,
        })
    }

    /// Its share, or the sentence that says why there is none.
    fn share(
        self,
        from: Result<tree::Had, ProcessError>,
        until: Result<tree::Had, ProcessError>,
        passed: Duration,
    ) -> Result<ServerShare, String> {
        let (sampled, ended) = self.sampler.stop();
        if let Some((error, after)) = ended {
            return Err(format!(
                "{error}, {:.1} s after watching began: the run is not of one server",
                after.as_secs_f64()
            ));
        }
        let told = |error: ProcessError| format!("{error}: the run is not of one server");
        let (from, until) = (from.map_err(told)?, until.map_err(told)?);
        let cpu = until.since(&from).ok_or_else(|| {
            format!(
                "processes of the server {} ended and nobody took account of their CPU time",
                self.tree.root()
            )
        })?;
        // A peak that grew since watching began is exact; otherwise the samples are what is known.
        let peak = self
            .tree
            .peak()
            .filter(|peak| self.peak_before.is_some_and(|before| *peak > before));
        Ok(ServerShare {
            pid: self.tree.root(),
            cpu_s: cpu.as_secs_f64(),
            cpu_share: share(cpu, passed),
            cores: self
                .tree
                .cores()
                .ok_or_else(|| told(ProcessError::Ended(self.tree.root())))?,
            busiest_thread: until.busiest_since(&from).map(|cpu| share(cpu, passed)),
            processes: u32::try_from(self.tree.processes()).unwrap_or(u32::MAX),
            command: self.command,
            cpu_s_per_million: None,
            cpu_s_per_gb: None,
            rss_before_bytes: self.resident_before,
            rss_max_bytes: peak.unwrap_or(0).max(sampled).max(self.tree.resident()),
        })
    }
}

/// Reads the server's memory now and then. Its thread ends when this is stopped or dropped.
#[derive(Debug)]
struct Sampler {
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Seen {
    resident_max: u64,
    /// Why the server is no more, and how long after the begin.
    ended: Option<(ProcessError, Duration)>,
}

impl Sampler {
    fn start(tree: Tree, resident: u64) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen {
            resident_max: resident,
            ended: None,
        }));
        let (its_over, its_seen) = (Arc::clone(&over), Arc::clone(&seen));
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || sample(tree, &its_over, &its_seen))?;
        Ok(Self {
            over,
            seen,
            thread: Some(thread),
        })
    }

    fn stop(self) -> (u64, Option<(ProcessError, Duration)>) {
        let seen = Arc::clone(&self.seen);
        drop(self);
        let seen = seen.lock();
        (seen.resident_max, seen.ended.clone())
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Fails only when it panicked; what it saw stands.
            let _ = thread.join();
        }
    }
}

fn sample(mut tree: Tree, over: &AtomicBool, seen: &Mutex<Seen>) {
    let begun = Instant::now();
    let mut looked = begun;
    while !over.load(Ordering::Acquire) {
        // New children are looked for more seldom: it reads a file for each process of the machine.
        let now = Instant::now();
        let state = if now - looked >= 8 * SAMPLE {
            looked = now;
            tree.look_around()
        } else {
            tree.alive().map(|_| ())
        };
        if let Err(error) = state {
            seen.lock().ended = Some((error, begun.elapsed()));
            return;
        }
        let resident = tree.resident();
        {
            let mut seen = seen.lock();
            seen.resident_max = seen.resident_max.max(resident);
        }
        std::thread::park_timeout(SAMPLE);
    }
}

fn interface(
    first: &Result<Counters, String>,
    from: &Result<Counters, String>,
    until: &Result<Counters, String>,
) -> Result<Interface, String> {
    let (first, from, until) = (first.clone()?, from.clone()?, until.clone()?);
    let difference = |from: u64, until: u64| {
        until
            .checked_sub(from)
            .ok_or_else(|| format!("the counters of {} went back", first.name))
    };
    Ok(Interface {
        rx_bytes: difference(from.rx_bytes, until.rx_bytes)?,
        rx_bytes_before: difference(first.rx_bytes, from.rx_bytes)?,
        tx_bytes: difference(from.tx_bytes, until.tx_bytes)?,
        rx_packets: difference(from.rx_packets, until.rx_packets)?,
        rx_dropped: difference(from.rx_dropped, until.rx_dropped)?,
        name: until.name,
    })
}

/// Of the processor time between two readings, what was stolen.
fn stolen(from: Option<(u64, u64)>, until: Option<(u64, u64)>) -> Option<f64> {
    let ((from, all_from), (until, all_until)) = (from?, until?);
    let all = all_until.checked_sub(all_from).filter(|all| *all > 0)?;
    Some(float(until.checked_sub(from)?) / float(all))
}

fn share(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64().max(1e-9)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts for people: 53 bits are enough"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
