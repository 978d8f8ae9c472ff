//! What listeners and the serve path tell: who completed a handshake, and what speaks against whom.
//!
//! Workers put it down here and go on; the keeper's thread collects it. Each worker has a [`Teller`] of its own for what happens with every request,
//! so that its lock is nobody else's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipnet::IpNet;
use parking_lot::Mutex;
use stoq_ebpf::abi::source;

use super::evidence::{self, Counts};
use super::load::Doorstep;

/// Sources between two collections, a tenth of a second: 4,096 × about 40 B = 160 KiB. Those beyond are not known as such until they
/// come again.
const PROVEN_MAX: usize = 4096;
/// Sources that something is counted of between two collections, a second, in each worker's part: 1,024 × about 60 B.
const TOLD_MAX: usize = 1024;
/// Of requests that say nothing against anybody, one of so many is put down, for all of them.
const PLAIN_EVERY: u32 = 16;

/// Where it is put down. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness(Arc<Inner>);

type Told = Mutex<HashMap<IpNet, Counts>>;

#[derive(Debug, Default)]
struct Inner {
    doorstep: Doorstep,
    proven: Mutex<HashMap<u64, IpAddr>>,
    missed: AtomicU64,
    /// Of the listeners, whatever the worker: a handshake costs far more than a lock.
    shaken: Arc<Told>,
    /// All parts, the listeners' and the workers'.
    told: Mutex<Vec<Arc<Told>>>,
}

/// How a handshake came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miscarried {
    /// The client did not go on with it.
    Unfinished,
    /// It wanted a protocol that is not spoken here.
    Foreign,
}

impl Witness {
    /// What the workers' sockets say of themselves.
    pub(crate) fn doorstep(&self) -> &Doorstep {
        &self.0.doorstep
    }

    /// Somebody at `peer` completed a handshake, and so receives there.
    pub(crate) fn completed(&self, peer: IpAddr) {
        {
            let mut proven = self.0.proven.lock();
            if proven.len() < PROVEN_MAX {
                proven.insert(source(peer), peer);
            } else {
                self.0.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        put(&self.0.shaken, peer, |counts| counts.completed += 1);
    }

    /// A handshake of somebody who does receive at `peer` came to nothing.
    pub(crate) fn miscarried(&self, peer: IpAddr, how: Miscarried) {
        put(&self.0.shaken, peer, |counts| match how {
            Miscarried::Unfinished => counts.unfinished += 1,
            Miscarried::Foreign => counts.foreign += 1,
        });
    }

    /// A worker's part.
    pub(crate) fn teller(&self) -> Teller {
        let told = Arc::new(Told::default());
        self.0.told.lock().push(Arc::clone(&told));
        Teller {
            told,
            plain: AtomicU32::new(0),
        }
    }

    /// Those who completed handshakes since the last call.
    pub(crate) fn take_proven(&self) -> Vec<IpAddr> {
        std::mem::take(&mut *self.0.proven.lock())
            .into_values()
            .collect()
    }

    /// What was told since the last call. A source that several workers told of comes several times.
    pub(super) fn take_told(&self) -> Vec<(IpNet, Counts)> {
        let workers = self.0.told.lock().clone();
        let parts = workers.iter().chain([&self.0.shaken]);
        parts
            .flat_map(|told| std::mem::take(&mut *told.lock()))
            .collect()
    }

    /// Those for whom there was no room.
    pub(super) fn missed(&self) -> u64 {
        self.0.missed.load(Ordering::Relaxed)
    }
}

fn put(told: &Told, peer: IpAddr, count: impl FnOnce(&mut Counts)) {
    let source = evidence::source(peer);
    let mut told = told.lock();
    if told.len() < TOLD_MAX || told.contains_key(&source) {
        count(told.entry(source).or_default());
    }
}

/// A worker's end of it, for requests.
#[derive(Debug)]
pub(crate) struct Teller {
    told: Arc<Told>,
    /// Requests that say nothing against anybody.
    plain: AtomicU32,
}

impl Teller {
    /// A request was answered: with an error of the client's making, or with something nobody had asked for before, or neither.
    pub(crate) fn answered(&self, peer: IpAddr, is_error: bool, is_miss: bool) {
        if is_error || is_miss {
            put(&self.told, peer, |counts| {
                counts.requests += 1;
                counts.errors += u32::from(is_error);
                counts.misses += u32::from(is_miss);
            });
            return;
        }
        let before = self.plain.fetch_add(1, Ordering::Relaxed);
        if before % PLAIN_EVERY == PLAIN_EVERY - 1 {
            put(&self.told, peer, |counts| counts.requests += PLAIN_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn each_source_is_told_once_and_no_more_than_there_is_room_for() {
        let witness = Witness::default();
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

    #[test]
    fn what_workers_and_listeners_tell_adds_up() {
        let witness = Witness::default();
        let workers = [witness.teller(), witness.teller()];
        witness.completed(address(1));
        witness.miscarried(address(1), Miscarried::Unfinished);
        witness.miscarried(address(1), Miscarried::Foreign);
        for teller in &workers {
            teller.answered(address(1), true, false);
            teller.answered(address(1), false, true);
            for _ in 0..2 * PLAIN_EVERY {
                teller.answered(address(1), false, false);
            }
        }
        let mut sum = Counts::default();
        for (source, counts) in witness.take_told() {
            assert_eq!(source.addr(), address(1));
            sum.add(counts);
        }
        let expected = Counts {
            completed: 1,
            unfinished: 1,
            foreign: 1,
            requests: 2 * (2 + 2 * PLAIN_EVERY),
            errors: 2,
            misses: 2,
        };
        assert_eq!(sum, expected);
        assert!(witness.take_told().is_empty());
        for number in 0..2000 {
            workers[0].answered(address(number), true, false);
        }
        assert_eq!(witness.take_told().len(), TOLD_MAX);
    }
}
