//! The program's maps, with their types. What is written into them in which order is decided in `tables.rs`.

use std::{fmt, path::Path};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf,
        lpm_trie::Key,
    },
    pin::PinError,
};
use ipnet::IpNet;
use rustix::io::Errno;

use crate::{
    abi::{self, Control, Counter, Event, Reason, Rule, Settings, map},
    counters::Counters,
    filter::Filter,
    tables::{Room, Tables, WriteError},
};

/// Why a map could not be had or written.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// Ourselves: the object is not the one this code is for.
    #[error("the program has no map `{name}`")]
    Missing {
        /// The map's name.
        name: &'static str,
    },
    /// The kernel refused, or the map is of another kind or size.
    #[error("map `{name}`: {}", chain(error))]
    Map {
        /// The map's name.
        name: &'static str,
        /// What was wrong.
        #[source]
        error: MapError,
    },
    /// The rules of a family are full; those before this one hold.
    #[error(
        "no room for {prefix}: there are {} rules of its family, which is all there may be",
        abi::RULES_MAX
    )]
    RulesFull {
        /// The first prefix that did not fit.
        prefix: IpNet,
    },
}

impl From<WriteError<Self>> for MapsError {
    fn from(error: WriteError<Self>) -> Self {
        match error {
            WriteError::Table(error) => error,
            WriteError::RulesFull { prefix } => Self::RulesFull { prefix },
        }
    }
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    /// Deeper chains are cut.
    const DEPTH_MAX: usize = 8;
    let mut text = error.to_string();
    let mut cause = error.source();
    for _ in 0..DEPTH_MAX {
        let Some(error) = cause else { break };
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// `CLOCK_MONOTONIC` in nanoseconds, which is what the program reads as well.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// The maps of a loaded program. Dropping them leaves the program with what they hold.
pub(crate) struct Maps {
    settings: Array<MapData, Settings>,
    control: Array<MapData, Control>,
    ports: Array<MapData, u32>,
    rules_v4: LpmTrie<MapData, abi::RuleKeyV4, Rule>,
    rules_v6: LpmTrie<MapData, abi::RuleKeyV6, Rule>,
    validated: HashMap<MapData, u64, u64>,
    filter: Array<MapData, u64>,
    in_filter: Filter,
    counters: PerCpuArray<MapData, Counter>,
    events: RingBuf<MapData>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

fn typed<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, MapsError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(MapsError::Missing { name })?;
    map.try_into()
        .map_err(|error| MapsError::Map { name, error })
}

fn failed(name: &'static str) -> impl Fn(MapError) -> MapsError {
    move |error| MapsError::Map { name, error }
}

impl Maps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, MapsError> {
        Ok(Self {
            settings: typed(ebpf, map::SETTINGS)?,
            control: typed(ebpf, map::CONTROL)?,
            ports: typed(ebpf, map::PORTS)?,
            rules_v4: typed(ebpf, map::RULES_V4)?,
            rules_v6: typed(ebpf, map::RULES_V6)?,
            validated: typed(ebpf, map::VALIDATED)?,
            filter: typed(ebpf, map::FILTER)?,
            in_filter: Filter::default(),
            counters: typed(ebpf, map::COUNTERS)?,
            events: typed(ebpf, map::EVENTS)?,
        })
    }

    /// Adds up what all CPUs counted.
    pub(crate) fn counters(&self) -> Result<Counters, MapsError> {
        let mut counters = Counters::default();
        for reason in Reason::ALL {
            let by_cpu = self
                .counters
                .get(&reason.number(), 0)
                .map_err(failed(map::COUNTERS))?;
            for counter in by_cpu.iter() {
                counters.add(reason, *counter);
            }
        }
        let lost = self
            .counters
            .get(&abi::REASONS, 0)
            .map_err(failed(map::COUNTERS))?;
        counters.events_lost = lost
            .iter()
            .map(|counter| counter.packets)
            .fold(0, u64::saturating_add);
        Ok(counters)
    }

    /// Gives the table of validated sources a name on a BPF file system.
    pub(crate) fn pin_validated(&self, name: &Path) -> Result<(), PinError> {
        self.validated.map().pin(name)
    }

    /// Takes at most `max` sampled events, oldest first.
    pub(crate) fn events(&mut self, max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < max {
            let Some(item) = self.events.next() else {
                break;
            };
            if let Some(event) = Event::read(&item) {
                events.push(event);
            }
        }
        events
    }
}

impl Tables for Maps {
    type Error = MapsError;
    const JUDGES_MEANWHILE: bool = true;

    fn set_settings(&mut self, slot: u32, settings: Settings) -> Result<(), MapsError> {
        self.settings
            .set(slot, settings, 0)
            .map_err(failed(map::SETTINGS))
    }

    fn set_control(&mut self, control: Control) -> Result<(), MapsError> {
        self.control
            .set(0, control, 0)
            .map_err(failed(map::CONTROL))
    }

    fn set_port(&mut self, port: u16, flags: u32) -> Result<(), MapsError> {
        self.ports
            .set(u32::from(port), flags, 0)
            .map_err(failed(map::PORTS))
    }

    fn set_rule(&mut self, prefix: IpNet, rule: Rule) -> Result<Room, MapsError> {
        let bits = u32::from(prefix.prefix_len());
        let (name, written) = match prefix {
            IpNet::V4(net) => (
                map::RULES_V4,
                self.rules_v4
                    .insert(&Key::new(bits, net.network().octets()), rule, 0),
            ),
            IpNet::V6(net) => (
                map::RULES_V6,
                self.rules_v6
                    .insert(&Key::new(bits, net.network().octets()), rule, 0),
            ),
        };
        room(name, written, Errno::NOSPC)
    }

    fn remove_rule(&mut self, prefix: IpNet) -> Result<(), MapsError> {
        let bits = u32::from(prefix.prefix_len());
        let (name, removed) = match prefix {
            IpNet::V4(net) => (
                map::RULES_V4,
                self.rules_v4
                    .remove(&Key::new(bits, net.network().octets())),
            ),
            IpNet::V6(net) => (
                map::RULES_V6,
                self.rules_v6
                    .remove(&Key::new(bits, net.network().octets())),
            ),
        };
        gone(name, removed)
    }

    fn enter(&mut self, source: u64, until_ns: u64) -> Result<Room, MapsError> {
        let written = self.validated.insert(source, until_ns, 0);
        let room = room(map::VALIDATED, written, Errno::TOOBIG)?;
        if room == Room::Taken
            && let Some((index, word)) = self.in_filter.enter(source)
        {
            self.filter
                .set(index, word, 0)
                .map_err(failed(map::FILTER))?;
        }
        Ok(room)
    }

    fn leave(&mut self, over: &[u64], _now_ns: u64) -> Result<(), MapsError> {
        for source in over {
            gone(map::VALIDATED, self.validated.remove(source))?;
            if let Some((index, word)) = self.in_filter.leave(*source) {
                self.filter
                    .set(index, word, 0)
                    .map_err(failed(map::FILTER))?;
            }
        }
        Ok(())
    }
}

/// A write for which there was room or not: which error says that there was none depends on the kind of map.
fn room(
    name: &'static str,
    written: Result<(), MapError>,
    when_full: Errno,
) -> Result<Room, MapsError> {
    match written {
        Ok(()) => Ok(Room::Taken),
        Err(error) if is_errno(&error, when_full) => Ok(Room::Full),
        Err(error) => Err(MapsError::Map { name, error }),
    }
}

/// A removal: what is not there need not be removed.
fn gone(name: &'static str, removed: Result<(), MapError>) -> Result<(), MapsError> {
    match removed {
        Ok(()) => Ok(()),
        Err(error) if is_errno(&error, Errno::NOENT) => Ok(()),
        Err(error) => Err(MapsError::Map { name, error }),
    }
}

fn is_errno(error: &MapError, wanted: Errno) -> bool {
    match error {
        MapError::SyscallError(error) => {
            error.io_error.raw_os_error() == Some(wanted.raw_os_error())
        }
        MapError::KeyNotFound | MapError::ElementNotFound => wanted == Errno::NOENT,
        _ => false,
    }
}
