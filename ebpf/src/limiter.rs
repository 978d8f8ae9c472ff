//! One limiter, wherever it stands: in the driver, in the kernel's stack, or at the endpoint's socket.
//!
//! Whoever serves asks no more than this. [`Fallback`](crate::Fallback) is the XDP program behind its helper while that can
//! be had; [`AtSocket`] is the program's model, for machines and moments without. Both take the same policy, rules and
//! sources, write them in the same order, and judge a datagram alike: tests hold them to it with the same vectors. What
//! differs is said by [`Limiter::mode`]: at the socket a packet has cost the way through the kernel already, TCP and
//! fragments are not seen, and bytes are counted of payloads and not of frames.

use std::{convert::Infallible, fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::{
    abi::{Control, Counter, Reason, Rule, Settings},
    counters::Counters,
    helper::HelperError,
    maps::monotonic_ns,
    model::Model,
    policy::{Policy, PolicyError, RuleEdit},
    probe::Mode,
    tables::{Room, Tables, WriteError, Writer},
};

/// What a limiter says of a datagram at the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It was judged before it came here.
    Before,
    /// It is served.
    Passes(Reason),
    /// It is forgotten.
    Drops(Reason),
}

impl Judged {
    /// Whether it is served.
    #[must_use]
    pub fn passes(self) -> bool {
        !matches!(self, Self::Drops(_))
    }
}

/// Why a limiter is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum LimiterError {
    /// The policy is out of bounds. The one before holds.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The helper refused or is gone. Once it is gone nothing is limited in the kernel any more.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The rules of a family are full; those before this one hold.
    #[error("no room for {prefix}: there are 65536 rules of its family, which is all there may be")]
    RulesFull {
        /// The first prefix that did not fit.
        prefix: IpNet,
    },
}

/// Something that judges datagrams by a policy. All calls but [`judge`](Self::judge) may block for as long as the helper
/// does, so they belong on a thread that may.
pub trait Limiter: fmt::Debug + Send + Sync {
    /// Where packets are judged.
    fn mode(&self) -> Mode;

    /// Makes `policy` hold in place of the one before.
    ///
    /// # Errors
    ///
    /// Where it is out of bounds, in which case nothing changes, or the helper does not do it.
    fn apply(&self, policy: &Policy) -> Result<(), LimiterError>;

    /// Changes rules one by one.
    ///
    /// # Errors
    ///
    /// Where one does not fit; those before it hold.
    fn edit_rules(&self, edits: &[RuleEdit]) -> Result<(), LimiterError>;

    /// Says, ten times a second, that the owner lives, and how many of 65,536 newcomers' Initials are shed.
    ///
    /// # Errors
    ///
    /// Where the helper does not do it.
    fn beat(&self, shed: u32) -> Result<(), LimiterError>;

    /// Enters sources that completed a handshake, for a day at most. Says how many found no room: 65,536 fit,
    /// of which 1,024 of one IPv6 /48.
    ///
    /// # Errors
    ///
    /// Where the helper does not do it.
    fn validate(&self, sources: &[IpAddr], length: Duration) -> Result<usize, LimiterError>;

    /// What was counted by reason.
    ///
    /// # Errors
    ///
    /// Where the helper does not say.
    fn counters(&self) -> Result<Counters, LimiterError>;

    /// What becomes of a datagram that the socket of `port` received. Never blocks for the helper; takes no time where
    /// packets are judged before.
    fn judge(&self, from: IpAddr, port: u16, payload: &[u8]) -> Judged;
}

/// The program's model at the endpoint's socket. As large as a [`Model`], and what rules and sources take.
///
/// One for all workers, behind one lock: budgets hold for the node as they do in the kernel.
#[derive(Debug)]
pub struct AtSocket {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    model: Writer<Model>,
    counters: Counters,
}

impl AtSocket {
    /// With `policy` in force and no rules.
    ///
    /// # Errors
    ///
    /// Where the policy is out of bounds.
    pub fn new(policy: &Policy) -> Result<Self, LimiterError> {
        let limiter = Self {
            state: Mutex::new(State {
                model: Writer::new(Model::new()),
                counters: Counters::default(),
            }),
        };
        limiter.apply(policy)?;
        Ok(limiter)
    }

    /// What holds, for a limiter that is to begin with it.
    pub(crate) fn policy_and_rules(&self) -> (Policy, Vec<RuleEdit>) {
        let state = self.state.lock();
        let rules = state.model.rules().iter();
        (
            state.model.policy().clone(),
            rules
                .map(|(prefix, treatment)| (*prefix, Some(*treatment)))
                .collect(),
        )
    }

    /// Who completed a handshake, with the times until which they count, for a limiter that is to begin with them.
    pub(crate) fn validated(&self) -> Vec<(u64, u64)> {
        self.state.lock().model.sources().iter().collect()
    }

    /// As [`Limiter::judge`], at a time in nanoseconds of the clock that the other calls' times are of too.
    pub fn judge_at(&self, from: IpAddr, port: u16, payload: &[u8], now_ns: u64) -> Judged {
        let mut state = self.state.lock();
        let model = state.model.tables_mut();
        let reason = model.datagram(from, port, payload, now_ns);
        let drops = model.drops(reason);
        let bytes = payload.len() as u64;
        let spared = reason.drops() && !drops;
        state.counters.add(
            reason,
            Counter {
                packets: 1,
                bytes,
                spared_packets: u64::from(spared),
                spared_bytes: if spared { bytes } else { 0 },
            },
        );
        if drops {
            Judged::Drops(reason)
        } else {
            Judged::Passes(reason)
        }
    }

    /// As [`Limiter::beat`], at a time.
    pub fn beat_at(&self, shed: u32, now_ns: u64) {
        infallible(self.state.lock().model.beat(now_ns, shed));
    }

    /// As [`Limiter::validate`], at a time.
    pub fn validate_at(&self, sources: &[IpAddr], length: Duration, now_ns: u64) -> usize {
        infallible(self.state.lock().model.validate(sources, now_ns, length))
    }
}

fn infallible<T>(outcome: Result<T, Infallible>) -> T {
    match outcome {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

impl From<WriteError<Infallible>> for LimiterError {
    fn from(error: WriteError<Infallible>) -> Self {
        match error {
            WriteError::Table(never) => match never {},
            WriteError::RulesFull { prefix } => Self::RulesFull { prefix },
        }
    }
}

impl Limiter for AtSocket {
    fn mode(&self) -> Mode {
        Mode::UserSpace
    }

    fn apply(&self, policy: &Policy) -> Result<(), LimiterError> {
        policy.check()?;
        Ok(self.state.lock().model.apply(policy)?)
    }

    fn edit_rules(&self, edits: &[RuleEdit]) -> Result<(), LimiterError> {
        Ok(self.state.lock().model.edit_rules(edits)?)
    }

    fn beat(&self, shed: u32) -> Result<(), LimiterError> {
        self.beat_at(shed, monotonic_ns());
        Ok(())
    }

    fn validate(&self, sources: &[IpAddr], length: Duration) -> Result<usize, LimiterError> {
        Ok(self.validate_at(sources, length, monotonic_ns()))
    }

    fn counters(&self) -> Result<Counters, LimiterError> {
        Ok(self.state.lock().counters.clone())
    }

    fn judge(&self, from: IpAddr, port: u16, payload: &[u8]) -> Judged {
        self.judge_at(from, port, payload, monotonic_ns())
    }
}

impl Tables for Model {
    type Error = Infallible;
    const JUDGES_MEANWHILE: bool = false;

    fn set_settings(&mut self, slot: u32, settings: Settings) -> Result<(), Infallible> {
        Self::set_settings(self, slot, settings);
        Ok(())
    }

    fn set_control(&mut self, control: Control) -> Result<(), Infallible> {
        Self::set_control(self, control);
        Ok(())
    }

    fn set_port(&mut self, port: u16, flags: u32) -> Result<(), Infallible> {
        Self::set_port(self, port, flags);
        Ok(())
    }

    fn set_rule(&mut self, prefix: IpNet, rule: Rule) -> Result<Room, Infallible> {
        Ok(
            match Self::set_rule(self, prefix.network(), prefix.prefix_len(), rule) {
                Ok(()) => Room::Taken,
                Err(_) => Room::Full,
            },
        )
    }

    fn remove_rule(&mut self, prefix: IpNet) -> Result<(), Infallible> {
        Self::remove_rule(self, prefix.network(), prefix.prefix_len());
        Ok(())
    }

    fn enter(&mut self, source: u64, until_ns: u64) -> Result<Room, Infallible> {
        Ok(match self.validate(source, until_ns) {
            Ok(()) => Room::Taken,
            Err(_) => Room::Full,
        })
    }

    fn leave(&mut self, _over: &[u64], now_ns: u64) -> Result<(), Infallible> {
        self.sweep(now_ns);
        Ok(())
    }
}
