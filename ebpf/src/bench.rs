//! The real program on a bench: judged frame by frame through `BPF_PROG_TEST_RUN`, attached to nothing.
//!
//! With a clock that comes with each frame it answers what [`Model`](crate::model::Model) answers, and tests compare the two. With
//! the kernel's clock it tells what a verdict costs. Needs the right to load programs (`CAP_BPF` and `CAP_NET_ADMIN`, or root), and
//! no interface.

use std::{fmt, net::IpAddr, time::Duration};

use aya::{
    Ebpf, EbpfError, EbpfLoader, TestRun, TestRunOptions,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
    programs::{ProgramError, Xdp},
};
use thiserror::Error;

use crate::{
    abi::{
        Control, Counter, Event, Reason, Rule, RuleKeyV4, RuleKeyV6, Settings, TESTING_REPLAY,
        TESTING_SPOOF, Testing, map, program,
    },
    filter::Filter,
    object,
};

/// Bytes of the longest frame that is judged here: a page without headroom and what the kernel keeps behind it.
pub const FRAME_BYTES_MAX: usize = 3072;

/// Bytes of an Ethernet header; the kernel runs no test with less.
pub const FRAME_BYTES_MIN: usize = 14;

/// What a program returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `XDP_ABORTED`: a defect of the program.
    Aborted,
    /// `XDP_DROP`.
    Drop,
    /// `XDP_PASS`.
    Pass,
    /// Something that this program never returns.
    Other(u32),
}

impl From<u32> for Action {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            other => Self::Other(other),
        }
    }
}

/// Which clock, and which source addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The clock comes with the frame and the reason goes back.
    Replay,
    /// As in use: the kernel's clock.
    Real,
    /// As in use, but each run has a random source instead of the frame's.
    Spoof,
}

/// Why a bench fails.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The kernel refuses the program, or this process may not load one.
    #[error("loading the program: {0}")]
    Load(#[from] EbpfError),
    /// As above, with the verifier's words.
    #[error("loading or running the program: {0}")]
    Program(#[from] ProgramError),
    /// A map refuses.
    #[error("map: {0}")]
    Map(#[from] MapError),
    /// The object has not what the ABI says.
    #[error("the object has no `{0}`")]
    Missing(&'static str),
    /// The kernel judges no such frame in a test.
    #[error("a frame of {0} bytes: only {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX} can be judged")]
    FrameBytes(usize),
    /// The program gave back a reason that is none.
    #[error("the program gave the reason {0}, which is none")]
    Reason(u32),
}

/// The program with its maps. They are gone when this is dropped.
pub struct Bench {
    bpf: Ebpf,
    settings: Array<MapData, Settings>,
    control: Array<MapData, Control>,
    ports: Array<MapData, u32>,
    rules_v4: LpmTrie<MapData, RuleKeyV4, Rule>,
    rules_v6: LpmTrie<MapData, RuleKeyV6, Rule>,
    validated: HashMap<MapData, u64, u64>,
    /// None of an object from before there was one.
    filter: Option<Array<MapData, u64>>,
    in_filter: Filter,
    counters: PerCpuArray<MapData, Counter>,
    events: RingBuf<MapData>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Bench {
    /// Loads the program. Everything passes until ports and settings are there.
    pub fn load(mode: Mode) -> Result<Self, BenchError> {
        Self::load_object(object::XDP, mode)
    }

    /// As [`Bench::load`], with another build of the program, to measure two beside each other. Its ABI must be this one, but for
    /// the filter, which may be missing.
    pub fn load_object(object: &[u8], mode: Mode) -> Result<Self, BenchError> {
        let testing = match mode {
            Mode::Replay => TESTING_REPLAY,
            Mode::Real => 0,
            Mode::Spoof => TESTING_SPOOF,
        };
        let mut bpf = EbpfLoader::new()
            .override_global(program::TESTING, &testing, true)
            .load(object)?;
        let xdp: &mut Xdp = bpf
            .program_mut(program::XDP)
            .ok_or(BenchError::Missing(program::XDP))?
            .try_into()?;
        xdp.load()?;
        let filter = bpf.take_map(map::FILTER).map(TryInto::try_into);
        let mut take = |name| bpf.take_map(name).ok_or(BenchError::Missing(name));
        Ok(Self {
            settings: take(map::SETTINGS)?.try_into()?,
            control: take(map::CONTROL)?.try_into()?,
            ports: take(map::PORTS)?.try_into()?,
            rules_v4: take(map::RULES_V4)?.try_into()?,
            rules_v6: take(map::RULES_V6)?.try_into()?,
            validated: take(map::VALIDATED)?.try_into()?,
            filter: filter.transpose()?,
            in_filter: Filter::default(),
            counters: take(map::COUNTERS)?.try_into()?,
            events: take(map::EVENTS)?.try_into()?,
            bpf,
            input: Vec::with_capacity(size_of::<Testing>() + FRAME_BYTES_MAX),
            output: vec![0; size_of::<Testing>() + FRAME_BYTES_MAX],
        })
    }

    /// As [`Model::set_settings`](crate::model::Model::set_settings).
    pub fn set_settings(&mut self, slot: u32, settings: &Settings) -> Result<(), BenchError> {
        Ok(self.settings.set(slot, settings, 0)?)
    }

    /// As [`Model::set_control`](crate::model::Model::set_control).
    pub fn set_control(&mut self, control: Control) -> Result<(), BenchError> {
        Ok(self.control.set(0, control, 0)?)
    }

    /// As [`Model::set_port`](crate::model::Model::set_port).
    pub fn set_port(&mut self, port: u16, flags: u32) -> Result<(), BenchError> {
        Ok(self.ports.set(u32::from(port), flags, 0)?)
    }

    /// As [`Model::set_rule`](crate::model::Model::set_rule).
    pub fn set_rule(&mut self, address: IpAddr, bits: u8, rule: Rule) -> Result<(), BenchError> {
        match address {
            IpAddr::V4(address) => {
                let key = Key::new(u32::from(bits.min(32)), address.octets());
                Ok(self.rules_v4.insert(&key, rule, 0)?)
            }
            IpAddr::V6(address) => {
                let key = Key::new(u32::from(bits.min(128)), address.octets());
                Ok(self.rules_v6.insert(&key, rule, 0)?)
            }
        }
    }

    /// As [`Model::validate`](crate::model::Model::validate).
    pub fn validate(&mut self, source: u64, until_ns: u64) -> Result<(), BenchError> {
        self.validated.insert(source, until_ns, 0)?;
        if let (Some(filter), Some((index, word))) =
            (&mut self.filter, self.in_filter.enter(source))
        {
            filter.set(index, word, 0)?;
        }
        Ok(())
    }

    /// Judges one frame at `now_ns`. Only in [`Mode::Replay`]; in another the metadata would count as the frame.
    pub fn frame(&mut self, frame: &[u8], now_ns: u64) -> Result<(Action, Reason), BenchError> {
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len()) {
            return Err(BenchError::FrameBytes(frame.len()));
        }
        const META: usize = size_of::<Testing>();
        self.input.clear();
        self.input.extend_from_slice(&now_ns.to_ne_bytes());
        // A number that is no reason, so that a program which writes none is noticed.
        self.input.extend_from_slice(&u32::MAX.to_ne_bytes());
        self.input.extend_from_slice(&[0; 4]);
        self.input.extend_from_slice(frame);
        // struct xdp_md: data, data_end, data_meta, and three that stay zero.
        let mut context = [0; 24];
        for (field, value) in context.chunks_exact_mut(4).zip([META, self.input.len()]) {
            let value = u32::try_from(value).map_err(|_| BenchError::FrameBytes(frame.len()))?;
            field.copy_from_slice(&value.to_ne_bytes());
        }
        let xdp = xdp(&self.bpf)?;
        let result = xdp.test_run(TestRunOptions {
            data_in: Some(&self.input),
            data_out: Some(&mut self.output),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })?;
        let reason = match self.output.get(8..12).and_then(|four| four.try_into().ok()) {
            Some(four) => u32::from_ne_bytes(four),
            None => u32::MAX,
        };
        let reason = Reason::from_number(reason).ok_or(BenchError::Reason(reason))?;
        Ok((result.return_value.into(), reason))
    }

    /// Judges the same frame again and again: what it returned last, and the mean time of a run. In [`Mode::Real`] or [`Mode::Spoof`].
    pub fn repeat(&self, frame: &[u8], times: u32) -> Result<(Action, Duration), BenchError> {
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len()) {
            return Err(BenchError::FrameBytes(frame.len()));
        }
        let result = xdp(&self.bpf)?.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat: times,
            ..TestRunOptions::default()
        })?;
        Ok((result.return_value.into(), result.duration))
    }

    /// The program itself, for a measurement that attaches it.
    pub fn program(&mut self) -> Result<&mut Xdp, BenchError> {
        let program = self.bpf.program_mut(program::XDP);
        Ok(program
            .ok_or(BenchError::Missing(program::XDP))?
            .try_into()?)
    }

    /// What was counted for a reason, over all CPUs.
    pub fn counted(&self, reason: Reason) -> Result<Counter, BenchError> {
        let per_cpu = self.counters.get(&reason.number(), 0)?;
        Ok(per_cpu.iter().fold(Counter::default(), |sum, cpu| Counter {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            spared_packets: sum.spared_packets + cpu.spared_packets,
            spared_bytes: sum.spared_bytes + cpu.spared_bytes,
        }))
    }

    /// The next event that waits. None also where what waits has another length than an event.
    pub fn event(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        Event::read(&item)
    }
}

fn xdp(bpf: &Ebpf) -> Result<&Xdp, BenchError> {
    let program = bpf.program(program::XDP);
    Ok(program
        .ok_or(BenchError::Missing(program::XDP))?
        .try_into()?)
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").finish_non_exhaustive()
    }
}
