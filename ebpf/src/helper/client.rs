//! The edge's side: starting the helper, and asking it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    socket::{Received, Socket},
    wire::{
        self, Answer, EDITS_MAX, Held, Mandate, Protocol, Refusal, Request, SOURCES_MAX, Sample,
        Status,
    },
};
use crate::{
    counters::Counters,
    policy::{Policy, RuleEdit},
    probe::{Mode, Report},
};

/// How long the helper may take to answer. It answers in microseconds; a machine that is out of breath may need more.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long it may take to load and attach the program, which the kernel verifies meanwhile.
pub const LOAD_WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to end once its socket is closed. Then it is killed.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Answers to requests that nobody waits for any more, passed over while waiting for one.
const STALE_MAX: usize = 64;

/// Why the helper did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It refused, and says why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is gone, and the program with it.
    #[error("the helper is gone, and the program with it")]
    Gone,
    /// It did not answer in time. The heartbeat ends with it, and then everything passes.
    #[error("the helper did not answer within {0:?}")]
    Silent(Duration),
    /// It answered what was not asked.
    #[error("the helper's answer was not understood: {0}")]
    Malformed(String),
    /// It could not be started, or its socket failed.
    #[error("the helper: {0}")]
    Io(#[from] io::Error),
}

/// The helper process, and the only way to it. Dropping it ends the process and takes the program away.
///
/// Calls block for [`ANSWER_WITHIN`] at most ([`enable`](Self::enable): [`LOAD_WITHIN`]): they belong on a thread that
/// may block.
#[derive(Debug)]
pub struct Helper {
    /// None once the helper is gone.
    socket: Option<Socket>,
    child: Child,
    last: u64,
}

impl Helper {
    /// Starts this same binary again as the helper: with `verb` as its only argument, upon which its `main` calls
    /// [`serve_stdin`](super::serve_stdin) before anything else.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_self(verb: &str, mandate: &Mandate) -> Result<Self, HelperError> {
        // By the link, so that it is this binary also where its file has been replaced since.
        let mut command = Command::new("/proc/self/exe");
        command.arg(verb);
        Self::spawn(command, mandate)
    }

    /// Starts `command` as the helper and tells it its mandate. To be called while the process still has its
    /// capabilities, and before it has read anything from outside: the helper inherits the one and believes the other.
    ///
    /// The process gets the socket as its standard input, no standard output, an empty environment, and a group of its
    /// own, so that what a terminal sends to the edge does not end it.
    ///
    /// # Errors
    ///
    /// Where it cannot be started, or does not take the mandate in time.
    pub fn spawn(mut command: Command, mandate: &Mandate) -> Result<Self, HelperError> {
        let (ours, theirs) = Socket::pair()?;
        let child = command
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .env_clear()
            .process_group(0)
            .spawn()?;
        // The command holds the other end, and would keep it open.
        drop(command);
        let mut helper = Self {
            socket: Some(ours),
            child,
            last: 0,
        };
        match helper.ask(Request::Mandate(mandate.clone()), ANSWER_WITHIN)? {
            (Answer::Done {}, _) => Ok(helper),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// The helper's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What would happen on an interface, with the helper's privileges.
    ///
    /// # Errors
    ///
    /// Where the mandate does not have the interface, or the helper does not answer.
    pub fn probe(&mut self, interface: &str, wish: Mode) -> Result<Report, HelperError> {
        let request = Request::Probe {
            interface: interface.to_owned(),
            wish,
        };
        match self.ask(request, ANSWER_WITHIN)? {
            (Answer::Probed(report), _) => Ok(*report),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Attaches the program, native else generic where native is wished for. With a `trial` it is taken back after that
    /// time unless [`confirm`](Self::confirm) comes before. Of more than [`EDITS_MAX`] rules the rest follow right after, and then those who
    /// are `known`: sources with the times until which they count.
    ///
    /// # Errors
    ///
    /// Where something is enabled already, nothing that was wished for works here, or the mandate does not have it. After
    /// [`HelperError::Silent`] it may yet be enabled: [`disable`](Self::disable) settles it.
    pub fn enable(
        &mut self,
        interface: &str,
        wish: Mode,
        policy: &Policy,
        rules: &[RuleEdit],
        known: &[(u64, u64)],
        trial: Option<Duration>,
    ) -> Result<Held, HelperError> {
        let (first, rest) = rules.split_at(rules.len().min(EDITS_MAX));
        let request = Request::Enable {
            interface: interface.to_owned(),
            wish,
            policy: Box::new(policy.clone()),
            rules: first.to_vec(),
            trial_ms: trial.map(|trial| u64::try_from(trial.as_millis()).unwrap_or(u64::MAX)),
        };
        let held = match self.ask(request, LOAD_WITHIN)? {
            (Answer::Enabled(held), _) => held,
            (other, _) => return Err(unexpected(&other)),
        };
        let filled = self.edit_rules(rest).and_then(|()| {
            known
                .chunks(SOURCES_MAX)
                .try_for_each(|part| self.done(Request::CarryOver(part.to_vec())))
        });
        if let Err(error) = filled {
            // Not left in place by half, and without anybody who beats for it.
            let _ = self.disable();
            return Err(error);
        }
        Ok(held)
    }

    /// What is enabled stays.
    ///
    /// # Errors
    ///
    /// Where nothing is enabled, or the time to confirm is over.
    pub fn confirm(&mut self) -> Result<Held, HelperError> {
        match self.ask(Request::Confirm {}, ANSWER_WITHIN)? {
            (Answer::Enabled(held), _) => Ok(held),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Takes the program away, where there is one.
    ///
    /// # Errors
    ///
    /// Where the helper does not answer.
    pub fn disable(&mut self) -> Result<(), HelperError> {
        self.done(Request::Disable {})
    }

    /// Makes `policy` hold in place of the one before.
    ///
    /// # Errors
    ///
    /// Where nothing is enabled, the policy is out of bounds, or names a port that the mandate does not have.
    pub fn apply(&mut self, policy: &Policy) -> Result<(), HelperError> {
        self.done(Request::Apply(Box::new(policy.clone())))
    }

    /// Changes rules, in requests of [`EDITS_MAX`].
    ///
    /// # Errors
    ///
    /// Where one does not fit; those before it hold.
    pub fn edit_rules(&mut self, edits: &[RuleEdit]) -> Result<(), HelperError> {
        edits
            .chunks(EDITS_MAX)
            .try_for_each(|part| self.done(Request::EditRules(part.to_vec())))
    }

    /// Says that the edge lives and that `shed` of 65,536 newcomers' Initials are to be shed: ten times a second.
    ///
    /// # Errors
    ///
    /// Where nothing is enabled, or the helper does not answer.
    pub fn beat(&mut self, shed: u32) -> Result<(), HelperError> {
        self.done(Request::Beat { shed })
    }

    /// Enters sources that completed a handshake, in requests of [`SOURCES_MAX`]. Says how many found no room.
    ///
    /// # Errors
    ///
    /// Where nothing is enabled, or the helper does not answer.
    pub fn validate(&mut self, sources: &[IpAddr], length: Duration) -> Result<usize, HelperError> {
        let mut none_left = 0_usize;
        for part in sources.chunks(SOURCES_MAX) {
            let request = Request::Validate {
                sources: part.to_vec(),
                for_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            };
            match self.ask(request, ANSWER_WITHIN)? {
                (Answer::Validated { refused }, _) => {
                    none_left = none_left.saturating_add(refused);
                }
                (other, _) => return Err(unexpected(&other)),
            }
        }
        Ok(none_left)
    }

    /// What was counted since the program was attached.
    ///
    /// # Errors
    ///
    /// Where nothing is enabled, or the helper does not answer.
    pub fn counters(&mut self) -> Result<Counters, HelperError> {
        match self.ask(Request::Counters {}, ANSWER_WITHIN)? {
            (Answer::Counters(counters), _) => Ok(*counters),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Sampled packets, oldest first, at most [`EVENTS_MAX`](super::EVENTS_MAX) a call.
    ///
    /// # Errors
    ///
    /// Where nothing is enabled, or the helper does not answer.
    pub fn events(&mut self) -> Result<Vec<Sample>, HelperError> {
        match self.ask(Request::Events {}, ANSWER_WITHIN)? {
            (Answer::Events(events), _) => Ok(events),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// What the helper holds.
    ///
    /// # Errors
    ///
    /// Where the helper does not answer.
    pub fn status(&mut self) -> Result<Status, HelperError> {
        match self.ask(Request::Status {}, ANSWER_WITHIN)? {
            (Answer::Status(status), _) => Ok(status),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Offers the program to another process, for that time and five minutes at most: whoever enables the same interface
    /// with the same directory in its mandate takes it over between two packets. Nobody comes: it stays here. Somebody does:
    /// [`Status::handed_over`] says so.
    ///
    /// # Errors
    ///
    /// Where nothing is enabled, the mandate has no directory, or it is not on a BPF file system.
    pub fn hand_over(&mut self, length: Duration) -> Result<(), HelperError> {
        self.done(Request::HandOver {
            for_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// A socket bound to a port that may be below 1024. With `shared` several may be bound to it, one for each worker.
    ///
    /// # Errors
    ///
    /// Where the mandate does not have the port, or it is taken.
    pub fn bind(
        &mut self,
        protocol: Protocol,
        address: SocketAddr,
        shared: bool,
        only_v6: bool,
    ) -> Result<OwnedFd, HelperError> {
        let request = Request::Bind {
            protocol,
            address,
            shared,
            only_v6,
        };
        match self.ask(request, ANSWER_WITHIN)? {
            (Answer::Bound {}, Some(socket)) => Ok(socket),
            (Answer::Bound {}, None) => Err(HelperError::Malformed(
                "a socket was to come along".to_owned(),
            )),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn done(&mut self, request: Request) -> Result<(), HelperError> {
        match self.ask(request, ANSWER_WITHIN)? {
            (Answer::Done {}, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn ask(
        &mut self,
        request: Request,
        within: Duration,
    ) -> Result<(Answer, Option<OwnedFd>), HelperError> {
        let socket = self.socket.as_mut().ok_or(HelperError::Gone)?;
        self.last += 1;
        let id = self.last;
        let bytes = wire::encode(id, request).map_err(|error| {
            HelperError::Io(io::Error::new(
                io::ErrorKind::InvalidInput,
                error.to_string(),
            ))
        })?;
        let deadline = Instant::now() + within;
        let asked = socket.send(&bytes, None, deadline);
        let outcome = asked
            .map_err(|error| failed(error, within))
            .and_then(|()| answer(socket, id, deadline, within));
        if matches!(outcome, Err(HelperError::Gone)) {
            self.socket = None;
        }
        match outcome? {
            (Answer::Refused(refusal), _) => Err(refusal.into()),
            answer => Ok(answer),
        }
    }
}

/// Waits for the answer to `id`; those to earlier requests, for which nobody waited long enough, are passed over.
fn answer(
    socket: &mut Socket,
    id: u64,
    deadline: Instant,
    within: Duration,
) -> Result<(Answer, Option<OwnedFd>), HelperError> {
    for _ in 0..STALE_MAX {
        match socket
            .receive(Some(deadline))
            .map_err(|error| failed(error, within))?
        {
            Received::End => return Err(HelperError::Gone),
            Received::TooLong => return Err(HelperError::Malformed("too long".to_owned())),
            Received::Message(bytes, file) => {
                let (of, answer) = wire::decode::<Answer>(bytes)
                    .map_err(|error| HelperError::Malformed(error.to_string()))?;
                if of == id {
                    return Ok((answer, file));
                }
            }
        }
    }
    Err(HelperError::Malformed(
        "answers to what was not asked".to_owned(),
    ))
}

fn failed(error: io::Error, within: Duration) -> HelperError {
    match error.kind() {
        io::ErrorKind::TimedOut => HelperError::Silent(within),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => HelperError::Gone,
        _ => HelperError::Io(error),
    }
}

fn unexpected(answer: &Answer) -> HelperError {
    let name = format!("{answer:?}");
    let name = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .next()
        .unwrap_or_default();
    HelperError::Malformed(format!("`{name}` answers another request"))
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Its end of the pair reads an end, upon which it ends.
        self.socket = None;
        if !ended(&self.child, END_WITHIN) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Waits for a process to end, for `within` at most. True when it did.
fn ended(child: &Child, within: Duration) -> bool {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(process)) = id.map(|id| pidfd_open(id, PidfdFlags::empty())) else {
        return false;
    };
    let Ok(timeout) = Timespec::try_from(within) else {
        return false;
    };
    let mut waiting = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    matches!(poll(&mut waiting, Some(&timeout)), Ok(ready) if ready > 0)
}
