//! What the listeners tell: who completed a handshake.
//!
//! Workers put it down here and go on; the keeper's thread collects it ten times a second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use stoq_ebpf::abi::source;

use super::load::Doorstep;

/// Sources between two collections, a tenth of a second: 4,096 × about 40 B = 160 KiB. Those beyond are not known as such until they
/// come again.
const PROVEN_MAX: usize = 4096;

/// Where it is put down. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    doorstep: Doorstep,
    proven: Mutex<HashMap<u64, IpAddr>>,
    missed: AtomicU64,
}

impl Witness {
    /// What the workers' sockets say of themselves.
    pub(crate) fn doorstep(&self) -> &Doorstep {
        &self.0.doorstep
    }

    /// Somebody at `peer` completed a handshake, and so receives there.
    pub(crate) fn completed(&self, peer: IpAddr) {
        let mut proven = self.0.proven.lock();
        if proven.len() < PROVEN_MAX {
            proven.insert(source(peer), peer);
        } else {
            self.0.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those who did since the last call.
    pub(super) fn take_proven(&self) -> Vec<IpAddr> {
        std::mem::take(&mut *self.0.proven.lock())
            .into_values()
            .collect()
    }

    /// Those for whom there was no room.
    pub(super) fn missed(&self) -> u64 {
        self.0.missed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_told_once_and_no_more_than_there_is_room_for() {
        let witness = Witness::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for _ in 0..3 {
            witness.completed(address(1));
        }
        assert_eq!(witness.take_proven(), [address(1)]);
        assert_eq!(witness.take_proven(), Vec::<IpAddr>::new());
        for number in 0..5000 {
            witness.completed(address(number));
        }
        assert_eq!(witness.take_proven().len(), PROVEN_MAX);
        assert_eq!(witness.missed(), 5000 - PROVEN_MAX as u64);
    }
}
