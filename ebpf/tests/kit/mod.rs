//! What the tests of the program and of its model share: frames, the scene they are judged in, and both judges.

#![allow(
    dead_code,
    reason = "each test binary uses its part of what they share"
)]

pub(crate) mod frame;
pub(crate) mod generator;
pub(crate) mod random;
pub(crate) mod scene;
pub(crate) mod steps;

use std::net::IpAddr;

use stoq_ebpf::{
    abi::{Control, Reason, Rule, Settings},
    bench::{Action, Bench, FRAME_BYTES_MIN, Mode},
    is_for_want_of_privilege,
    model::Model,
};

/// Whoever can say why a frame passes or is dropped.
pub(crate) trait Judge {
    fn set_settings(&mut self, slot: u32, settings: &Settings);
    fn set_control(&mut self, control: Control);
    fn set_port(&mut self, port: u16, flags: u32);
    fn set_rule(&mut self, address: IpAddr, bits: u8, rule: Rule);
    fn validate(&mut self, source: u64, until_ns: u64);
    /// The reason, and whether the frame is dropped for it. None where the judge cannot be asked about such a frame.
    fn frame(&mut self, frame: &[u8], now_ns: u64) -> Option<(Reason, bool)>;
}

impl Judge for Model {
    fn set_settings(&mut self, slot: u32, settings: &Settings) {
        Self::set_settings(self, slot, *settings);
    }

    fn set_control(&mut self, control: Control) {
        Self::set_control(self, control);
    }

    fn set_port(&mut self, port: u16, flags: u32) {
        Self::set_port(self, port, flags);
    }

    fn set_rule(&mut self, address: IpAddr, bits: u8, rule: Rule) {
        Self::set_rule(self, address, bits, rule).unwrap();
    }

    fn validate(&mut self, source: u64, until_ns: u64) {
        Self::validate(self, source, until_ns).unwrap();
    }

    fn frame(&mut self, frame: &[u8], now_ns: u64) -> Option<(Reason, bool)> {
        let reason = Self::frame(self, frame, now_ns);
        Some((reason, self.drops(reason)))
    }
}

impl Judge for Bench {
    fn set_settings(&mut self, slot: u32, settings: &Settings) {
        Self::set_settings(self, slot, settings).unwrap();
    }

    fn set_control(&mut self, control: Control) {
        Self::set_control(self, control).unwrap();
    }

    fn set_port(&mut self, port: u16, flags: u32) {
        Self::set_port(self, port, flags).unwrap();
    }

    fn set_rule(&mut self, address: IpAddr, bits: u8, rule: Rule) {
        Self::set_rule(self, address, bits, rule).unwrap();
    }

    fn validate(&mut self, source: u64, until_ns: u64) {
        Self::validate(self, source, until_ns).unwrap();
    }

    fn frame(&mut self, frame: &[u8], now_ns: u64) -> Option<(Reason, bool)> {
        if frame.len() < FRAME_BYTES_MIN {
            return None;
        }
        let (action, reason) = Self::frame(self, frame, now_ns).unwrap();
        let dropped = match action {
            Action::Drop => true,
            Action::Pass => false,
            Action::Aborted | Action::Other(_) => panic!("{action:?} for {reason}: {frame:02x?}"),
        };
        Some((reason, dropped))
    }
}

/// Whether a skip is a failure.
pub(crate) fn is_required() -> bool {
    std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_some_and(|it| it == "1")
}

/// The program on a bench, or a word on why there is none. With `STOQ_REQUIRE_PRIVILEGED=1` there must be one.
pub(crate) fn load(test: &str, mode: Mode) -> Option<Bench> {
    match Bench::load(mode) {
        Ok(bench) => Some(bench),
        Err(error) if is_for_want_of_privilege(&error) => {
            assert!(
                !is_required(),
                "{test}: {error}, and STOQ_REQUIRE_PRIVILEGED=1"
            );
            eprintln!(
                "SKIPPED: {test}: the kernel's part needs the right to load programs: {error}"
            );
            None
        }
        Err(error) => panic!("{test}: {error}"),
    }
}

/// A number from the environment, printed, so that a failure can be repeated.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).map_or(default, |text| text.parse().unwrap());
    eprintln!("{name}={value}");
    value
}
