//! A process on a host of a lab: started in its namespace and in a process group of its own, waited for until it is ready,
//! and ended with all it started.
//!
//! Between the lab and the command stands [`guard`], this program itself, which asks the kernel to kill the process when the
//! tool dies, and then becomes the command.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::signal::unix::{SignalKind, signal};

use super::lab::{GRACE, LabError, group};
use super::scenario::Ready;

/// How much of a log is looked at for a line, and shown after a failure, from its end: bytes.
const LOG_TAIL: u64 = 64 << 10;

/// Lines shown after a failure.
const LINES_SHOWN: usize = 20;

/// What to start, all placeholders filled.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) host: &'a str,
    pub(super) namespace: &'a str,
    pub(super) run: &'a str,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) log: PathBuf,
    /// Instead of to the log, it writes to the tool's own standard output and error.
    pub(super) to_terminal: bool,
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pub(super) host: String,
    pub(super) run: String,
    log: PathBuf,
}

impl Running {
    /// Starts it. To be called from a thread that lives as long as the process shall.
    pub(super) fn start(start: Start<'_>) -> Result<Self, LabError> {
        let log = super::lab::log(&start.log)?;
        let again = log
            .try_clone()
            .map_err(LabError::io(start.log.display().to_string()))?;
        let bench = std::env::current_exe().map_err(LabError::io("finding this program"))?;
        let mut command = group("ip");
        command
            .args(["netns", "exec", start.namespace])
            .arg(bench)
            .args(["netlab", "--guard", &std::process::id().to_string(), "--"])
            .args(["sh", "-c", start.run])
            .envs(start.env)
            .stdin(Stdio::null());
        if !start.to_terminal {
            command.stdout(log).stderr(again);
        }
        let child = command.spawn().map_err(|error| LabError::Program {
            program: "ip".to_owned(),
            error,
        })?;
        Ok(Self {
            child,
            host: start.host.to_owned(),
            run: start.run.to_owned(),
            log: start.log,
        })
    }

    /// Its process id: `sh` replaces itself with the last command of a simple command line, so it is the program's.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready, at most `limit`.
    pub(super) async fn ready(&mut self, ready: &Ready, limit: Duration) -> Result<(), LabError> {
        let until = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait();
            if let Some(status) = ended.map_err(LabError::io(&self.run))? {
                return Err(self.failed(format!("ended before it was ready ({status})")));
            }
            if is_ready(self.pid(), &self.log, ready) {
                return Ok(());
            }
            if Instant::now() >= until {
                let wanted = match ready {
                    Ready::Udp(port) => format!("has no UDP socket on port {port}"),
                    Ready::Tcp(port) => format!("does not listen on TCP port {port}"),
                    Ready::Line(line) => format!("has not written `{line}`"),
                };
                return Err(self.failed(format!("{wanted} after {limit:?}")));
            }
            // The kernel tells nobody of a socket that was bound: ask again.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for its end, at most `limit`.
    pub(super) async fn ended(&mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        let what = LabError::io(format!("waiting for `{}`", self.run));
        // Listening before looking, so that no end falls between the two.
        let mut children = signal(SignalKind::child()).map_err(what)?;
        let child = &mut self.child;
        let waited = tokio::time::timeout(limit, async {
            loop {
                if let Some(status) = child.try_wait()? {
                    return io::Result::Ok(status);
                }
                children.recv().await;
            }
        });
        match waited.await {
            Ok(status) => status.map_err(LabError::io(format!("waiting for `{}`", self.run))),
            Err(_) => Err(self.failed(format!("was not done after {limit:?}"))),
        }
    }

    /// How it ended, if it has.
    pub(super) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The error that says what it wrote.
    pub(super) fn failed(&self, why: String) -> LabError {
        let tail = tail(&self.log).unwrap_or_default();
        let lines: Vec<&str> = tail.lines().collect();
        let shown = lines.len().saturating_sub(LINES_SHOWN);
        LabError::Process {
            run: self.run.clone(),
            host: self.host.clone(),
            why,
            wrote: lines.get(shown..).unwrap_or_default().join("\n"),
        }
    }

    /// Ends all of them with all they started: SIGTERM, up to [`GRACE`] in all, SIGKILL.
    pub(super) fn end_all(processes: &mut Vec<Self>) {
        // Of a group whose leader was waited for the id may be another's by now: those are left to the sweep of the namespace.
        processes.retain_mut(|process| matches!(process.child.try_wait(), Ok(None)));
        for process in &*processes {
            let _ = kill_process_group(Pid::from_child(&process.child), Signal::TERM);
        }
        let until = Instant::now() + GRACE;
        for mut process in processes.drain(..) {
            let pid = Pid::from_child(&process.child);
            let left = until.saturating_duration_since(Instant::now());
            if let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) {
                let mut waits = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
                let left = rustix::time::Timespec::try_from(left).unwrap_or_default();
                let _ = poll(&mut waits, Some(&left));
            }
            // Not waited for yet, so the group is still its own.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = process.child.wait();
        }
    }
}

/// Whether a process, or whatever else runs on its host, shows that it is ready.
fn is_ready(pid: u32, log: &Path, ready: &Ready) -> bool {
    let bound = |tables: [&str; 2], port: u16, state: Option<&str>| {
        tables.iter().any(|table| {
            fs::read_to_string(format!("/proc/{pid}/net/{table}"))
                .is_ok_and(|sockets| has_socket(&sockets, port, state))
        })
    };
    match ready {
        Ready::Udp(port) => bound(["udp", "udp6"], *port, None),
        // 0A is LISTEN.
        Ready::Tcp(port) => bound(["tcp", "tcp6"], *port, Some("0A")),
        Ready::Line(line) => tail(log).is_ok_and(|tail| tail.contains(line.as_str())),
    }
}

/// Whether a table of `/proc/net` has a socket on `port`: its second column is `ADDRESS:PORT` in hex, its fourth the state.
fn has_socket(table: &str, port: u16, state: Option<&str>) -> bool {
    table.lines().skip(1).any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, its_state) = (columns.next(), columns.nth(1));
        let its_port = local.and_then(|local| local.rsplit_once(':'));
        its_port.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
            && state.is_none_or(|state| its_state == Some(state))
    })
}

/// The last [`LOG_TAIL`] bytes of a log.
fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Becomes `command`, which the kernel kills when the process `tool`, our parent, dies. Comes back only with an error.
#[must_use]
pub fn guard(tool: u32, command: &[String]) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no command");
    };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // It may have died before we asked.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent.and_then(|pid| u32::try_from(pid).ok()) != Some(tool) {
        return io::Error::other("the lab is gone");
    }
    Command::new(program).args(arguments).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                        0: 0100007F:20FB 00000000:0000 0A 00000000\n\
                        1: 0100007F:1F90 0100007F:20FB 01 00000000\n";
        assert!(has_socket(table, 8443, Some("0A")));
        assert!(has_socket(table, 8080, None));
        assert!(
            !has_socket(table, 8080, Some("0A")),
            "connected, not listening"
        );
        assert!(!has_socket(table, 8444, None));
        assert!(!has_socket("", 1, None));
    }
}
