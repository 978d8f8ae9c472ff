//! The helper's side: one thread, one request at a time, one program at most.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, socket_with,
    sockopt::{set_ipv6_v6only, set_socket_reuseaddr, set_socket_reuseport},
};

use super::{
    socket::{Received, Socket},
    wire::{
        self, Answer, EDITS_MAX, EVENTS_MAX, Held, Mandate, Protocol, Refusal, Request,
        SOURCES_MAX, Sample, Status, Why,
    },
};
use crate::{
    attach::{AttachError, Attachment},
    confirm::Trial,
    maps::MapsError,
    policy::{Policy, RuleEdit},
    privileges::{OF_THE_HELPER, PrivilegeError, keep_only},
    probe::{Facts, Mode, judge},
};

/// How long the first request, the mandate, may be in coming: the edge sends it as it starts the helper.
const MANDATE_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may wait to be read. An edge that asks and does not listen has lost its helper.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How often the helper looks whether the interface still has its program.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The longest that a program waits to be taken over.
const HAND_OVER_MAX: Duration = Duration::from_secs(300);
/// How often the helper looks whether it was.
const TAKEN_EVERY: Duration = Duration::from_millis(100);

/// Why the helper ended before its edge did.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Capabilities that it should not have could not be given up.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The edge: it did not begin with a mandate.
    #[error("the first message is no mandate: {0}")]
    NoMandate(String),
    /// The sockets.
    #[error("talking to the edge: {0}")]
    Socket(#[from] io::Error),
}

/// Is the helper, on the socket that stands as standard input: what the hidden verb of a binary calls first thing in its
/// `main`, before any thread exists. Returns when the edge is gone.
///
/// # Errors
///
/// As [`serve`].
pub fn serve_stdin() -> Result<(), ServeError> {
    serve(io::stdin().as_fd().try_clone_to_owned()?)
}

/// Is the helper on `socket`: gives up every capability that it has no use for, reads its mandate, and answers requests
/// until the other end is closed. Then the program it holds is gone.
///
/// # Errors
///
/// Where another thread exists, the edge does not begin with a mandate, or does not read its answers for five seconds.
pub fn serve(socket: OwnedFd) -> Result<(), ServeError> {
    keep_only(OF_THE_HELPER)?;
    let mut socket = Socket::new(socket);
    let Some(mandate) = first(&mut socket)? else {
        return Ok(());
    };
    let mut server = Server::new(mandate);
    loop {
        let now = Instant::now();
        server.tick(now);
        let wake = server.wake(now);
        let (id, request) = match socket.receive(Some(wake)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => continue,
            Err(error) => return Err(error.into()),
            Ok(Received::End) => return Ok(()),
            Ok(Received::TooLong) => (0, Err("the message is too long".to_owned())),
            // Nothing is asked with a file, so one that comes is closed.
            Ok(Received::Message(bytes, _uninvited)) => match wire::decode::<Request>(bytes) {
                Ok((id, request)) => (id, Ok(request)),
                Err(error) => (wire::id_of(bytes), Err(error.to_string())),
            },
        };
        let (answer, file) = match request {
            Ok(request) => server.answer(request, Instant::now()),
            Err(text) => (refusal(Why::Malformed, text), None),
        };
        answered(&socket, id, answer, file.as_ref())?;
    }
}

fn answered(
    socket: &Socket,
    id: u64,
    answer: Answer,
    file: Option<&OwnedFd>,
) -> Result<(), ServeError> {
    let bytes = match wire::encode(id, answer) {
        Ok(bytes) => bytes,
        Err(error) => wire::encode(id, refusal(Why::Machine, format!("the answer: {error}")))
            .map_err(io::Error::other)?,
    };
    let deadline = Instant::now() + READ_WITHIN;
    match socket.send(&bytes, file.map(|file| file.as_fd()), deadline) {
        // The edge is gone: the next message is its end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => Ok(sent?),
    }
}

/// The mandate; none where the edge was gone before it said anything.
fn first(socket: &mut Socket) -> Result<Option<Mandate>, ServeError> {
    let received = socket.receive(Some(Instant::now() + MANDATE_WITHIN))?;
    let (id, mandate) = match received {
        Received::End => return Ok(None),
        Received::TooLong => return Err(ServeError::NoMandate("too long".to_owned())),
        Received::Message(bytes, _) => match wire::decode::<Request>(bytes) {
            Ok((id, Request::Mandate(mandate))) if mandate.is_bounded() => (id, mandate),
            Ok(_) => return Err(ServeError::NoMandate("another request".to_owned())),
            Err(error) => return Err(ServeError::NoMandate(error.to_string())),
        },
    };
    answered(socket, id, Answer::Done {}, None)?;
    Ok(Some(mandate))
}

fn refusal(why: Why, text: impl Into<String>) -> Answer {
    Answer::Refused(Refusal {
        why,
        text: text.into(),
    })
}

impl From<AttachError> for Refusal {
    fn from(error: AttachError) -> Self {
        let why = match &error {
            AttachError::Policy(_) => Why::Malformed,
            AttachError::Probe(_)
            | AttachError::Load(_)
            | AttachError::Maps(_)
            | AttachError::HandOver(_)
            | AttachError::Refused { .. } => Why::Machine,
        };
        Self {
            why,
            text: error.to_string(),
        }
    }
}

impl From<MapsError> for Refusal {
    fn from(error: MapsError) -> Self {
        Self {
            why: Why::Machine,
            text: error.to_string(),
        }
    }
}

/// What the helper holds, and what it does about requests.
#[derive(Debug)]
struct Server {
    mandate: Mandate,
    held: Option<(Attachment, Trial)>,
    /// The program has a name until then, by which another process may take it over.
    offered_until: Option<Instant>,
    gone: Gone,
    looked: Instant,
}

/// Why there is no program any more, where one was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// It was never there, or was disabled.
    AsAsked,
    /// Nobody confirmed it.
    RolledBack,
    /// Somebody took it off the interface.
    Lost,
    /// Another process has it.
    HandedOver,
}

impl Server {
    fn new(mandate: Mandate) -> Self {
        Self {
            mandate,
            held: None,
            offered_until: None,
            gone: Gone::AsAsked,
            looked: Instant::now(),
        }
    }

    /// When something has to be done without being asked: a trial that ends, a look at the interface.
    fn wake(&self, now: Instant) -> Instant {
        let Some((_, trial)) = &self.held else {
            return now + LOOK_EVERY;
        };
        let mut wake = self.looked + LOOK_EVERY;
        if let Some(left) = trial.left(now) {
            wake = wake.min(now + left);
        }
        if self.offered_until.is_some() {
            wake = wake.min(now + TAKEN_EVERY);
        }
        wake
    }

    /// Does what has to be done without being asked.
    fn tick(&mut self, now: Instant) {
        if let Some((_, trial)) = &self.held
            && trial.is_over(now)
        {
            self.let_go(Gone::RolledBack);
        }
        if let (Some((attachment, _)), Some(until)) = (&self.held, self.offered_until) {
            if attachment.is_taken() {
                // The name is gone already: who takes over removes it.
                self.let_go(Gone::HandedOver);
            } else if now >= until {
                self.take_back_offer();
            }
        }
        if now.saturating_duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            if let Some((attachment, _)) = &self.held
                && matches!(attachment.is_there(), Ok(false))
            {
                self.let_go(Gone::Lost);
            }
        }
    }

    fn let_go(&mut self, why: Gone) {
        self.take_back_offer();
        self.held = None;
        self.gone = why;
    }

    /// Takes the name away that the program was offered by, where it was.
    fn take_back_offer(&mut self) {
        if self.offered_until.take().is_some()
            && let (Some((attachment, _)), Some(pins)) = (&self.held, &self.mandate.pins)
            && !attachment.is_taken()
        {
            attachment.unpin(pins);
        }
    }

    fn answer(&mut self, request: Request, now: Instant) -> (Answer, Option<OwnedFd>) {
        self.tick(now);
        let answer = match request {
            Request::Mandate(_) => Err(refused(Why::Order, "the mandate was given before")),
            Request::Probe { interface, wish } => self.probe(&interface, wish),
            Request::Enable {
                interface,
                wish,
                policy,
                rules,
                trial_ms,
            } => self.enable(&interface, wish, &policy, &rules, trial_ms),
            Request::Confirm {} => self.confirm(now),
            Request::Disable {} => {
                self.let_go(Gone::AsAsked);
                Ok(Answer::Done {})
            }
            Request::Apply(policy) => self
                .allowed(&policy)
                .and_then(|()| Ok(self.attachment()?.apply(&policy)?))
                .map(|()| Answer::Done {}),
            Request::EditRules(rules) if rules.len() > EDITS_MAX => Err(too_many()),
            Request::EditRules(rules) => self
                .attachment()
                .and_then(|it| Ok(it.edit_rules(&rules)?))
                .map(|()| Answer::Done {}),
            Request::Beat { shed } => self
                .attachment()
                .and_then(|it| Ok(it.beat(shed)?))
                .map(|()| Answer::Done {}),
            Request::Validate { sources, .. } if sources.len() > SOURCES_MAX => Err(too_many()),
            Request::Validate { sources, for_ms } => self
                .attachment()
                .and_then(|it| Ok(it.validate(&sources, Duration::from_millis(for_ms))?))
                .map(|refused| Answer::Validated { refused }),
            Request::CarryOver(known) if known.len() > SOURCES_MAX => Err(too_many()),
            Request::CarryOver(known) => self
                .attachment()
                .and_then(|it| Ok(it.carry_over(&known)?))
                .map(|()| Answer::Done {}),
            Request::Counters {} => self
                .attachment()
                .and_then(|it| Ok(it.counters()?))
                .map(|counters| Answer::Counters(Box::new(counters))),
            Request::Events {} => self.attachment().map(|it| {
                Answer::Events(
                    it.events(EVENTS_MAX)
                        .into_iter()
                        .map(Sample::from)
                        .collect(),
                )
            }),
            Request::Status {} => Ok(Answer::Status(self.status(now))),
            Request::HandOver { for_ms } => self.hand_over(for_ms, now),
            Request::Bind {
                protocol,
                address,
                shared,
                only_v6,
            } => match self.bind(protocol, address, shared, only_v6) {
                Ok(socket) => return (Answer::Bound {}, Some(socket)),
                Err(refusal) => Err(refusal),
            },
        };
        (answer.unwrap_or_else(Answer::Refused), None)
    }

    fn attachment(&mut self) -> Result<&mut Attachment, Refusal> {
        match &mut self.held {
            Some((attachment, _)) => Ok(attachment),
            None => Err(refused(
                Why::NotEnabled,
                match self.gone {
                    Gone::AsAsked => "nothing is enabled",
                    Gone::RolledBack => {
                        "nothing is enabled: it was taken back, since nobody confirmed it"
                    }
                    Gone::Lost => "nothing is enabled: somebody took the program off the interface",
                    Gone::HandedOver => "nothing is enabled: another process took the program over",
                },
            )),
        }
    }

    /// Whether the mandate covers an interface.
    fn covers(&self, interface: &str) -> Result<(), Refusal> {
        if self.mandate.interfaces.contains(interface) {
            return Ok(());
        }
        Err(refused(
            Why::Mandate,
            "this interface was not named when the helper was started",
        ))
    }

    /// Whether the mandate covers every port of a policy.
    fn allowed(&self, policy: &Policy) -> Result<(), Refusal> {
        policy
            .check()
            .map_err(|error| refused(Why::Malformed, error.to_string()))?;
        let outside = policy
            .ports
            .iter()
            .find(|port| !self.mandate.ports.contains(&port.port));
        match outside {
            None => Ok(()),
            Some(port) => Err(refused(
                Why::Mandate,
                format!(
                    "port {} was not named when the helper was started",
                    port.port
                ),
            )),
        }
    }

    fn probe(&self, interface: &str, wish: Mode) -> Result<Answer, Refusal> {
        self.covers(interface)?;
        let mut facts =
            Facts::gather(interface).map_err(|error| refused(Why::Machine, error.to_string()))?;
        // Its own program is in nobody's way: it would be replaced.
        let own = self.held.as_ref().map(|(held, _)| held.program_id());
        if let Some(device) = &mut facts.device {
            device.attached = device
                .attached
                .filter(|attached| Some(attached.program) != own);
        }
        Ok(Answer::Probed(Box::new(judge(facts, wish))))
    }

    fn enable(
        &mut self,
        interface: &str,
        wish: Mode,
        policy: &Policy,
        rules: &[RuleEdit],
        trial_ms: Option<u64>,
    ) -> Result<Answer, Refusal> {
        self.covers(interface)?;
        self.allowed(policy)?;
        if rules.len() > EDITS_MAX {
            return Err(too_many());
        }
        if let Some((attachment, _)) = &self.held {
            return Err(refused(
                Why::Order,
                format!("enabled already: {attachment}"),
            ));
        }
        let pins = self.mandate.pins.as_deref();
        let attachment = Attachment::attach(interface, wish, policy, rules, pins)?;
        // Loading takes its time, and none of it is the operator's to confirm in.
        let now = Instant::now();
        self.gone = Gone::AsAsked;
        self.looked = now;
        let held = describe(&attachment);
        let trial = match trial_ms {
            None => Trial::Confirmed,
            Some(ms) => Trial::begin(now, Duration::from_millis(ms)),
        };
        self.held = Some((attachment, trial));
        Ok(Answer::Enabled(held))
    }

    fn confirm(&mut self, now: Instant) -> Result<Answer, Refusal> {
        self.attachment()?;
        if let Some((attachment, trial)) = &mut self.held
            && trial.confirm(now)
        {
            return Ok(Answer::Enabled(describe(attachment)));
        }
        Err(refused(
            Why::NotEnabled,
            "too late: the time to confirm is over, and what was enabled is taken back",
        ))
    }

    fn hand_over(&mut self, for_ms: u64, now: Instant) -> Result<Answer, Refusal> {
        let pins = self.mandate.pins.clone();
        let attachment = self.attachment()?;
        let Some(pins) = pins else {
            return Err(refused(
                Why::Mandate,
                "no directory for it was named when the helper was started",
            ));
        };
        attachment.pin(&pins)?;
        self.offered_until = Some(now + Duration::from_millis(for_ms).min(HAND_OVER_MAX));
        Ok(Answer::Done {})
    }

    fn status(&self, now: Instant) -> Status {
        Status {
            held: self
                .held
                .as_ref()
                .map(|(attachment, _)| describe(attachment)),
            trial_left_ms: self
                .held
                .as_ref()
                .and_then(|(_, trial)| trial.left(now))
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            rolled_back: self.gone == Gone::RolledBack,
            lost: self.gone == Gone::Lost,
            handed_over: self.gone == Gone::HandedOver,
        }
    }

    fn bind(
        &self,
        protocol: Protocol,
        address: SocketAddr,
        shared: bool,
        only_v6: bool,
    ) -> Result<OwnedFd, Refusal> {
        if address.port() == 0 || !self.mandate.ports.contains(&address.port()) {
            return Err(refused(
                Why::Mandate,
                format!(
                    "port {} was not named when the helper was started",
                    address.port()
                ),
            ));
        }
        bound(protocol, address, shared, only_v6)
            .map_err(|error| refused(Why::Machine, format!("{address}: {error}")))
    }
}

/// A name must not outlive who offered it, except where that one was killed.
impl Drop for Server {
    fn drop(&mut self) {
        self.take_back_offer();
    }
}

fn bound(
    protocol: Protocol,
    address: SocketAddr,
    shared: bool,
    only_v6: bool,
) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match protocol {
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Tcp => SocketType::STREAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if protocol == Protocol::Tcp {
        // As every server does: a restart need not wait for what the kernel still remembers of old connections.
        set_socket_reuseaddr(&socket, true)?;
    }
    if shared {
        set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, only_v6)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

fn describe(attachment: &Attachment) -> Held {
    Held {
        interface: attachment.interface().to_owned(),
        mode: attachment.mode(),
        driver: attachment.driver().map(str::to_owned),
        program: attachment.program_id(),
        passed_over: attachment.passed_over().to_vec(),
    }
}

fn refused(why: Why, text: impl Into<String>) -> Refusal {
    Refusal {
        why,
        text: text.into(),
    }
}

fn too_many() -> Refusal {
    refused(Why::Malformed, "more in one request than it may have")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Port;

    fn server() -> Server {
        Server::new(Mandate {
            interfaces: ["stoq-none0".to_owned()].into(),
            ports: [443].into(),
            pins: None,
        })
    }

    fn why(answer: (Answer, Option<OwnedFd>)) -> Why {
        match answer {
            (Answer::Refused(refusal), None) => refusal.why,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn with_port(port: u16) -> Box<Policy> {
        Box::new(Policy {
            ports: vec![Port {
                port,
                udp: true,
                tcp: false,
                peers: false,
                keyed: false,
            }],
            ..Policy::default()
        })
    }

    fn enable(interface: &str, port: u16) -> Request {
        Request::Enable {
            interface: interface.to_owned(),
            wish: Mode::Native,
            policy: with_port(port),
            rules: Vec::new(),
            trial_ms: None,
        }
    }

    /// No privileges are needed to be refused.
    #[test]
    fn what_the_mandate_does_not_have_is_refused_before_anything_is_done() {
        let now = Instant::now();
        let mut server = server();
        let bind = |port| Request::Bind {
            protocol: Protocol::Udp,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            shared: false,
            only_v6: false,
        };
        let outside = [
            enable("lo", 443),
            enable("stoq-none0", 22),
            Request::Apply(with_port(22)),
            bind(22),
            bind(0),
            Request::Probe {
                interface: "lo".to_owned(),
                wish: Mode::Native,
            },
        ];
        for request in outside {
            let text = format!("{request:?}");
            assert_eq!(why(server.answer(request, now)), Why::Mandate, "{text}");
        }
    }

    #[test]
    fn requests_at_the_wrong_time_are_refused_as_such() {
        let now = Instant::now();
        let mut server = server();
        let second = Request::Mandate(Mandate::default());
        assert_eq!(why(server.answer(second, now)), Why::Order);
        let early = [
            Request::Confirm {},
            Request::Apply(with_port(443)),
            Request::EditRules(Vec::new()),
            Request::Beat { shed: 0 },
            Request::Validate {
                sources: Vec::new(),
                for_ms: 1,
            },
            Request::Counters {},
            Request::Events {},
            Request::HandOver { for_ms: 1000 },
        ];
        for request in early {
            let text = format!("{request:?}");
            assert_eq!(why(server.answer(request, now)), Why::NotEnabled, "{text}");
        }
        assert_eq!(server.mandate.ports, [443].into(), "a second one is none");
    }

    #[test]
    fn an_interface_that_is_not_there_is_refused_with_a_fix() {
        let now = Instant::now();
        let (Answer::Refused(refusal), None) = server().answer(enable("stoq-none0", 443), now)
        else {
            panic!("there is no such interface");
        };
        assert_eq!(refusal.why, Why::Machine);
        assert!(refusal.text.contains("fix: "), "{refusal}");
    }

    #[test]
    fn more_than_a_request_may_have_is_refused() {
        let now = Instant::now();
        let mut server = server();
        let edit = ("192.0.2.0/24".parse().unwrap(), None);
        let requests = [
            Request::EditRules(vec![edit; EDITS_MAX + 1]),
            Request::Validate {
                sources: vec![[192, 0, 2, 1].into(); SOURCES_MAX + 1],
                for_ms: 1,
            },
            Request::Enable {
                interface: "stoq-none0".to_owned(),
                wish: Mode::Native,
                policy: with_port(443),
                rules: vec![edit; EDITS_MAX + 1],
                trial_ms: None,
            },
        ];
        for request in requests {
            assert_eq!(why(server.answer(request, now)), Why::Malformed);
        }
    }

    #[test]
    fn with_nothing_held_the_helper_says_so() {
        let status = server().status(Instant::now());
        assert_eq!(status.held, None);
        assert_eq!(status.to_string(), "off");
    }
}
