//! The golden vectors: one after the other, each with the reason it must have.

mod datagrams;
mod frames;
mod rates;

use std::fmt::Write;

use stoq_ebpf::abi::{self, Control, Reason};

use super::{
    Judge,
    frame::{Packet, keyed_id},
    scene::{KEYS, Kind, PUBLIC},
};

pub(crate) enum Step {
    Settings {
        slot: u32,
        kind: Kind,
    },
    Control {
        heartbeat_ms: u64,
        slot: u32,
        shed: u32,
    },
    Validate {
        source: &'static str,
        until_ms: u64,
    },
    Frame {
        at_ms: u64,
        expected: Reason,
        name: String,
        bytes: Vec<u8>,
    },
}

impl Step {
    /// Does it; of a frame, what the judge says, where it says something.
    pub(crate) fn play(&self, judge: &mut dyn Judge) -> Option<(Reason, bool)> {
        match self {
            Self::Settings { slot, kind } => judge.set_settings(*slot, &kind.settings()),
            Self::Control {
                heartbeat_ms,
                slot,
                shed,
            } => judge.set_control(Control {
                heartbeat_ns: heartbeat_ms * 1_000_000,
                slot: *slot,
                shed: *shed,
            }),
            Self::Validate { source, until_ms } => {
                judge.validate(abi::source(source.parse().unwrap()), until_ms * 1_000_000);
            }
            Self::Frame { at_ms, bytes, .. } => return judge.frame(bytes, at_ms * 1_000_000),
        }
        None
    }

    /// Its line in `vectors/frames.txt`.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Settings { slot, kind } => {
                let name = match kind {
                    Kind::Usual => "usual",
                    Kind::Strict => "strict",
                    Kind::DryRun => "dry_run",
                    Kind::Foreign => "foreign",
                };
                format!("settings {slot} {name}")
            }
            Self::Control {
                heartbeat_ms,
                slot,
                shed,
            } => format!("control {heartbeat_ms} {slot} {shed}"),
            Self::Validate { source, until_ms } => format!("validate {source} {until_ms}"),
            Self::Frame {
                at_ms,
                expected,
                name,
                bytes,
            } => {
                format!("frame {at_ms} {expected} {name} {}", packed(bytes))
            }
        }
    }
}

/// Hex; eight and more equal bytes as `hh*count`, commas around.
fn packed(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        if run.len() < 8 {
            for byte in run {
                write!(text, "{byte:02x}").unwrap();
            }
        } else {
            write!(text, ",{:02x}*{},", run[0], run.len()).unwrap();
        }
    }
    text.trim_matches(',').replace(",,", ",")
}

struct Script {
    steps: Vec<Step>,
    now_ms: u64,
    shed: u32,
    slot: u32,
}

impl Script {
    /// A minute on, so that all budgets are whole again, with a heartbeat.
    fn later(&mut self) {
        self.after(60_000);
    }

    fn after(&mut self, ms: u64) {
        self.now_ms += ms;
        self.control();
    }

    fn control(&mut self) {
        self.steps.push(Step::Control {
            heartbeat_ms: self.now_ms,
            slot: self.slot,
            shed: self.shed,
        });
    }

    fn frame(&mut self, expected: Reason, name: &str, packet: &Packet) {
        self.bytes(expected, name, packet.bytes());
    }

    fn bytes(&mut self, expected: Reason, name: &str, bytes: Vec<u8>) {
        let name = name.replace(' ', "_");
        self.steps.push(Step::Frame {
            at_ms: self.now_ms,
            expected,
            name,
            bytes,
        });
    }

    fn udp(&mut self, expected: Reason, name: &str, source: &str, payload: &[u8]) {
        self.frame(expected, name, &Packet::udp(source, PUBLIC, payload));
    }
}

fn ours(nonce: u8) -> Vec<u8> {
    keyed_id(KEYS[1], 1, 5, [nonce; 7])
}

/// All of them.
pub(crate) fn all() -> Vec<Step> {
    let mut script = Script {
        steps: Vec::new(),
        now_ms: 1_000_000,
        shed: 0,
        slot: 0,
    };
    frames::off_and_stale(&mut script);
    frames::not_ours(&mut script);
    frames::layers(&mut script);
    frames::rules(&mut script);
    datagrams::stateless_long(&mut script);
    datagrams::stateless_short(&mut script);
    datagrams::strict(&mut script);
    rates::budgets(&mut script);
    rates::mercy(&mut script);
    script.steps
}
