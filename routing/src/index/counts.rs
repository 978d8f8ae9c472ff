//! What the index of a running node has counted.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    driver::Finding,
    holder::{HolderTally, Lag},
    message::{Refusal, Reply},
    table::TableTally,
};

#[derive(Debug, Default)]
pub(super) struct Counts {
    found: AtomicU64,
    nobody: AtomicU64,
    unknown: AtomicU64,
    searched_micros: AtomicU64,
    answered: AtomicU64,
    accepted: AtomicU64,
    renewed: AtomicU64,
    refused: [AtomicU64; Refusal::LABELS.len()],
    unwritten: AtomicU64,
}

/// What the index of a node has counted since it began, and how it is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexTally {
    /// Searches that found a provider.
    pub found: u64,
    /// Searches that found that nobody holds the object.
    pub nobody: u64,
    /// Searches that found out nothing within their bounds, those beyond the number that may be under way included.
    pub unknown: u64,
    /// How long all of these took together.
    pub searched: Duration,
    /// Answers to other nodes' searches.
    pub answered: u64,
    /// Announcements taken.
    pub accepted: u64,
    /// Renewals taken.
    pub renewed: u64,
    /// What was refused, by reason: as [`Refusal::LABELS`].
    pub refused: [u64; Refusal::LABELS.len()],
    /// Batches that could not be written to disk: with the first the index goes on in memory alone.
    pub unwritten: u64,
    /// How far owners are behind.
    pub lag: Lag,
    /// What the holder has counted.
    pub holder: HolderTally,
    /// What the table has.
    pub table: TableTally,
}

impl Counts {
    pub(super) fn served(&self, reply: &Reply) {
        match reply {
            Reply::Providers(_) => self.answered.fetch_add(1, Relaxed),
            Reply::Accepted { .. } => self.accepted.fetch_add(1, Relaxed),
            Reply::Kept { .. } | Reply::Differs { .. } => self.renewed.fetch_add(1, Relaxed),
            Reply::Refused(refusal) => {
                let count = self.refused.get(refusal.at());
                count.map_or(0, |count| count.fetch_add(1, Relaxed))
            }
        };
    }

    pub(super) fn found(&self, finding: &Finding, took: Duration) {
        let count = match finding {
            Finding::Found(_) => &self.found,
            Finding::Nobody => &self.nobody,
            Finding::Unknown => &self.unknown,
        };
        count.fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.searched_micros.fetch_add(micros, Relaxed);
    }

    pub(super) fn written(&self, is_written: bool) {
        self.unwritten.fetch_add(u64::from(!is_written), Relaxed);
    }

    pub(super) fn tally(&self, lag: Lag, holder: HolderTally, table: TableTally) -> IndexTally {
        IndexTally {
            found: self.found.load(Relaxed),
            nobody: self.nobody.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            searched: Duration::from_micros(self.searched_micros.load(Relaxed)),
            answered: self.answered.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            renewed: self.renewed.load(Relaxed),
            refused: std::array::from_fn(|at| {
                self.refused.get(at).map_or(0, |count| count.load(Relaxed))
            }),
            unwritten: self.unwritten.load(Relaxed),
            lag,
            holder,
            table,
        }
    }
}
