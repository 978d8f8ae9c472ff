//! The socket selector in the kernel: loaded, attached to a group of sockets, and told whose sockets are whose.
//!
//! A group is the sockets bound to one address and port with `SO_REUSEPORT`; attaching through one of them attaches to
//! all, those included that join later. The program stays with the group as long as it has sockets, also when this value is
//! dropped; the tables stay with the program.
//!
//! While a new process takes over, both have sockets in the group. The old one's generation of connection-ID keys keeps its
//! route, `current` names the new one's, and when the old one has closed its sockets its route is cleared.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Ebpf, EbpfError,
    maps::{Array, MapData, MapError, PerCpuArray, ReusePortSockArray},
    programs::{ProgramError, SkReuseport},
};
use thiserror::Error;

use crate::{
    abi::{
        ABI_VERSION, GENERATIONS, Route, SOCKETS_MAX, Steer, Steering, WORKERS_MAX, cid_key, map,
        program,
    },
    object,
};

/// Why the selector cannot be used.
#[derive(Debug, Error)]
pub enum SelectorError {
    /// The kernel refuses the object, or this process may not load it.
    #[error("loading the selector: {0}")]
    Load(#[from] EbpfError),
    /// The kernel refuses the program or the socket.
    #[error("loading or attaching the selector: {0}")]
    Program(#[from] ProgramError),
    /// A map refuses: a socket that is in no group, for one.
    #[error("map of the selector: {0}")]
    Map(#[from] MapError),
    /// The object has not what the ABI says.
    #[error("the object has no `{0}`")]
    Missing(&'static str),
    /// A group that there is not.
    #[error("{0} workers; a group has 1 to {WORKERS_MAX}")]
    Workers(u32),
    /// A slot that the table does not have.
    #[error("slot {0} of {SOCKETS_MAX}")]
    Slot(u32),
}

/// The program and its tables.
pub struct Selector {
    bpf: Ebpf,
    steering: Array<MapData, Steering>,
    sockets: ReusePortSockArray<MapData>,
    steered: PerCpuArray<MapData, u64>,
}

impl Selector {
    /// Loads the program. Until [`Selector::steer`] the kernel's own hash decides. Needs `CAP_BPF` and `CAP_NET_ADMIN`.
    pub fn load() -> Result<Self, SelectorError> {
        let mut bpf = Ebpf::load(object::SELECTOR)?;
        let program: &mut SkReuseport = bpf
            .program_mut(program::SELECTOR)
            .ok_or(SelectorError::Missing(program::SELECTOR))?
            .try_into()?;
        program.load()?;
        let mut take = |name| bpf.take_map(name).ok_or(SelectorError::Missing(name));
        Ok(Self {
            steering: take(map::STEERING)?.try_into()?,
            sockets: take(map::SOCKETS)?.try_into()?,
            steered: take(map::STEERED)?.try_into()?,
            bpf,
        })
    }

    /// Loads the program for a process's only group at an address, and attaches it: `sockets` are the group's, in the order of their
    /// workers, `cid_keys` the keys of their connection IDs by generation, the first of which signs. Every generation is of
    /// these sockets, since no other process has any.
    ///
    /// # Errors
    ///
    /// As loading, attaching and writing tables; what was attached before is there still.
    pub fn of_group<S: AsFd + AsRawFd>(
        sockets: &[S],
        cid_keys: &[(u8, [u8; 16])],
    ) -> Result<Self, SelectorError> {
        let first = sockets.first().ok_or(SelectorError::Workers(0))?;
        let workers = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
        if workers > WORKERS_MAX {
            return Err(SelectorError::Workers(workers));
        }
        let mut selector = Self::load()?;
        for (slot, socket) in (0..).zip(sockets) {
            selector.set_socket(slot, socket)?;
        }
        let mut steering = Steering {
            abi: ABI_VERSION,
            current: cid_keys.first().map_or(0, |(now, _)| u32::from(*now)) % GENERATIONS,
            route: [Route { base: 0, workers }; GENERATIONS as usize],
            cid_key: [[0; 2]; GENERATIONS as usize],
        };
        for (generation, key) in cid_keys {
            if let Some(place) = steering.cid_key.get_mut(usize::from(*generation)) {
                *place = cid_key(*key);
            }
        }
        selector.steer(steering)?;
        // Last, so that there is no datagram without a table.
        selector.attach(first)?;
        Ok(selector)
    }

    /// Attaches it to the group of `socket`, in place of what was attached before.
    pub fn attach(&self, socket: impl AsFd) -> Result<(), SelectorError> {
        let program: &SkReuseport = self
            .bpf
            .program(program::SELECTOR)
            .ok_or(SelectorError::Missing(program::SELECTOR))?
            .try_into()?;
        Ok(program.attach(socket)?)
    }

    /// Puts `socket`, a member of the group, into a slot: that of its worker is its process's first and the worker's number. A socket
    /// that is closed leaves its slot by itself.
    pub fn set_socket(&mut self, slot: u32, socket: &impl AsRawFd) -> Result<(), SelectorError> {
        if slot >= SOCKETS_MAX {
            return Err(SelectorError::Slot(slot));
        }
        Ok(self.sockets.set(slot, socket, 0)?)
    }

    /// Routes and keys. The sockets they name should be there.
    pub fn steer(&mut self, steering: Steering) -> Result<(), SelectorError> {
        Ok(self.steering.set(0, steering, 0)?)
    }

    /// How many datagrams found their socket in this way.
    pub fn steered(&self, way: Steer) -> Result<u64, SelectorError> {
        let per_cpu = self.steered.get(&(way as u32), 0)?;
        Ok(per_cpu.iter().sum())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector").finish_non_exhaustive()
    }
}
