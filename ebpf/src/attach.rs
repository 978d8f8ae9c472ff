//! Loading the program and attaching it to an interface: native, else generic, and always saying which and why.
//!
//! What holds a program in place is a link, and the link is a file of this process: when the process ends, however it
//! ends, the kernel closes the file and the program is gone. Nothing is pinned. A kernel that gives no such link is
//! refused, because there the program would stay.
//!
//! The one exception is a hand-over to another process, as when the binary is replaced: [`Attachment::pin`] gives the link
//! a name for a short while, and [`Attachment::attach`] takes over what it finds under that name, without a packet that
//! nobody judges. A name that nobody came for is taken away, and one that is left over after a crash is taken over by the
//! next start; meanwhile there is no heartbeat, so everything passes.

use std::{fmt, io, net::IpAddr, path::Path, time::Duration};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{ProgramError, Xdp, XdpMode, links::FdLink, xdp::XdpLink},
};

use crate::{
    abi::{self, Event},
    counters::Counters,
    handover,
    maps::{Maps, MapsError, chain, monotonic_ns},
    object,
    policy::{Policy, PolicyError, RuleEdit},
    probe::{Attached, Facts, Finding, How, Mode, Weight, judge},
    tables::{WriteError, Writer},
};

/// Characters of the kernel's log of a refused program that are kept: its last words say why.
const LOG_CHARS_MAX: usize = 600;

/// What the objects in `bpf/` are, by their hashes.
const MANIFEST: &str = include_str!("../bpf/manifest.txt");

/// The SHA-256 of the program's object in hex, by which a [`Record`](crate::Record) knows what was confirmed. The build
/// has checked that it is the object's.
#[must_use]
pub fn object_hash() -> &'static str {
    MANIFEST
        .lines()
        .filter_map(|line| line.split_once("  "))
        .find_map(|(hash, name)| (name == "xdp.o").then_some(hash))
        .unwrap_or_default()
}

/// Why nothing is attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The policy is out of bounds.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The machine could not be looked at.
    #[error("looking at the interface: {0}")]
    Probe(#[from] io::Error),
    /// Ourselves: the object cannot be loaded into this kernel.
    #[error("loading the program: {0}")]
    Load(String),
    /// A map could not be had or written.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The link cannot be given a name, or not be taken over.
    #[error("hand-over: {0}")]
    HandOver(String),
    /// The machine: nothing that was wished for works here. Each reason with its fix.
    #[error("{}", refused(interface, reasons))]
    Refused {
        /// The interface.
        interface: String,
        /// What is in the way.
        reasons: Vec<Finding>,
    },
}

fn refused(interface: &str, reasons: &[Finding]) -> String {
    let reasons: Vec<String> = reasons
        .iter()
        .map(|reason| {
            let modes: Vec<String> = reason.modes.iter().map(Mode::to_string).collect();
            format!("{}: {reason}", modes.join(" and "))
        })
        .collect();
    format!("{interface}: {}", reasons.join("; "))
}

impl From<WriteError<MapsError>> for AttachError {
    fn from(error: WriteError<MapsError>) -> Self {
        Self::Maps(error.into())
    }
}

impl From<EbpfError> for AttachError {
    fn from(error: EbpfError) -> Self {
        Self::Load(said(&error))
    }
}

impl From<ProgramError> for AttachError {
    fn from(error: ProgramError) -> Self {
        Self::Load(said(&error))
    }
}

/// What an error says; of a long one, which carries the verifier's log, its end.
pub(crate) fn said(error: &dyn std::error::Error) -> String {
    let text = chain(error);
    match text.char_indices().rev().nth(LOG_CHARS_MAX) {
        None => text,
        Some((at, _)) => format!("…{}", text.get(at..).unwrap_or_default()),
    }
}

/// A loaded program with its maps, not attached to anything.
struct Loaded {
    ebpf: Ebpf,
    maps: Writer<Maps>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("maps", &self.maps).finish()
    }
}

impl Loaded {
    fn new() -> Result<Self, AttachError> {
        let mut ebpf = EbpfLoader::new().load(object::XDP)?;
        let maps = Writer::new(Maps::take(&mut ebpf)?);
        program(&mut ebpf)?.load()?;
        Ok(Self { ebpf, maps })
    }

    /// Everything that packets are judged by, with the first heartbeat.
    fn furnish(&mut self, policy: &Policy, rules: &[RuleEdit]) -> Result<(), AttachError> {
        self.maps.edit_rules(rules)?;
        self.maps.beat(monotonic_ns(), 0)?;
        Ok(self.maps.apply(policy)?)
    }

    /// Attaches to the interface in that mode. The link that comes back is the only thing that holds the program there.
    fn attach(&mut self, index: u32, mode: Mode) -> Result<FdLink, String> {
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
            Mode::UserSpace => return Err("nothing is attached for it".to_owned()),
        };
        let program = program(&mut self.ebpf).map_err(|error| error.to_string())?;
        let id = program
            .attach_to_if_index(index, flags)
            .map_err(|error| said(&error))?;
        let link = program.take_link(id).map_err(|error| said(&error))?;
        if let Ok(link) = FdLink::try_from(link) {
            return Ok(link);
        }
        // The library fell back to the old way, by which a program stays until somebody takes it away. So it is taken
        // away: attaching once more gives a handle that can.
        if let Ok(id) = program.attach_to_if_index(index, flags) {
            let _ = program.detach(id);
        }
        Err("the kernel gives no link, so the program could outlive its owner".to_owned())
    }

    /// Puts this program in the place of the one that a link holds, between two packets.
    fn take_over(&mut self, link: FdLink) -> Result<FdLink, AttachError> {
        let failed = |error: &dyn std::error::Error| AttachError::HandOver(said(error));
        let link = XdpLink::try_from(link).map_err(|error| failed(&error))?;
        let program = program(&mut self.ebpf)?;
        let id = program
            .attach_to_link(link)
            .map_err(|error| failed(&error))?;
        let link = program.take_link(id).map_err(|error| failed(&error))?;
        FdLink::try_from(link).map_err(|error| failed(&error))
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, AttachError> {
    let program = ebpf
        .program_mut(abi::program::XDP)
        .ok_or_else(|| AttachError::Load(format!("it has no program `{}`", abi::program::XDP)))?;
    Ok(program.try_into()?)
}

/// The program at an interface. Dropping it takes the program away.
#[derive(Debug)]
pub struct Attachment {
    // First, so that the program leaves the interface before its maps are let go of. None only where a name that was to
    // be given to it was refused.
    link: Option<FdLink>,
    loaded: Loaded,
    facts: Facts,
    program: u32,
    mode: Mode,
    passed_over: Vec<Finding>,
    carried_over: usize,
}

impl Attachment {
    /// Loads the program, gives it `policy` and `rules`, and attaches it to `interface` in the network namespace of the
    /// calling thread: as `wish` says, with [`Mode::Native`] falling back to generic. Nothing is judged before all of that
    /// is in place, and the heartbeat begins with it.
    ///
    /// With `pins`, a directory on a BPF file system, a program that another process handed over there is taken over in the
    /// mode it has, and with it the sources that completed a handshake ([`carried_over`](Self::carried_over)). Those that the other
    /// process enters in the milliseconds between are not among them.
    ///
    /// Loading takes some 22 MiB of the kernel's memory and up to a second.
    ///
    /// # Errors
    ///
    /// Where nothing that was wished for works here; [`AttachError::Refused`] has each reason and what would change it.
    pub fn attach(
        interface: &str,
        wish: Mode,
        policy: &Policy,
        rules: &[RuleEdit],
        pins: Option<&Path>,
    ) -> Result<Self, AttachError> {
        policy.check()?;
        let mut facts = Facts::gather(interface)?;
        let attached = facts.device.as_ref().and_then(|device| device.attached);
        // An interface that is not there has no link, and what is no interface's name is no part of a path.
        if let Some(pins) = pins.filter(|pins| facts.device.is_some() && pins.exists()) {
            handover::check(pins)?;
            let names = handover::Names::of(pins, interface);
            match (handover::find(&names.link)?, attached) {
                (Some((link, program)), Some(attached)) if program == attached.program => {
                    return Self::take_over(facts, link, attached.how, policy, rules, &names);
                }
                // The link of an interface that is no more.
                (Some(_), _) => {
                    names.remove()?;
                    facts = Facts::gather(interface)?;
                }
                (None, _) => {}
            }
        }
        let report = judge(facts, wish);
        let candidates: &[Mode] = match wish {
            Mode::Native => &[Mode::Native, Mode::Generic],
            Mode::Generic => &[Mode::Generic],
            Mode::UserSpace => &[],
        };
        let mut in_the_way: Vec<Finding> = Vec::new();
        let mut open = Vec::new();
        for mode in candidates {
            let before = in_the_way.len();
            in_the_way.extend(report.refusals(*mode).cloned());
            if in_the_way.len() == before {
                open.push(*mode);
            }
        }
        in_the_way.dedup();
        if wish == Mode::UserSpace {
            in_the_way.push(Finding {
                weight: Weight::Refuses,
                modes: vec![Mode::Native, Mode::Generic],
                what:
                    "neither was wished for, and the limiter in user space is attached to nothing"
                        .to_owned(),
                fix: None,
            });
        }
        let refuse = |reasons| AttachError::Refused {
            interface: interface.to_owned(),
            reasons,
        };
        let (Some(device), false) = (&report.facts.device, open.is_empty()) else {
            return Err(refuse(in_the_way));
        };
        let index = device.index;
        let mut loaded = Loaded::new().map_err(|error| {
            // What was doubtful before is the likely reason now.
            let doubts = report.findings.iter();
            let doubts = doubts.filter(|finding| finding.weight == Weight::Warns);
            let said: Vec<String> = doubts.map(ToString::to_string).collect();
            match error {
                AttachError::Load(error) if !said.is_empty() => {
                    AttachError::Load(format!("{error} ({})", said.join("; ")))
                }
                error => error,
            }
        })?;
        loaded.furnish(policy, rules)?;
        for mode in open {
            match loaded.attach(index, mode) {
                Err(error) => in_the_way.push(Finding {
                    weight: Weight::Refuses,
                    modes: vec![mode],
                    what: error,
                    fix: None,
                }),
                Ok(link) => {
                    let program = link
                        .info()
                        .map_err(|error| AttachError::Load(said(&error)))?;
                    let attachment = Self {
                        program: program.program_id(),
                        link: Some(link),
                        loaded,
                        facts: report.facts,
                        mode,
                        passed_over: in_the_way,
                        carried_over: 0,
                    };
                    if attachment.is_there()? {
                        return Ok(attachment);
                    }
                    return Err(refuse(vec![Finding {
                        weight: Weight::Refuses,
                        modes: vec![mode],
                        what: "the kernel took the program, and yet the interface does not have it"
                            .to_owned(),
                        fix: None,
                    }]));
                }
            }
        }
        Err(refuse(in_the_way))
    }

    fn take_over(
        facts: Facts,
        link: FdLink,
        how: How,
        policy: &Policy,
        rules: &[RuleEdit],
        names: &handover::Names,
    ) -> Result<Self, AttachError> {
        let mode = match how {
            How::Native => Mode::Native,
            How::Generic => Mode::Generic,
            How::Hardware | How::Several => {
                return Err(AttachError::HandOver(format!(
                    "what is attached runs {how}, which is not how this program does"
                )));
            }
        };
        let mut loaded = Loaded::new()?;
        loaded.furnish(policy, rules)?;
        let known = names.validated().map_err(|error| MapsError::Map {
            name: abi::map::VALIDATED,
            error,
        })?;
        let carried_over = loaded.maps.carry_over(&known, monotonic_ns())?;
        let link = loaded.take_over(link)?;
        // From here on the link is held by this process and, until it looks, by the one before, which may just have taken
        // the name back.
        names.remove()?;
        let program = link
            .info()
            .map_err(|error| AttachError::Load(said(&error)))?
            .program_id();
        Ok(Self {
            link: Some(link),
            loaded,
            facts,
            program,
            mode,
            passed_over: Vec::new(),
            carried_over,
        })
    }

    /// Gives the link and the table of validated sources names below `pins`, where another process may take them over. Until it has ([`Attachment::is_taken`])
    /// this one goes on.
    ///
    /// # Errors
    ///
    /// Where the directory will not do, in which case nothing changes. Where the kernel refuses the name after all, the
    /// program is gone from the interface.
    pub fn pin(&mut self, pins: &Path) -> Result<(), AttachError> {
        handover::check(pins)?;
        let names = handover::Names::of(pins, self.interface());
        let failed = |error: &dyn std::error::Error| AttachError::HandOver(said(error));
        names.remove().map_err(|error| failed(&error))?;
        // First, so that it is there for whoever finds the link.
        let tables = self.loaded.maps.tables();
        tables
            .pin_validated(&names.sources)
            .map_err(|error| failed(&error))?;
        if let Some(link) = self.link.take() {
            match link.pin(&names.link) {
                Ok(pinned) => self.link = Some(pinned.into()),
                Err(error) => {
                    let _ = names.remove();
                    return Err(failed(&error));
                }
            }
        }
        Ok(())
    }

    /// Takes the names away again.
    pub fn unpin(&self, pins: &Path) {
        let _ = handover::Names::of(pins, self.interface()).remove();
    }

    /// Whether another process took over what was pinned. Then this link holds that one's program, and is to be let go of.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        let now = self.link.as_ref().map(FdLink::info);
        now.is_some_and(|link| link.is_ok_and(|link| link.program_id() != self.program))
    }

    /// Where packets are judged.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.facts.interface
    }

    /// The interface's driver, where there is one to name.
    #[must_use]
    pub fn driver(&self) -> Option<&str> {
        self.facts.device.as_ref()?.driver.as_deref()
    }

    /// The number by which the kernel knows the program, and `bpftool prog show id`.
    #[must_use]
    pub fn program_id(&self) -> u32 {
        self.program
    }

    /// Why a better mode is not had; empty where it is.
    #[must_use]
    pub fn passed_over(&self) -> &[Finding] {
        &self.passed_over
    }

    /// How many sources that completed a handshake were taken over from the process before.
    #[must_use]
    pub fn carried_over(&self) -> usize {
        self.carried_over
    }

    /// Whether the interface still has the program: somebody with the privilege may remove either. Takes a second at most, also where the kernel
    /// does not answer: whoever asks may be waited for.
    ///
    /// # Errors
    ///
    /// Where the kernel does not answer.
    pub fn is_there(&self) -> io::Result<bool> {
        let attached = Attached::to(self.interface())?;
        Ok(attached.is_some_and(|attached| attached.program == self.program))
    }

    /// Takes the program away.
    pub fn detach(self) {
        // The link is what holds the program there.
        drop(self.link);
    }

    /// Makes `policy` hold in place of the one before; packets are judged by one of the two and by nothing between.
    ///
    /// # Errors
    ///
    /// Where it is out of bounds, in which case nothing changes, or the kernel refuses a map.
    pub fn apply(&mut self, policy: &Policy) -> Result<(), AttachError> {
        policy.check()?;
        Ok(self.loaded.maps.apply(policy)?)
    }

    /// The policy that holds.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.loaded.maps.policy()
    }

    /// Changes rules one by one.
    ///
    /// # Errors
    ///
    /// [`MapsError::RulesFull`] where one does not fit; those before it hold.
    pub fn edit_rules(&mut self, edits: &[RuleEdit]) -> Result<(), MapsError> {
        Ok(self.loaded.maps.edit_rules(edits)?)
    }

    /// Says that the owner lives and that `shed` of 65,536 newcomers' Initials are to be shed. Without it for longer
    /// than [`Policy::heartbeat_max_ms`] everything passes.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a map.
    pub fn beat(&mut self, shed: u32) -> Result<(), MapsError> {
        self.loaded.maps.beat(monotonic_ns(), shed)
    }

    /// Enters sources that completed a handshake, for [`VALIDATED_FOR_MAX`](crate::VALIDATED_FOR_MAX) at most. Says how many found no room.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a map.
    pub fn validate(&mut self, sources: &[IpAddr], length: Duration) -> Result<usize, MapsError> {
        self.loaded.maps.validate(sources, monotonic_ns(), length)
    }

    /// Enters sources that completed a handshake before, each until its own time. What is over or finds no room is left out.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a map.
    pub fn carry_over(&mut self, known: &[(u64, u64)]) -> Result<(), MapsError> {
        self.loaded.maps.carry_over(known, monotonic_ns()).map(drop)
    }

    /// What was counted since it was attached, over all CPUs.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a map.
    pub fn counters(&self) -> Result<Counters, MapsError> {
        self.loaded.maps.tables().counters()
    }

    /// Takes at most `max` sampled events, oldest first.
    pub fn events(&mut self, max: usize) -> Vec<Event> {
        self.loaded.maps.tables_mut().events(max)
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.mode, self.interface())?;
        for finding in &self.passed_over {
            let modes: Vec<String> = finding.modes.iter().map(Mode::to_string).collect();
            write!(f, "; not {}: {finding}", modes.join(" or "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_has_a_hash_to_be_confirmed_by() {
        assert_eq!(object_hash().len(), 64);
        assert!(object_hash().bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
}
