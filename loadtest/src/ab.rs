//! Two servers measured in turn, A B A B …: what a noisy machine does in a while it does to both.
//!
//! A round of which either half is INVALID compares nothing: both halves are set aside, which the result says with the
//! reason, and are measured again, a bounded number of times. What decides is the client's state alone, never a figure.
//!
//! Each round starts its server anew, waits until it answers, measures, and stops it: the other one never runs beside it.
//! A server is a command for `sh`, the leader of a process group of its own, so that Ctrl-C reaches this program alone and
//! the whole group is stopped with it: SIGTERM, and SIGKILL after ten seconds or when this program fails.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio_util::sync::CancellationToken;

use crate::bundle::Bundle;
use crate::results::{PAIR_FORMAT, Pair};

/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to end once it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks whether it answers.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest line of its output that is looked at, bytes.
const LINE_MAX: u64 = 4096;
/// What stands before the address in the line of a server that says where it listens.
const LISTENING: &str = "listening on ";

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letter {
    /// The first.
    A,
    /// The second.
    B,
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// A server and what it is asked for.
#[derive(Debug, Clone)]
pub struct Side {
    /// One simple command, read by `sh`.
    pub command: String,
    /// What it is asked for. `{addr}` stands for the address it says it listens on: a line `… listening on ADDR` of its
    /// output.
    pub url: String,
}

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What is compared, in a line.
    pub name: String,
    /// The first server.
    pub a: Side,
    /// The second.
    pub b: Side,
    /// Rounds of each, 1 or more.
    pub rounds: usize,
    /// How many rounds may be measured again because they were INVALID, over all rounds. 0: none.
    pub repeats: usize,
    /// Cores the servers may use, as `taskset` (util-linux) reads them: `0`, `0-1,3`. `None`: all this process may use.
    pub server_cores: Option<String>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum AbError {
    /// It cannot be started.
    #[error("server {letter}, `{command}`: {source}")]
    Start {
        /// Which.
        letter: Letter,
        /// What was tried.
        command: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended before it was asked to.
    #[error("server {letter} ended by itself: {status}")]
    Ended {
        /// Which.
        letter: Letter,
        /// How.
        status: String,
    },
    /// It did not answer in time.
    #[error("server {letter} did not answer within {} s: {why}", START_LIMIT.as_secs())]
    NotReady {
        /// Which.
        letter: Letter,
        /// What came instead.
        why: String,
    },
    /// The run could not be made.
    #[error("server {letter}, round {round}: {source:#}")]
    Run {
        /// Which.
        letter: Letter,
        /// From 1.
        round: usize,
        /// Why not.
        source: anyhow::Error,
    },
    /// Interrupted.
    #[error("interrupted in round {round}")]
    Interrupted {
        /// From 1.
        round: usize,
    },
}

/// Measures. `ready` says whether the server at a URL answers yet, or why not; `run` makes a run against it, given its
/// process. Blocks; to be called outside a runtime. Servers are stopped before it returns, whatever it returns.
///
/// # Errors
/// [`AbError`]. No part of a result is given: rounds that are not in turn are no comparison.
pub fn ab(
    setting: &Setting,
    interrupt: &CancellationToken,
    mut ready: impl FnMut(Letter, &str) -> Result<(), String>,
    mut run: impl FnMut(Letter, usize, &str, u32) -> anyhow::Result<Bundle>,
) -> Result<Pair, AbError> {
    let mut half = |letter: Letter, round: usize| -> Result<Bundle, AbError> {
        let side = match letter {
            Letter::A => &setting.a,
            Letter::B => &setting.b,
        };
        if interrupt.is_cancelled() {
            return Err(AbError::Interrupted { round });
        }
        let mut server = Server::start(letter, &side.command, setting.server_cores.as_deref())?;
        let url = server.url(&side.url, interrupt, &mut ready)?;
        let made = run(letter, round, &url, server.pid());
        if interrupt.is_cancelled() {
            return Err(AbError::Interrupted { round });
        }
        let bundle = made.map_err(|source| AbError::Run {
            letter,
            round,
            source,
        })?;
        // A server that fell over is no server that was measured.
        server.still_runs()?;
        server.stop(STOP_LIMIT);
        Ok(bundle)
    };
    let (mut of_a, mut of_b, mut set_aside) = (Vec::new(), Vec::new(), Vec::new());
    let mut repeats = setting.repeats;
    while of_a.len() < setting.rounds {
        let round = of_a.len() + 1;
        let a = half(Letter::A, round)?;
        let b = half(Letter::B, round)?;
        let invalid: Vec<String> = [(Letter::A, &a), (Letter::B, &b)]
            .into_iter()
            .filter(|(_, half)| !half.verdict.valid)
            .map(|(letter, half)| {
                let reasons = half.verdict.reasons.join("; ");
                format!("{letter}, round {round}: {reasons}")
            })
            .collect();
        if !invalid.is_empty() && repeats > 0 {
            repeats -= 1;
            set_aside.extend(invalid);
            continue;
        }
        of_a.push(a);
        of_b.push(b);
    }
    Ok(Pair {
        format: PAIR_FORMAT.to_owned(),
        name: setting.name.clone(),
        command_a: setting.a.command.clone(),
        command_b: setting.b.command.clone(),
        a: of_a,
        b: of_b,
        set_aside,
    })
}

/// A running server; dropped, its whole process group is killed.
#[derive(Debug)]
struct Server {
    letter: Letter,
    group: Pid,
    /// The address it says.
    said: Receiver<SocketAddr>,
    /// How it ended: told once, when it was waited for.
    ended: Receiver<std::io::Result<ExitStatus>>,
}

impl Server {
    fn start(letter: Letter, command: &str, cores: Option<&str>) -> Result<Self, AbError> {
        let failed = |source| AbError::Start {
            letter,
            command: command.to_owned(),
            source,
        };
        // Each `exec`s the next, so that the process is the server itself, on its cores from its first instruction.
        let script = format!("exec {command}");
        let mut spawned = match cores {
            None => Command::new("sh"),
            Some(cores) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", cores, "sh"]);
                taskset
            }
        };
        let mut child = spawned
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let group = Pid::from_child(&child);
        let stdout = child.stdout.take();
        let (tell_end, ended) = sync_channel(1);
        let (tell_said, said) = sync_channel(1);
        // From here on a failure ends the group.
        let server = Self {
            letter,
            group,
            said,
            ended,
        };
        thread("server-wait", move || drop(tell_end.send(child.wait()))).map_err(failed)?;
        if let Some(stdout) = stdout {
            thread("server-output", move || {
                read_output(stdout, |address| {
                    // The first one counts; nobody waits for more.
                    let _ = tell_said.try_send(address);
                });
            })
            .map_err(failed)?;
        }
        Ok(server)
    }

    fn pid(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its URL, once it answers there.
    fn url(
        &mut self,
        template: &str,
        interrupt: &CancellationToken,
        ready: &mut impl FnMut(Letter, &str) -> Result<(), String>,
    ) -> Result<String, AbError> {
        let deadline = Instant::now() + START_LIMIT;
        let mut url = (!template.contains("{addr}")).then(|| template.to_owned());
        loop {
            if url.is_none() {
                let said = self.said.try_recv().ok();
                url = said.map(|address| template.replace("{addr}", &address.to_string()));
            }
            let answer = match &url {
                Some(url) => ready(self.letter, url),
                None => Err(format!("no line `{LISTENING}ADDR` in its output")),
            };
            let why = match (answer, &url) {
                (Ok(()), Some(url)) => {
                    // It may be another program that answers at this address.
                    self.still_runs()?;
                    return Ok(url.clone());
                }
                (Ok(()), None) => continue,
                (Err(why), _) => why,
            };
            if interrupt.is_cancelled() || Instant::now() > deadline {
                return Err(AbError::NotReady {
                    letter: self.letter,
                    why,
                });
            }
            self.runs_for(PAUSE)?;
        }
    }

    fn still_runs(&mut self) -> Result<(), AbError> {
        self.runs_for(Duration::ZERO)
    }

    fn runs_for(&mut self, time: Duration) -> Result<(), AbError> {
        let status = match self.ended.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(RecvTimeoutError::Disconnected) => "it is not known how".to_owned(),
        };
        Err(AbError::Ended {
            letter: self.letter,
            status,
        })
    }

    /// Asks it to end, and does not ask after `limit`.
    fn stop(self, limit: Duration) {
        self.signal(Signal::TERM);
        // Whether it ended or not: what is left of the group is killed on dropping.
        drop(self.ended.recv_timeout(limit));
    }

    fn signal(&self, signal: Signal) {
        // A group that is gone is what was wanted.
        let _ = kill_process_group(self.group, signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // Reaped, so that its port is free for the next; nothing survives SIGKILL for long.
        drop(self.ended.recv_timeout(STOP_LIMIT));
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
}

/// Reads all of it, for a server whose output is not read stands still; each line is looked at up to its 4096th byte.
fn read_output(stdout: ChildStdout, mut found: impl FnMut(SocketAddr)) {
    let mut output = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match output.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Some(address) = address(&String::from_utf8_lossy(&line)) {
            found(address);
        }
    }
}

fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(LISTENING)?;
    let word = rest.split_whitespace().next()?;
    let mut address: SocketAddr = word.trim_end_matches([',', '.', ';']).parse().ok()?;
    if address.ip().is_unspecified() {
        // It listens everywhere; it is asked here.
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use rustix::process::test_kill_process;

    use super::*;
    use crate::bundle::sample;
    use crate::compare::compare;

    fn side(command: &str) -> Side {
        Side {
            command: command.to_owned(),
            url: "https://{addr}/x".to_owned(),
        }
    }

    fn setting(a: &str, b: &str) -> Setting {
        Setting {
            name: "x".to_owned(),
            a: side(a),
            b: side(b),
            rounds: 2,
            repeats: 1,
            server_cores: None,
        }
    }

    /// A server that says it listens on the port of this number, and does nothing more.
    fn says(port: u16) -> String {
        format!("sh -c 'echo now listening on 127.0.0.1:{port}; exec sleep 1000'")
    }

    fn alive(pid: u32) -> bool {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        test_kill_process(pid).is_ok()
    }

    fn bundle() -> Bundle {
        sample("x", 100, Duration::from_micros(300))
    }

    #[test]
    fn servers_run_in_turn_and_never_beside_each_other() {
        let (mut order, mut pids) = (Vec::new(), Vec::<u32>::new());
        let pair = ab(
            &setting(&says(1), &says(2)),
            &CancellationToken::new(),
            |_, _| Ok(()),
            |letter, _, url, pid| {
                assert!(alive(pid) && pids.iter().all(|pid| !alive(*pid)));
                pids.push(pid);
                order.push((letter, url.to_owned()));
                Ok(bundle())
            },
        )
        .unwrap();
        let a = (Letter::A, "https://127.0.0.1:1/x".to_owned());
        let b = (Letter::B, "https://127.0.0.1:2/x".to_owned());
        assert_eq!(order, [a.clone(), b.clone(), a, b]);
        assert_eq!((pair.a.len(), pair.b.len()), (2, 2));
        assert!(pids.iter().all(|pid| !alive(*pid)));
    }

    #[test]
    fn a_round_with_an_invalid_half_is_measured_again_as_often_as_allowed() {
        let made = |invalid: &[usize]| {
            let mut nth = 0;
            ab(
                &setting(&says(1), &says(2)),
                &CancellationToken::new(),
                |_, _| Ok(()),
                |_, _, _, _| {
                    let mut bundle = bundle();
                    bundle.name = nth.to_string();
                    bundle.verdict.valid = !invalid.contains(&nth);
                    bundle.verdict.reasons = vec!["late".to_owned()];
                    nth += 1;
                    Ok(bundle)
                },
            )
            .unwrap()
        };
        let names = |rounds: &[Bundle]| -> Vec<String> {
            rounds.iter().map(|round| round.name.clone()).collect()
        };
        // The second round's half of B: halves 2 and 3 go, 4 and 5 are measured in their place.
        let pair = made(&[3]);
        assert_eq!(names(&pair.a), ["0", "4"]);
        assert_eq!(names(&pair.b), ["1", "5"]);
        assert_eq!(pair.set_aside, ["B, round 2: late"]);
        // Once is allowed: what is INVALID after that stays, and makes the comparison INVALID.
        let pair = made(&[3, 4]);
        assert_eq!(names(&pair.a), ["0", "4"]);
        assert!(!compare(&pair.a, &pair.b).invalid.is_empty());
    }

    #[test]
    fn a_server_is_asked_until_it_answers_and_runs_on_its_cores() {
        let mut setting = setting(&says(1), &says(2));
        setting.rounds = 1;
        setting.server_cores = Some("0".to_owned());
        let mut asked = 0;
        let ready = |_, _: &str| {
            asked += 1;
            if asked % 3 == 0 {
                Ok(())
            } else {
                Err("refused".to_owned())
            }
        };
        let run = |_, _, _: &str, pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
            Ok(bundle())
        };
        ab(&setting, &CancellationToken::new(), ready, run).unwrap();
        assert_eq!(asked, 6);
    }

    #[test]
    fn a_server_that_ends_before_it_is_asked_to_is_no_result() {
        let never = |_, _: &str| Err("refused".to_owned());
        let run = |_, _, _: &str, _| Ok(bundle());
        let made = ab(
            &setting("false", "false"),
            &CancellationToken::new(),
            never,
            run,
        );
        let error = made.unwrap_err().to_string();
        assert!(error.contains("server A ended by itself"), "{error}");

        let run = |_, _, _: &str, pid: u32| {
            let pid = Pid::from_raw(i32::try_from(pid)?).unwrap();
            kill_process_group(pid, Signal::KILL)?;
            // Reaped by the thread that waits for it.
            while test_kill_process(pid).is_ok() {
                std::thread::yield_now();
            }
            Ok(bundle())
        };
        let made = ab(
            &setting(&says(1), &says(2)),
            &CancellationToken::new(),
            |_, _| Ok(()),
            run,
        );
        assert!(
            matches!(
                made,
                Err(AbError::Ended {
                    letter: Letter::A,
                    ..
                })
            ),
            "{made:?}"
        );
    }

    #[test]
    fn an_interrupt_ends_it_and_its_server() {
        let interrupt = CancellationToken::new();
        let mut server = 0;
        let made = ab(
            &setting(&says(1), &says(2)),
            &interrupt,
            |_, _| Ok(()),
            |_, _, _, pid| {
                server = pid;
                interrupt.cancel();
                Ok(bundle())
            },
        );
        assert!(
            matches!(made, Err(AbError::Interrupted { round: 1 })),
            "{made:?}"
        );
        assert!(!alive(server));
    }

    #[test]
    fn a_server_that_will_not_end_is_killed_with_its_children() {
        let deaf = "sh -c 'trap \"\" TERM; sleep 1000 & echo listening on 127.0.0.1:1; while :; do wait; done'";
        let mut server = Server::start(Letter::A, deaf, None).unwrap();
        let interrupt = CancellationToken::new();
        server
            .url("{addr}", &interrupt, &mut |_, _: &str| Ok(()))
            .unwrap();
        let pid = server.pid();
        server.stop(Duration::from_millis(1));
        assert!(!alive(pid));
    }

    #[test]
    fn the_address_is_read_from_a_line_that_says_it() {
        for (line, address) in [
            ("listening on 127.0.0.1:4433\n", Some("127.0.0.1:4433")),
            ("INFO edge: listening on [::]:443, ready", Some("[::1]:443")),
            ("listening on 0.0.0.0:80", Some("127.0.0.1:80")),
            ("listening on everything", None),
            ("hello", None),
        ] {
            assert_eq!(
                super::address(line),
                address.map(|address| address.parse().unwrap()),
                "{line}"
            );
        }
    }
}
