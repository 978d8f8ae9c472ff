//! What would become of the packets of a capture: verdict by verdict, through the real program where it may be loaded,
//! else through its model.
//!
//! Nothing is attached and no packet is sent. The clock is the capture's own, so budgets are used up and fill again as
//! they would have.

use std::fmt;

use crate::{
    abi::{Control, Reason},
    bench::{self, Bench, BenchError, FRAME_BYTES_MAX, FRAME_BYTES_MIN},
    capture::Captured,
    model::{Full, Model},
    policy::{Policy, PolicyError, Rules},
};

/// The owner lives through the whole capture: its heartbeat is renewed when it is older than this.
const BEAT_EVERY_NS: u64 = 100_000_000;

/// Why packets cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The policy is out of bounds.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// There are more rules than fit.
    #[error("rules: {0}")]
    Rules(#[from] Full),
    /// The program could not be loaded or run.
    #[error(transparent)]
    Program(#[from] BenchError),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passes or is dropped, for this reason.
    Judged(Reason),
    /// It cannot be said: the capture kept only the beginning of the packet.
    Cut,
    /// It cannot be said: the program gets no frame of that size. Captures on a sending machine have large ones, which the
    /// NIC was to cut into packets.
    Size,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Judged(reason) => reason.fmt(f),
            Self::Cut => f.write_str("unknown_cut_by_the_capture"),
            Self::Size => f.write_str("unknown_no_frame_of_this_size"),
        }
    }
}

/// Judges packets one by one.
#[derive(Debug)]
pub struct Replay {
    judge: Judge,
    beat_ns: Option<u64>,
}

#[derive(Debug)]
enum Judge {
    Program(Box<Bench>),
    Model(Box<Model>),
}

impl Replay {
    /// Through the real program, which needs the privileges to load it
    /// ([`is_for_want_of_privilege`](crate::is_for_want_of_privilege) tells whether that is what was missing).
    ///
    /// # Errors
    ///
    /// Where it cannot be loaded, or the policy is out of bounds.
    pub fn through_program(policy: &Policy, rules: &Rules) -> Result<Self, ReplayError> {
        policy.check()?;
        let mut bench = Bench::load(bench::Mode::Replay)?;
        for (prefix, treatment) in rules {
            bench.set_rule(prefix.network(), prefix.prefix_len(), treatment.rule())?;
        }
        bench.set_settings(0, &policy.settings(families(rules)))?;
        for (port, flags) in policy.port_flags() {
            bench.set_port(port, flags)?;
        }
        Ok(Self {
            judge: Judge::Program(Box::new(bench)),
            beat_ns: None,
        })
    }

    /// Through the model, which needs nothing.
    ///
    /// # Errors
    ///
    /// Where the policy is out of bounds, or the rules are more than fit.
    pub fn through_model(policy: &Policy, rules: &Rules) -> Result<Self, ReplayError> {
        policy.check()?;
        let mut model = Model::new();
        for (prefix, treatment) in rules {
            model.set_rule(prefix.network(), prefix.prefix_len(), treatment.rule())?;
        }
        model.set_settings(0, policy.settings(families(rules)));
        for (port, flags) in policy.port_flags() {
            model.set_port(port, flags);
        }
        Ok(Self {
            judge: Judge::Model(Box::new(model)),
            beat_ns: None,
        })
    }

    /// What judges: `program` or `model`.
    #[must_use]
    pub fn judge(&self) -> &'static str {
        match self.judge {
            Judge::Program(_) => "program",
            Judge::Model(_) => "model",
        }
    }

    /// What would have become of a packet of a capture.
    ///
    /// # Errors
    ///
    /// Where the kernel does not run the program.
    pub fn captured(&mut self, packet: &Captured) -> Result<Outcome, ReplayError> {
        if packet.missing > 0 {
            return Ok(Outcome::Cut);
        }
        self.frame(&packet.frame, packet.at_ns)
    }

    /// What would have become of a frame at that time, in nanoseconds of any clock.
    ///
    /// # Errors
    ///
    /// Where the kernel does not run the program.
    pub fn frame(&mut self, frame: &[u8], now_ns: u64) -> Result<Outcome, ReplayError> {
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len()) {
            return Ok(Outcome::Size);
        }
        if self
            .beat_ns
            .is_none_or(|beat_ns| now_ns.abs_diff(beat_ns) > BEAT_EVERY_NS)
        {
            self.beat_ns = Some(now_ns);
            let control = Control {
                heartbeat_ns: now_ns,
                ..Control::default()
            };
            match &mut self.judge {
                Judge::Program(bench) => bench.set_control(control)?,
                Judge::Model(model) => model.set_control(control),
            }
        }
        let reason = match &mut self.judge {
            Judge::Program(bench) => bench.frame(frame, now_ns)?.1,
            Judge::Model(model) => model.frame(frame, now_ns),
        };
        Ok(Outcome::Judged(reason))
    }
}

/// Whether there are rules of IPv4, and of IPv6.
fn families(rules: &Rules) -> [bool; 2] {
    [true, false].map(|v4| rules.keys().any(|prefix| prefix.addr().is_ipv4() == v4))
}
